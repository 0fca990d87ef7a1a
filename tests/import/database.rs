//! What is in the database after an import, and the command that imports.

use std::path::Path;

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Text},
};
use diesel_async::RunQueryDsl;
use serde_json::Value;

use crate::{
    postgres::connect,
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

/// One text for each row of a query, which calls it `text`.
pub async fn texts(url: &str, sql: &str) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        text: String,
    }
    let mut connection = connect(url).await;
    let rows: Vec<Row> = diesel::sql_query(sql)
        .load(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.into_iter().map(|row| row.text).collect()
}

/// A number, which the query calls `number`.
pub async fn number(url: &str, sql: &str) -> i64 {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        number: i64,
    }
    let mut connection = connect(url).await;
    let row: Row = diesel::sql_query(sql)
        .get_result(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    row.number
}

impl Ended {
    /// What the command complained about, having given nothing.
    pub fn refused_with(self, code: i32) -> String {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self:?}");
        self.stderr
    }
}
