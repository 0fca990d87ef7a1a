//! Links between the pages: the file that each one names exists, and so does the
//! heading. And the page that a newcomer reads first stays short.

use std::{collections::BTreeSet, fs, path::Path};

use crate::files::{File, below};

/// How many bytes docs/ARCHITECTURE.md can have.
const MAX_ARCHITECTURE_BYTES: usize = 10 * 1024;

/// The text without its blocks of code.
fn prose(markdown: &str) -> String {
    let mut in_block = false;
    let mut kept = Vec::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            kept.push(line);
        }
    }
    kept.join("\n")
}

/// What a page links to.
fn links(markdown: &str) -> Vec<String> {
    let prose = prose(markdown);
    let ends = prose.match_indices("](");
    let targets = ends.map(|(at, _)| prose[at + 2..].split(')').next().unwrap().to_owned());
    targets.collect()
}

/// The anchors of a page, as GitHub makes them of its headings.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let prose = prose(markdown);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

/// What is wrong with a link of a page.
fn flaw(page: &File, link: &str) -> Option<String> {
    // A neighbour on the forge or somewhere else is not ours to look at.
    if link.contains("://") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = Path::new(&page.path).parent().unwrap();
    let target = if path.is_empty() {
        Path::new(&page.path).to_owned()
    } else {
        folder.join(path)
    };
    if !target.exists() {
        return Some(format!("{}: {link} does not exist", page.path));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = fs::read_to_string(&target).unwrap();
    let is_there = anchors(&text).contains(anchor);
    (!is_there).then(|| format!("{}: no heading for {link}", page.path))
}

#[test]
fn every_link_leads_somewhere() {
    let pages = below("", "md");
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in &pages {
        for link in links(&page.text) {
            count += 1;
            wrong.extend(flaw(page, &link));
        }
    }
    assert!(count > 50, "the links are found");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn links_and_headings_are_read_as_they_are_written() {
    let text = "# Which `server` counts?\n[a](b.md#c), [d\ne](#f)\n```\n[g](h)\n# not one\n```\n";
    assert_eq!(links(text), ["b.md#c", "#f"]);
    assert_eq!(
        anchors(text),
        BTreeSet::from(["which-server-counts".to_owned()])
    );
}

#[test]
fn the_architecture_page_is_short() {
    let size = fs::read("docs/ARCHITECTURE.md").unwrap().len();
    assert!(
        size <= MAX_ARCHITECTURE_BYTES,
        "{size} bytes are too many for a first page: move what goes into depth to docs/design"
    );
}
