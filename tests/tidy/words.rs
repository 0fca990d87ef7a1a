//! The field's terms and no others: words that were home-made names for standard things do
//! not come back into comments and pages. The glossary is in docs/ARCHITECTURE.md.

use crate::files::below;

/// A retired word, and what to say instead.
const RETIRED: [(&str, &str); 14] = [
    ("short way", "fast path"),
    ("usual way", "slow path"),
    ("told", "logged, returned, recorded: who does what to whom"),
    ("whoever", "the client, the caller, the operator"),
    ("somebody", "the client, the caller, the operator"),
    ("nobody", "no client, no caller"),
    ("anew", "again; a full reload"),
    ("of no use", "idle, stalled, invalid"),
    ("glance", "a weak reference"),
    ("patience", "timeout"),
    ("crowd", "burst"),
    ("turned away", "rejected"),
    ("for ever", "forever, without a limit"),
    ("where nobody", "if no client"),
];

/// The comment in a line of code; a whole line of a page.
fn prose<'l>(line: &'l str, path: &str) -> Option<&'l str> {
    if path
        .rsplit_once('.')
        .is_none_or(|(_, ending)| ending != "rs")
    {
        return Some(line);
    }
    // Not the slashes of a URL in a string.
    let comment = line.match_indices("//").map(|(at, _)| at);
    let mut comment = comment.filter(|at| !line[..*at].ends_with(':'));
    comment.next().map(|at| &line[at..])
}

fn has(line: &str, word: &str) -> bool {
    let line = line.to_lowercase();
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric)
    })
}

#[test]
fn retired_words_do_not_come_back() {
    let mut files = below("src", "rs");
    files.extend(below("crates", "rs"));
    files.extend(below("docs", "md"));
    files.extend(
        below("", "md")
            .into_iter()
            .filter(|file| !file.path.contains('/')),
    );
    assert!(files.iter().any(|file| file.path == "README.md"));
    let mut wrong = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            let Some(prose) = prose(line, &file.path) else {
                continue;
            };
            for (word, instead) in RETIRED {
                if has(prose, word) {
                    let at = number + 1;
                    wrong.push(format!("{}:{at}: \"{word}\": say {instead}", file.path));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_word_is_found_as_a_word() {
    assert!(has("Whoever asks", "whoever"));
    assert!(!has("untold", "told"));
    assert_eq!(prose("let x = 1; // told", "src/a.rs"), Some("// told"));
    assert_eq!(prose("\"http://nobody\"", "src/a.rs"), None);
}
