//! `replica`: what it refuses, and that it answers, as a process beside `serve`.

use hitkeep_auth::{
    domain::token::{Token, TokenKind},
    system::SystemEntropy,
};

use crate::{
    certificates::Authority,
    explain::{DIRECTORY, client},
    folder::{Folder, text},
    postgres::{execute, migrated_database, number},
    process::{Process, account, binary},
    run::{http_get, introspect, run, run_on, serve_with},
    waiting::{until, wanted},
};

#[tokio::test]
async fn options_that_make_no_sense_are_refused_before_it_listens() {
    let secret = "hkp_opensesame";
    for (arguments, complaint) in [
        (vec![], "--upstream"),
        (vec!["--upstream", "auth:50051"], "must be http://HOST:PORT"),
        (
            vec!["--upstream", "http://user:opensesame@auth:1"],
            "must not contain credentials",
        ),
        (
            vec!["--upstream", "http://auth:1,"],
            "must be http://HOST:PORT",
        ),
        (
            vec!["--upstream", "http://auth:1"],
            "HITKEEP_AUTH_UPSTREAM_TOKEN",
        ),
        (
            vec!["--upstream", "http://auth:1", "--upstream-token", secret],
            "is not the token of a service account",
        ),
        (
            vec![
                "--upstream",
                "http://auth:1",
                "--upstream-token-file",
                "/nowhere",
            ],
            "/nowhere cannot be read",
        ),
        (
            vec![
                "--upstream",
                "http://auth:1",
                "--upstream-token",
                secret,
                "--upstream-token-file",
                "x",
            ],
            "cannot be used with",
        ),
        (
            vec!["--upstream", "https://auth:1", "--upstream-cert", "x"],
            "--upstream-key",
        ),
        (
            vec!["--upstream", "http://auth:1", "--upstream-ca", "x"],
            "need every --upstream over TCP to begin with https://",
        ),
        (
            vec!["--upstream", "http://auth:1", "--max-staleness", "1ms"],
            "--max-staleness",
        ),
    ] {
        let arguments = ["replica"].into_iter().chain(arguments);
        let said = run(arguments).await.refused(2);
        assert!(said.contains(complaint), "{complaint}: {said}");
        assert!(!said.contains("opensesame"), "{said}");
    }
}

#[tokio::test]
async fn it_answers_without_a_database() {
    let url = migrated_database().await;
    execute(&url, DIRECTORY).await;
    let (sidecar, replicate) = (
        account(&url, "sidecar", "introspect").await,
        account(&url, "edge", "replicate").await,
    );
    let owner = ["owner_user_id", "a1", "user", "NULL", "NULL", "NULL"];
    let token = client(&url, 1, owner).await.token;
    let (server, address) = serve_with(&url, &[]).await;
    let folder = Folder::new();
    let file = folder.write("token", &format!("{replicate}\n"));
    // The first of them is not there.
    let upstream = format!("unix:{}/nobody,http://{address}", text(&folder));
    let arguments = [
        "replica",
        "--listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
    ];
    let mut command = binary(arguments);
    command
        .env("HITKEEP_AUTH_UPSTREAM", &upstream)
        .env("HITKEEP_AUTH_UPSTREAM_TOKEN_FILE", &file)
        .env("HITKEEP_AUTH_USAGE_FLUSH_INTERVAL", "10ms");
    let mut replica = Process::start(command);
    let http = replica.http_address().await;
    let here = replica.address().await;
    replica.stderr.line_so_far("introspection serves").await;
    let followed = replica.stderr.line_so_far("is followed").await;
    assert!(followed.contains(&address), "{followed}");
    let answer = introspect(&here, &sidecar, &token).await.unwrap();
    assert!(answer.active);
    let ready = http_get(&http, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200 OK"), "{ready}");
    let said = run(["healthcheck", "ready", "--listen", &here])
        .await
        .given();
    assert_eq!(said, "SERVING\n");
    // It has no directory to show.
    let mut status = binary(["status", "--json", "--server", &here]);
    status.env("HITKEEP_AUTH_TOKEN", &sidecar);
    let shown = Process::start(status).ended().await.given_json();
    assert_eq!(shown["index"]["api_clients"], "1");
    assert!(shown["directory"].is_null(), "{shown}");
    let metrics = http_get(&http, "/metrics").await;
    assert!(metrics.contains("hitkeep_auth_index_ready 1"), "{metrics}");
    assert!(!metrics.contains("db_client_connection"), "it has no pool");
    assert!(metrics.contains("for=\"upstream\""), "{metrics}");
    // It was used, and the database knows.
    let used = "SELECT count(*) FROM api_client_usage WHERE last_used_time IS NOT NULL";
    until("the use is stored", async || {
        wanted(number(&url, used).await == 1)
    })
    .await;
    server.signal("TERM").await;
    server.ended().await;
    // From memory.
    let answer = introspect(&here, &sidecar, &token).await.unwrap();
    assert!(answer.active);
    replica.signal("TERM").await;
    let ended = replica.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for secret in [&replicate, &sidecar, &token] {
        assert!(!ended.stderr.contains(&**secret), "{}", ended.stderr);
    }
}

/// A server that does not know its token: it tells the operator, and goes on trying.
#[tokio::test]
async fn an_unknown_token_is_told_and_kept_secret() {
    let token = Token::mint(TokenKind::ServiceAccount, &SystemEntropy).reveal();
    let url = migrated_database().await;
    let (_server, address) = serve_with(&url, &[]).await;
    let upstream = format!("http://{address}");
    let arguments = [
        "replica",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        &upstream,
    ];
    let mut command = binary(arguments);
    command.env("HITKEEP_AUTH_UPSTREAM_TOKEN", &token);
    let mut replica = Process::start(command);
    let said = replica.stderr.line("is not followed").await;
    assert!(said.contains("no known caller"), "{said}");
    replica.signal("TERM").await;
    let ended = replica.ended().await;
    assert!(!ended.stderr.contains(&token), "{}", ended.stderr);
}

/// Without a token: the certificate names the account. And not with a server whose
/// certificate another authority signed.
#[tokio::test]
async fn certificates_are_enough_in_both_directions() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (certificate, key) = folder.write_identity("server", &authority.sign(&["localhost"]));
    let (own, own_key) = folder.write_identity("edge", &authority.sign(&["edge.example"]));
    let ca = folder.write("ca.pem", &authority.pem());
    let other = folder.write("other.pem", &Authority::new("other").pem());
    let url = migrated_database().await;
    let arguments = ["service-account", "create", "edge", "--allow", "replicate"];
    let name = ["--certificate-name", "dns:edge.example"];
    let arguments: Vec<_> = arguments.into_iter().chain(name).collect();
    run_on(&url, &arguments).await.given();
    let tls = [
        "--tls-cert",
        text(&certificate),
        "--tls-key",
        text(&key),
        "--tls-client-ca",
        text(&ca),
    ];
    let (_server, address) = serve_with(&url, &tls).await;
    let (_, port) = address.rsplit_once(':').unwrap();
    let upstream = format!("https://localhost:{port}");
    for (authority, told) in [(&ca, "is followed"), (&other, "cannot be reached")] {
        let mut replica = Process::start(binary([
            "replica",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            &upstream,
            "--upstream-ca",
            text(authority),
            "--upstream-cert",
            text(&own),
            "--upstream-key",
            text(&own_key),
        ]));
        let said = replica.stderr.line(told).await;
        assert!(said.contains(&upstream), "{said}");
    }
}
