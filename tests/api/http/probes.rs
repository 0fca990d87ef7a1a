//! What operators ask: is it alive, is it ready, what does it count? And how the
//! listener ends.

use std::{sync::Arc, time::Duration};

use hitkeep_auth::{
    domain::{
        caller::CallerPermission,
        token::{Token, TokenKind},
    },
    server::{self, Ended, Server},
    store::{self, Store},
    telemetry::{metrics::Metrics, traces::Sampling},
};
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::client::{Answer, ask_on, form, get};
use crate::{
    fixtures::{self, *},
    harness::{TestApp, told},
    support::doubles::{SeededEntropy, TestClock},
};

async fn probe(app: &TestApp, path: &str) -> (u16, String) {
    let answer = app.ask(get(path), "").await;
    (answer.status.as_u16(), answer.body)
}

async fn metrics(app: &TestApp) -> String {
    let answer = app.ask(get("/metrics"), "").await;
    assert_eq!(answer.status, 200);
    let kind = answer.header("content-type").unwrap();
    assert_eq!(kind, "text/plain; version=0.0.4");
    answer.body
}

/// The value of a series; none where there is no such series.
fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(series))?;
    line.trim().parse().ok()
}

#[tokio::test]
async fn a_server_that_can_answer_is_alive_and_ready() {
    let app = TestApp::start().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(probe(&app, path).await, (200, "ok\n".to_owned()));
        let head = http::Request::head(path);
        assert_eq!(app.ask(head, "").await.status, 200);
        assert_eq!(
            app.ask_http2(get(&format!("http://test{path}")), "")
                .await
                .body,
            "ok\n"
        );
        let posted = app.ask(http::Request::post(path), "").await;
        assert_eq!(posted.told(), "405 invalid_request");
        assert_eq!(posted.header("allow").as_deref(), Some("GET,HEAD"));
    }
    for path in [
        "/",
        "/livez/",
        "/oauth2",
        "/forward-authx",
        "//livez",
        "/LIVEZ",
    ] {
        assert_eq!(
            app.ask(get(path), "").await.told(),
            "404 not_found",
            "{path}"
        );
    }
}

