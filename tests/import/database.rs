//! What is in the database after an import, and the command that imports.

use std::path::Path;

use serde_json::Value;

use crate::{
    postgres,
    process::{Ended, Process, binary, patient},
};

/// Imports from a folder.
pub async fn import(url: &str, folder: &Path, more: &[&str]) -> Ended {
    let folder = folder.to_str().unwrap();
    let command = ["import", "hitkeep", folder, "--database-url", &patient(url)];
    Process::start(binary(command.iter().chain(more)))
        .ended()
        .await
}

/// The same, as JSON, with an exit code.
pub async fn imported(url: &str, folder: &Path, more: &[&str], code: i32) -> Value {
    let more: Vec<&str> = more.iter().copied().chain(["--json"]).collect();
    let ended = import(url, folder, &more).await;
    assert_eq!(ended.code, Some(code), "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// Takes imports back.
pub async fn undone(url: &str, more: &[&str], code: i32) -> Value {
    let command = ["import", "undo", "--json", "--database-url", &patient(url)];
    let ended = Process::start(binary(command.iter().chain(more)))
        .ended()
        .await;
    assert_eq!(ended.code, Some(code), "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// The rows of a query with one column, which is a text.
pub async fn texts(url: &str, sql: &str) -> Vec<String> {
    postgres::texts(&mut postgres::connect(url).await, sql).await
}

impl Ended {
    /// What the command complained about, having given nothing.
    pub fn refused_with(self, code: i32) -> String {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self:?}");
        self.stderr
    }
}
