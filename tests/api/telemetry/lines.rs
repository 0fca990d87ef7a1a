//! Lines of the log: one for each request that failed, none for one that did not,
//! and none that a caller made up.

use std::time::Duration;

use hitkeep_auth::{
    domain::caller::CallerPermission::{Audit, Introspect, Manage},
    pb,
};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::net::TcpStream;
use tonic::Code;

use super::run::Run;
use crate::{
    fixtures::*,
    raw::{STREAM, ask_on, bearer, unended},
    sidecars::envoy::{CANNOT_TELL, Sending, asking, refusal},
    support::{postgres, waiting::until},
};

/// The lines, of which each is one JSON object.
fn lines(log: &str) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    log.lines().map(line).collect()
}

/// The lines about a request.
fn about<'l>(lines: &'l [Value], request: &str) -> Vec<&'l Value> {
    let lines = lines.iter();
    lines.filter(|line| line["request.id"] == request).collect()
}

fn alone(_: &super::collector::Collector, _: &mut tokio::process::Command) {}

#[tokio::test]
async fn a_request_that_fails_has_one_line_and_another_has_none() {
    let run = Run::with_world(alone).await;
    let called = async |permission, id: &str| {
        let mut caller = run.caller(permission).await;
        caller.metadata.push(("x-request-id", id.to_owned()));
        caller
    };
    let made = called(Manage, "good").await.created(personal(VERA)).await;
    let good = called(Introspect, "good").await;
    assert_eq!(good.inactive_reason(&made.token).await, None);
    let absent = called(Manage, "absent").await;
    absent.get(get(VERA, NOBODY)).await.unwrap_err();
    let forbidden = called(Introspect, "forbidden").await;
    forbidden.get(get(VERA, &made.id)).await.unwrap_err();
    let mut stranger = called(Manage, "stranger").await;
    stranger.metadata[0].1 = "Bearer hks_x".to_owned();
    stranger.get(get(VERA, &made.id)).await.unwrap_err();
    postgres::execute(&run.url, "ALTER TABLE audit_events RENAME TO renamed").await;
    let broken = called(Audit, "broken").await;
    let query = pb::ListAuditEventsRequest::default();
    let refused = broken.events(query).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    let asked = run
        .ask(
            "POST /oauth2/introspect HTTP/1.1\r\nx-request-id: over-http",
            "token=hkp_x",
        )
        .await;
    assert!(asked.starts_with("HTTP/1.1 401"), "{asked}");

    let (ended, _) = run.stop().await;
    let lines = lines(&ended.stderr);
    assert!(about(&lines, "good").is_empty(), "{}", ended.stderr);
    for (request, level, code, reason, caller) in [
        (
            "absent",
            "INFO",
            "NOT_FOUND",
            "API_CLIENT_NOT_FOUND",
            "manage",
        ),
        (
            "forbidden",
            "INFO",
            "PERMISSION_DENIED",
            "CALLER_NOT_PERMITTED",
            "",
        ),
        ("stranger", "INFO", "UNAUTHENTICATED", "CALLER_UNKNOWN", ""),
        ("broken", "ERROR", "INTERNAL", "INTERNAL", "audit"),
    ] {
        let [line] = *about(&lines, request) else {
            panic!("one line for {request}: {}", ended.stderr)
        };
        assert_eq!(line["level"], level, "{line}");
        assert_eq!(line["rpc.code"], code, "{line}");
        assert_eq!(line["rpc.reason"], reason, "{line}");
        assert_eq!(line["caller.name"], caller, "{line}");
        assert!(
            line["rpc.method"].is_string() && line["duration_ms"].is_u64(),
            "{line}"
        );
    }
    let [broken] = *about(&lines, "broken") else {
        panic!("it was there")
    };
    // For us, and not for the caller.
    let causes = broken["causes"].as_str().expect("causes");
    assert!(causes.contains("audit_events"), "{broken}");
    assert!(!refused.message().contains("audit_events"));
    let [over_http] = *about(&lines, "over-http") else {
        panic!("one line: {}", ended.stderr)
    };
    assert_eq!(over_http["http.status"], 401);
    assert_eq!(over_http["http.reason"], "CALLER_UNKNOWN");
    // No other line says that something failed.
    let failed = lines.iter().filter(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("failed")
    });
    assert_eq!(failed.count(), 5, "{}", ended.stderr);
}

