//! `service-account`: the callers of the service, and their tokens, each shown
//! once.

use std::process::Stdio;

use hitkeep_auth::pb::{
    IntrospectRequest, ListAuditEventsRequest, audit_service_client::AuditServiceClient,
    introspection_service_client::IntrospectionServiceClient,
};
use serde_json::json;
use tonic::Code;

use crate::{
    empty::empty_database,
    postgres::{execute, migrated_database},
    process::{Ended, binary},
    run::{connect, from_caller, introspect, run_on, serve},
};

const SIDECAR: [&str; 5] = [
    "service-account",
    "create",
    "sidecar",
    "--allow",
    "introspect",
];
const LIST: [&str; 2] = ["service-account", "list"];
const ROTATE: [&str; 3] = ["service-account", "rotate", "sidecar"];
const REVOKE: [&str; 3] = ["service-account", "revoke", "sidecar"];

/// The tokens in a text.
fn tokens(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.len() == 53 && word.starts_with("hks_"))
        .collect()
}

#[tokio::test]
async fn the_token_is_shown_once_and_never_again() {
    let url = migrated_database().await;
    let given = run_on(&url, &SIDECAR).await.given();
    let [token] = tokens(&given)[..] else {
        panic!("one token in {given}")
    };
    // So that a script can take it: head -1.
    assert_eq!(given.lines().next(), Some(token));
    for arguments in [
        &LIST[..],
        &["service-account", "list", "--json"],
        &REVOKE,
        &LIST,
    ] {
        let given = run_on(&url, arguments).await.given();
        assert!(given.contains("sidecar"), "{given}");
        assert!(!given.contains(&token[4..47]), "{given}");
        assert_eq!(tokens(&given), Vec::<&str>::new());
    }
}

#[tokio::test]
async fn programs_get_json() {
    let url = migrated_database().await;
    let list = async || {
        let given = run_on(&url, &["service-account", "list", "--json"]).await;
        given.given_json()["service_accounts"].take()
    };
    assert_eq!(list().await, json!([]));
    let arguments = [
        "service-account",
        "create",
        "dashboard",
        "--allow",
        "manage,audit,manage",
        "--json",
    ];
    let mut made = run_on(&url, &arguments).await.given_json();
    let token = made.as_object_mut().unwrap().remove("token").unwrap();
    let token = token.as_str().unwrap();
    assert_eq!(tokens(token), [token]);
    assert_eq!(made["name"], "dashboard");
    assert_eq!(made["permissions"], json!(["manage", "audit"]));
    assert_eq!(made["token_hint"], format!("hks_...{}", &token[49..]));
    assert_eq!(made["revoke_time"], json!(null));
    assert_eq!(list().await, json!([made]));

    let arguments = ["service-account", "revoke", "dashboard", "--json"];
    let revoked = run_on(&url, &arguments).await.given_json();
    assert!(revoked["revoke_time"].is_string(), "{revoked}");
    assert_eq!(list().await, json!([revoked]));
}

/// As in `service-account create … | head -0`: the account is there, and nobody has seen
/// its token.
#[tokio::test]
async fn a_token_that_nobody_reads_is_a_failure() {
    let url = migrated_database().await;
    for more in [&[][..], &["--json"]] {
        let ended = unread(&url, &[&SIDECAR[..], more].concat()).await;
        let said = ended.refused(1);
        assert!(said.contains("is lost"), "{said}");
        let remedy = "`hitkeep-auth service-account revoke sidecar`, and create it again";
        assert!(said.contains(remedy), "{said}");
        // What can be asked for again is no failure.
        assert_eq!(unread(&url, &LIST).await.given(), "");
        // The remedy works.
        run_on(&url, &REVOKE).await.given();
        run_on(&url, &SIDECAR).await.given();
        run_on(&url, &REVOKE).await.given();
    }
}

/// Runs a command whose output nobody reads.
async fn unread(url: &str, arguments: &[&str]) -> Ended {
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let ended = binary(arguments.iter().chain(&["--database-url", url]))
        .stdin(Stdio::null())
        .stdout(write)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output();
    let ended = ended.await.unwrap();
    Ended {
        code: ended.status.code(),
        stdout: String::new(),
        stderr: String::from_utf8(ended.stderr).unwrap(),
    }
}

