//! Importing again, after changes on one side or on both; and what is refused as a whole.

use serde_json::{Value, json};

use crate::{
    database::{import, imported, texts, undone},
    hitkeep::{Backup, id},
    postgres::{execute, migrated_database, number},
};

mod endings;

const FIRST: &str = "2026-03-08T120000Z";
const SECOND: &str = "2026-03-08T130000Z";
const THIRD: &str = "2026-03-08T140000Z";

/// A user, a team, two sites, and three clients: 401 and 402 of the user, 403 of the team.
pub const BASE: &str = "
    INSERT INTO users VALUES (u(101), 'a@example.org', 'x', now());
    INSERT INTO tenants VALUES (u(201), 'Default', true);
    INSERT INTO tenant_members VALUES (u(1), u(201), u(101), 'owner', now());
    INSERT INTO sites VALUES (u(301), u(101), 'a.example'), (u(302), u(101), 'b.example');
    INSERT INTO site_members VALUES (u(1), u(301), u(101), 'owner'), (u(2), u(302), u(101), 'owner');
    INSERT INTO api_clients SELECT u(n), CASE WHEN n < 403 THEN u(101) END,
        CASE WHEN n = 403 THEN u(201) END, 'client ' || n, NULL, h(n), 'user', NULL, NULL, NULL,
        TIMESTAMPTZ '2026-01-01 00:00:00Z', TIMESTAMPTZ '2026-01-01 00:00:00Z'
        FROM range(401, 404) AS numbers (n);
    INSERT INTO api_client_site_roles SELECT uuid(), u(n), u(301), 'editor', now()
        FROM range(401, 404) AS numbers (n);";

/// A backup with the first snapshot, and a database that has imported it. None if there is no
/// DuckDB.
async fn begun() -> Option<(Backup, String)> {
    let backup = Backup::new();
    if !backup.export(FIRST, BASE) {
        return None;
    }
    let url = migrated_database().await;
    imported(&url, backup.path(), &["--apply"], 0).await;
    Some((backup, url))
}

/// What happens to a client.
fn client(report: &Value, number: u32) -> &Value {
    let mut clients = report["clients"].as_array().unwrap().iter();
    clients
        .find(|client| client["id"] == id(number))
        .unwrap_or_else(|| panic!("client {number} in {report}"))
}

async fn rename_here(url: &str, number: u32, name: &str) {
    let sql = format!(
        "UPDATE api_clients SET name = '{name}' WHERE id = '{}'",
        id(number)
    );
    execute(url, &sql).await;
}

async fn name(url: &str, number: u32) -> String {
    let sql = format!(
        "SELECT name AS text FROM api_clients WHERE id = '{}'",
        id(number)
    );
    texts(url, &sql).await.remove(0)
}

async fn revoked(url: &str) -> Vec<String> {
    let sql = "SELECT right(id::text, 3) AS text FROM api_clients \
               WHERE revoke_time IS NOT NULL ORDER BY id";
    texts(url, sql).await
}

/// The secrets whose tokens a client has, and whether they work.
async fn tokens(url: &str, number: u32) -> Vec<String> {
    let sql = format!(
        "SELECT secret || CASE WHEN end_time IS NULL THEN '' ELSE ' ended' END AS text \
         FROM api_client_tokens JOIN unnest(ARRAY['{number}', '9']) AS secret ON hash = \
         sha256(convert_to(encode(sha256(convert_to('the secret of ' || secret, 'UTF8')), 'hex'), \
                           'UTF8')) \
         WHERE client_id = '{}' ORDER BY 1",
        id(number)
    );
    texts(url, &sql).await
}

