//! A HitKeep with every trap in it: what happens to each row was written down before.

use std::collections::BTreeMap;

use serde_json::Value;

mod rows;

use rows::{CLIENTS, Row, rows};

use crate::{
    database::{import, imported, texts, undone},
    hitkeep::{Backup, id},
    postgres::{migrated_database, number},
};

const TIME: &str = "2026-03-08T120000Z";

/// A database with two clients of its own, whose id and token the snapshot has as well.
async fn prepared() -> String {
    let url = migrated_database().await;
    let sql = format!(
        "INSERT INTO users VALUES ('{alice}', 'owner', false);
         INSERT INTO api_clients SELECT id, '{alice}', NULL, 'our own', '', 'user', NULL, NULL,
             '{alice}', now(), now() FROM unnest(ARRAY['{taken}', '{other}']::uuid[]) AS id;
         INSERT INTO api_client_tokens (client_id, hash, hint, scheme, create_time)
             SELECT '{other}', hash, 'sha256_' || left(encode(hash, 'hex'), 6), 'hitkeep_sha256',
                 now() FROM sha256(convert_to(encode(sha256('the secret of 4640'), 'hex'),
                                              'UTF8')) AS hash;",
        alice = id(101),
        taken = id(463),
        other = id(4640),
    );
    crate::postgres::execute(&url, &sql).await;
    url
}

/// The fate of each client, refused ones by their reason.
fn fates(report: &Value) -> BTreeMap<String, Vec<String>> {
    let mut fates: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for client in report["clients"].as_array().unwrap() {
        let fate = match client["fate"].as_str().unwrap() {
            "refused" => client["reason"].as_str().unwrap(),
            fate => fate,
        };
        let id = client["id"].as_str().unwrap().to_owned();
        fates.entry(id).or_default().push(fate.to_owned());
    }
    fates
}

fn expected(fate_of: impl Fn(&Row) -> &'static str) -> BTreeMap<String, Vec<String>> {
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in CLIENTS {
        let fates = expected.entry(id(row.number)).or_default();
        fates.push(fate_of(row).to_owned());
    }
    expected
}

#[tokio::test]
async fn every_row_has_the_fate_that_was_written_down() {
    let backup = Backup::new();
    if !backup.export(TIME, &rows()) {
        return;
    }
    assert!(CLIENTS.len() >= 40);
    let url = prepared().await;
    let everything = "SELECT md5(string_agg(row::text, '' ORDER BY row::text)) AS text FROM ( \
        SELECT row(api_clients) FROM api_clients UNION ALL SELECT row(users) FROM users \
        UNION ALL SELECT row(api_client_imports) FROM api_client_imports \
        UNION ALL SELECT row(audit_events) FROM audit_events) AS rows (row)";
    let before = texts(&url, everything).await;
    let dry = imported(&url, backup.path(), &[], 2).await;
    assert_eq!(fates(&dry), expected(|row| row.fate));
    assert_eq!(dry["applied"], false);
    assert_eq!(
        texts(&url, everything).await,
        before,
        "a dry run changes nothing"
    );

    let applied = imported(&url, backup.path(), &["--apply"], 2).await;
    assert_eq!(fates(&applied), expected(|row| row.fate));
    let created = CLIENTS.iter().filter(|row| row.fate == "created").count();
    let count = "SELECT count(*) FROM api_clients WHERE name <> 'our own'";
    assert_eq!(number(&url, count).await, i64::try_from(created).unwrap());
    let count = "SELECT count(*) FROM audit_events \
                 WHERE action = 'api_client.imported' AND request_id <> ''";
    assert_eq!(number(&url, count).await, i64::try_from(created).unwrap());

    // Another time, nothing happens.
    let before = texts(&url, everything).await;
    let again = imported(&url, backup.path(), &["--apply"], 2).await;
    let unchanged = expected(|row| match row.fate {
        "created" => "unchanged",
        refused => refused,
    });
    assert_eq!(fates(&again), unchanged);
    assert_eq!(again["revision"], applied["revision"]);
    assert_eq!(texts(&url, everything).await, before);

    let text = import(&url, backup.path(), &[]).await;
    assert_eq!(text.code, Some(2));
    let hash = "SELECT encode(hash, 'hex') AS text FROM api_client_tokens";
    for hash in texts(&url, hash).await {
        for report in [&text.stdout, &applied.to_string(), &dry.to_string()] {
            assert!(!report.contains(&hash), "a report has a hash");
        }
    }
    let token = "SELECT encode(sha256('the secret of 465'), 'hex') AS text";
    let token = texts(&url, token).await.remove(0);
    assert!(
        !text.stdout.contains(&token),
        "a report has a token for a name"
    );
}