#[tokio::test]
async fn people_get_a_table() {
    let url = migrated_database().await;
    let given = run_on(&url, &LIST).await.given();
    assert_eq!(given, "There are no service accounts.\n");
    run_on(&url, &SIDECAR).await.given();
    let given = run_on(&url, &LIST).await.given();
    let lines: Vec<_> = given.lines().collect();
    assert_eq!(lines.len(), 2, "{given}");
    assert!(lines[0].starts_with("NAME"), "{given}");
    assert!(lines[1].starts_with("sidecar "), "{given}");
    assert!(lines[1].contains(" introspect "), "{given}");
    assert_eq!(run_on(&url, &REVOKE).await.given(), "Revoked sidecar.\n");
}

#[tokio::test]
async fn a_name_is_taken_until_its_account_is_revoked() {
    let url = migrated_database().await;
    run_on(&url, &SIDECAR).await.given();
    let said = run_on(&url, &SIDECAR).await.refused(1);
    assert!(
        said.contains("there is a service account of that name"),
        "{said}"
    );
    run_on(&url, &REVOKE).await.given();
    run_on(&url, &SIDECAR).await.given();
    let given = run_on(&url, &LIST).await.given();
    assert_eq!(given.matches("sidecar").count(), 2, "{given}");
}

#[tokio::test]
async fn names_of_certificates_are_bound_and_shown() {
    let url = migrated_database().await;
    let names = [
        "--certificate-name",
        "spiffe://example.org/sidecar,dns:Side.Example",
    ];
    let arguments: Vec<_> = SIDECAR
        .iter()
        .chain(&names)
        .chain(&["--json"])
        .copied()
        .collect();
    let made = run_on(&url, &arguments).await.given_json();
    let bound = json!(["dns:side.example", "spiffe://example.org/sidecar"]);
    assert_eq!(made["certificate_names"], bound);
    let listed = run_on(&url, &LIST).await.given();
    assert!(
        listed.contains(" dns:side.example,spiffe://example.org/sidecar\n"),
        "{listed}"
    );

    let other = ["service-account", "create", "other", "--allow", "audit"];
    let taken = [
        "--certificate-name",
        "dns:other.example",
        "--certificate-name",
        bound[0].as_str().unwrap(),
    ];
    let arguments: Vec<_> = other.iter().chain(&taken).copied().collect();
    let said = run_on(&url, &arguments).await.refused(1);
    assert!(
        said.contains("known by that certificate name already"),
        "{said}"
    );
    let revoked = run_on(&url, &[&REVOKE[..], &["--json"]].concat())
        .await
        .given_json();
    assert_eq!(revoked["certificate_names"], json!([]));
    run_on(&url, &arguments).await.given();
    let listed = run_on(&url, &["service-account", "list", "--json"])
        .await
        .given_json();
    let names = |at: usize| listed["service_accounts"][at]["certificate_names"].clone();
    assert_eq!(names(0), json!([]));
    assert_eq!(names(1), json!(["dns:other.example", "dns:side.example"]));
    let changes = "SELECT 1 / count(*) FROM audit_events, jsonb_array_elements(changes) AS change \
                   WHERE action = 'service_account.revoked' \
                   AND change ->> 'before' = 'dns:side.example,spiffe://example.org/sidecar'";
    execute(&url, changes).await;
}

#[tokio::test]
async fn who_is_unknown_cannot_be_revoked() {
    let url = migrated_database().await;
    let said = run_on(&url, &REVOKE).await.refused(1);
    assert!(said.contains("no service account of that name"), "{said}");
    run_on(&url, &SIDECAR).await.given();
    run_on(&url, &REVOKE).await.given();
    let said = run_on(&url, &REVOKE).await.refused(1);
    assert!(said.contains("revoked already"), "{said}");
}

#[tokio::test]
async fn a_database_without_migrations_is_refused_with_advice() {
    let url = empty_database().await;
    for arguments in [&SIDECAR[..], &LIST, &ROTATE, &REVOKE] {
        let said = run_on(&url, arguments).await.refused(1);
        assert!(said.contains("`hitkeep-auth migrate`"), "{said}");
    }
}

