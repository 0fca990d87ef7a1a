//! What a command is at, if it takes longer than a second: on a terminal, on a line that is
//! cleared before anything else is said. Without a terminal, the other tests see that nothing
//! is.

use std::{net::TcpListener, process::Command};

use diesel_async::SimpleAsyncConnection;

use crate::{
    folder::{Folder, text},
    postgres::{connect, migrated_database},
    process::{binary, patient},
    pty::{CLEAR, OnTerminal},
    remote::ALICE,
};

/// A server that takes connections and answers nothing, and a command that calls it.
fn unanswered(arguments: &[&str]) -> (TcpListener, Command) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = binary(arguments);
    command
        .env(
            "HITKEEP_AUTH_SERVER",
            listener.local_addr().unwrap().to_string(),
        )
        .env("HITKEEP_AUTH_TOKEN", "hks_unused")
        .env("HITKEEP_AUTH_TIMEOUT", "2m");
    (listener, command.into_std())
}

#[test]
fn a_call_that_takes_longer_than_a_second_is_shown() {
    for (arguments, said) in [
        (
            &["client", "list", "--actor", ALICE][..],
            "listing API clients …",
        ),
        (&["audit", "list"], "listing events …"),
        (
            &[
                "client",
                "revoke-all",
                "--actor",
                ALICE,
                "--user",
                ALICE,
                "--yes",
            ],
            "revoking API clients …",
        ),
    ] {
        let (listener, command) = unanswered(arguments);
        let mut shown = OnTerminal::start(command);
        shown.shows(&format!("{CLEAR}{said}"));
        drop(listener);
        let ended = shown.ended();
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{ended:?}");
        // What is to stay begins on a line of its own.
        let last = ended.stderr.rsplit(CLEAR).next().unwrap();
        assert!(last.starts_with("hitkeep-auth: "), "{ended:?}");
    }
}

#[test]
fn changes_of_the_directory_are_counted_while_they_are_applied() {
    let folder = Folder::new();
    let file = folder.write("changes", r#"[{"put_team": {"id": "x"}}]"#);
    let (listener, command) = unanswered(&["directory", "apply", text(&file)]);
    let mut shown = OnTerminal::start(command);
    shown.shows(&format!("{CLEAR}applying 1 change …"));
    drop(listener);
    assert_eq!(shown.ended().code, Some(1));
}

/// As if another one were at it.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_that_take_longer_than_a_second_are_shown() {
    let url = migrated_database().await;
    let mut other = connect(&url).await;
    let lock = "SELECT pg_advisory_lock(7201148302467195)";
    other.batch_execute(lock).await.unwrap();
    let mut shown =
        OnTerminal::start(binary(["migrate", "--database-url", &patient(&url)]).into_std());
    shown.shows(&format!("{CLEAR}applying migrations …"));
    drop(other);
    let ended = shown.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, "The database is up to date.\n");
    assert!(ended.stderr.ends_with(CLEAR), "{ended:?}");
}
