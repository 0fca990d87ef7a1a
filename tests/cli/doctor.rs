//! `doctor`: what it finds where all is well, and in each way in which something is not.

use std::{collections::BTreeMap, net::TcpListener, os::unix::fs::PermissionsExt, path::Path};

use serde_json::Value;

use crate::{
    certificates::Authority,
    empty::empty_database,
    folder::{Folder, text},
    passwords::Role,
    postgres::{execute, migrated_database},
    process::{Ended, Process, binary},
    run::run,
};

/// The checks that need a database.
const OF_DATABASE: [&str; 11] = [
    "pooler",
    "version",
    "writes",
    "replication",
    "clock",
    "migrations",
    "rights",
    "row security",
    "settings",
    "connections",
    "notifications",
];

/// Checks a server on that database.
async fn doctor(url: &str, more: &[&str]) -> Ended {
    let command = ["doctor", "--listen", "127.0.0.1:0", "--database-url", url];
    run(command.iter().chain(more)).await
}

/// What it found, by the names of the checks: a status and a text each.
struct Found(BTreeMap<String, (String, String)>);

impl Found {
    /// The findings of a command that ends with that code.
    fn of(ended: &Ended, code: i32) -> Self {
        assert_eq!((ended.code, &*ended.stderr), (Some(code), ""), "{ended:?}");
        assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        let mut found = BTreeMap::new();
        for check in report["checks"].as_array().unwrap() {
            let part = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
            let told = format!("{}: {}", part("message"), part("advice"));
            let is_new = found
                .insert(part("check"), (part("status"), told))
                .is_none();
            assert!(is_new, "{check}");
            // What is not well has advice, and nothing else has.
            assert_eq!(
                check["advice"].is_null(),
                check["status"] == "ok",
                "{check}"
            );
        }
        let count = |status: &str| found.values().filter(|(s, _)| s == status).count();
        assert_eq!(report["errors"], count("error"));
        assert_eq!(report["warnings"], count("warning"));
        Self(found)
    }

    /// The text of a check that has that status.
    fn told(&self, check: &str, status: &str) -> &str {
        let (found, told) = &self.0[check];
        assert_eq!(found, status, "{check}: {told}");
        told
    }

    /// The checks with that status.
    fn with(&self, status: &str) -> Vec<&str> {
        let found = self.0.iter().filter(|(_, (found, _))| found == status);
        found.map(|(check, _)| &**check).collect()
    }
}

async fn found(url: &str, more: &[&str], code: i32) -> Found {
    Found::of(&doctor(url, &[more, &["--json"]].concat()).await, code)
}

/// An installation in which all is well. How many files a process may open is the machine's.
#[tokio::test]
async fn where_all_is_well_each_check_says_so_in_a_line() {
    let url = migrated_database().await;
    let more = ["--http-listen", "127.0.0.1:0", "--max-connections", "10"];
    let said = doctor(&url, &more).await.given();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines.iter().all(|line| line.starts_with("ok  ")), "{said}");
    let found = found(&url, &more, 0).await;
    assert_eq!(found.0.len(), lines.len());
    for check in OF_DATABASE {
        found.told(check, "ok");
        assert!(lines.iter().any(|line| line.contains(check)), "{check}");
    }
    assert!(found.told("version", "ok").contains("PostgreSQL 1"));
    assert!(found.told("listen", "ok").contains("127.0.0.1:0"));
}

/// What `serve` refuses to start with, and what it starts with.
#[tokio::test]
async fn the_webhook_is_looked_at_without_an_event_for_it() {
    let url = migrated_database().await;
    let folder = Folder::new();
    let secrets = folder.write(
        "secrets",
        "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    );
    let (secrets, missing) = (text(&secrets), "/nowhere/ca.pem");
    let to = |url: &'static str| {
        [
            "--events-webhook",
            url,
            "--events-webhook-secret-file",
            secrets,
        ]
    };
    let report = found(&url, &to("http://example.com/x"), 1).await;
    assert!(report.told("webhook", "error").contains("--events-webhook"));
    let with_ca = [
        &to("https://example.com/x")[..],
        &["--events-webhook-ca", missing],
    ]
    .concat();
    found(&url, &with_ca, 1).await.told("webhook", "error");
    let no_secret = ["--events-webhook", "https://example.com/x"];
    found(&url, &no_secret, 1).await.told("webhook", "error");
    let report = found(&url, &to("https://example.com/x"), 0).await;
    assert!(report.told("webhook", "ok").contains("example.com"));

    std::fs::set_permissions(secrets, PermissionsExt::from_mode(0o644)).unwrap();
    let report = found(&url, &to("https://example.com/x"), 0).await;
    let told = report.told("secret files", "warning");
    assert!(told.contains("--events-webhook-secret-file"), "{told}");
    assert!(!found(&url, &[], 0).await.0.contains_key("webhook"));
}

