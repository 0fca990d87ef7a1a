//! What `docs/migrate-from-hitkeep.md` tells people to do.

use serde_json::json;

use crate::{
    database::{import, imported, undone},
    deltas::BASE,
    hitkeep::Backup,
    postgres::migrated_database,
};

const PAGE: &str = include_str!("../../docs/migrate-from-hitkeep.md");

/// The statements of the page, for a HitKeep that is stopped.
fn statements() -> &'static str {
    let begin = PAGE.find("```sql\n").expect("there are some") + "```sql\n".len();
    let length = PAGE[begin..].find("```").expect("they end");
    &PAGE[begin..begin + length]
}

#[tokio::test]
async fn what_people_export_by_hand_can_be_imported() {
    assert_eq!(statements().matches("COPY (").count(), 12);
    for is_whole in [true, false] {
        let backup = Backup::new();
        let mut wanted = statements().to_owned();
        if !is_whole {
            // The last two are optional.
            let lines: Vec<&str> = statements().lines().collect();
            wanted = lines[..10].join("\n");
        }
        if !backup.run(BASE, &wanted) {
            return;
        }
        let url = migrated_database().await;
        let report = imported(&url, backup.path(), &["--apply"], 0).await;
        assert_eq!(report["counts"], json!({ "created": 3 }));
        let left_out = |note: &&serde_json::Value| note["kind"] == "table_left_out";
        let notes = report["notes"].as_array().unwrap().iter().filter(left_out);
        assert_eq!(notes.count(), if is_whole { 0 } else { 2 });
    }
}

#[tokio::test]
async fn the_commands_of_the_page_work_in_their_order() {
    let backup = Backup::new();
    if !backup.export("2026-03-08T120000Z", BASE) {
        return;
    }
    let url = migrated_database().await;
    let folder = backup.path();
    for command in PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("$ hitkeep-auth import "))
    {
        let words: Vec<&str> = command.split_whitespace().collect();
        match &words[..] {
            ["hitkeep", "/backup", options @ ..] => {
                let ended = import(&url, folder, options).await;
                assert_eq!(ended.code, Some(0), "{command}: {ended:?}");
            }
            ["undo", options @ ..] => drop(undone(&url, options, 0).await),
            other => panic!("{other:?}"),
        }
    }
}
