//! Reads the paths that code names, in expressions and in the trees of `use`: of
//! `use crate::{a::{b, c}, d}`, they are `a::b`, `a::c` and `d`.

/// The text without its comments, of which some only tell of other modules.
pub fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let comment = line.match_indices("//").map(|(at, _)| at);
        // Not the slashes of a URL in a string.
        let comment = comment.filter(|at| !line[..*at].ends_with(':')).min();
        line[..comment.unwrap_or(line.len())].to_owned()
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// What follows `root`, such as `crate`, in each path that begins with it: its names in order.
pub fn paths<'t>(code: &'t str, root: &str) -> Vec<Vec<&'t str>> {
    let start = format!("{root}::");
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&start) {
        let before = code[..at].chars().next_back();
        if before.is_none_or(|c| !is_of_name(c)) {
            read(&code[at + start.len()..], &[], &mut found);
        }
    }
    found
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Reads the names of a path after those before it, or a group of such paths. Returns the
/// text after it.
fn read<'t>(text: &'t str, before: &[&'t str], found: &mut Vec<Vec<&'t str>>) -> &'t str {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        return read_group(group, before, found);
    }
    let end = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut path = before.to_vec();
    // After `::`, there is no name in `a::*` and in `f::<T>()`.
    if !name.is_empty() {
        path.push(name);
    }
    match rest.strip_prefix("::") {
        Some(rest) if !name.is_empty() => read(rest, &path, found),
        _ => {
            found.push(path);
            rest
        }
    }
}

/// Reads the paths of a group up to its end.
fn read_group<'t>(mut text: &'t str, before: &[&'t str], found: &mut Vec<Vec<&'t str>>) -> &'t str {
    loop {
        text = text.trim_start();
        if let Some(rest) = text.strip_prefix('}') {
            return rest;
        }
        // After the path, `as` may give it another name.
        let rest = read(text, before, found);
        let end = rest.find([',', '}']).unwrap_or(rest.len());
        text = rest[end..].trim_start_matches(',');
        if text.is_empty() {
            return text;
        }
    }
}

#[test]
fn paths_are_found_in_every_spelling() {
    let found = |text: &str| -> Vec<String> {
        let code = without_comments(text);
        let paths = paths(&code, "crate");
        paths.into_iter().map(|path| path.join("::")).collect()
    };
    assert_eq!(found("use crate::store::Store;"), ["store::Store"]);
    assert_eq!(found("use crate::{self as all, store};"), ["self", "store"]);
    assert_eq!(
        found(
            "use crate::{\n    domain::{a, b::{c as x, d}},\n    pb::*,\n    store::{\n        \
             e,\n    },\n};\nuse crate::grpc;"
        ),
        [
            "domain::a",
            "domain::b::c",
            "domain::b::d",
            "pb",
            "store::e",
            "grpc"
        ]
    );
    assert_eq!(
        found("fn f(x: &crate::grpc::X) -> $crate::pb::Y<crate::pb::Z> {}"),
        ["grpc::X", "pb::Y", "pb::Z"]
    );
    assert_eq!(found("crate::a::read::<u8>(b)"), ["a::read"]);
    assert_eq!(
        found("// crate::store\nuse mycrate::x;"),
        Vec::<String>::new()
    );
    assert_eq!(
        found("let url = \"http://x\"; crate::dev::run() // crate::cli"),
        ["dev::run"]
    );
}
