//! `serve` with a webhook: what it refuses, what it delivers, and what a process that is killed
//! leaves to the next one.

use serde_json::Value;
use tokio::process::Command;

use crate::{
    certificates::Authority,
    folder::{Folder, text},
    postgres::{execute, migrated_database},
    process::{Process, binary},
    run::{http_get, run, run_on, unreachable_database},
    waiting::{until, wanted},
    webhook::{Receiver, kind},
};

const SECRET: &str = "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_SECRET: &str = "whsec_AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const USER: &str = "00000000-0000-7000-8000-000000000001";

/// A `serve` that delivers to that receiver.
fn serving(url: &str, webhook: &str) -> Command {
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", url];
    let http = ["--http-listen", "127.0.0.1:0"];
    let mut command = binary(arguments.iter().chain(&http));
    command.env("HITKEEP_AUTH_EVENTS_WEBHOOK", webhook);
    command.env("HITKEEP_AUTH_EVENTS_WEBHOOK_SECRET", SECRET);
    command
}

/// Starts it, and waits until it delivers.
async fn delivering(command: Command) -> (Process, String) {
    let mut server = Process::start(command);
    let address = server.address().await;
    server.stderr.line_so_far("delivers events to http").await;
    server.stderr.line_so_far("introspection serves").await;
    (server, address)
}

/// A database with a user, and the token of a caller that manages its clients.
async fn database() -> (String, String) {
    let url = migrated_database().await;
    execute(
        &url,
        &format!("INSERT INTO users VALUES ('{USER}', 'user')"),
    )
    .await;
    let create = ["service-account", "create", "dashboard"];
    let allow = ["--allow", "manage", "--json"];
    let made = run_on(&url, &[&create[..], &allow].concat()).await;
    let token = made.given_json()["token"].as_str().unwrap().to_owned();
    (url, token)
}

/// Runs `client` with those arguments, and gives what it printed.
async fn client(address: &str, token: &str, arguments: &[&str]) -> Value {
    let common = ["--server", address, "--actor", USER, "--json"];
    let mut command = binary(["client"].iter().chain(arguments).chain(&common));
    command.env("HITKEEP_AUTH_TOKEN", token);
    Process::start(command).ended().await.given_json()
}

async fn created(address: &str, token: &str, name: &str) -> String {
    let made = client(address, token, &["create", "--name", name, "--user", USER]).await;
    made["api_client"]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn what_was_in_flight_when_it_was_killed_is_sent_by_the_next_process() {
    let (url, token) = database().await;
    let mut receiver = Receiver::start().await;
    let (first, address) = delivering(serving(&url, &receiver.url())).await;
    let id = created(&address, &token, "first").await;
    let in_flight = receiver.next().await;
    assert!(in_flight.is_signed_with(SECRET));
    client(&address, &token, &["rotate", &id]).await;
    first.signal("KILL").await;
    first.ended().await;

    // Within ten seconds: that is the lease of the one that gave no notice.
    let (second, address) = delivering(serving(&url, &receiver.url())).await;
    let again = receiver.next().await;
    assert_eq!(again.body, in_flight.body);
    assert!(again.is_signed_with(SECRET));
    again.answer(200);
    assert_eq!(kind(&receiver.accept().await), "rotated");

    // What is in flight at a stop is finished, and then nothing waits for a lease.
    created(&address, &token, "second").await;
    let in_flight = receiver.next().await;
    second.signal("TERM").await;
    in_flight.answer(200);
    let ended = second.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for secret in ["unguessable", SECRET] {
        assert!(!ended.stderr.contains(secret), "{}", ended.stderr);
    }
    let (third, address) = delivering(serving(&url, &receiver.url())).await;
    let id = created(&address, &token, "third").await;
    assert_eq!(receiver.accept().await["subject"], id);
    assert!(receiver.arrived().is_none());
    drop(third);
}

/// It ends the delay, and nothing that the server waits for after it.
#[tokio::test]
async fn a_signal_that_ends_the_delay_cuts_off_no_attempt() {
    let (url, token) = database().await;
    let mut receiver = Receiver::start().await;
    let mut command = serving(&url, &receiver.url());
    command.env("HITKEEP_AUTH_DRAIN_DELAY", "1h");
    let (mut server, address) = delivering(command).await;
    created(&address, &token, "first").await;
    let in_flight = receiver.next().await;
    server.signal("TERM").await;
    server
        .stderr
        .line("accepting connections for another")
        .await;
    server.signal("TERM").await;
    let finished = "every call in flight was finished";
    server.stderr.line(finished).await;
    in_flight.answer(200);
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("sent again"), "{ended:?}");
}

