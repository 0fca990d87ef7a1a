//! The field's terms and no others: words that were home-made names for standard things do
//! not come back into comments and pages. The glossary is in docs/ARCHITECTURE.md.

use crate::files::{File, below};

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

/// A piece of prose, and the number of the line on which it begins.
type Prose<'t> = (usize, &'t str);

/// The comments of Rust code, and its string literals.
fn comments_and_strings(code: &str) -> (Vec<Prose<'_>>, Vec<Prose<'_>>) {
    let (mut comments, mut strings) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(offset) = code[at..].find(['"', '/', '\'']) {
        let start = at + offset;
        let rest = &code[start..];
        let line = code[..start].matches('\n').count() + 1;
        let length = if rest.starts_with("//") {
            let comment = rest.lines().next().unwrap();
            comments.push((line, comment));
            comment.len()
        } else if let Some(text) = rest.strip_prefix('"') {
            let hashes = code[..start].len() - code[..start].trim_end_matches('#').len();
            let is_raw = code[..start - hashes].ends_with('r');
            let end = if is_raw {
                text.find(&format!("\"{}", "#".repeat(hashes)))
            } else {
                end_of_string(text)
            };
            let text = &text[..end.unwrap_or(text.len())];
            strings.push((line, text));
            text.len() + 2
        } else if rest.starts_with("'\"'") || rest.starts_with("'/'") {
            3
        } else if rest.starts_with("'\\") {
            4
        } else {
            1
        };
        at = (start + length).min(code.len());
    }
    (comments, strings)
}

/// Where a string ends that was begun.
fn end_of_string(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

fn ending(path: &str) -> &str {
    path.rsplit('.').next().unwrap()
}

/// Where words are looked for in a file: in comments, in texts that the program writes, and in
/// every line of what is no Rust.
fn prose(file: &File) -> Vec<Prose<'_>> {
    if ending(&file.path) != "rs" {
        let lines = file.text.lines().enumerate();
        return lines.map(|(number, line)| (number + 1, line)).collect();
    }
    let (mut found, _) = comments_and_strings(&file.text);
    let is_of_test = !file.path.contains("src/") || file.path.contains("tests");
    if !is_of_test {
        let code = file.text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let (_, strings) = comments_and_strings(code);
        // One word is a name and no text.
        found.extend(strings.into_iter().filter(|(_, text)| text.contains(' ')));
    }
    found
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
    files.extend(below("proto", "proto"));
    files.extend(below("deploy", ""));
    files.extend(below("clients/go", "go"));
    let at_the_top = below("", "").into_iter();
    files.extend(at_the_top.filter(|file| {
        let is_page = ending(&file.path) == "md" && !file.path.contains('/');
        is_page || ["Dockerfile", "docker-compose.yml"].contains(&&*file.path)
    }));
    for path in ["README.md", "Dockerfile", "deploy/prometheus/alerts.yml"] {
        assert!(files.iter().any(|file| file.path == path), "{path}");
    }
    let mut wrong = Vec::new();
    for file in &files {
        for (line, prose) in prose(file) {
            for (word, instead) in RETIRED {
                if has(prose, word) {
                    wrong.push(format!("{}:{line}: \"{word}\": say {instead}", file.path));
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
}

#[test]
fn comments_and_strings_are_read_as_they_are_written() {
    let code = "let x = 'a; // it's \"one\"\nf(\"http://b \\\" c\", '\"', r#\"d \"e\"#, '\\'');\n//! two\n";
    let (comments, strings) = comments_and_strings(code);
    assert_eq!(comments, [(1, "// it's \"one\""), (3, "//! two")]);
    assert_eq!(strings, [(2, "http://b \\\" c"), (2, "d \"e")]);
}