#[tokio::test]
async fn what_changed_there_is_changed_here() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    let changes = "
        UPDATE api_clients SET name = 'renamed', description = 'new',
            expires_at = TIMESTAMPTZ '2036-01-01 00:00:00Z' WHERE id = u(401);
        DELETE FROM api_client_site_roles WHERE api_client_id = u(401);
        INSERT INTO api_client_site_roles VALUES (uuid(), u(401), u(302), 'viewer', now());
        UPDATE api_clients SET secret_hash = h(9) WHERE id = u(402);
        UPDATE api_clients SET revoked_at = TIMESTAMPTZ '2026-03-08 12:30:00Z' WHERE id = u(403);";
    assert!(backup.export(SECOND, &format!("{BASE}{changes}")));
    let report = imported(&url, backup.path(), &["--apply"], 0).await;
    let first = client(&report, 401);
    assert_eq!(first["fate"], "updated");
    assert_eq!(
        first["changes"],
        json!(["name", "description", "expire_time", "site_grants"])
    );
    assert_eq!(client(&report, 402)["fate"], "rotated");
    assert_eq!(client(&report, 403)["fate"], "revoked");
    assert_eq!(name(&url, 401).await, "renamed");
    assert_eq!(tokens(&url, 402).await, ["402 ended", "9"]);
    assert_eq!(revoked(&url).await, ["403"]);
    let grants = format!(
        "SELECT right(site_id::text, 3) || role AS text FROM api_client_grants \
         WHERE client_id = '{}'",
        id(401)
    );
    assert_eq!(texts(&url, &grants).await, ["302viewer"]);
    let events = "SELECT count(*) FROM audit_events WHERE action = 'api_client.imported'";
    assert_eq!(number(&url, events).await, 6);
    // It came from a newer snapshot, so the older one is refused, and the newest is unchanged.
    let old = backup.snapshot(FIRST);
    let refused = import(&url, &old, &["--apply"]).await.refused_with(1);
    assert!(refused.contains("older than the last one"), "{refused}");
    let again = imported(&url, backup.path(), &["--apply"], 0).await;
    assert_eq!(again["counts"], json!({ "unchanged": 3 }));
    assert_eq!(again["revision"], report["revision"]);
    // A token that was replaced does not come back.
    assert!(backup.export(THIRD, BASE));
    let report = imported(&url, backup.path(), &["--apply"], 2).await;
    assert_eq!(client(&report, 402)["reason"], "token_replaced");
    assert_eq!(client(&report, 403)["fate"], "kept");
    assert_eq!(
        revoked(&url).await,
        ["403"],
        "no import takes a revocation back"
    );
    assert_eq!(tokens(&url, 402).await, ["402 ended", "9"]);
}

#[tokio::test]
async fn what_changed_here_is_kept() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    rename_here(&url, 401, "ours").await;
    let sql = format!(
        "UPDATE api_client_tokens SET end_time = now() WHERE client_id = '{0}';
         INSERT INTO api_client_tokens (client_id, hash, hint, create_time)
             VALUES ('{0}', sha256('x'), 'hkp_...x', now());
         UPDATE api_clients SET revoke_time = now() WHERE id = '{1}';",
        id(402),
        id(403)
    );
    execute(&url, &sql).await;
    assert!(backup.export(SECOND, BASE));
    let report = imported(&url, backup.path(), &["--apply"], 0).await;
    assert_eq!(report["counts"], json!({ "kept": 3 }));
    assert_eq!(client(&report, 401)["remarks"], json!(["changed_here"]));
    assert_eq!(client(&report, 402)["remarks"], json!(["rotated_here"]));
    assert_eq!(client(&report, 403)["remarks"], json!(["revoked_here"]));
    assert_eq!(name(&url, 401).await, "ours");
    assert_eq!(tokens(&url, 402).await, ["402 ended"]);
    // The other part of a client follows all the same.
    let changes = "UPDATE api_clients SET name = 'theirs' WHERE id = u(402);";
    assert!(backup.export(THIRD, &format!("{BASE}{changes}")));
    let report = imported(&url, backup.path(), &["--apply"], 0).await;
    assert_eq!(client(&report, 402)["fate"], "updated");
    assert_eq!(name(&url, 402).await, "theirs");
    assert_eq!(tokens(&url, 402).await, ["402 ended"]);
}

#[tokio::test]
async fn a_conflict_is_refused_unless_one_side_is_to_count() {
    for (option, fate, winner) in [
        ("refuse", "refused", "ours"),
        ("keep", "kept", "ours"),
        ("take", "updated", "theirs"),
    ] {
        let Some((backup, url)) = begun().await else {
            return;
        };
        rename_here(&url, 401, "ours").await;
        let changes = "UPDATE api_clients SET name = 'theirs' WHERE id IN (u(401), u(402));
             UPDATE api_clients SET revoked_at = now() WHERE id = u(403);";
        assert!(backup.export(SECOND, &format!("{BASE}{changes}")));
        let options = ["--apply", "--on-conflict", option];
        let code = if option == "refuse" { 2 } else { 0 };
        let report = imported(&url, backup.path(), &options, code).await;
        assert_eq!(client(&report, 401)["fate"], fate);
        assert_eq!(name(&url, 401).await, winner);
        assert_eq!(name(&url, 402).await, "theirs", "others are not held up");
        assert_eq!(revoked(&url).await, ["403"]);
        let again = imported(&url, backup.path(), &["--apply"], code).await;
        let fate = match option {
            "refuse" => "refused",
            "keep" => "kept",
            _ => "unchanged",
        };
        assert_eq!(
            client(&again, 401)["fate"],
            fate,
            "{option}: it is settled or it is not"
        );
    }
}