/// Another process has the lease, so that no delivery begins with this one.
#[tokio::test]
async fn the_first_change_of_a_server_has_its_event() {
    let (url, token) = database().await;
    let hold = "UPDATE event_delivery SET holder = gen_random_uuid(), \
                held_until = now() + interval '1 hour'";
    execute(&url, hold).await;
    let mut receiver = Receiver::start().await;
    let mut server = Process::start(serving(&url, &receiver.url()));
    let address = server.address().await;
    server.stderr.line_so_far("introspection serves").await;
    let id = created(&address, &token, "first").await;
    let give_back = "UPDATE event_delivery SET holder = NULL, held_until = NULL";
    execute(&url, give_back).await;
    assert_eq!(receiver.accept().await["subject"], id);
}

/// The path of the URL may be a secret.
#[tokio::test]
async fn the_url_is_read_from_a_file() {
    let (url, token) = database().await;
    let folder = Folder::new();
    let mut receiver = Receiver::start().await;
    let file = folder.write("webhook", &format!("{}\n", receiver.url()));
    let mut command = serving(&url, "");
    command.env("HITKEEP_AUTH_EVENTS_WEBHOOK_FILE", text(&file));
    let (_server, address) = delivering(command).await;
    let id = created(&address, &token, "first").await;
    assert_eq!(receiver.accept().await["subject"], id);
}

#[tokio::test]
async fn a_replaced_secret_is_used_without_a_restart() {
    let (url, token) = database().await;
    let folder = Folder::new();
    let file = folder.write("secrets", &format!("{SECRET}\n"));
    let mut receiver = Receiver::start().await;
    let mut command = serving(&url, &receiver.url());
    command.env_remove("HITKEEP_AUTH_EVENTS_WEBHOOK_SECRET");
    command.args(["--events-webhook-secret-file", text(&file)]);
    let (mut server, address) = delivering(command).await;
    folder.replace("secrets", "nonsense\n");
    server
        .stderr
        .line("events are signed with the last secrets")
        .await;
    created(&address, &token, "first").await;
    let received = receiver.next().await;
    assert!(received.is_signed_with(SECRET));
    received.answer(200);
    folder.replace("secrets", &format!("{OTHER_SECRET}\n{SECRET}\n"));
    until("it is signed with both", async || {
        created(&address, &token, "another").await;
        let received = receiver.next().await;
        assert!(received.is_signed_with(SECRET));
        let with_both = received.is_signed_with(OTHER_SECRET);
        received.answer(200);
        wanted(with_both)
    })
    .await;
}

#[tokio::test]
async fn the_metrics_show_what_is_left_to_deliver() {
    let (url, token) = database().await;
    let mut receiver = Receiver::start().await;
    let mut command = serving(&url, &receiver.url());
    command.args(["--log", "info"]);
    let mut server = Process::start(command);
    let http = server.http_address().await;
    let address = server.address().await;
    server
        .stderr
        .line("delivers events to http://127.0.0.1")
        .await;
    created(&address, &token, "first").await;
    receiver.next().await.answer(500);
    server.stderr.line("status 500").await;
    until("it is shown", async || {
        let page = http_get(&http, "/metrics").await;
        let lines = [
            "hitkeep_auth_events_attempts_total{outcome=\"failed\"} ",
            "hitkeep_auth_events_delivering 1",
            "hitkeep_auth_events_stopped 0",
            "hitkeep_auth_events_dead 0",
        ];
        assert!(lines.iter().all(|line| page.contains(line)), "{page}");
        // It may have been tried again meanwhile.
        if let Some(more) = receiver.arrived() {
            more.answer(500);
        }
        let oldest = page
            .lines()
            .find_map(|line| line.strip_prefix("hitkeep_auth_events_oldest_seconds "))
            .and_then(|age| age.parse::<f64>().ok());
        let is_pending = page.contains("hitkeep_auth_events_pending 1");
        wanted(is_pending && oldest.is_some_and(|age| age > 0.0))
    })
    .await;
}

