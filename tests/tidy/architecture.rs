//! docs/ARCHITECTURE.md as the tests read it: the table of the rooms, which has no copy
//! here, and the listing of files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::files::below;

/// A room, and the rooms that it may use.
pub struct Room {
    pub name: String,
    pub may_use: Vec<String>,
}

fn page() -> String {
    fs::read_to_string("docs/ARCHITECTURE.md").unwrap()
}

/// The rooms in the order of the table: those that know the least come first.
pub fn rooms() -> Vec<Room> {
    let page = page();
    let rows = page
        .lines()
        .skip_while(|line| *line != "| room | may use |");
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    let rooms: Vec<_> = rows
        .map(|row| {
            let mut words = row.split('`').skip(1).step_by(2).map(str::to_owned);
            Room {
                name: words.next().unwrap(),
                may_use: words.collect(),
            }
        })
        .collect();
    assert!(rooms.len() >= 10, "the table is found");
    rooms
}

/// The text of each entry of the listing by its name, such as `store/`, with the lines that
/// continue it.
fn listing(page: &str) -> BTreeMap<String, String> {
    let lines = page.lines().skip_while(|line| *line != "```text").skip(1);
    let mut entries = BTreeMap::new();
    let mut last = String::new();
    for line in lines.take_while(|line| *line != "```") {
        let text = line.trim_start_matches(|c: char| c.is_whitespace() || "│├└─".contains(c));
        if line.contains("── ") {
            let (name, text) = text.split_once(' ').unwrap_or((text, ""));
            name.clone_into(&mut last);
            entries.insert(last.clone(), text.to_owned());
        } else if text == line {
            // A folder at the root.
            last.clear();
        } else if let Some(entry) = entries.get_mut(&last) {
            *entry += " ";
            *entry += text;
        }
    }
    entries
}

/// The names in an entry's text: without what is said before them and, in parentheses, of them.
fn names(text: &str) -> BTreeSet<String> {
    let list = text.rsplit_once(": ").map_or(text, |(_, list)| list);
    let names = list.split('·');
    let names = names.map(|name| name.split('(').next().unwrap().trim().to_owned());
    names.collect()
}

/// The modules whose files lie in a folder, without those of tests alone.
fn modules(folder: &str) -> BTreeSet<String> {
    let paths = below(folder, "rs").into_iter().map(|file| file.path);
    let modules = paths.filter_map(|path| {
        let path = path.strip_prefix(folder)?.strip_prefix('/')?;
        let name = path.strip_suffix(".rs")?;
        (!name.contains('/') && name != "lib" && !name.ends_with("tests")).then(|| name.to_owned())
    });
    modules.collect()
}

#[test]
fn the_listing_names_every_file_of_each_room() {
    let listing = listing(&page());
    let mut folders: Vec<_> = fs::read_dir("src")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        // Its one file is the demonstration.
        .filter(|name| name != "dev")
        .map(|name| (format!("src/{name}"), format!("{name}/")))
        .collect();
    assert!(folders.len() >= 10, "the rooms are found");
    folders.push(("crates/domain/src".to_owned(), "domain/".to_owned()));
    let mut wrong = BTreeMap::new();
    for (folder, entry) in folders {
        let listed = listing.get(&entry).map(|text| names(text));
        let listed = listed.unwrap_or_default();
        let different: Vec<_> = listed
            .symmetric_difference(&modules(&folder))
            .cloned()
            .collect();
        if !different.is_empty() {
            wrong.insert(entry, different);
        }
    }
    assert_eq!(
        wrong,
        BTreeMap::new(),
        "missing on the page, or in the folder"
    );
}

#[test]
fn the_listing_is_read_as_it_is_written() {
    let page = "```text\nsrc/\n├── a.rs   the a\n│   └── a/   b · c ·\n│          d\ncrates/\n\
                ├── e/    light, and pure: f ·\n│         g (the g)\n```\n";
    let listing = listing(page);
    let names = |entry: &str| names(&listing[entry]).into_iter().collect::<Vec<_>>();
    assert_eq!(names("a/"), ["b", "c", "d"]);
    assert_eq!(names("e/"), ["f", "g"]);
}