#[tokio::test]
async fn a_missing_client_is_named_or_revoked_and_never_deleted() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    assert!(backup.export(
        SECOND,
        &format!("{BASE} DELETE FROM api_clients WHERE id = u(401);")
    ));
    let report = imported(&url, backup.path(), &["--apply"], 0).await;
    assert_eq!(client(&report, 401)["fate"], "missing");
    assert_eq!(report["dropped_grants"][0]["reason"], "no_client");
    assert!(revoked(&url).await.is_empty());
    let report = imported(&url, backup.path(), &["--apply", "--missing", "revoke"], 0).await;
    assert_eq!(client(&report, 401)["fate"], "revoked");
    assert_eq!(revoked(&url).await, ["401"]);
    let report = imported(&url, backup.path(), &["--apply", "--missing=revoke"], 0).await;
    assert_eq!(client(&report, 401)["fate"], "missing");
    let events = "SELECT count(*) FROM audit_events WHERE action = 'api_client.revoked'";
    assert_eq!(number(&url, events).await, 1);
    // What an import revoked is as it was imported.
    let undone = undone(&url, &[], 0).await;
    assert_eq!(undone["kept"], json!([]));
}

/// HitKeep knows no restrictions, so its token works where this service refuses it.
#[tokio::test]
async fn a_client_that_was_restricted_here_answers_less() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    let restricted = |report: &Value| {
        let all = report["differences"].as_array().unwrap().iter();
        let mut clients: Vec<_> = all
            .filter(|found| found["rules"] == json!(["restricted"]))
            .map(|found| {
                assert_eq!(
                    (&found["here"], &found["direction"]),
                    (&json!("none"), &json!("narrower"))
                );
                found["client_id"].as_str().unwrap().to_owned()
            })
            .collect();
        clients.dedup();
        clients
    };
    for (set, expected) in [
        ("allowed_cidrs = '{10.0.0.0/8}'", &[id(401)][..]),
        ("not_before_time = now() + interval '1 day'", &[id(401)]),
        ("not_before_time = now()", &[]),
    ] {
        let update = format!(
            "UPDATE api_clients SET allowed_cidrs = '{{}}', not_before_time = NULL; \
             UPDATE api_clients SET {set} WHERE id = '{}'",
            id(401)
        );
        execute(&url, &update).await;
        let code = if expected.is_empty() { 0 } else { 3 };
        let report = imported(&url, backup.path(), &["--compare"], code).await;
        assert_eq!(restricted(&report), expected, "{set}");
    }
}

#[tokio::test]
async fn a_directory_that_loses_too_much_is_refused() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    let changes = "DELETE FROM users; DELETE FROM api_clients WHERE user_id IS NOT NULL;";
    assert!(backup.export(SECOND, &format!("{BASE}{changes}")));
    let refused = import(&url, backup.path(), &["--apply"])
        .await
        .refused_with(1);
    assert!(refused.contains("1 of 1 users"), "{refused}");
    assert!(refused.contains("--allow-mass-removal"), "{refused}");
    let count = "SELECT count(*) FROM api_clients";
    assert_eq!(number(&url, count).await, 3);
    let options = ["--apply", "--allow-mass-removal"];
    let report = imported(&url, backup.path(), &options, 0).await;
    assert_eq!(report["directory"]["clients_deleted"], 2);
    assert_eq!(client(&report, 401)["fate"], "deleted_with_owner");
    assert_eq!(number(&url, count).await, 1);
    let events = "SELECT count(*) FROM audit_events WHERE action = 'api_client.deleted'";
    assert_eq!(number(&url, events).await, 2);
}

