//! The rooms of `src/` and `crates/domain`, and which of them may use which. Whatever is not in the
//! table is forbidden, and nothing goes in a circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::{File, below};

/// A room, and the rooms that it may use. Those that know the least come first.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("pb", &[]),
    ("telemetry", &[]),
    ("proxy_auth", &["domain"]),
    ("client", &["domain", "pb"]),
    ("system", &["domain"]),
    ("transport", &["domain", "telemetry"]),
    ("store", &["client", "domain", "telemetry"]),
    ("import", &["domain", "store"]),
    ("events", &["client", "domain", "store", "telemetry"]),
    ("replica", &["client", "domain", "store", "telemetry"]),
    (
        "grpc",
        &[
            "client",
            "domain",
            "pb",
            "proxy_auth",
            "replica",
            "store",
            "telemetry",
            "transport",
        ],
    ),
    (
        "calls",
        &["client", "domain", "grpc", "pb", "telemetry", "transport"],
    ),
    (
        "fastpath",
        &[
            "calls",
            "domain",
            "grpc",
            "pb",
            "proxy_auth",
            "replica",
            "store",
            "telemetry",
            "transport",
        ],
    ),
    (
        "http",
        &["calls", "domain", "grpc", "proxy_auth", "telemetry"],
    ),
    (
        "upstream",
        &["client", "domain", "grpc", "replica", "telemetry"],
    ),
    (
        "server",
        &[
            "calls",
            "domain",
            "fastpath",
            "grpc",
            "http",
            "pb",
            "replica",
            "store",
            "telemetry",
            "transport",
            "upstream",
        ],
    ),
    ("dev", &["domain", "store"]),
    (
        "config",
        &[
            "domain",
            "events",
            "grpc",
            "import",
            "replica",
            "server",
            "store",
            "telemetry",
            "transport",
            "upstream",
        ],
    ),
    (
        "cli",
        &[
            "config",
            "dev",
            "domain",
            "events",
            "grpc",
            "import",
            "pb",
            "replica",
            "server",
            "store",
            "system",
            "telemetry",
            "transport",
        ],
    ),
    ("main", &["cli", "config", "telemetry"]),
];
/// The rooms that are crates, or lie in one, and where their files are.
const CRATES: &[(&str, &str)] = &[("domain", "crates/domain/src"), ("pb", "crates/proto/src")];

/// The room that a file belongs to: `src/store.rs` and all of `src/store/`.
fn room(file: &File) -> &str {
    let path = file.path.strip_prefix("src/").expect("a file of src");
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The module of a file: `store::clients` for `src/store/clients.rs`.
fn module(file: &File) -> String {
    let path = file.path.strip_prefix("src/").expect("a file of src");
    path.trim_end_matches(".rs").replace('/', "::")
}

/// The text without its comments, of which some only tell of other rooms.
fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let comment = line.match_indices("//").map(|(at, _)| at);
        // Not the slashes of a URL in a string.
        let comment = comment.filter(|at| !line[..*at].ends_with(':')).min();
        line[..comment.unwrap_or(line.len())].to_owned()
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// The rooms that are named after `root`, which is `crate` or the crate's name.
fn named(text: &str, root: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let start = format!("{root}::");
    for (at, _) in text.match_indices(&start) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + start.len()..];
        match rest.strip_prefix('{') {
            Some(group) => rooms.extend(first_words(group)),
            None => rooms.extend(word(rest)),
        }
    }
    rooms
}

fn word(text: &str) -> Option<String> {
    let word: String = text
        .trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!word.is_empty()).then_some(word)
}

/// The first word of each item of a group, up to the group's end.
fn first_words(group: &str) -> Vec<String> {
    let mut words: Vec<_> = word(group).into_iter().collect();
    let mut depth = 0_u32;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => words.extend(word(&group[at + 1..])),
            _ => {}
        }
    }
    words
}

fn allowed(table: &[(&str, &[&str])], name: &str) -> Option<BTreeSet<String>> {
    let found = table.iter().find(|(room, _)| *room == name)?;
    Some(found.1.iter().map(|room| (*room).to_owned()).collect())
}

