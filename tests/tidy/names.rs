//! Names: what is public has a name of its own, so that it says which of two is meant also
//! where it is used without its module.

use std::collections::BTreeMap;

use crate::files::below;

const KINDS: [&str; 4] = ["struct ", "enum ", "trait ", "type "];

/// The public type that a line begins, private modules included.
fn public_type(line: &str) -> Option<&str> {
    let declared = line.trim_start().strip_prefix("pub ")?;
    let rest = KINDS.iter().find_map(|kind| declared.strip_prefix(kind))?;
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    Some(&rest[..end.unwrap_or(rest.len())])
}

#[test]
fn no_two_public_types_have_one_name() {
    let files = below("src", "rs");
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in &files {
        for name in file.text.lines().filter_map(public_type) {
            places.entry(name).or_default().push(&file.path);
        }
    }
    assert!(places.len() > 100, "the types are found");
    places.retain(|_, files| files.len() > 1);
    assert_eq!(places, BTreeMap::new());
}

#[test]
fn a_public_type_is_found_by_its_declaration() {
    assert_eq!(public_type("pub struct Options {"), Some("Options"));
    assert_eq!(public_type("    pub enum Kind<T> {"), Some("Kind"));
    assert_eq!(public_type("pub(crate) struct Options;"), None);
    assert_eq!(public_type("pub fn options() {"), None);
}
