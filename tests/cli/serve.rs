//! `serve` and `healthcheck`.

use diesel::{dsl::sql, sql_types::BigInt};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use hitkeep_auth::{
    pb::{
        IntrospectRequest, IntrospectResponse,
        introspection_service_client::IntrospectionServiceClient,
    },
    store::usage::FLUSH_LOCK,
};
use serde_json::{Value, json};
use tokio::{process::Command, task::JoinHandle};
use tonic::{Response, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use crate::{
    empty::empty_database,
    explain::{DIRECTORY, client},
    postgres::{self, execute, migrated_database, url},
    process::{Process, binary, without_settings},
    run::{connect, from_caller, http_get, introspect, run, run_on, serve, serve_with},
    waiting::{until, wanted},
};

async fn caller(url: &str) -> String {
    let arguments = [
        "service-account",
        "create",
        "sidecar",
        "--allow",
        "introspect",
        "--json",
    ];
    let made = run_on(url, &arguments).await.given_json();
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_database_without_migrations_is_refused_with_advice() {
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let said = run_on(&empty_database().await, &arguments).await.refused(1);
    assert!(said.contains("`hitkeep-auth migrate`"), "{said}");
    assert!(said.contains("2026-11-30-000000_index_state"), "{said}");
}

#[tokio::test]
async fn a_port_in_use_is_refused_with_advice() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let arguments = ["serve", "--listen", &address];
    let said = run_on(&migrated_database().await, &arguments)
        .await
        .refused(1);
    assert!(said.contains(&address), "{said}");
    assert!(said.contains("another program listens there"), "{said}");
    assert!(said.contains("--listen"), "{said}");
    for (nonsense, code) in [
        ("127.0.0.1", 2),
        ("127.0.0.1:port", 2),
        ("203.0.113.1:0", 1),
    ] {
        let arguments = ["serve", "--listen", nonsense];
        let said = run_on(&migrated_database().await, &arguments)
            .await
            .refused(code);
        assert!(
            said.contains(nonsense) && said.contains("--listen"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn it_listens_for_http_where_it_is_told() {
    let url = migrated_database().await;
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &url];
    let mut command = binary(arguments);
    command.env("HITKEEP_AUTH_HTTP_LISTEN", "127.0.0.1:0");
    let mut server = Process::start(command);
    let http = server.http_address().await;
    let alive = http_get(&http, "/livez").await;
    assert!(alive.starts_with("HTTP/1.1 200 OK"), "{alive}");
    server.stderr.line("introspection serves").await;
    let ready = http_get(&http, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200 OK"), "{ready}");

    // Another one finds the port taken, and says which option is about that.
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--http-listen", &http];
    let said = run_on(&url, &arguments).await.refused(1);
    assert!(said.contains(&http), "{said}");
    assert!(
        said.contains("another address with --http-listen"),
        "{said}"
    );

    server.signal("TERM").await;
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("every call in flight was finished"));
}

#[tokio::test]
async fn the_dashboards_routes_are_served_where_they_are_asked_for() {
    let url = migrated_database().await;
    let listeners = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let status = async |value: Option<&str>| {
        let arguments = ["serve", "--database-url", &url];
        let mut command = binary(arguments.iter().chain(&listeners));
        if let Some(value) = value {
            command.env("HITKEEP_AUTH_HITKEEP_REST", value);
        }
        let mut server = Process::start(command);
        let http = server.http_address().await;
        server.stderr.line("introspection serves").await;
        let answer = http_get(&http, "/api/user/api-clients").await;
        server.signal("TERM").await;
        server.ended().await;
        let status = answer.split(' ').nth(1).unwrap();
        status.to_owned()
    };
    assert_eq!(status(None).await, "404");
    assert_eq!(status(Some("no")).await, "404");
    assert_eq!(status(Some("yes")).await, "401");
    // They have to be somewhere.
    let without = ["serve", "--listen", "127.0.0.1:0", "--hitkeep-rest"];
    let said = run_on(&url, &without).await.refused(2);
    assert!(
        said.contains("--hitkeep-rest needs --http-listen"),
        "{said}"
    );
}

#[tokio::test]
async fn it_does_not_listen_for_http_where_it_is_not_told() {
    let url = migrated_database().await;
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &url];
    let mut command = binary(arguments);
    // As a compose file sets it that has no value for it.
    command.env("HITKEEP_AUTH_HTTP_LISTEN", "");
    let mut server = Process::start(command);
    server.stderr.line("introspection serves").await;
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("HTTP"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_signal_stops_it_in_order() {
    for signal in ["TERM", "INT"] {
        let (server, _) = serve(&migrated_database().await).await;
        server.signal(signal).await;
        let ended = server.ended().await;
        assert_eq!((ended.code, &*ended.stdout), (Some(0), ""), "{ended:?}");
        assert!(ended.stderr.contains("every call in flight was finished"));
    }
}

/// A call that waits for a revision that does not exist yet, at a server that watches.
struct Waiting {
    server: Process,
    call: JoinHandle<Result<Response<IntrospectResponse>, Status>>,
    health: Streaming<HealthCheckResponse>,
}

impl Waiting {
    async fn at(url: &str, more: &[&str]) -> Self {
        let token = caller(url).await;
        let (server, address) = serve_with(url, more).await;
        let channel = connect(&address).await;
        let mut health = HealthClient::new(channel.clone());
        let mut client = IntrospectionServiceClient::new(channel);
        let unreached = IntrospectRequest {
            at_least_revision: Some(1),
            ..IntrospectRequest::default()
        };
        let mut second = client.clone();
        let unreached = from_caller(&token, unreached);
        let mut waiting = Box::pin(async move { client.introspect(unreached).await });
        let quick = from_caller(&token, IntrospectRequest::default());
        // Sent one after the other on one connection: when the second is answered,
        // the first has begun.
        tokio::select! {
            biased;
            early = &mut waiting => panic!("it does not wait: {early:?}"),
            answer = second.introspect(quick) => assert!(!answer.unwrap().into_inner().active),
        }
        let call = tokio::spawn(waiting);
        let health = health.watch(HealthCheckRequest::default()).await;
        let mut waiting = Self {
            server,
            call,
            health: health.unwrap().into_inner(),
        };
        assert_eq!(waiting.next_health().await, ServingStatus::Serving);
        waiting
    }

    async fn next_health(&mut self) -> ServingStatus {
        let status = self.health.message().await.unwrap();
        status.expect("it is told").status()
    }

    /// Tells the server to stop, and waits until it does.
    async fn stop(&mut self) {
        self.server.signal("TERM").await;
        assert_eq!(self.next_health().await, ServingStatus::NotServing);
    }
}

/// The server is told to stop, and only then comes the revision.
#[tokio::test]
async fn a_call_under_way_is_finished_first() {
    let url = migrated_database().await;
    let mut waiting = Waiting::at(&url, &[]).await;
    waiting.stop().await;
    assert!(!waiting.call.is_finished());
    execute(&url, "UPDATE index_state SET revision = 1").await;
    let answer = waiting.call.await.unwrap().expect("it is finished");
    assert_eq!(answer.into_inner().revision, 1);
    let ended = waiting.server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("every call in flight was finished"));
}

/// Whoever supervises the process learns that not everything went well.
#[tokio::test]
async fn calls_that_are_cut_off_are_a_failure() {
    let url = migrated_database().await;
    let mut impatient = Waiting::at(&url, &[]).await;
    impatient.stop().await;
    impatient.server.signal("TERM").await;
    let ended = impatient.server.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said = "stopped before every call in flight was finished";
    assert!(ended.stderr.contains(said), "{ended:?}");

    let url = migrated_database().await;
    let late = Waiting::at(&url, &["--drain-timeout", "100ms"]).await;
    late.server.signal("TERM").await;
    let ended = late.server.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(said), "{ended:?}");
}

/// Somebody has the turn to write uses, and does not give it back.
#[tokio::test]
async fn a_second_signal_ends_the_last_flush() {
    let url = migrated_database().await;
    let token = caller(&url).await;
    execute(&url, DIRECTORY).await;
    let owner = ["owner_user_id", "a1", "user", "NULL", "NULL", "NULL"];
    let client = client(&url, 1, owner).await.token;
    // Nothing is written before the end.
    let (server, address) = serve_with(&url, &["--usage-flush-interval", "1h"]).await;
    let used = introspect(&address, &token, &client).await.unwrap();
    assert!(used.active, "{used:?}");
    let mut turn = postgres::connect(&url).await;
    let take = format!("SELECT pg_advisory_lock({FLUSH_LOCK})");
    turn.batch_execute(&take).await.unwrap();
    server.signal("TERM").await;
    // Which is after the last call.
    until("the last flush waits for its turn", async || {
        let waits = sql::<BigInt>(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event = 'advisory'",
        );
        let waiting: i64 = waits.get_result(&mut turn).await.unwrap();
        wanted(waiting == 1)
    })
    .await;
    server.signal("TERM").await;
    let ended = server.ended().await;
    let said = "another stop signal: the last uses may not be written";
    assert!(ended.stderr.contains(said), "{ended:?}");
    // It did not wait for as long as a last flush may take, which would be told.
    let waited = "stopped before the last uses";
    assert!(!ended.stderr.contains(waited), "{ended:?}");
    // It is calls that count.
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// The collector accepts connections, and says nothing.
#[tokio::test]
async fn a_second_signal_ends_the_last_export() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = format!("http://{}", silent.local_addr().unwrap());
    let url = migrated_database().await;
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &url];
    let mut command = binary(arguments);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector);
    let mut server = Process::start(command);
    server.stderr.line("introspection serves").await;
    server.signal("TERM").await;
    let finished = "every call in flight was finished";
    server.stderr.line(finished).await;
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert!(ended.stderr.contains("not all telemetry"), "{ended:?}");
    // It is calls that count.
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn the_health_check_tells_whether_it_serves() {
    let database = migrated_database().await;
    let (server, address) = serve_with(&database, &["--max-staleness", "5s"]).await;
    let ask = ["healthcheck", "--listen", &address];
    let until_it_says = async |code| {
        let asked = async || wanted(run(ask).await.code == Some(code));
        until("the health check ends so", asked).await;
    };
    assert_eq!(run(ask).await.given(), "SERVING\n");
    let json = [&ask[..], &["--json"]].concat();
    let expected = json!({"address": address, "probe": "ready", "status": "SERVING"});
    assert_eq!(run(&json).await.given_json(), expected);
    let (_, port) = address.split_once(':').unwrap();
    // The address to listen on, as a container has it in its environment.
    let everywhere = format!("0.0.0.0:{port}");
    let mut command = binary(["healthcheck"]);
    command.env("HITKEEP_AUTH_LISTEN", &everywhere);
    assert_eq!(Process::start(command).ended().await.given(), "SERVING\n");

    // Postgres goes away, for longer than memory is good for, and comes back.
    let (_, name) = database.rsplit_once('/').unwrap();
    let close = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false");
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    execute(&url("postgres"), &close).await;
    execute(&url("postgres"), &end).await;
    until_it_says(1).await;
    for ready in [&ask[..], &[&["healthcheck", "ready"], &ask[1..]].concat()] {
        let said = run(ready).await.refused(1);
        assert!(said.contains("NOT_SERVING"), "{said}");
    }
    let ended = run(&json).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(said["status"], "NOT_SERVING");
    // It is alive all the same, and a restart would throw its memory away.
    let live = ["healthcheck", "live", "--listen", &address];
    assert_eq!(run(live).await.given(), "SERVING\n");
    let open = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true");
    execute(&url("postgres"), &open).await;
    until_it_says(0).await;
    assert_eq!(run(ask).await.given(), "SERVING\n");

    assert_eq!(run(live).await.given(), "SERVING\n");

    server.signal("TERM").await;
    assert_eq!(server.ended().await.code, Some(0));
    for probe in [&ask[..], &live] {
        let said = run(probe).await.refused(1);
        assert!(said.contains("hitkeep-auth: "), "{said}");
    }
}

/// Whoever spreads connections over servers learns of it while they are still accepted.
#[tokio::test]
async fn it_accepts_connections_for_a_while_after_it_was_told_to_stop() {
    let url = migrated_database().await;
    let token = caller(&url).await;
    let more = ["--drain-delay", "1day", "--http-listen", "127.0.0.1:0"];
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &url];
    let mut server = Process::start(binary(arguments.iter().chain(&more)));
    let http = server.http_address().await;
    let address = server.address().await;
    server.stderr.line("introspection serves").await;
    server.signal("TERM").await;
    let said = server.stderr.line("stop signal received").await;
    assert!(said.contains("86400 s"), "{said}");
    let ask = ["healthcheck", "ready", "--listen", &address];
    let said = run(ask).await.refused(1);
    assert!(said.contains("NOT_SERVING"), "{said}");
    let ready = http_get(&http, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    let answer = introspect(&address, &token, "hkp_unknown").await;
    assert!(!answer.unwrap().active);
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("every call in flight was finished"));
}

/// More than one address of either kind, as for both families.
#[tokio::test]
async fn it_listens_on_several_addresses_for_http_too() {
    let url = migrated_database().await;
    let listen = "127.0.0.1:0,127.0.0.2:0";
    let arguments = ["serve", "--listen", listen, "--http-listen", listen];
    let database = ["--database-url", &url];
    let mut server = Process::start(binary(arguments.iter().chain(&database)));
    for host in ["127.0.0.1:", "127.0.0.2:"] {
        let http = server.http_address().await;
        assert!(http.starts_with(host), "{http}");
        let alive = http_get(&http, "/livez").await;
        assert!(alive.starts_with("HTTP/1.1 200 OK"), "{alive}");
    }
    for host in ["127.0.0.1:", "127.0.0.2:"] {
        let address = server.address().await;
        assert!(address.starts_with(host), "{address}");
        let live = ["healthcheck", "live", "--listen", &address];
        assert_eq!(run(live).await.given(), "SERVING\n");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    // It accepts connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let arguments = ["healthcheck", "--listen", &address, "--timeout", "100ms"];
    let said = run(arguments).await.refused(1);
    assert!(said.contains("did not answer within 100ms"), "{said}");
}

/// Whoever sets them for all that runs on a machine keeps nobody from serving.
#[tokio::test]
async fn wrong_variables_of_opentelemetry_are_told_and_no_more() {
    let mut command = binary([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--database-url",
        "postgres://nobody@127.0.0.1:1/x",
    ]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4317");
    command.env("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem");
    command.env("OTEL_TRACES_SAMPLER", "sometimes");
    let mut server = Process::start(command);
    server
        .stderr
        .line("OTEL_TRACES_SAMPLER is ignored: it must be")
        .await;
    for signal in ["traces", "logs", "metrics"] {
        let said = server.stderr.line("/nowhere/ca.pem").await;
        assert!(
            said.contains(&format!("no {signal} are exported")),
            "{said}"
        );
    }
    server.stderr.line("waiting for Postgres").await;
    // Commands that export nothing do not care.
    let mut command = binary(["healthcheck", "--listen", "127.0.0.1:1"]);
    command.env("OTEL_TRACES_SAMPLER", "sometimes");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "x");
    let said = Process::start(command).ended().await.refused(1);
    assert!(!said.contains("OTEL"), "{said}");
}

/// The shell's limit is of the kind that a process may raise by itself.
#[tokio::test]
async fn it_takes_as_many_open_files_as_it_may() {
    let url = migrated_database().await;
    let mut server = limited("-Sn", "256", &url);
    let pid = server.stdout.line("").await;
    server.stderr.line("introspection serves").await;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let row = { limits.lines() }.find_map(|row| row.strip_prefix("Max open files"));
    let words: Vec<_> = row.unwrap().split_whitespace().collect();
    assert_eq!(words[0], words[1], "{limits}");
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert!(!ended.stderr.contains("open files"), "{ended:?}");
}

#[tokio::test]
async fn it_says_that_it_may_have_too_few_open_files() {
    let url = migrated_database().await;
    // 100 for callers, 16 for Postgres, 4 for each thread, 100 for all else.
    for (limit, is_enough) in [("223", false), ("224", true)] {
        let mut server = limited("-n", limit, &url);
        server.stderr.line("introspection serves").await;
        server.signal("TERM").await;
        let ended = server.ended().await;
        let said = format!("the limit of open files is {limit}, and 100 connections");
        assert_eq!(ended.stderr.contains(&said), !is_enough, "{ended:?}");
    }
}

/// `serve` with a limit of open files, for 100 callers on two threads. It prints its process id
/// first.
fn limited(which: &str, limit: &str, url: &str) -> Process {
    let serve = ["serve", "--listen", "127.0.0.1:0", "--database-url", url];
    let more = ["--max-connections", "100", "--threads", "2"];
    let binary = binary(serve.iter().chain(&more));
    let script = "ulimit \"$0\" \"$1\" && shift && echo $$ && exec \"$@\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, which, limit]);
    command.arg(binary.as_std().get_program());
    command.args(binary.as_std().get_args());
    without_settings(&mut command);
    Process::start(command)
}
