//! `serve` where Postgres is not there yet, or says no.

use std::path::{Path, PathBuf};

use crate::{
    empty::empty_database,
    folder::{Folder, text},
    paths::{decoded, encoded},
    postgres::{migrated_database, url},
    process::{Process, binary},
    run::{run, run_on, unreachable_database},
};

/// A database, and a place where nothing is until it is moved there.
struct Later {
    link: PathBuf,
    sockets: PathBuf,
    url: String,
}

impl Later {
    fn of(url: &str, folder: &Folder) -> Self {
        let (sockets, database) = url
            .strip_prefix("postgres://postgres@")
            .and_then(|rest| rest.split_once('/'))
            .expect("a private Postgres' URL");
        let link = folder.path("sockets");
        let host = encoded(&link);
        Self {
            sockets: decoded(sockets),
            url: format!("postgres://postgres:opensesame@{host}/{database}"),
            link,
        }
    }

    /// Postgres is there from now on.
    fn arrive(&self) {
        std::os::unix::fs::symlink(Path::new(&self.sockets), &self.link).unwrap();
    }
}

fn serve(url: &str) -> Process {
    Process::start(binary([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--database-url",
        url,
    ]))
}

#[tokio::test]
async fn postgres_may_start_later() {
    let folder = Folder::new();
    let later = Later::of(&migrated_database().await, &folder);
    let mut server = serve(&later.url);
    let address = server.address().await;
    let said = server.stderr.line("waiting for Postgres at").await;
    assert!(said.contains(text(&later.link)), "{said}");
    let ask = ["healthcheck", "--listen", &address];
    let answer = run(ask).await.refused(1);
    assert!(answer.contains("NOT_SERVING"), "{answer}");

    later.arrive();
    server.stderr.line("introspection serves").await;
    assert_eq!(run(ask).await.given(), "SERVING\n");
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("opensesame"), "{ended:?}");
    assert_eq!(
        ended.stderr.matches("waiting for Postgres at").count(),
        1,
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_signal_ends_the_waiting() {
    let mut server = serve(&unreachable_database());
    server.stderr.line("waiting for Postgres at").await;
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("opensesame"), "{ended:?}");
}

#[tokio::test]
async fn what_waiting_does_not_cure_is_not_waited_for() {
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let nowhere = url("no_such_database");
    let said = run_on(&nowhere, &arguments).await.refused(1);
    assert!(
        said.contains("\"no_such_database\" does not exist"),
        "{said}"
    );
    assert!(said.contains("--database-url"), "{said}");
    let stranger = migrated_database()
        .await
        .replace("postgres@", "nobody:opensesame@");
    let said = run_on(&stranger, &arguments).await.refused(1);
    assert!(said.contains("nobody"), "{said}");
    assert!(!said.contains("opensesame"), "{said}");
}

#[tokio::test]
async fn a_database_without_migrations_is_refused_when_it_arrives() {
    let folder = Folder::new();
    let later = Later::of(&empty_database().await, &folder);
    let mut server = serve(&later.url);
    server.stderr.line("waiting for Postgres at").await;
    later.arrive();
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("`hitkeep-auth migrate`"), "{ended:?}");
}
