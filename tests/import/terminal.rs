//! What an import says while it runs: on a terminal, what it is at, on a line that is
//! overwritten; into a file or a pipe, nothing.

use crate::{
    database::import,
    deltas::BASE,
    hitkeep::Backup,
    postgres::migrated_database,
    process::{Ended, binary},
    pty::{CLEAR, OnTerminal},
};

/// Runs a command with a terminal as its standard error, and its output piped.
fn run_on_terminal(arguments: &[&str]) -> Ended {
    OnTerminal::start(binary(arguments).into_std()).ended()
}

/// What was said, one piece for each time that the line was cleared.
fn said(ended: &Ended) -> Vec<&str> {
    ended.stderr.split(CLEAR).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_what_an_import_is_at() {
    let backup = Backup::new();
    if !backup.export("2026-03-08T120000Z", BASE) {
        return;
    }
    let url = migrated_database().await;
    let folder = backup.path().to_str().unwrap();
    let command = ["import", "hitkeep", folder, "--database-url", &*url];
    let reading = [
        "",
        "reading users …",
        "reading teams …",
        "reading sites …",
        "reading API clients …",
        "reading preferences and the audit log …",
    ];

    let dry = run_on_terminal(&command);
    assert_eq!(dry.code, Some(0), "{dry:?}");
    let shown = said(&dry);
    assert_eq!(shown[..6], reading);
    assert_eq!(shown[6..8], ["reading the database …", "comparing …"]);

    let applied = run_on_terminal(&[&command[..], &["--apply"]].concat());
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let shown = said(&applied);
    assert_eq!(shown[..6], reading);
    let writing = [
        "waiting for the database …",
        "writing 0 of 3 new clients …",
        "writing 3 of 3 new clients …",
        "comparing …",
    ];
    assert_eq!(shown[6..10], writing);

    for ended in [&dry, &applied] {
        // What is to stay begins on a line of its own.
        let shown = said(ended);
        let warnings: Vec<_> = shown.iter().filter(|text| text.contains("old")).collect();
        assert_eq!(warnings.len(), 1, "{shown:?}");
        assert!(warnings[0].starts_with("hitkeep-auth: the snapshot is "));
        assert_eq!(shown.last(), warnings.first().copied());
        // A program that reads the output gets nothing of it.
        assert!(!ended.stdout.contains(['\r', '\x1b', '…']), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_begins_on_a_line_of_its_own() {
    let backup = Backup::new();
    if !backup.export("2026-03-08T120000Z", BASE) {
        return;
    }
    backup.export("2026-03-08T110000Z", BASE);
    let url = migrated_database().await;
    assert_eq!(
        import(&url, backup.path(), &["--apply"]).await.code,
        Some(0)
    );
    // An older one is refused once everything was read.
    let older = backup.snapshot("2026-03-08T110000Z");
    let folder = older.to_str().unwrap();
    let command = [
        "import",
        "hitkeep",
        folder,
        "--database-url",
        &*url,
        "--apply",
    ];
    let ended = run_on_terminal(&command);
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{ended:?}");
    let shown = said(&ended);
    assert_eq!(shown[6], "waiting for the database …");
    let last = shown.last().unwrap();
    assert!(last.starts_with("hitkeep-auth: "), "{shown:?}");
}

#[tokio::test]
async fn nothing_but_a_terminal_is_told_of_progress() {
    let backup = Backup::new();
    if !backup.export("2026-03-08T120000Z", BASE) {
        return;
    }
    let url = migrated_database().await;
    for more in [&[][..], &["--apply"]] {
        let ended = import(&url, backup.path(), more).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let lines: Vec<_> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{ended:?}");
        assert!(lines[0].contains("the snapshot is "), "{ended:?}");
    }
}
