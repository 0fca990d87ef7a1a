//! The tables of the page.

const PAGE: &str = "docs/access-rules.md";

/// The cells of a row, without backticks.
pub(super) type Row = Vec<String>;

/// The rows of the table whose first row is `header`.
pub(super) fn table(header: &str) -> Vec<Row> {
    let page = std::fs::read_to_string(PAGE).expect(PAGE);
    let mut lines = page.lines().skip_while(|line| *line != header);
    assert!(lines.next().is_some(), "no table {header}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    let columns = header.matches('|').count() - 1;
    let rows: Vec<Row> = rows
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            let row: Row = cells.map(|cell| cell.trim().replace('`', "")).collect();
            assert_eq!(row.len(), columns, "{line}");
            row
        })
        .collect();
    assert!(rows.len() > 1, "{header} is empty");
    rows
}