#[test]
fn each_room_uses_only_what_it_may() {
    let mut wrong = Vec::new();
    for file in below("src", "rs") {
        let room = room(&file);
        if room == "lib" {
            continue;
        }
        let Some(allowed_here) = allowed(ROOMS, room) else {
            panic!("{} is in no room of the table", file.path);
        };
        let module = module(&file);
        let root = if room == "main" {
            "hitkeep_auth"
        } else {
            "crate"
        };
        let code = without_comments(&file.text);
        for used in named(&code, root) {
            if used != room && !allowed_here.contains(&used) {
                wrong.push(format!("{}: {module} → {used}", file.path));
            }
        }
        // The way round.
        if code.contains("super::super") {
            wrong.push(format!("{}: super::super; say crate::…", file.path));
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "uses that the table forbids");
}

#[test]
fn the_table_has_no_circle() {
    let mut before = BTreeSet::new();
    for (room, uses) in ROOMS {
        for used in *uses {
            assert!(
                before.contains(used),
                "{room} → {used}: that one comes later"
            );
        }
        before.insert(*room);
    }
}

#[test]
fn every_room_of_the_crate_is_in_the_table() {
    let library = std::fs::read_to_string("src/lib.rs").unwrap();
    let modules = library.lines().filter_map(|line| {
        let line = line.trim_start_matches("pub ");
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    let mut count = 0;
    for module in modules {
        assert!(allowed(ROOMS, module).is_some(), "{module}");
        count += 1;
    }
    assert!(count >= 10, "the modules are found");
}

/// There is one such table for people, and it is this one.
#[test]
fn the_documentation_has_the_same_table() {
    let page = std::fs::read_to_string("docs/ARCHITECTURE.md").unwrap();
    let rows = page
        .lines()
        .skip_while(|line| *line != "| room | may use |");
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    let documented: BTreeMap<&str, Vec<&str>> = rows
        .map(|row| {
            let mut words = row.split('`').skip(1).step_by(2);
            (words.next().unwrap(), words.collect())
        })
        .collect();
    // That one is no room: it is who starts the command line.
    let rooms = ROOMS.iter().filter(|(room, _)| *room != "main");
    let rooms: BTreeMap<&str, Vec<&str>> =
        rooms.map(|(room, uses)| (*room, uses.to_vec())).collect();
    assert_eq!(documented, rooms);
}

#[test]
fn uses_are_found_in_every_spelling() {
    let found = |text: &str| -> Vec<String> {
        named(&without_comments(text), "crate")
            .into_iter()
            .collect()
    };
    assert_eq!(found("use crate::store::Store;"), ["store"]);
    assert_eq!(found("use crate::{self as all, store};"), ["self", "store"]);
    assert_eq!(
        found("use crate::{\n    domain::{a, b::{c, d}},\n    pb,\n    store::{e},\n};"),
        ["domain", "pb", "store"]
    );
    assert_eq!(
        found("fn f(x: &crate::grpc::X) -> $crate::pb::Y {}"),
        ["grpc", "pb"]
    );
    assert_eq!(
        found("// crate::store\nuse mycrate::x;"),
        Vec::<String>::new()
    );
    assert_eq!(
        found("let url = \"http://x\"; crate::dev::run() // crate::cli"),
        ["dev"]
    );
}

/// Takes away those that use nothing that is left, until all are gone.
fn require_no_circle(of: &str, mut uses: BTreeMap<String, BTreeSet<String>>) {
    while !uses.is_empty() {
        let free: Vec<_> = uses
            .iter()
            .filter(|(_, used)| used.iter().all(|used| !uses.contains_key(used)))
            .map(|(name, _)| name.clone())
            .collect();
        assert!(!free.is_empty(), "a circle in {of}, among {uses:?}");
        for name in free {
            uses.remove(&name);
        }
    }
}

/// The rooms as they are: a circle through several of them, each step allowed.
#[test]
fn nothing_goes_in_a_circle() {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in below("src", "rs") {
        let room = room(&file).to_owned();
        let mut used = named(&without_comments(&file.text), "crate");
        used.remove(&room);
        uses.entry(room).or_default().extend(used);
    }
    require_no_circle("src", uses);
}

/// Where the files of a room lie, and what its parts are named after.
fn place(room: &str) -> (String, String) {
    match CRATES.iter().find(|(name, _)| *name == room) {
        // Nothing of a crate can use a room of another one that it does not depend on.
        Some((_, folder)) => ((*folder).to_owned(), "crate".to_owned()),
        None => (format!("src/{room}"), format!("crate::{room}")),
    }
}

/// The parts of a room that a file of it uses: what `super` or the room's path is followed by,
/// if there is such a file.
fn parts_used(file: &File, room: &str, parts: &BTreeSet<String>) -> BTreeSet<String> {
    let (folder, root) = place(room);
    // Of a test, what it tests and what it needs for that may be anything.
    let code = without_comments(&file.text);
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut used = named(code, &root);
    // In a file of a part of its own, `super` is that part.
    if file.path.matches('/').count() == folder.matches('/').count() + 1 {
        used.extend(named(code, "super"));
    }
    used.retain(|name| parts.contains(name));
    used
}

/// Two files of a room that use each other are one file, or three.
#[test]
fn no_room_has_a_circle_inside() {
    for (room, _) in ROOMS {
        let (folder, _) = place(room);
        let files = below(&folder, "rs");
        let part = |file: &File| {
            let path = file.path.strip_prefix(&folder).unwrap();
            path.trim_start_matches('/')
                .split(['/', '.'])
                .next()
                .unwrap()
                .to_owned()
        };
        let parts: BTreeSet<String> = files.iter().map(part).collect();
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in &files {
            let part = part(file);
            let mut used = parts_used(file, room, &parts);
            used.remove(&part);
            uses.entry(part).or_default().extend(used);
        }
        require_no_circle(room, uses);
    }
}

/// A client that holds the index has this crate in it: nothing of it may bring in a database
/// or a server.
#[test]
fn the_domain_is_light() {
    let manifest = std::fs::read_to_string("crates/domain/Cargo.toml").unwrap();
    let dependencies = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names: Vec<_> = dependencies
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let expected = [
        "blake3",
        "chrono",
        "crc32fast",
        "ring",
        "serde",
        "thiserror",
        "tokio",
        "uuid",
    ];
    assert_eq!(names, expected);
    assert!(manifest.contains(r#"default-features = false, features = ["sync"]"#));
}
