//! `status`: what it shows, and what is left of it in an outage.

use serde_json::Value;

use super::lines;
use crate::{
    postgres::{self, execute, migrated_database},
    process::{Ended, Process, binary},
    run::{run_on, serve},
};

async fn status(address: &str, token: &str, more: &[&str]) -> Ended {
    let mut command = binary([&["status"], more].concat());
    command.env("HITKEEP_AUTH_SERVER", format!("http://{address}"));
    command.env("HITKEEP_AUTH_TOKEN", token.trim());
    Process::start(command).ended().await
}

#[tokio::test]
async fn the_state_of_a_server_is_shown_as_far_as_the_caller_may_see_it() {
    let url = migrated_database().await;
    let create = ["service-account", "create", "asks", "--allow", "introspect"];
    let token = run_on(&url, &create).await.given();
    let (server, address) = serve(&url).await;
    let shown = status(&address, &token, &["--json"]).await.given_json();
    assert_eq!(shown["health"], "SERVING");
    assert_eq!(shown["index"]["database_reachable"], true);
    assert!(shown["directory"].is_null());
    let shown = status(&address, &token, &[]).await.given();
    assert!(shown.contains("is SERVING"), "{shown}");
    for row in ["API clients       0", "database          answers"] {
        assert!(lines(&shown).contains(&row), "{row} in {shown}");
    }
    assert!(
        shown.contains("DIRECTORY\nthe caller may not see it"),
        "{shown}"
    );
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code, Some(0));
}

/// Who looks for the cause of an outage sees what the server knows without the database.
#[tokio::test]
async fn without_a_database_the_state_is_what_the_server_knows() {
    let url = migrated_database().await;
    let allow = "introspect,directory,audit";
    let create = ["service-account", "create", "looks", "--allow", allow];
    let token = run_on(&url, &create).await.given();
    let (server, address) = serve(&url).await;
    let name = url.rsplit_once('/').unwrap().1;
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    execute(&postgres::url("postgres"), &drop).await;
    let shown = status(&address, &token, &[]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    let unreadable = "cannot be read: DATABASE_UNAVAILABLE: ";
    for part in [
        "INDEX\nrevision ".to_owned(),
        format!("DIRECTORY\n{unreadable}"),
        format!("EVENTS\n{unreadable}"),
    ] {
        assert!(shown.stdout.contains(&part), "{part} in {shown:?}");
    }
    assert!(shown.stderr.contains("DATABASE_UNAVAILABLE"), "{shown:?}");
    let shown = status(&address, &token, &["--json"]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    let json: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert!(json["index"]["revision"].is_string(), "{json}");
    assert!(json["directory"].is_null(), "{json}");
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code, Some(0));
}
