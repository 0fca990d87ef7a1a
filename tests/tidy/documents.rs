//! The documentation: every command, option and variable that it mentions
//! exists, and every option and alert is explained.

use std::collections::BTreeSet;

use crate::{
    files::{File, below},
    help::{self, Help},
};

/// Options of other programs that the documentation mentions.
const OF_OTHERS: [&str; 19] = [
    "--all-features",
    "--all-targets",
    "--bin",
    "--build-arg",
    "--cacert",
    "--check",
    "--doc",
    "--features",
    "--lib",
    "--locked",
    "--network",
    "--no-deps",
    "--no-run",
    "--package",
    "--publish",
    "--release",
    "--rm",
    "--target",
    "--test",
];
/// What stands before the binary's arguments.
const CALLS: [&str; 3] = ["cargo run -- ", "cargo run --release -- ", "hitkeep-auth "];

fn documents() -> Vec<File> {
    let mut files = below("docs", "md");
    let readme = below("", "md").into_iter();
    files.extend(readme.filter(|file| ["README.md", "SECURITY.md"].contains(&&*file.path)));
    files
}

/// The code in a document: its blocks, with continued lines as one, and what is
/// between backticks.
fn code(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    let mut continued = String::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            match line.trim_end().strip_suffix('\\') {
                Some(begun) => continued += begun,
                None => found.push(std::mem::take(&mut continued) + line),
            }
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The arguments of each call of the binary in a piece of code.
fn calls(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for call in CALLS {
        for (at, _) in code.match_indices(call) {
            // Not the end of another word, such as an image's name.
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "-_".contains(c)) {
                continue;
            }
            let rest = &code[at + call.len()..];
            let words = rest.split_whitespace();
            let ends = |word: &&str| !["|", "||", "&&", "&", ";", ">", "#", "\\"].contains(word);
            found.push(words.take_while(ends).map(str::to_owned).collect());
        }
    }
    found
}

/// The command that arguments name, as far as they go; `None` where they name
/// something that is none.
fn command<'h>(commands: &'h [Help], arguments: &[String]) -> Option<&'h Help> {
    // `help serve` names the command `serve`.
    let arguments = match arguments {
        [first, rest @ ..] if first == "help" => rest,
        all => all,
    };
    let mut path: Vec<String> = Vec::new();
    for argument in arguments {
        let longer: Vec<_> = path.iter().chain([argument]).cloned().collect();
        if !commands.iter().any(|help| help.path == longer) {
            break;
        }
        path = longer;
    }
    let help = commands.iter().find(|help| help.path == path)?;
    let next = arguments.get(path.len());
    let is_group = commands
        .iter()
        .any(|other| other.path.len() > path.len() && other.path.starts_with(&path));
    let names_one = next.is_some_and(|next| next.starts_with(|c: char| c.is_ascii_lowercase()));
    (!(is_group && names_one)).then_some(help)
}

fn option_name(word: &str) -> Option<&str> {
    let name = word.split('=').next()?;
    let name = name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    (name.starts_with("--") && name.len() > 2).then_some(name)
}

#[test]
fn every_command_that_is_mentioned_exists() {
    let commands = help::all();
    for document in documents() {
        for code in code(&document.text) {
            for arguments in calls(&code) {
                let Some(help) = command(&commands, &arguments) else {
                    panic!("{}: no such command: {code}", document.path);
                };
                for option in arguments.iter().filter_map(|word| option_name(word)) {
                    let known = help.options.contains_key(option);
                    assert!(known, "{}: no {option}: {code}", document.path);
                }
            }
        }
    }
}

