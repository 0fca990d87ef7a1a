//! What ends a client or its token: revocations and rotations, whatever else is in the row.

use serde_json::json;

use super::{BASE, SECOND, THIRD, begun, client, rename_here, revoked, tokens};
use crate::{
    database::{import, imported, undone},
    hitkeep::id,
    postgres::{execute, number},
};

#[tokio::test]
async fn a_revocation_wins_even_over_a_conflict() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    rename_here(&url, 401, "ours").await;
    let changes = "UPDATE api_clients SET name = 'theirs', revoked_at = now() WHERE id = u(401);
         UPDATE api_clients SET name = chr(7), revoked_at = now() WHERE id = u(402);";
    assert!(backup.export(SECOND, &format!("{BASE}{changes}")));
    let report = imported(&url, backup.path(), &["--apply"], 2).await;
    assert_eq!(client(&report, 401)["reason"], "conflict");
    assert_eq!(client(&report, 402)["reason"], "bad_name");
    assert_eq!(revoked(&url).await, ["401", "402"]);
    // A reactivation here is overruled as long as it is revoked there.
    execute(&url, "UPDATE api_clients SET revoke_time = NULL").await;
    imported(&url, backup.path(), &["--apply"], 2).await;
    assert_eq!(revoked(&url).await, ["401", "402"]);
    // What an import revoked is as it was imported; the other one has another name here.
    let undone = undone(&url, &[], 2).await;
    let kept = undone["kept"].as_array().unwrap().iter();
    assert_eq!(
        kept.map(|one| &one["id"]).collect::<Vec<_>>(),
        [&json!(id(401))]
    );
}

/// After both sides lifted a revocation that an import had taken over, the client is as imported,
/// and a revocation here is one of our own, whether an import came in between or not.
#[tokio::test]
async fn a_revocation_here_is_kept_after_an_imported_one_was_lifted() {
    for is_imported_between in [true, false] {
        let Some((backup, url)) = begun().await else {
            return;
        };
        let revocation = "UPDATE api_clients SET revoked_at = now() WHERE id = u(401);";
        assert!(backup.export(SECOND, &format!("{BASE}{revocation}")));
        imported(&url, backup.path(), &["--apply"], 0).await;
        execute(&url, "UPDATE api_clients SET revoke_time = NULL").await;
        let reactivated = undone(&url, &[], 2).await;
        assert_eq!(reactivated["kept"][0]["id"], id(401), "it is revoked there");
        if is_imported_between {
            assert!(backup.export(THIRD, BASE));
            imported(&url, backup.path(), &["--apply"], 0).await;
            assert_eq!(undone(&url, &[], 0).await["kept"], json!([]));
        }
        let sql = format!(
            "UPDATE api_clients SET revoke_time = now() WHERE id = '{}'",
            id(401)
        );
        execute(&url, &sql).await;
        let report = undone(&url, &["--apply"], 2).await;
        assert_eq!(report["kept"][0]["id"], id(401), "{is_imported_between}");
        assert_eq!(report["removed"].as_array().unwrap().len(), 2);
        imported(&url, backup.path(), &["--apply"], 0).await;
        assert_eq!(revoked(&url).await, ["401"]);
    }
}

/// A token that HitKeep has ended does not live on here because of what else is in its row.
#[tokio::test]
async fn a_rotation_counts_even_if_the_row_is_refused() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    rename_here(&url, 401, "ours").await;
    let changes = "UPDATE api_clients SET name = 'theirs', secret_hash = h(9) WHERE id = u(401);
         UPDATE api_clients SET name = chr(7), secret_hash = h(8), revoked_at = now()
             WHERE id = u(402);";
    assert!(backup.export(SECOND, &format!("{BASE}{changes}")));
    let report = imported(&url, backup.path(), &["--apply"], 2).await;
    let first = client(&report, 401);
    assert_eq!(
        (&first["reason"], &first["changes"]),
        (&json!("conflict"), &json!(["token"]))
    );
    assert!(!first["explanation"].as_str().unwrap().contains("token"));
    assert_eq!(tokens(&url, 401).await, ["401 ended", "9"]);
    let second = client(&report, 402);
    assert_eq!(second["reason"], "bad_name");
    assert_eq!(second["changes"], json!(["token", "revoke_time"]));
    assert_eq!(tokens(&url, 402).await, ["402 ended"]);
    assert_eq!(revoked(&url).await, ["402"]);
    // What an import did is no change of our own.
    let kept = undone(&url, &[], 2).await;
    assert_eq!(kept["kept"].as_array().unwrap().len(), 1, "{kept}");
    assert_eq!(kept["kept"][0]["id"], id(401));
    let again = imported(&url, backup.path(), &["--apply"], 2).await;
    assert_eq!(again["revision"], report["revision"]);
}

/// Where the new token may be another one's, nothing is rotated, and the client is named.
#[tokio::test]
async fn a_rotation_that_is_withheld_is_named() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    let changes = "INSERT INTO users VALUES (u(102), 'b@example.org', 'x', now());
         UPDATE api_clients SET user_id = u(102), secret_hash = h(9) WHERE id = u(401);
         UPDATE api_clients SET secret_hash = h(403) WHERE id = u(402);
         DELETE FROM api_clients WHERE id = u(403);";
    assert!(backup.export(SECOND, &format!("{BASE}{changes}")));
    let report = imported(&url, backup.path(), &["--apply"], 2).await;
    for (number, reason) in [(401, "owner_changed"), (402, "hash_taken")] {
        let refused = client(&report, number);
        assert_eq!(refused["reason"], reason);
        assert_eq!(refused["remarks"], json!(["rotation_withheld"]));
        assert_eq!(tokens(&url, number).await, [number.to_string()]);
    }
    let text = import(&url, backup.path(), &[]).await.stdout;
    assert!(text.contains("it has another token in HitKeep"), "{text}");
}

/// HitKeep has no two rows with one id, but a snapshot is input.
#[tokio::test]
async fn a_revocation_wins_over_rows_with_the_same_id() {
    let Some((backup, url)) = begun().await else {
        return;
    };
    let copies = "
        INSERT INTO api_clients SELECT id, user_id, tenant_id, name, description, h(n), 'user',
            NULL, NULL, NULL, created_at, updated_at
            FROM api_clients, range(1, 3) AS numbers (n) WHERE id <> u(403);
        UPDATE api_clients SET revoked_at = now() WHERE id = u(401);
        UPDATE api_clients SET revoked_at = now() WHERE id = u(402) AND secret_hash = h(402);";
    assert!(backup.export(SECOND, &format!("{BASE}{copies}")));
    let report = imported(&url, backup.path(), &["--apply"], 2).await;
    assert_eq!(report["counts"], json!({ "refused": 6, "unchanged": 1 }));
    assert_eq!(client(&report, 401)["reason"], "duplicate_id");
    assert_eq!(revoked(&url).await, ["401", "402"]);
    assert_eq!(tokens(&url, 402).await, ["402"]);
    let events = "SELECT count(*) FROM audit_events WHERE action = 'api_client.imported'";
    assert_eq!(number(&url, events).await, 5, "one for each revocation");
    assert_eq!(undone(&url, &[], 0).await["kept"], json!([]));
}