/// A stream goes on, and each of its requests that fails has a line all the same.
#[tokio::test]
async fn a_request_of_a_stream_that_fails_has_one_line() {
    let run = Run::with_world(alone).await;
    let mut caller = run.caller(Introspect).await;
    // With a deadline, a stream takes the slow path.
    for (id, timeout) in [("short", None), ("usual", Some(Duration::from_mins(1)))] {
        caller.metadata.push(("x-request-id", id.to_owned()));
        caller.timeout = timeout;
        let mut stream = caller.stream().await;
        stream.ask(introspect("x")).await.unwrap();
        let bad = check("x", SITE, "site.invented");
        assert!(stream.ask(bad).await.unwrap().error.is_some());
        stream.ask(introspect("x")).await.unwrap();
        caller.metadata.pop();
    }
    let (ended, _) = run.stop().await;
    let lines = lines(&ended.stderr);
    for id in ["short", "usual"] {
        let told = lines.iter().filter(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            line["span"]["request.id"] == id && message.starts_with("a request of a stream")
        });
        let told: Vec<_> = told.collect();
        let [line] = *told else {
            panic!("one line for {id}: {}", ended.stderr)
        };
        assert_eq!(line["level"], "INFO", "{line}");
        assert_eq!(line["rpc.reason"], "INVALID_FIELD", "{line}");
        assert_eq!(line["span"]["caller.name"], "introspect", "{line}");
    }
}

/// An operator who reads that callers went away does not look for what ended too early.
#[tokio::test]
async fn a_call_that_the_server_cuts_off_is_told_so() {
    let run = Run::with_world(alone).await;
    let made = run.caller(Manage).await.created(personal(VERA)).await;
    let mut waits = run.caller(Introspect).await;
    waits.metadata.push(("x-request-id", "waits".to_owned()));
    let waiting = pb::IntrospectRequest {
        at_least_revision: Some(u64::MAX),
        ..introspect("x")
    };
    let waiting = waits.introspect(waiting);
    let ends = async {
        // One that has not taken its answers, so that it does not learn that it is to end.
        let io = TcpStream::connect(&run.address).await.unwrap();
        let bearer = bearer(run.token(Introspect));
        let headers = [("authorization", &*bearer), ("x-request-id", "stream")];
        // More answers than are handed over at once, so that some are still to be when the
        // first can be seen.
        let good = vec![introspect(&made.token); 400];
        let mut stream = ask_on(io, &headers, STREAM, unended(&good), 8).await;
        let first = stream.answers.frame().await.unwrap().unwrap();
        assert!(first.is_data(), "{first:?}");
        run.server.signal("TERM").await;
        // No connection is accepted once it has heard of it, and the next is another one.
        until("it ends", async || {
            let more = TcpStream::connect(&run.address).await;
            more.map_or(Ok(()), |_| Err("it lets somebody in"))
        })
        .await;
        run.server.signal("TERM").await;
        stream.end.await.unwrap();
    };
    let (cut, ()) = tokio::join!(waiting, ends);
    cut.expect_err("it does not come to its end");
    let ended = run.server.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines = lines(&ended.stderr);
    for id in ["waits", "stream"] {
        let [line] = *about(&lines, id) else {
            panic!("one line for {id}: {}", ended.stderr)
        };
        assert_eq!(line["level"], "WARN", "{line}");
        assert_eq!(line["rpc.code"], "UNAVAILABLE", "{line}");
        assert_eq!(line["rpc.reason"], "SHUTTING_DOWN", "{line}");
        let said = line["message"].as_str().unwrap();
        assert!(said.contains("the server cut it off"), "{line}");
    }
}

/// The log is what is left of the audit trail where the database is lost: it must not
/// tell of changes that were none.
#[tokio::test]
async fn only_what_changed_a_client_is_told() {
    let run = Run::with_world(alone).await;
    let dashboard = run.caller(Manage).await;
    let made = dashboard.created(personal(VERA)).await;
    let renamed = pb::ApiClient {
        id: made.id.clone(),
        name: "another name".to_owned(),
        ..pb::ApiClient::default()
    };
    for _ in 0..2 {
        let rename = update(VERA, renamed.clone(), &["name"]);
        dashboard.update(rename).await.unwrap();
    }
    for _ in 0..2 {
        dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    }
    for _ in 0..2 {
        let back = reactivate(VERA, &made.id);
        dashboard.reactivate(back).await.unwrap();
    }
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    let (ended, _) = run.stop().await;
    let lines = lines(&ended.stderr);
    let told = lines.iter().filter(|line| line["client.id"] == made.id);
    let told: Vec<_> = told
        .filter_map(|line| line["message"].as_str()?.split_once(" API client "))
        .map(|(done, _)| done)
        .collect();
    assert_eq!(
        told,
        ["created", "updated", "revoked", "reactivated", "revoked"]
    );
}