#[tokio::test]
async fn the_status_shows_what_waits_and_what_is_dead() {
    let (url, token) = database().await;
    let create = ["service-account", "create", "auditor"];
    let auditor = run_on(&url, &[&create[..], &["--allow", "audit"]].concat()).await;
    let auditor = auditor.given();
    let mut receiver = Receiver::start().await;
    let (server, address) = delivering(serving(&url, &receiver.url())).await;
    let status = async |token: &str, more: &[&str]| {
        let mut command = binary([&["status", "--server", &address], more].concat());
        command.env("HITKEEP_AUTH_TOKEN", token);
        Process::start(command).ended().await
    };
    let shown = status(auditor.trim(), &[]).await.given();
    let lines = "EVENTS\ndelivered         by a server\nwaiting           0\ndead              0";
    assert!(shown.contains(lines), "{shown}");
    let id = created(&address, &token, "first").await;
    let in_flight = receiver.next().await;
    let shown = status(auditor.trim(), &[]).await.given();
    assert!(
        shown.contains("waiting           1, the oldest for "),
        "{shown}"
    );
    in_flight.answer(200);
    let dead = "INSERT INTO event_outbox (sequence, id, client_id, event_type, data, create_time, \
                attempts, next_attempt_time, try_until, last_error, dead_time) \
                VALUES (1000, gen_random_uuid(), '{id}', 'com.hitkeep.auth.api_client.created', '{}', \
                now(), 12, now(), now(), 'status 503', '2026-01-02 03:04:05+00')";
    execute(&url, &dead.replace("{id}", &id)).await;
    let shown = status(auditor.trim(), &[]).await.given();
    assert!(shown.contains("dead              1\n"), "{shown}");
    let row = shown.lines().last().unwrap();
    for word in ["2026-01-02 03:04:05Z", "created", &id, "12", "status 503"] {
        assert!(row.contains(word), "{row}");
    }
    let json = status(auditor.trim(), &["--json"]).await.given_json();
    assert_eq!(json["events"]["dead"], "1");
    assert_eq!(
        json["events"]["latest_dead_events"][0]["last_error"],
        "status 503"
    );
    let shown = status(&token, &[]).await.given();
    assert!(
        shown.contains("EVENTS\nthe caller may not see it"),
        "{shown}"
    );
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code, Some(0));
}

#[tokio::test]
async fn what_cannot_be_delivered_safely_is_refused() {
    let folder = Folder::new();
    let authority = folder.write("ca.pem", &Authority::new("ca").pem());
    let no_secret = folder.write("none", "\n");
    let refused = async |webhook: &str, secret: Option<&str>, more: &[&str]| {
        let url = unreachable_database();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &url];
        let mut command = binary(arguments.iter().chain(more));
        command.env("HITKEEP_AUTH_EVENTS_WEBHOOK", webhook);
        command.env(
            "HITKEEP_AUTH_EVENTS_WEBHOOK_SECRET",
            secret.unwrap_or_default(),
        );
        let said = Process::start(command).ended().await.refused(2);
        assert!(
            !said.contains("unguessable") && !said.contains("AQEB"),
            "{said}"
        );
        said
    };
    let receiver = "https://example.com/?key=unguessable";
    let secret = Some(SECRET);
    let with_file = ["--events-webhook-secret-file", text(&no_secret)];
    let with_authority = ["--events-webhook-ca", text(&authority)];
    let bad_url = folder.write("url", "ftp://unguessable/\n");
    let url_in = |file| ["--events-webhook-file", text(file)];
    let missing = folder.path("missing");
    for (webhook, secret, more, named) in [
        (receiver, None, &[][..], "--events-webhook-secret-file"),
        (receiver, Some("AQEB"), &[], "whsec_"),
        (receiver, secret, &with_file, "is empty"),
        ("http://example.com/?unguessable", secret, &[], "https://"),
        (
            "https://u:unguessable@example.com/",
            secret,
            &[],
            "password",
        ),
        ("unguessable", secret, &[], "must be a URL"),
        (
            "http://localhost:1/?unguessable",
            secret,
            &with_authority,
            "https://",
        ),
        ("", secret, &with_authority, "--events-webhook"),
        ("", None, &with_file, "--events-webhook"),
        ("", secret, &url_in(&bad_url), "--events-webhook-file"),
        ("", secret, &url_in(&bad_url), text(&bad_url)),
        ("", secret, &url_in(&no_secret), "is empty"),
        ("", secret, &url_in(&missing), "cannot be read"),
        (receiver, secret, &url_in(&bad_url), "--events-webhook-file"),
    ] {
        let said = refused(webhook, secret, more).await;
        assert!(said.contains(named), "{named}: {said}");
    }
    // A secret is no option, since everyone on the machine would see it.
    let arguments = ["serve", "--events-webhook-secret", SECRET];
    let said = run(arguments).await.refused(2);
    assert!(said.contains("--events-webhook-secret"), "{said}");
}