#[tokio::test]
async fn a_created_account_calls_until_it_is_revoked() {
    let url = migrated_database().await;
    let (server, address) = serve(&url).await;
    // Made while the server runs, which must notice.
    let arguments = [
        "service-account",
        "create",
        "sidecar",
        "--allow",
        "introspect,audit",
    ];
    let given = run_on(&url, &arguments).await.given();
    let token = tokens(&given)[0];
    let answer = introspect(&address, token, "no token").await.unwrap();
    assert!(!answer.active);
    let mut audit = AuditServiceClient::new(connect(&address).await);
    let all = ListAuditEventsRequest::default;
    let events = audit.list_audit_events(from_caller(token, all())).await;
    let events = events.unwrap().into_inner().events;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].action, "service_account.created");
    assert_eq!(events[0].client_name, "sidecar");

    // Somebody who sees when the server has heard of all that was done.
    let witness = [
        "service-account",
        "create",
        "witness",
        "--allow",
        "introspect",
    ];
    let given = run_on(&url, &witness).await.given();
    run_on(&url, &REVOKE).await.given();
    execute(&url, "SELECT index_stamp()").await;
    let request = IntrospectRequest {
        at_least_revision: Some(1),
        ..IntrospectRequest::default()
    };
    IntrospectionServiceClient::new(connect(&address).await)
        .introspect(from_caller(tokens(&given)[0], request))
        .await
        .unwrap();
    let refused = introspect(&address, token, "no token").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Also on a connection that was good before.
    let refused = audit.list_audit_events(from_caller(token, all())).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    drop(server);
}

#[tokio::test]
async fn a_token_is_replaced_while_the_old_one_still_works() {
    let url = migrated_database().await;
    let (server, address) = serve(&url).await;
    let refused = run_on(&url, &ROTATE).await.refused(1);
    assert!(
        refused.contains("no service account of that name"),
        "{refused}"
    );
    let given = run_on(&url, &SIDECAR).await.given();
    let first = tokens(&given)[0].to_owned();
    let rotated = run_on(&url, &[&ROTATE[..], &["--overlap", "1h"]].concat()).await;
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    let second = rotated.stdout.trim().to_owned();
    assert_eq!(tokens(&rotated.stdout), [second.as_str()]);
    assert!(rotated.stderr.contains("works until"), "{rotated:?}");
    assert!(tokens(&rotated.stderr).is_empty());
    for token in [&first, &second] {
        let answer = introspect(&address, token, "no token").await.unwrap();
        assert!(!answer.active);
    }
    let mut json = run_on(&url, &[&ROTATE[..], &["--json"]].concat())
        .await
        .given_json();
    let token = json.as_object_mut().unwrap().remove("token").unwrap();
    let third = token.as_str().unwrap();
    assert_eq!(json["token_hint"], format!("hks_...{}", &third[49..]));
    assert!(json["replaced_token_end_time"].is_string());
    let listed = run_on(&url, &["service-account", "list", "--json"]).await;
    assert_eq!(listed.given_json()["service_accounts"], json!([json]));
    // Without an overlap, the two before have ended. The server may still have to hear of it;
    // that it knows the third one shows that it has.
    let answer = introspect(&address, third, "no token").await.unwrap();
    assert!(!answer.active);
    for token in [&first, &second] {
        let refused = introspect(&address, token, "no token").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    for wrong in ["8d", "-1s", "x"] {
        let overlap = format!("--overlap={wrong}");
        run_on(&url, &[&ROTATE[..], &[overlap.as_str()]].concat())
            .await
            .refused(2);
    }
    // A token that nobody sees is a failure, and another one is to be had.
    let ended = unread(&url, &ROTATE).await;
    let said = ended.refused(1);
    assert!(
        said.contains("is lost") && said.contains("rotate it again"),
        "{said}"
    );
    run_on(&url, &ROTATE).await.given();
    run_on(&url, &REVOKE).await.given();
    run_on(&url, &ROTATE).await.refused(1);
    let recorded = "SELECT 1 / (count(*) = 4)::int FROM audit_events \
                    WHERE action = 'service_account.rotated'";
    execute(&url, recorded).await;
    drop(server);
}
