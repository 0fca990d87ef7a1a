//! Files: how large, what they are called, and what must not be in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A text file of the project, its path from the project's folder.
#[derive(Clone)]
pub struct File {
    pub path: String,
    pub text: String,
}

/// Lines that one file can have.
const MAX_LINES: usize = 500;
/// Names that say nothing about what is inside.
const BANNED: [&str; 6] = ["utils", "util", "helpers", "common", "models", "services"];
/// What lies in the project's folder and is no part of it.
const FOREIGN: [&str; 3] = [".env", ".git", "target"];

/// The text files of the project, or of a folder in it, that have that ending;
/// all of them where it is empty.
pub fn below(folder: &str, ending: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut next = vec![root.join(folder)];
    while let Some(path) = next.pop() {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if FOREIGN.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            next.extend(entries.map(|entry| entry.unwrap().path()));
        } else if ending.is_empty() || name.ends_with(&format!(".{ending}")) {
            files.extend(read(root, &path));
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn read(root: &Path, path: &PathBuf) -> Option<File> {
    let name = path.strip_prefix(root).unwrap().to_str()?.to_owned();
    let text = fs::read_to_string(path).ok()?;
    Some(File { path: name, text })
}

/// Everything that is written in Rust.
fn sources() -> impl Iterator<Item = File> {
    ["src", "crates", "tests", "benches"]
        .into_iter()
        .flat_map(|folder| below(folder, "rs"))
}

#[test]
fn no_file_is_too_long_to_be_read() {
    for file in sources() {
        let lines = file.text.lines().count();
        assert!(
            lines <= MAX_LINES,
            "{} has {lines} lines: more than {MAX_LINES} are too many for one file, move what \
             belongs together into a module of its own",
            file.path
        );
    }
}

#[test]
fn modules_are_named_after_what_is_in_them() {
    for file in sources() {
        let name = file
            .path
            .rsplit('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs");
        assert_ne!(name, "mod", "{}: name the file after its module", file.path);
        for part in file.path.trim_end_matches(".rs").split('/') {
            assert!(
                !BANNED.contains(&part),
                "{}: {part} says nothing",
                file.path
            );
        }
        for banned in BANNED {
            let inline = format!("mod {banned} ");
            assert!(!file.text.contains(&inline), "{}: {inline}", file.path);
        }
    }
}

#[test]
fn every_file_begins_with_what_it_is() {
    for file in sources() {
        let says = file.text.starts_with("//! ") || file.text.starts_with("#![doc = include_str!");
        assert!(says, "{} does not say what it is", file.path);
        assert!(
            !file.text.starts_with("//! To come."),
            "{} is empty",
            file.path
        );
    }
}

#[test]
fn every_migration_goes_both_ways_and_says_why() {
    let folders: Vec<_> = fs::read_dir("migrations")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(folders.len() >= 5);
    for folder in folders {
        let read = |name| {
            let path = folder.join(name);
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let (up, down) = (read("up.sql"), read("down.sql"));
        let folder = folder.display();
        assert!(up.starts_with("-- "), "{folder}: up.sql does not say why");
        assert!(!down.trim().is_empty(), "{folder}: down.sql does nothing");
        // Each table that comes goes again.
        for line in up.lines() {
            let Some(table) = line.strip_prefix("CREATE TABLE ") else {
                continue;
            };
            let drop = format!("DROP TABLE {};", table.trim_end_matches(" ("));
            assert!(down.contains(&drop), "{folder}: no {drop}");
        }
    }
}

/// What is true on one machine only does not belong in a repository.
#[test]
fn nothing_tells_of_the_machine_it_was_made_on() {
    // Put together, so that this file does not have them in it.
    let folders = ["work", "root", "home", "Users"].map(|name| format!("/{name}/"));
    let suffixes = ["internal", "local", "corp", "lan", "intranet"].map(|name| format!(".{name}"));
    for file in below("", "") {
        for folder in &folders {
            for (at, _) in file.text.match_indices(folder.as_str()) {
                let before = file.text[..at].chars().next_back();
                let inside = before.is_some_and(|c| c.is_alphanumeric() || "_-.*}~".contains(c));
                assert!(inside, "{} names a folder in {folder}", file.path);
            }
        }
        for (at, scheme) in file.text.match_indices("://") {
            let rest = &file.text[at + scheme.len()..];
            let end = rest.find(|c: char| !(c.is_alphanumeric() || ".-@:".contains(c)));
            let authority = &rest[..end.unwrap_or(rest.len())];
            let host = authority.rsplit('@').next().unwrap_or_default();
            let host = host.split(':').next().unwrap_or_default();
            for suffix in &suffixes {
                assert!(!host.ends_with(suffix), "{}: the host {host}", file.path);
            }
            let private = ["10.", "192.168.", "172.16."];
            assert!(
                !private.iter().any(|start| host.starts_with(start)),
                "{}: the address {host}",
                file.path
            );
        }
    }
}

/// What ships forbids it, in the root of each crate.
#[test]
fn nothing_is_unsafe_but_the_launcher_of_the_private_postgres() {
    // Put together, so that this file does not have it in it.
    let lint = ["unsafe", "code"].join("_");
    let lifted = sources().filter(|file| file.text.contains(&lint));
    let lifted: Vec<_> = lifted.map(|file| file.path).collect();
    let expected = [
        "src/lib.rs",
        "crates/client/src/lib.rs",
        "crates/dev/src/postgres.rs",
        "crates/dev/src/users.rs",
        "crates/domain/src/lib.rs",
        "crates/proto/src/lib.rs",
    ];
    assert_eq!(lifted, expected);
}

/// Crates come from where everybody gets them.
#[test]
fn every_dependency_is_of_the_public_registry() {
    let lock = fs::read_to_string("Cargo.lock").unwrap();
    let sources: Vec<_> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("source = "))
        .collect();
    assert!(sources.len() > 100);
    for source in sources {
        let public = r#""registry+https://github.com/rust-lang/crates.io-index""#;
        assert_eq!(source, public);
    }
}
