#!/usr/bin/env python3
"""Draws the plots of docs/performance.md from the tables in it, which the benchmarks print.

    python3 benches/plots.py            # writes docs/plots/*.svg
    python3 benches/plots.py --check    # fails if one of them is not of these tables

To draw a new run, paste the table that it printed over the one in the page first.
"""

import html
import pathlib
import re
import sys
from dataclasses import dataclass

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
PAGE, PLOTS = DOCS / "performance.md", DOCS / "plots"

# In pixels, as all sizes below.
WIDTH, LABELS, BAR, GAP, MARGIN = 720, 250, 18, 12, 16


@dataclass(frozen=True)
class Plot:
    """A chart of some rows of one table: a group of bars for a row, a bar for a column."""

    file: str
    title: str
    # How the heading of the table begins; the last such table with these rows counts.
    heading: str
    # The headings of the columns with the figures.
    columns: tuple[str, ...]
    unit: str
    # The rows in the plot: all, if empty.
    rows: tuple[str, ...] = ()
    # Whether all rows are of this service.
    is_ours: bool = False


ALL = [
    Plot(
        "introspections.svg",
        "Introspect on one core: calls a second, by the server's CPU time",
        "maximum load",
        ("calls/s of work",),
        "calls/s",
        (
            "tonic echo",
            "tonic echo, jemalloc",
            "tonic echo, one thread, jemalloc",
            "hyper, fixed answer, jemalloc",
            "hitkeep-auth",
        ),
    ),
    Plot(
        "latency.svg",
        "Introspect at half of the load that an empty tonic handler can take",
        "half of tonic's load",
        ("p50", "p99"),
        "µs",
    ),
    Plot(
        "instructions.svg",
        "Where the instructions of a call go",
        "part",
        ("share",),
        "%",
        is_ours=True,
    ),
    Plot(
        "revocation.svg",
        "From an acknowledged revocation until the token is refused",
        "from the acknowledgement until",
        ("p50", "p99"),
        "ms",
        ("the revoking server refuses", "the last server refuses"),
        is_ours=True,
    ),
]


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables(text):
    """The tables of a Markdown text: headings, and rows by their first cells."""
    lines = text.splitlines()
    for at, line in enumerate(lines[:-1]):
        if line.startswith("|") and re.fullmatch(r"[|\s:-]+", lines[at + 1]):
            rows = {}
            for row in lines[at + 2 :]:
                if not row.startswith("|"):
                    break
                first, *rest = cells(row)
                rows[first] = rest
            yield cells(line), rows


def figures(plot, text):
    """The label of each row, and its figures in the order of the columns."""
    found = [
        (headings, rows)
        for headings, rows in tables(text)
        if headings[0].startswith(plot.heading) and rows.keys() >= set(plot.rows)
    ]
    if not found:
        sys.exit(f"{PAGE.name} has no table {plot.heading!r} with the rows of {plot.file}")
    headings, rows = found[-1]
    for name in plot.rows or rows:
        values = [rows[name][headings.index(column) - 1] for column in plot.columns]
        yield name, [float(re.match(r"[\d.]+", value)[0]) for value in values]


def draw(plot, text):
    rows = list(figures(plot, text))
    most = max(value for _, values in rows for value in values)
    group = BAR * len(plot.columns) + GAP
    top = 3 * MARGIN + (BAR if len(plot.columns) > 1 else 0)
    height = top + group * len(rows) + MARGIN
    # Room for the figure behind the longest bar.
    scale = (WIDTH - LABELS - 2 * MARGIN - 90) / most
    title = html.escape(plot.title)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{title}</title>",
        "<style>text{font:13px sans-serif;fill:#24292f}.title{font-weight:bold}"
        ".end{text-anchor:end}.a{fill:#8c959f}.b{fill:#c6cbd1}.ours.a{fill:#1f6feb}"
        ".ours.b{fill:#8250df}@media(prefers-color-scheme:dark){text{fill:#e6edf3}}</style>",
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 8}">{title}</text>',
    ]
    kinds = "ab"
    if len(plot.columns) > 1:
        for kind, column in zip(kinds, plot.columns):
            x = LABELS + 80 * kinds.index(kind)
            y = 2 * MARGIN + 4
            out.append(f'<rect class="{kind} ours" x="{x}" y="{y}" width="12" height="12"/>')
            out.append(f'<text x="{x + 18}" y="{y + 11}">{html.escape(column)}</text>')
    for number, (name, values) in enumerate(rows):
        y = top + group * number
        middle = y + BAR * len(values) / 2 + 4
        out.append(label(name, middle))
        # References are gray, in the plots that have some.
        whose = " ours" if "hitkeep" in name or plot.is_ours else ""
        for kind, value in zip(kinds, values):
            width = max(1, value * scale)
            out.append(f'<rect class="{kind}{whose}" x="{LABELS}" y="{y}" width="{width:.0f}" height="{BAR - 3}"/>')
            figure = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:g}"
            out.append(f'<text x="{LABELS + width + 6:.0f}" y="{y + BAR - 6}">{figure} {plot.unit}</text>')
            y += BAR
    return "\n".join([*out, "</svg>", ""])


def label(name, middle):
    """A label, on two lines if it is long, divided at the space nearest to its middle."""
    if len(name) < 36:
        return f'<text class="end" x="{LABELS - 8}" y="{middle:.0f}">{html.escape(name)}</text>'
    spaces = [at for at, letter in enumerate(name) if letter == " "]
    cut = min(spaces, key=lambda at: abs(at - len(name) / 2))
    return "".join(
        f'<text class="end" x="{LABELS - 8}" y="{middle + offset:.0f}" '
        f'style="font-size:10px">{html.escape(part)}</text>'
        for offset, part in ((-6, name[:cut]), (5, name[cut + 1 :]))
    )


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    text = PAGE.read_text(encoding="utf-8")
    stale = []
    for plot in ALL:
        path, drawn = PLOTS / plot.file, draw(plot, text)
        if not check:
            PLOTS.mkdir(exist_ok=True)
            path.write_text(drawn, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != drawn:
            stale.append(plot.file)
    if stale:
        sys.exit(f"{', '.join(stale)}: not of the tables in {PAGE.name}; run benches/plots.py")


if __name__ == "__main__":
    main()
