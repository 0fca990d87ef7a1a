//! Random histories once more, with DuckDB for the one side and Postgres for the other: few,
//! since the pure plan has had thousands.

use std::collections::BTreeSet;

use crate::{
    database::{import, texts, undone},
    deltas::BASE,
    dice::Dice,
    hitkeep::{Backup, id},
    postgres::{execute, migrated_database},
};

const HISTORIES: u64 = 6;
const STEPS: usize = 8;

/// The clients of `BASE`.
const CLIENTS: [u32; 3] = [401, 402, 403];

/// A change in HitKeep.
fn there(dice: &mut Dice, step: usize) -> String {
    let client = dice.one_of(&CLIENTS);
    let change = match dice.below(6) {
        0 => format!("name = 'there {step}'"),
        1 => format!("secret_hash = h({})", step + 1000),
        2 => "revoked_at = now()".to_owned(),
        3 => "revoked_at = NULL".to_owned(),
        4 => "expires_at = TIMESTAMPTZ '2036-01-01 00:00:00Z'".to_owned(),
        _ => {
            return format!(
                "DELETE FROM api_client_site_roles WHERE api_client_id = u({client}); INSERT INTO \
                 api_client_site_roles VALUES (uuid(), u({client}), u(302), 'owner', now());"
            );
        }
    };
    format!("UPDATE api_clients SET {change} WHERE id = u({client});")
}

/// A change here.
fn here(dice: &mut Dice, step: usize) -> String {
    let client = id(*dice.one_of(&CLIENTS));
    match dice.below(4) {
        0 => format!("UPDATE api_clients SET name = 'here {step}' WHERE id = '{client}'"),
        1 => format!("UPDATE api_clients SET revoke_time = now() WHERE id = '{client}'"),
        2 => format!(
            "UPDATE api_client_tokens SET end_time = now() WHERE client_id = '{client}'
                 AND end_time IS NULL;
             INSERT INTO api_client_tokens (client_id, hash, hint, create_time)
                 SELECT id, sha256('{step}'), 'hkp_...x', now() FROM api_clients
                 WHERE id = '{client}'"
        ),
        _ => format!("DELETE FROM api_clients WHERE id = '{client}'"),
    }
}

async fn revoked_or_gone(url: &str) -> BTreeSet<String> {
    let sql = "SELECT id::text AS text FROM api_clients WHERE revoke_time IS NULL";
    let working: BTreeSet<String> = texts(url, sql).await.into_iter().collect();
    let all = CLIENTS.into_iter().map(id);
    all.filter(|id| !working.contains(id)).collect()
}

#[tokio::test]
async fn what_ended_here_stays_so_whatever_is_imported() {
    for seed in 0..HISTORIES {
        let mut dice = Dice::new(seed);
        let url = migrated_database().await;
        let backup = Backup::new();
        let mut rows = BASE.to_owned();
        // What actors of this service ended.
        let mut ours = BTreeSet::new();
        for step in 0..STEPS {
            if dice.percent(60) {
                rows += &there(&mut dice, step);
            }
            if step > 0 && dice.percent(60) {
                let before = revoked_or_gone(&url).await;
                execute(&url, &here(&mut dice, step)).await;
                ours.extend(revoked_or_gone(&url).await.difference(&before).cloned());
            }
            let ended = if step == 0 {
                BTreeSet::new()
            } else {
                revoked_or_gone(&url).await
            };
            if !backup.export(&format!("2026-03-08T12{step:02}00Z"), &rows) {
                return;
            }
            let way = *dice.one_of(&["refuse", "keep", "take"]);
            let options = ["--apply", "--json", "--on-conflict", way];
            let done = import(&url, backup.path(), &options).await;
            assert!(matches!(done.code, Some(0 | 2)), "{seed}: {done:?}");
            let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
            let still = revoked_or_gone(&url).await;
            assert!(
                still.is_superset(&ended),
                "{seed}: {ended:?}, and then {still:?}"
            );
            // Another time, nothing happens.
            let again = import(&url, backup.path(), &options).await;
            let again: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
            assert_eq!(again["revision"], report["revision"], "{seed} {step}");
        }
        let dry = undone(&url, &[], if kept(&url).await { 2 } else { 0 }).await;
        let code = if dry["kept"].as_array().unwrap().is_empty() {
            0
        } else {
            2
        };
        undone(&url, &["--apply"], code).await;
        let report = imported_any(&url, &backup).await;
        let still = revoked_or_gone(&url).await;
        let by_there = report["clients"].as_array().unwrap().iter();
        let fates: Vec<_> = by_there
            .map(|client| client["fate"].as_str().unwrap())
            .collect();
        assert!(
            still.is_superset(&ours),
            "{seed}: {ours:?}, and then {still:?}: {fates:?}"
        );
    }
}

/// Whether undoing would leave something behind.
async fn kept(url: &str) -> bool {
    let command = ["import", "undo", "--json", "--database-url", url];
    let ended = crate::process::Process::start(crate::process::binary(command));
    ended.ended().await.code == Some(2)
}

async fn imported_any(url: &str, backup: &Backup) -> serde_json::Value {
    let ended = import(url, backup.path(), &["--apply", "--json"]).await;
    assert!(matches!(ended.code, Some(0 | 2)), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}