#[test]
fn every_option_and_variable_that_is_mentioned_exists() {
    let commands = help::all();
    let options: BTreeSet<&str> = commands
        .iter()
        .flat_map(|help| help.options.keys().map(String::as_str))
        .collect();
    let is_of_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let variables: BTreeSet<&str> = commands
        .iter()
        .flat_map(|help| help.text.split(|c| !is_of_name(c)))
        .collect();
    for document in documents() {
        for code in code(&document.text) {
            let Some(option) = option_name(&code) else {
                continue;
            };
            assert!(
                options.contains(option) || OF_OTHERS.contains(&option),
                "{}: no {option}",
                document.path
            );
        }
        for (at, _) in document.text.match_indices("HITKEEP_AUTH_") {
            let name: String = document.text[at..]
                .chars()
                .take_while(|c| is_of_name(*c))
                .collect();
            // As in "HITKEEP_AUTH_…": all of them.
            if name == "HITKEEP_AUTH_" {
                continue;
            }
            let known = variables.contains(&*name);
            assert!(known, "{}: no {name}", document.path);
        }
    }
}

#[test]
fn every_option_of_every_command_is_explained() {
    let page = "docs/OPERATIONS.md";
    let text = std::fs::read_to_string(page).unwrap();
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
    for help in help::all() {
        for (option, said) in &help.options {
            if option == "--help" || option == "--version" {
                continue;
            }
            let (_, variable) = said.split_once("[env: ").expect("a variable");
            let variable = variable.split(['=', ']']).next().unwrap();
            let default = said.split_once("[default: ").map_or("", |(_, rest)| rest);
            // It may be on two lines.
            let words: Vec<_> = default
                .split(']')
                .next()
                .unwrap()
                .split_whitespace()
                .collect();
            let needed = [
                format!("`{option}`"),
                format!("`{variable}`"),
                words.join(" "),
            ];
            let explained = rows
                .iter()
                .any(|row| needed.iter().all(|text| row.contains(text)));
            assert!(
                explained,
                "{page}: no row for {needed:?} of {:?}",
                help.path
            );
        }
    }
}

#[test]
fn every_alert_has_an_answer() {
    let page = std::fs::read_to_string("docs/OPERATIONS.md").unwrap();
    let alerts = std::fs::read_to_string("deploy/prometheus/alerts.yml").unwrap();
    let names: Vec<_> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() > 10);
    for name in &names {
        let row = format!("| `{name}` | ");
        assert!(page.contains(&row), "docs/OPERATIONS.md has no {name}");
    }
    assert_eq!(page.matches("| `HitkeepAuth").count(), names.len());
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    let changelog = std::fs::read_to_string("CHANGELOG.md").expect("a CHANGELOG.md");
    let unreleased = changelog
        .lines()
        .any(|line| line.starts_with("## [Unreleased]"));
    assert!(unreleased, "CHANGELOG.md has no [Unreleased]");
}

#[test]
fn calls_are_found_in_every_spelling() {
    let markdown = "Run `hitkeep-auth migrate`, or:\n```sh\n$ cargo run -- serve \\\n    \
                    --listen=0.0.0.0:1 | tee log\n\
                    docker run hitkeep-auth service-account list # hitkeep-auth\n```\nhitkeep-auth \
                    in prose, `my-hitkeep-auth serve`.";
    let found: Vec<_> = code(markdown).iter().flat_map(|code| calls(code)).collect();
    let found: Vec<_> = found.iter().map(|words| words.join(" ")).collect();
    assert_eq!(
        found,
        [
            "migrate",
            "serve --listen=0.0.0.0:1",
            "service-account list"
        ]
    );
    let commands = help::all();
    let is_one = |text: &str| {
        let words: Vec<_> = text.split(' ').map(str::to_owned).collect();
        command(&commands, &words).is_some()
    };
    assert!(is_one("serve") && is_one("service-account create billing") && is_one("--help"));
    assert!(is_one("help") && is_one("help serve") && !is_one("help me"));
    assert!(!is_one("server") && !is_one("service-account make billing"));
    assert_eq!(option_name("--listen=1"), Some("--listen"));
    assert_eq!(option_name("--"), None);
}