#[tokio::test]
async fn what_is_imported_is_what_hitkeep_has() {
    let backup = Backup::new();
    if !backup.export(TIME, &rows()) {
        return;
    }
    let url = prepared().await;
    let report = imported(&url, backup.path(), &["--apply"], 2).await;
    let client = "SELECT concat_ws('|', owner_user_id, owner_team_id, name, description, \
        instance_role, expire_time AT TIME ZONE 'UTC', revoke_time AT TIME ZONE 'UTC', \
        coalesce(created_by_user_id::text, 'unknown'), api_clients.create_time AT TIME ZONE 'UTC', \
        last_used_time AT TIME ZONE 'UTC', hint, \
        (SELECT string_agg(right(site_id::text, 3) || '=' || role, ',' ORDER BY site_id) \
         FROM api_client_grants WHERE client_id = api_clients.id)) AS text \
        FROM api_clients JOIN api_client_tokens AS token ON client_id = id \
        LEFT JOIN api_client_usage AS usage ON usage.client_id = id WHERE id = ";
    for (number, expected) in [
        (
            402,
            "103|A name||user|103|2026-01-02 03:04:05|2026-02-01 00:00:00|HINT|301=owner,302=owner",
        ),
        (
            411,
            "103|trimmed|two\nlines|user|103|2026-01-02 03:04:05|2026-02-01 00:00:00|HINT",
        ),
        (
            414,
            "103|A name||user|2036-01-01 00:00:00.000001|103|2026-01-02 03:04:05|2026-02-01 00:00:00|HINT",
        ),
        (
            415,
            "103|A name||user|2026-01-03 00:00:00|103|2026-01-02 03:04:05|2026-02-01 00:00:00|HINT|301=viewer",
        ),
        (
            416,
            "103|A name||user|103|2026-01-02 03:04:05|2026-02-01 00:00:00|HINT|301=viewer",
        ),
        (
            417,
            "103|A name||user|103|2026-01-02 03:04:05|2026-02-01 00:00:00|HINT",
        ),
        (
            431,
            "202|A name||user|104|2026-01-02 03:04:05|2026-02-01 00:00:00|HINT",
        ),
        (
            432,
            "202|A name||user|unknown|2026-01-02 03:04:05|2026-02-01 00:00:00|HINT|301=viewer",
        ),
    ] {
        let hint = format!(
            "SELECT 'sha256_' || left(encode(sha256(convert_to(encode(sha256('the secret of {number}'), \
             'hex'), 'UTF8')), 'hex'), 6) AS text"
        );
        let hint = texts(&url, &hint).await.remove(0);
        let found = texts(&url, &format!("{client}'{}'", id(number)))
            .await
            .remove(0);
        let found = found
            .replace("00000000-0000-4000-8000-000000000", "")
            .replace(&hint, "HINT");
        assert_eq!(found, expected, "{number}");
    }
    // The directory: trimmed roles, the default team, the owner without a membership.
    let members = "SELECT right(team_id::text, 3) || ' ' || right(user_id::text, 3) || ' ' || role \
                   AS text FROM team_members ORDER BY 1";
    assert_eq!(
        texts(&url, members).await,
        [
            "201 101 owner",
            "201 102 admin",
            "201 103 member",
            "201 107 member",
            "202 103 owner",
            "202 104 admin",
            "203 104 owner",
        ]
    );
    let sites = "SELECT right(id::text, 3) || ' ' || right(team_id::text, 3) AS text FROM sites \
                 ORDER BY 1";
    assert_eq!(
        texts(&url, sites).await,
        [
            "301 201", "302 201", "303 202", "304 203", "305 201", "306 202"
        ]
    );
    let members = "SELECT right(site_id::text, 3) || ' ' || right(user_id::text, 3) || ' ' || role \
                   AS text FROM site_members ORDER BY 1";
    assert_eq!(
        texts(&url, members).await,
        [
            "301 101 owner",
            "301 102 viewer",
            "301 103 editor",
            "302 101 owner",
            "302 103 viewer",
            "303 104 owner",
            "303 105 viewer",
            "304 104 owner",
            "305 107 owner",
            "306 103 owner",
        ]
    );
    assert_eq!(report["directory"]["replaced"], true);
    let dropped: Vec<_> = report["dropped_grants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|grant| grant["reason"].as_str().unwrap())
        .collect();
    assert_eq!(dropped, ["no_site", "unknown_role", "no_client"]);
    let mut notes: Vec<_> = report["notes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|note| note["kind"].as_str().unwrap())
        .collect();
    notes.sort_unstable();
    notes.dedup();
    assert_eq!(
        notes,
        [
            "dangling_row",
            "legacy_owner",
            "shadow_user",
            "unknown_role"
        ]
    );
}

#[tokio::test]
async fn an_import_can_be_taken_back_but_for_what_was_changed_here() {
    let backup = Backup::new();
    if !backup.export(TIME, &rows()) {
        return;
    }
    let url = prepared().await;
    imported(&url, backup.path(), &["--apply"], 2).await;
    let change = format!(
        "UPDATE api_clients SET name = 'another' WHERE id = '{}';
         UPDATE api_clients SET revoke_time = now() WHERE id = '{}';
         DELETE FROM api_clients WHERE id = '{}';
         UPDATE api_clients SET allowed_cidrs = '{{10.0.0.0/8}}' WHERE id = '{}';
         UPDATE api_clients SET not_before_time = now() WHERE id = '{}';",
        id(401),
        id(402),
        id(403),
        id(405),
        id(406),
    );
    crate::postgres::execute(&url, &change).await;
    let kept = |report: &Value| {
        let kept = report["kept"].as_array().unwrap().iter();
        kept.map(|client| client["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let dry = undone(&url, &[], 2).await;
    assert_eq!(kept(&dry), [id(401), id(402), id(405), id(406)]);
    assert_eq!(dry["deleted_here"], serde_json::json!([id(403)]));
    let count = "SELECT count(*) FROM api_clients";
    let before = number(&url, count).await;
    let done = undone(&url, &["--apply"], 2).await;
    assert_eq!(kept(&done), kept(&dry));
    let removed = done["removed"].as_array().unwrap().len();
    assert_eq!(
        number(&url, count).await,
        before - i64::try_from(removed).unwrap()
    );
    let count = "SELECT count(*) FROM audit_events \
                 WHERE action = 'api_client.deleted' AND changes::text LIKE '%undone%'";
    assert_eq!(number(&url, count).await, i64::try_from(removed).unwrap());
    // What was deleted here stays so, and what was changed here as it is.
    let again = imported(&url, backup.path(), &["--apply"], 2).await;
    let fates = fates(&again);
    assert_eq!(fates[&id(401)], ["kept"]);
    assert_eq!(fates[&id(402)], ["kept"]);
    assert_eq!(fates[&id(403)], ["deleted_here"]);
    assert_eq!(fates[&id(404)], ["created"]);
}

/// The differences, with the refused clients left out.
fn differences(report: &Value) -> Vec<String> {
    let all = report["differences"].as_array().unwrap().iter();
    let text = |found: &Value, field: &str| found[field].as_str().unwrap_or_default().to_owned();
    let last = |id: String| id.get(33..).unwrap_or_default().to_owned();
    all.filter(|found| found["rules"] != serde_json::json!(["refused"]))
        .map(|found| {
            let rules = found["rules"].as_array().unwrap().iter();
            let rules: Vec<_> = rules.map(|rule| rule.as_str().unwrap()).collect();
            let place = match found["place"].as_str().unwrap() {
                "site" => last(text(found, "site_id")),
                place => place.to_owned(),
            };
            format!(
                "{} {place} {}: {} -> {} {} {}",
                last(text(found, "client_id")),
                text(found, "surface"),
                text(found, "hitkeep"),
                text(found, "here"),
                text(found, "direction"),
                rules.join(" ")
            )
        })
        .collect()
}

#[tokio::test]
async fn every_difference_is_found_and_has_its_rule() {
    let backup = Backup::new();
    if !backup.export(TIME, &rows()) {
        return;
    }
    let url = prepared().await;
    let report = imported(&url, backup.path(), &["--compare"], 4).await;
    let expected = vec![
        "401 301 rest: none -> editor wider D3",
        "402 301 rest: none -> editor wider D3",
        "402 301 mcp, ingest: owner -> editor narrower D4",
        "402 302 rest: none -> viewer wider D3",
        "402 302 mcp, ingest: owner -> viewer narrower D4",
        "403 303 rest: owner -> admin narrower D5",
        "403 other_sites rest: owner -> none narrower D5",
        "404 other_sites rest: viewer -> none narrower D5",
        "406 303 mcp, ingest: owner -> admin narrower D4",
        "407 304 mcp, ingest: owner -> none narrower D4",
        "408 303 mcp, ingest: viewer -> none narrower D4",
        "410 301 rest: none -> viewer wider unknown_role",
        "416 301 rest: none -> viewer wider D3",
        "423 303 rest: none -> admin wider D6",
    ];
    assert_eq!(differences(&report), expected);
    let refused = CLIENTS.iter().filter(|row| {
        // HitKeep finds no client by what is not a hash, and none without an owner.
        !matches!(row.fate, "created" | "bad_hash" | "no_owner")
    });
    let all = report["differences"].as_array().unwrap().len();
    assert_eq!(all - expected.len(), refused.count() * 2);
    let wider = expected
        .iter()
        .filter(|line| line.contains("wider"))
        .count();
    assert_eq!(report["comparison"]["wider"], wider);

    // The same after the import; and its report names those of grants.
    let report = imported(&url, backup.path(), &["--apply"], 2).await;
    let of_grants: Vec<_> = expected
        .iter()
        .filter(|line| !line.contains("other_sites") && !line.contains("unknown_role"))
        .copied()
        .collect();
    assert_eq!(differences(&report), of_grants);
    let report = imported(&url, backup.path(), &["--compare"], 4).await;
    assert_eq!(differences(&report), expected);

    // A site's owner without a membership is none here, if the directory has no such row.
    let sql = "DELETE FROM site_members WHERE role = 'owner'";
    crate::postgres::execute(&url, sql).await;
    let report = imported(&url, backup.path(), &["--compare", "--no-directory"], 4).await;
    let found = differences(&report);
    let of_409: Vec<_> = found
        .iter()
        .filter(|line| line.starts_with("409"))
        .collect();
    assert_eq!(
        of_409,
        [
            "409 305 rest: owner -> none narrower D2",
            "409 305 mcp, ingest: owner -> none narrower D2 D4",
        ]
    );
    // A role on the instance is compared as well, on both sides of it: 401's is stronger here,
    // and the owner of 404 holds another one.
    let sql = format!(
        "UPDATE api_clients SET instance_role = 'admin' WHERE id = '{}';
         UPDATE users SET instance_role = 'admin' WHERE id = '{}';
         UPDATE users SET instance_role = 'user' WHERE id = '{}';",
        id(401),
        id(103),
        id(102)
    );
    crate::postgres::execute(&url, &sql).await;
    let report = imported(&url, backup.path(), &["--compare", "--no-directory"], 4).await;
    let found = differences(&report);
    let on_instance: Vec<_> = { found.iter() }
        .filter(|line| line.contains("instance"))
        .collect();
    assert_eq!(
        on_instance,
        [
            "401 instance rest: none -> admin wider changed_here directory",
            "404 instance rest: admin -> none narrower directory",
            "405 instance rest: none -> admin wider directory",
        ]
    );
    let text = import(&url, backup.path(), &["--compare"]).await;
    assert!(text.stdout.contains("wider than HitKeep's"), "{text:?}");
}