#[tokio::test]
async fn a_pushed_directory_is_not_replaced_by_an_older_one() {
    let backup = Backup::new();
    if !backup.export(FIRST, BASE) {
        return;
    }
    let url = migrated_database().await;
    let pushed = format!(
        "INSERT INTO users VALUES ('{0}', 'user', false), ('{1}', 'user', false);
         INSERT INTO teams VALUES ('{2}', false);
         UPDATE directory_order SET last_place = 5, changed = 5",
        id(101),
        id(102),
        id(201)
    );
    execute(&url, &pushed).await;
    let refused = import(&url, backup.path(), &["--apply"])
        .await
        .refused_with(1);
    assert!(refused.contains("--no-directory"), "{refused}");
    // Without the directory, grants on sites that are not here are left out.
    let report = imported(&url, backup.path(), &["--apply", "--no-directory"], 0).await;
    assert_eq!(report["counts"], json!({ "created": 3 }));
    assert_eq!(report["directory"]["replaced"], false);
    assert_eq!(report["dropped_grants"].as_array().unwrap().len(), 3);
    let count = "SELECT count(*) FROM users";
    assert_eq!(number(&url, count).await, 2);
    let options = ["--apply", "--replace-pushed-directory"];
    let report = imported(&url, backup.path(), &options, 0).await;
    assert_eq!(
        report["counts"],
        json!({ "updated": 3 }),
        "the grants come after"
    );
    assert_eq!(number(&url, count).await, 1);
    // What an import put there, an import may replace.
    let more = "INSERT INTO users VALUES (u(103), 'b@example.org', 'x', now());";
    assert!(backup.export(SECOND, &format!("{BASE}{more}")));
    imported(&url, backup.path(), &["--apply"], 0).await;
    assert_eq!(number(&url, count).await, 2);
}

#[tokio::test]
async fn the_newest_whole_snapshot_is_used() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    let changes = "UPDATE api_clients SET name = 'second' WHERE id = u(401);";
    assert!(backup.export(SECOND, &format!("{BASE}{changes}")));
    assert!(backup.export(THIRD, BASE));
    let broken = backup.snapshot(THIRD).join("api_client_site_roles.parquet");
    let whole = std::fs::read(&broken).unwrap();
    std::fs::write(&broken, &whole[..whole.len() - 1]).unwrap();
    let ended = import(&url, backup.path(), &["--json"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stderr.contains("is not whole, and was skipped"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("old: restart HitKeep"), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["snapshot"]["time"], "2026-03-08T13:00:00Z");
    assert_eq!(client(&report, 401)["fate"], "updated");
    // By itself it is refused, as is a folder that is none.
    let itself = backup.snapshot(THIRD);
    let refused = import(&url, &itself, &[]).await.refused_with(1);
    assert!(refused.contains("api_client_site_roles"), "{refused}");
    // So it is if a table is not whole that may be missing.
    std::fs::write(&broken, &whole).unwrap();
    for optional in ["user_preferences", "instance_audit_log"] {
        let optional = itself.join(format!("{optional}.parquet"));
        let written = std::fs::read(&optional).unwrap();
        std::fs::write(&optional, &written[..written.len() / 2]).unwrap();
        let refused = import(&url, &itself, &[]).await.refused_with(1);
        let table = optional.file_stem().unwrap().to_str().unwrap();
        assert!(refused.contains(table), "{refused}");
        std::fs::write(&optional, &written).unwrap();
    }
    std::fs::remove_file(&broken).unwrap();
    let refused = import(&url, &itself, &[]).await.refused_with(1);
    assert!(
        refused.contains("no table api_client_site_roles"),
        "{refused}"
    );
    let empty = Backup::new();
    let refused = import(&url, empty.path(), &[]).await.refused_with(1);
    assert!(refused.contains("neither a snapshot"), "{refused}");
}

#[tokio::test]
async fn more_clients_than_an_owner_could_create_are_named() {
    let backup = Backup::new();
    if !backup.export(FIRST, BASE) {
        return;
    }
    let url = migrated_database().await;
    let options = ["--apply", "--max-clients-per-owner", "1"];
    let report = imported(&url, backup.path(), &options, 0).await;
    assert_eq!(
        report["over_quota"],
        json!([{ "owner": format!("user:{}", id(101)), "clients": 2 }])
    );
    assert_eq!(client(&report, 401)["remarks"], json!(["over_quota"]));
    assert_eq!(client(&report, 403)["remarks"], json!([]));
}

#[tokio::test]
async fn after_everything_is_taken_back_it_can_be_imported_again() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    let report = undone(&url, &["--apply"], 0).await;
    assert_eq!(report["removed"].as_array().unwrap().len(), 3);
    let rows = "SELECT (SELECT count(*) FROM api_clients) + (SELECT count(*) FROM api_client_imports) \
                + (SELECT count(snapshot_time) FROM import_state)";
    assert_eq!(number(&url, rows).await, 0);
    let report = imported(&url, backup.path(), &["--apply"], 0).await;
    assert_eq!(report["counts"], json!({ "created": 3 }));
}