/// A client behind a proxy asks as often as it likes.
#[tokio::test]
async fn what_proxies_are_told_does_not_fill_the_log() {
    let run = Run::with_world(alone).await;
    let dashboard = run.caller(Manage).await;
    let spoilt = dashboard.created(personal(VERA)).await;
    for sql in [
        "ALTER TABLE api_clients DROP CONSTRAINT api_clients_instance_role_check",
        "UPDATE api_clients SET instance_role = 'emperor'",
    ] {
        postgres::execute(&run.url, sql).await;
    }
    // When this one is in the index, so is what was before it.
    dashboard.created(personal(VERA)).await;
    let sidecar = run.caller(Introspect).await;
    let asked = async |caller: &str, query: &str| {
        let head = format!(
            "GET /forward-auth{query} HTTP/1.1\r\nx-hitkeep-caller: {caller}\r\n\
             authorization: Bearer {}",
            spoilt.token
        );
        run.ask(&head, "").await
    };
    let ours = run.token(Introspect);
    for _ in 0..5 {
        for (caller, query, status) in [
            (ours, "", "503"),
            (ours, "?invented=1", "500"),
            ("hks_x", "", "401"),
        ] {
            let answer = asked(caller, query).await;
            let expected = format!("HTTP/1.1 {status}");
            assert!(answer.starts_with(&expected), "{answer}");
        }
        let request = asking(&[], "/").bearing(&spoilt.token);
        assert_eq!(refusal(&sidecar.check(request).await.unwrap()), CANNOT_TELL);
    }
    let page = run.ask("GET /metrics HTTP/1.1", "").await;
    for (reason, count) in [("CANNOT_TELL", 10), ("MISCONFIGURED", 5)] {
        let line = format!("hitkeep_auth_verdicts_total{{reason=\"{reason}\"}} {count}\n");
        assert!(page.contains(&line), "{line} in {page}");
    }
    let (ended, _) = run.stop().await;
    let lines = lines(&ended.stderr);
    for (text, level) in [
        ("a proxy was answered 503", "ERROR"),
        ("a route is misconfigured", "WARN"),
        ("a proxy was refused", "INFO"),
    ] {
        let is_it = |line: &&Value| line["message"].as_str().unwrap().contains(text);
        let told: Vec<_> = lines.iter().filter(is_it).collect();
        let [line] = told.as_slice() else {
            panic!("one line: {text} in {}", ended.stderr)
        };
        assert_eq!(line["level"], level, "{line}");
    }
}

#[tokio::test]
async fn nobody_makes_up_a_line() {
    let made_up = "x\n{\"level\":\"ERROR\",\"message\":\"made up\"}\n";
    for format in ["json", "text"] {
        let run = Run::with_world(|_, command| {
            command.args(["--log-format", format, "--log", "debug"]);
        })
        .await;
        let dashboard = run.caller(Manage).await;
        let request = pb::ListApiClientsRequest {
            page_token: made_up.to_owned(),
            ..list(VERA, of_user(VERA))
        };
        dashboard.list(request).await.unwrap_err();
        dashboard.get(get(made_up, made_up)).await.unwrap_err();
        let named = pb::ApiClient {
            name: made_up.to_owned(),
            ..personal(VERA).api_client.unwrap()
        };
        let request = pb::CreateApiClientRequest {
            api_client: Some(named),
            ..personal(VERA)
        };
        dashboard.create(request).await.ok();
        // What Postgres says has the names of its objects in it.
        let spoil = "ALTER TABLE api_clients ADD CONSTRAINT \"a\nmade up\" CHECK (false) NOT VALID";
        postgres::execute(&run.url, spoil).await;
        dashboard.create(personal(VERA)).await.unwrap_err();
        let (ended, _) = run.stop().await;
        if format == "json" {
            let lines = lines(&ended.stderr);
            assert!(!lines.iter().any(|line| line["message"] == "made up"));
        } else {
            for line in ended.stderr.lines() {
                // Each begins with the time.
                assert!(line.starts_with("20"), "{line}");
            }
        }
        assert!(ended.stderr.contains("made up"), "{}", ended.stderr);
    }
}