/// Nothing was ever read from the database, and nothing else is said.
#[tokio::test]
async fn a_server_that_has_no_index_is_alive_and_not_ready() {
    let options = store::StoreOptions {
        connect_timeout: Duration::from_millis(100),
        ..store::StoreOptions::new("postgres://nobody@127.0.0.1:1/nowhere")
    };
    let clock = Arc::new(TestClock::default());
    let store = Store::new(&options, clock, Arc::new(SeededEntropy::default()));
    let (connections, http) = mpsc::unbounded_channel::<std::io::Result<DuplexStream>>();
    let (stop, mut stopped) = mpsc::channel(2);
    let server = Server {
        backend: store.into(),
        options: server::Options {
            request_timeout: Duration::from_millis(100),
            ..server::Options::default()
        },
        metrics: Metrics::default(),
        sampling: Sampling::default(),
        grpc: tokio_stream::pending::<std::io::Result<DuplexStream>>(),
        http: UnboundedReceiverStream::new(http),
    };
    let server = tokio::spawn(async move { server.run(&mut stopped).await });
    let token = Token::mint(TokenKind::ServiceAccount, &SeededEntropy::default()).reveal();
    let ask = async |path: &str| -> Answer {
        let (ours, theirs) = tokio::io::duplex(1024);
        connections.send(Ok(theirs)).unwrap();
        let request = form(path).method(if path == "/oauth2/introspect" {
            "POST"
        } else {
            "GET"
        });
        let request = request.header("authorization", format!("Bearer {token}"));
        ask_on(ours, request.header("x-hitkeep-caller", &token), "token=x").await
    };
    assert_eq!(ask("/livez").await.status, 200);
    let ready = ask("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body, "the index is not loaded yet\n");
    for path in ["/oauth2/introspect", "/forward-auth"] {
        let told = ask(path).await.told();
        assert_eq!(told, "503 temporarily_unavailable", "{path}");
    }
    let page = ask("/metrics").await.body;
    assert_eq!(value(&page, "hitkeep_auth_index_ready "), Some(0.0));
    assert_eq!(value(&page, "hitkeep_auth_index_revision "), None);
    stop.send(()).await.unwrap();
    assert_eq!(server.await.unwrap(), Ended::Drained);
}

#[tokio::test]
async fn readiness_follows_the_index() {
    let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
    proxy.cut();
    // From memory, for a while.
    assert_eq!(probe(&app, "/readyz").await.0, 200);
    app.clock.grow_old(Duration::from_secs(11));
    let (status, why) = probe(&app, "/readyz").await;
    assert_eq!((status, &*why), (503, "the index is 11 s old\n"));
    assert_eq!(probe(&app, "/livez").await.0, 200);
    let page = metrics(&app).await;
    assert_eq!(value(&page, "hitkeep_auth_index_ready "), Some(0.0));
    proxy.mend();
    app.settle().await;
    assert_eq!(probe(&app, "/readyz").await.0, 200);
    let page = metrics(&app).await;
    assert_eq!(value(&page, "hitkeep_auth_index_ready "), Some(1.0));
    assert_eq!(value(&page, "hitkeep_auth_database_reachable "), Some(1.0));
}

#[tokio::test]
async fn metrics_say_what_there_is_and_what_was_asked() {
    let (app, dashboard, made) = TestApp::with_client().await;
    dashboard.get(fixtures::get(VERA, &made.id)).await.unwrap();
    let refused = dashboard.get(fixtures::get(VERA, NOBODY)).await;
    assert_eq!(told(&refused), "NotFound API_CLIENT_NOT_FOUND");
    let stranger = app.caller("hks_x").await;
    stranger
        .get(fixtures::get(VERA, &made.id))
        .await
        .unwrap_err();
    let invented = app.ask(get("/invented"), "").await;
    assert_eq!(invented.status, 404);
    let page = metrics(&app).await;
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let revision = made.revision as f64;
    for (series, expected) in [
        ("hitkeep_auth_index_revision ", revision),
        ("hitkeep_auth_index_clients ", 1.0),
        ("hitkeep_auth_index_ready ", 1.0),
        ("hitkeep_auth_index_staleness_seconds ", 0.0),
        ("hitkeep_auth_index_max_staleness_seconds ", 10.0),
        ("hitkeep_auth_database_reachable ", 1.0),
        ("hitkeep_auth_feed_failures_total ", 0.0),
        ("hitkeep_auth_feed_loads_total ", 1.0),
        ("hitkeep_auth_feed_connections_total{for=\"reading\"} ", 1.0),
        ("db_client_connection_max ", 8.0),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series}\n{page}");
    }
    let calls = |name: &str, method: &str, code: tonic::Code, more: &str| {
        let service = "hitkeep.auth.v1.ApiClientService";
        let code = i32::from(code);
        let series = format!(
            "{name}{{rpc_grpc_status_code=\"{code}\",rpc_method=\"{method}\",\
             rpc_service=\"{service}\"{more}}}"
        );
        value(&page, &series)
    };
    for (method, code) in [
        ("CreateApiClient", tonic::Code::Ok),
        ("GetApiClient", tonic::Code::Ok),
        ("GetApiClient", tonic::Code::NotFound),
        // Above authentication, so that refusals are counted.
        ("GetApiClient", tonic::Code::Unauthenticated),
    ] {
        let counted = calls("hitkeep_auth_grpc_requests_total", method, code, "");
        assert_eq!(counted, Some(1.0), "{method} {code}");
        let name = "rpc_server_duration_milliseconds_count";
        let timed = calls(name, method, code, ",rpc_system=\"grpc\"");
        assert_eq!(timed, Some(1.0), "{method} {code}");
    }
    let requests = |method: &str, status: u16, route: &str| {
        format!(
            "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",\
             http_response_status_code=\"{status}\",http_route=\"{route}\"}}"
        )
    };
    assert_eq!(value(&page, &requests("GET", 404, "none")), Some(1.0));
    assert!(!page.contains("invented"));
    let writes = "hitkeep_auth_write_duration_seconds_count{outcome=\"done\"}";
    // The directory, and the client.
    assert_eq!(value(&page, writes), Some(2.0));
    let idle = "db_client_connection_count{db_client_connection_state=\"idle\"}";
    assert!(value(&page, idle).is_some());
    let again = metrics(&app).await;
    let series = &requests("GET", 200, "/metrics");
    assert_eq!(value(&page, series), None);
    assert_eq!(value(&again, series), Some(1.0));
}

#[tokio::test]
async fn no_token_and_no_id_gets_into_the_metrics() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let caller = app.token(CallerPermission::Introspect);
    let request = form("/oauth2/introspect").header("authorization", format!("Bearer {caller}"));
    let said = app.ask(request, format!("token={}", made.token)).await;
    assert_eq!(said.json()["active"], true);
    let page = metrics(&app).await;
    for secret in [&*made.token, caller, &made.id, VERA, SITE] {
        assert!(!page.contains(secret), "{page}");
    }
}

/// While calls are finished, a probe that asks whether it is ready gets an answer.
#[tokio::test]
async fn a_server_that_drains_says_so() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let mut stream = sidecar.stream().await;
    let blocker = app.hold_write_lock().await;
    let call = tokio::spawn(async move { dashboard.created(personal(VERA)).await });
    app.until_waiting(1).await;
    let before = app.ask(get("/readyz"), "").await;
    assert_eq!(
        (before.status.as_u16(), before.header("connection")),
        (200, None)
    );

    app.stop.send(()).await.unwrap();
    let end = stream.end().await;
    assert!(told(&end).contains("SHUTTING_DOWN"), "{end:?}");
    let ready = app.ask(get("/readyz"), "").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body, "the server is shutting down\n");
    // No other request may begin on it.
    assert_eq!(ready.header("connection").as_deref(), Some("close"));
    let ready = app.ask_http2(get("http://test/readyz"), "").await;
    assert_eq!(
        (ready.status.as_u16(), ready.header("connection")),
        (503, None)
    );
    assert_eq!(probe(&app, "/livez").await.0, 200);
    metrics(&app).await;
    assert!(!app.server.is_finished());
    blocker.release().await;
    call.await.expect("the call is answered");
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}
