//! What the binary's `help` says: its commands, and the options of each.

use std::{collections::BTreeMap, process::Command};

/// The help of one command.
pub struct Help {
    /// How to call it: empty for the binary itself.
    pub path: Vec<String>,
    pub text: String,
    /// What is said of each long option, by its name with the hyphens.
    pub options: BTreeMap<String, String>,
}

/// The help of all commands, the binary itself first.
pub fn all() -> Vec<Help> {
    let mut found = Vec::new();
    let mut next = vec![Vec::new()];
    while let Some(path) = next.pop() {
        let help = of(path);
        for command in section(&help.text, "Commands:") {
            let name = command.split_whitespace().next().unwrap_or_default();
            if name != "help" {
                let mut path = help.path.clone();
                path.push(name.to_owned());
                next.push(path);
            }
        }
        found.push(help);
    }
    found
}

fn of(path: Vec<String>) -> Help {
    let output = Command::new(env!("CARGO_BIN_EXE_hitkeep-auth"))
        .arg("help")
        .args(&path)
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "help {path:?}");
    assert_eq!(output.stderr, b"", "help {path:?}");
    let text = String::from_utf8(output.stdout).expect("help is text");
    let mut options: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for line in section(&text, "Options:") {
        let words = line.trim().split([' ', ',']);
        let name = words.clone().find(|word| word.starts_with("--"));
        if line.trim().starts_with('-')
            && let Some(name) = name
            && !words.clone().any(|word| word == "-")
        {
            current = Some(name.to_owned());
        }
        if let Some(name) = &current {
            let said = options.entry(name.clone()).or_default();
            said.push_str(line);
            said.push('\n');
        }
    }
    Help {
        path,
        text,
        options,
    }
}

/// The indented lines below a heading.
fn section<'t>(text: &'t str, heading: &str) -> impl Iterator<Item = &'t str> {
    let mut lines = text.lines();
    let _found = lines.by_ref().find(|line| *line == heading);
    lines
        .take_while(|line| line.is_empty() || line.starts_with(' '))
        .filter(|line| !line.trim().is_empty())
        .collect::<Vec<_>>()
        .into_iter()
}