#[tokio::test]
async fn it_sees_what_serve_would_see_in_the_environment() {
    let url = migrated_database().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = binary(["doctor"]);
    command.env("HITKEEP_AUTH_DATABASE_URL", &url);
    command.env("HITKEEP_AUTH_LISTEN", &address);
    command.env("HITKEEP_AUTH_HTTP_LISTEN", "127.0.0.1:0");
    command.env("HITKEEP_AUTH_POOL_SIZE", "5000");
    command.env("HITKEEP_AUTH_MAX_CONNECTIONS", "10");
    command.env("OTEL_TRACES_EXPORTER", "nonsense");
    command.env("HITKEEP_AUTH_JSON", "yes");
    let found = Found::of(&Process::start(command).ended().await, 1);
    assert!(found.told("listen", "error").contains(&address));
    found.told("http-listen", "ok");
    let limits = found.told("connections", "warning");
    assert!(limits.contains("one server needs 5004"), "{limits}");
    let telemetry = found.told("telemetry", "warning");
    assert!(telemetry.contains("OTEL_TRACES_EXPORTER"), "{telemetry}");
}

#[tokio::test]
async fn what_is_missing_is_an_invalid_argument_and_what_is_malformed_is_found() {
    let none = run(["doctor"]).await.refused(2);
    assert!(none.contains("--database-url"), "{none}");
    let url = "postgres://u:se@cret@host/db";
    let found = found(url, &["--hitkeep-rest", "--http-tls"], 1).await;
    let told = found.told("configuration", "error");
    assert!(told.contains("%40") && !told.contains("cret"), "{told}");
    assert!(
        told.contains("--hitkeep-rest needs --http-listen"),
        "{told}"
    );
    assert!(told.contains("--http-tls needs --tls-cert"), "{told}");
    // The others go on.
    found.told("listen", "ok");
    assert!(
        OF_DATABASE
            .iter()
            .all(|check| !found.0.contains_key(*check))
    );
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_keeps_nothing_else_from_being_checked() {
    let nowhere = "postgres://u:hush@127.0.0.1:1/nowhere";
    let ended = doctor(nowhere, &["--json"]).await;
    assert!(!ended.stdout.contains("hush"), "{ended:?}");
    let found = Found::of(&ended, 1);
    let told = found.told("database", "error");
    assert!(told.contains("127.0.0.1:1"), "{told}");
    assert_eq!(found.with("error"), ["database"]);
    found.told("listen", "ok");
}

/// It accepts connections, and never says a word.
#[tokio::test]
async fn a_server_that_stays_silent_is_given_up_on() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let url = format!("postgres://u@{address}/db?connect_timeout=1");
    let found = found(&url, &[], 1).await;
    let told = found.told("database", "error");
    assert!(told.contains("nothing answers within"), "{told}");
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it() {
    let url = migrated_database().await;
    let role = Role::create(&url, "right").await;
    let ended = doctor(&role.url("wr0ng"), &["--json"]).await;
    assert!(!ended.stdout.contains("wr0ng"), "{ended:?}");
    let found = Found::of(&ended, 1);
    let told = found.told("database", "error");
    assert!(
        told.contains("refuses") && told.contains("the password"),
        "{told}"
    );
    found_all_well(&role.url("right")).await;
}

async fn found_all_well(url: &str) {
    let found = found(url, &["--max-connections", "10"], 0).await;
    assert_eq!(found.with("ok").len(), found.0.len());
}

#[tokio::test]
async fn missing_and_unknown_migrations_are_named() {
    let empty = empty_database().await;
    let found_there = found(&empty, &[], 1).await;
    let told = found_there.told("migrations", "error");
    assert!(told.contains("2026-11-30-000000_index_state"), "{told}");
    assert!(told.contains("`hitkeep-auth migrate`"), "{told}");

    let url = migrated_database().await;
    execute(
        &url,
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')",
    )
    .await;
    let found = found(&url, &[], 0).await;
    let told = found.told("migrations", "warning");
    assert!(told.contains("29990101000000"), "{told}");
}

#[tokio::test]
async fn a_database_of_a_build_from_before_a_release_is_an_error() {
    let url = migrated_database().await;
    let unreleased = "UPDATE __diesel_schema_migrations SET version = '20260101000000' \
                      WHERE version = (SELECT max(version) FROM __diesel_schema_migrations)";
    execute(&url, unreleased).await;
    let found = found(&url, &[], 1).await;
    let told = found.told("migrations", "error");
    assert!(told.contains("20260101000000"), "{told}");
    assert!(told.contains("create the database again"), "{told}");
}

/// A setting of the database alone.
async fn set(url: &str, setting: &str) {
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    execute(url, &format!("ALTER DATABASE {name} SET {setting}")).await;
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_an_error() {
    let url = migrated_database().await;
    set(&url, "default_transaction_read_only = on").await;
    let found = found(&url, &[], 1).await;
    let told = found.told("writes", "error");
    assert!(told.contains("default_transaction_read_only"), "{told}");
    assert_eq!(found.with("error"), ["writes"]);
}

#[tokio::test]
async fn timeouts_of_the_database_are_named_and_do_no_harm() {
    let url = migrated_database().await;
    set(&url, "statement_timeout = '7s'").await;
    set(&url, "synchronous_commit = off").await;
    let found = found(&url, &[], 0).await;
    let told = found.told("settings", "ok");
    assert!(told.contains("statement_timeout = 7000 ms"), "{told}");
    assert!(told.contains("synchronous_commit = off"), "{told}");
}

#[tokio::test]
async fn rights_that_the_role_lacks_are_named() {
    let url = migrated_database().await;
    let role = Role::create(&url, "secret").await.url("secret");
    let name = role.strip_prefix("postgres://").unwrap();
    let name = name.split(':').next().unwrap();
    execute(
        &url,
        &format!(
            "REVOKE pg_write_all_data FROM {name};
             GRANT INSERT ON ALL TABLES IN SCHEMA public TO {name};
             GRANT UPDATE, DELETE ON api_clients, users TO {name}"
        ),
    )
    .await;
    let found = found(&role, &[], 1).await;
    let told = found.told("rights", "error");
    for lacking in ["UPDATE on teams", "DELETE on index_changes"] {
        assert!(told.contains(lacking), "{told}");
    }
    // Nobody changes the audit trail.
    for granted in ["INSERT on", "on users", "on api_clients,", "audit_events"] {
        assert!(!told.contains(granted), "{granted}: {told}");
    }
    assert_eq!(found.with("error"), ["rights"]);
}

#[tokio::test]
async fn row_level_security_is_an_error_for_a_role_that_it_applies_to() {
    let url = migrated_database().await;
    let role = Role::create(&url, "secret").await;
    execute(&url, "ALTER TABLE api_clients ENABLE ROW LEVEL SECURITY").await;
    let found_there = found(&role.url("secret"), &[], 1).await;
    let told = found_there.told("row security", "error");
    assert!(told.contains("api_clients"), "{told}");
    // Not for a superuser.
    found(&url, &[], 0).await.told("row security", "ok");
}

#[tokio::test]
async fn a_port_that_is_in_use_is_named() {
    let url = migrated_database().await;
    let [taken, other] = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let [taken, other] = [&taken, &other].map(|l| l.local_addr().unwrap().to_string());
    let both = format!("{taken},{other}");
    let folder = Folder::new();
    let file = folder.write("file", "");
    let nowhere = folder.path("no/socket");
    let (file, nowhere) = (
        format!("unix:{}", text(&file)),
        format!("unix:{}", text(&nowhere)),
    );
    let http = format!("{file},{nowhere}");
    let command = [
        "doctor",
        "--json",
        "--database-url",
        &url,
        "--listen",
        &both,
    ];
    let ended = run(command.iter().chain(&["--http-listen", &http])).await;
    let found = Found::of(&ended, 1);
    let told = found.told("listen", "error");
    assert!(told.contains(&taken) && told.contains(&other), "{told}");
    assert!(told.contains("another program listens there"), "{told}");
    let told = found.told("http-listen", "error");
    assert!(
        told.contains(&file) && told.contains("which is no socket"),
        "{told}"
    );
    assert!(told.contains(&nowhere), "{told}");
    assert!(Path::new(&file["unix:".len()..]).exists());
}

/// A socket that a program listens on is in use, and one that it left behind is not. Neither
/// file is touched.
#[tokio::test]
async fn a_socket_is_looked_at_and_left_alone() {
    let url = migrated_database().await;
    let folder = Folder::new();
    let path = folder.path("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", text(&path));
    let more = ["--http-listen", &*address];
    let taken = found(&url, &more, 1).await;
    let told = taken.told("http-listen", "error");
    assert!(told.contains("another program listens there"), "{told}");
    drop(listener);
    found(&url, &more, 0).await.told("http-listen", "ok");
    assert!(path.exists());
    // The server has that one itself by then.
    let more = ["--listen", &*address, "--http-listen", &*address];
    let both = found(&url, &more, 1).await;
    both.told("listen", "ok");
    let told = both.told("http-listen", "error");
    assert!(told.contains("--listen as well"), "{told}");
}

#[tokio::test]
async fn certificates_are_read_as_a_server_reads_them() {
    let url = migrated_database().await;
    let folder = Folder::new();
    let authority = Authority::new("the doctor's");
    let good = authority.sign(&["localhost"]);
    let (certificate, key) = folder.write_identity("good", &good);
    let (expired, expired_key) =
        folder.write_identity("expired", &authority.sign_until(&["localhost"], 2020));
    for path in [&key, &expired_key] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let tls = async |certificate: &Path, key: &Path, code| {
        let files = ["--tls-cert", text(certificate), "--tls-key", text(key)];
        found(&url, &files, code).await
    };
    let found = tls(&certificate, &key, 0).await;
    assert!(
        found
            .told("certificate", "ok")
            .contains("valid until 4000-01-01")
    );
    found.told("secret files", "ok");
    let found = tls(&expired, &expired_key, 1).await;
    let told = found.told("certificate", "error");
    assert!(told.contains("expired at 2020-01-01"), "{told}");
    let found = tls(&certificate, &expired_key, 1).await;
    let told = found.told("certificate", "error");
    assert!(told.contains("is not that of the certificate"), "{told}");
    let found = tls(&certificate, &folder.path("none"), 1).await;
    assert!(
        found
            .told("certificate", "error")
            .contains("cannot be read")
    );
    assert!(
        found
            .told("secret files", "error")
            .contains("cannot be read")
    );
    // Half of a pair is an error of the options.
    let half = ["--tls-cert", text(&certificate)];
    let found = self::found(&url, &half, 1).await;
    assert!(
        found
            .told("configuration", "error")
            .contains("belong together")
    );
}

#[tokio::test]
async fn a_secret_that_everybody_can_read_is_a_warning() {
    let url = migrated_database().await;
    let folder = Folder::new();
    let file = folder.write("url", &url);
    for (mode, status) in [(0o644, "warning"), (0o440, "ok"), (0o600, "ok")] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let options = ["--json", "--listen", "127.0.0.1:0", "--database-url-file"];
        let command = ["doctor"].iter().chain(&options);
        let ended = run(command.chain(&[text(&file)])).await;
        let found = Found::of(&ended, 0);
        let told = found.told("secret files", status);
        assert_eq!(told.contains(text(&file)), status == "warning", "{told}");
    }
}

#[tokio::test]
async fn too_few_files_are_a_warning() {
    let url = migrated_database().await;
    let found = found(&url, &["--max-connections", "4000000000"], 0).await;
    // Where a process may open any number of files, there is nothing to say.
    if found.with("warning").contains(&"open files") {
        let told = found.told("open files", "warning");
        assert!(told.contains("4000000000 connections"), "{told}");
    }
}
