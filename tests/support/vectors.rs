//! `testdata/vectors.json`, which the service's own code has written.

use std::{fs, path::Path};

use serde_json::Value;

/// The vectors of a kind: the members of a list, or else the one object that there is.
pub fn vectors(kind: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/vectors.json");
    let text = fs::read_to_string(&path).expect("it is a part of the project");
    let mut all: Value = serde_json::from_str(&text).expect("it was written as JSON");
    match all[kind].take() {
        Value::Array(vectors) => vectors,
        Value::Null => panic!("there are no vectors of {kind}"),
        one => vec![one],
    }
}
