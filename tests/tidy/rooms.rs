//! The rooms of `src/`, and which of them may use which. Whatever is not in the table of
//! docs/ARCHITECTURE.md is forbidden, and nothing goes in a circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    architecture::{Room, rooms},
    files::{File, below},
    paths::{paths, without_comments},
};

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

/// The rooms that are named after `root`, which is `crate` or the crate's name.
fn named(code: &str, root: &str) -> BTreeSet<String> {
    let paths = paths(code, root).into_iter();
    paths
        .filter_map(|path| path.first().map(|name| (*name).to_owned()))
        .collect()
}

#[test]
fn each_room_uses_only_what_it_may() {
    let rooms = rooms();
    let mut wrong = Vec::new();
    for file in below("src", "rs") {
        let room = room(&file);
        if room == "lib" {
            continue;
        }
        let Some(Room { may_use, .. }) = rooms.iter().find(|other| other.name == room) else {
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
            if used != room && !may_use.contains(&used) {
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
    for Room { name, may_use } in rooms() {
        for used in may_use {
            let is_before = before.contains(&used);
            assert!(is_before, "{name} → {used}: that one comes later");
        }
        before.insert(name);
    }
}

#[test]
fn the_table_has_every_room_of_the_crate_and_no_other() {
    let library = std::fs::read_to_string("src/lib.rs").unwrap();
    let own = library.lines().filter_map(|line| {
        let line = line.trim_start_matches("pub ");
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    // Those of other crates are named in the code as well.
    let others = ["client", "domain", "main", "pb", "proxy_auth", "system"];
    let expected: BTreeSet<_> = own.chain(others).map(str::to_owned).collect();
    let documented: BTreeSet<_> = rooms().into_iter().map(|room| room.name).collect();
    assert_eq!(documented, expected);
}

/// What goes in circles: without those that use nothing that is left, or that nothing uses.
fn circles(mut uses: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let used: BTreeSet<_> = uses.values().flatten().cloned().collect();
        let before = uses.len();
        let names: BTreeSet<_> = uses.keys().cloned().collect();
        uses.retain(|name, uses| {
            uses.retain(|used| names.contains(used));
            !uses.is_empty() && used.contains(name)
        });
        if uses.len() == before {
            return uses;
        }
    }
}

/// The parts of a folder's module that a file below it uses, by the module's path or by
/// `super`.
fn parts_used(file: &File, folder: &str, parts: &BTreeSet<&str>) -> BTreeSet<String> {
    // Of a test, what it tests and what it needs for that may be anything.
    let code = without_comments(&file.text);
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let (_, module) = folder.split_once("src").unwrap();
    let module: Vec<_> = module.split('/').filter(|name| !name.is_empty()).collect();
    let absolute = paths(code, "crate").into_iter();
    let absolute = absolute.filter_map(|path| path.strip_prefix(&*module)?.first().copied());
    let mut used: Vec<_> = absolute.collect();
    // In a file of a part of its own, `super` is the folder's module.
    if file.path.matches('/').count() == folder.matches('/').count() + 1 {
        let relative = paths(code, "super").into_iter();
        used.extend(relative.filter_map(|path| path.first().copied()));
    }
    let used = used.into_iter().filter(|name| parts.contains(name));
    used.map(str::to_owned).collect()
}

/// Two files of a folder that use each other are one file, or three.
#[test]
fn no_folder_has_a_circle_inside() {
    let mut folders: BTreeMap<String, Vec<File>> = BTreeMap::new();
    for file in below("src", "rs").into_iter().chain(below("crates", "rs")) {
        let Some((of, _)) = file.path.split_once("src/") else {
            continue;
        };
        let start = of.len() + "src".len();
        for (at, _) in file.path[start..].match_indices('/') {
            let folder = file.path[..start + at].to_owned();
            folders.entry(folder).or_default().push(file.clone());
        }
    }
    for folder in ["src", "src/grpc", "crates/client/src", "crates/dev/src"] {
        assert!(folders[folder].len() > 1, "{folder} is found");
    }
    let mut wrong = BTreeMap::new();
    for (folder, files) in folders {
        let part = |file: &File| {
            let path = &file.path[folder.len() + 1..];
            let end = path.find(['/', '.']).unwrap();
            path[..end].to_owned()
        };
        let names: Vec<String> = files.iter().map(part).collect();
        let parts: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (file, part) in files.iter().zip(&names) {
            let mut used = parts_used(file, &folder, &parts);
            used.remove(part);
            uses.entry(part.clone()).or_default().extend(used);
        }
        let found = circles(uses);
        if !found.is_empty() {
            wrong.insert(folder, found);
        }
    }
    assert!(wrong.is_empty(), "circles: {wrong:#?}");
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
