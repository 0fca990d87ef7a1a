//! The table through a real Envoy, which asks over gRPC and over HTTP with the files of
//! `deploy/envoy`: in place of their routes, it has those of the table.

use std::sync::Arc;

use hitkeep_auth::domain::caller::CallerPermission;
use serde_json::json;
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    net::TcpListener,
};

use super::table::{self, Asker, Case, Said, path_prefix};
use crate::{
    harness::TestApp,
    support::{
        by_hand::{Answer, get},
        envoy::Envoy,
    },
};

const OVER_GRPC: &str = include_str!("../../../deploy/envoy/envoy.yaml");
const OVER_HTTP: &str = include_str!("../../../deploy/envoy/envoy-http.yaml");
/// Of the type of a route's own configuration of the filter.
const PER_ROUTE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
/// The header of a request that says to which route it goes.
const ROUTE: &str = "x-route";
const DUPLEX_BYTES: usize = 64 * 1024;

/// A file of `deploy/envoy` with other routes. An answer may take its time, since this is not
/// about that.
fn with_routes(written: &str, routes: &[serde_json::Value]) -> String {
    let (start, rest) = written.split_once("routes:\n").unwrap();
    let (_, end) = rest.split_once("                http_filters:\n").unwrap();
    let lines = routes.iter().map(|route| {
        let indent = " ".repeat(24);
        format!("{indent}- {route}\n")
    });
    let lines: String = lines.collect();
    let text = format!("{start}routes:\n{lines}                http_filters:\n{end}");
    assert!(text.contains("timeout: 1s"));
    text.replace("timeout: 1s", "timeout: 60s")
}

/// The table's routes, of which the filter has that configuration each.
fn routes(check: impl Fn(&[(&str, &str)]) -> serde_json::Value) -> Vec<serde_json::Value> {
    let routes = table::routes().into_iter().enumerate();
    let routes = routes.map(|(number, (settings, ..))| {
        let number = number.to_string();
        let filter = json!({ "@type": PER_ROUTE, "check_settings": check(&settings) });
        json!({
            "match": {
                "prefix": "/",
                "headers": [{ "name": ROUTE, "string_match": { "exact": number } }],
            },
            "route": { "cluster": "upstream" },
            "typed_per_filter_config": { "envoy.filters.http.ext_authz": filter },
        })
    });
    routes.collect()
}

/// As `envoy.yaml` has it.
fn over_grpc(settings: &[(&str, &str)]) -> serde_json::Value {
    let settings = settings.iter();
    let settings = settings.map(|(name, value)| ((*name).to_owned(), json!(value)));
    json!({ "context_extensions": settings.collect::<serde_json::Map<_, _>>() })
}

/// As `envoy-http.yaml` has it.
fn over_http(settings: &[(&str, &str)]) -> serde_json::Value {
    let caller =
        json!({ "key": "x-hitkeep-caller", "value": "%ENVIRONMENT(HITKEEP_CALLER_TOKEN)%" });
    json!({ "http_service": {
        "server_uri": { "uri": "http://hitkeep_auth", "cluster": "hitkeep_auth", "timeout": "60s" },
        "path_prefix": path_prefix(settings),
        "authorization_request": { "headers_to_add": [caller] },
        "authorization_response": {
            "allowed_upstream_headers": { "patterns": [{ "prefix": "x-hitkeep-" }] },
        },
    } })
}

/// An address whose connections go to a server in memory.
async fn address_of(connect: impl Fn(DuplexStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut outside, _)) = listener.accept().await {
            let (mut ours, theirs) = duplex(DUPLEX_BYTES);
            connect(theirs);
            tokio::spawn(async move {
                // Either side may break off.
                drop(copy_bidirectional(&mut outside, &mut ours).await);
            });
        }
    });
    address
}

/// Asks as a client of what is behind Envoy.
async fn ask(envoy: &Envoy, case: &Case) -> Said {
    let mut routes = table::routes().into_iter();
    let is_its = |route: &table::Route| (&route.0, &route.1) == (&case.settings, &case.path);
    let number = routes.position(|route| is_its(&route)).expect("a route");
    let number = number.to_string();
    let bearer = case.token.as_ref().map(|token| format!("Bearer {token}"));
    let bearer = bearer.iter().map(|value| ("authorization", value.as_str()));
    let headers: Vec<_> = bearer.chain([(ROUTE, number.as_str())]).collect();
    answered(&get(&envoy.address, &case.path, &headers).await)
}

/// What came of it: what arrived at the upstream, or what the client is answered.
fn answered(answer: &Answer) -> Said {
    if answer.status != 200 {
        let challenge = answer.header("www-authenticate");
        let [challenge] = challenge[..] else {
            panic!("{answer:?}");
        };
        return Said::refused(answer.status, &answer.error(), challenge);
    }
    let header = |name: &str| match answer.arrived(name)[..] {
        [] => None,
        [value] => Some(value.to_owned()),
        _ => panic!("{answer:?}"),
    };
    Said::Allowed {
        client: header("x-hitkeep-client-id").expect("a client"),
        owner: header("x-hitkeep-owner").expect("an owner"),
        instance_role: header("x-hitkeep-instance-role").expect("a role"),
        site: header("x-hitkeep-site-id").zip(header("x-hitkeep-site-role")),
    }
}

#[tokio::test]
async fn through_a_real_envoy_the_verdict_is_that_of_introspect() {
    let app = Arc::new(TestApp::start().await);
    let caller = app.token(CallerPermission::Introspect).to_owned();
    let (grpc, http) = (Arc::clone(&app), Arc::clone(&app));
    let grpc = address_of(move |theirs| grpc.connect(theirs)).await;
    let http = address_of(move |theirs| http.connect_http(theirs)).await;
    let written = with_routes(OVER_GRPC, &routes(over_grpc));
    let Some(asking_over_grpc) = Envoy::start(&written, (50051, &grpc), &caller).await else {
        return;
    };
    let written = with_routes(OVER_HTTP, &routes(over_http));
    let asking_over_http = Envoy::start(&written, (50052, &http), &caller).await;
    let envoys = [
        asking_over_grpc,
        asking_over_http.expect("the same program"),
    ];

    let sidecar = app.sidecar().await;
    let cases = table::cases(&app).await;
    let mut expected = Vec::new();
    for case in &cases {
        expected.push(Asker::Introspect.ask(&sidecar, case).await);
    }
    let agree = async |cases: &[Case]| {
        for (case, expected) in cases.iter().zip(&expected) {
            for (envoy, door) in envoys.iter().zip(["gRPC", "HTTP"]) {
                assert_eq!(ask(envoy, case).await, *expected, "{door}: {}", case.what);
            }
        }
    };
    agree(&cases).await;
    agree(&table::with_legacy_tokens(&app, cases).await).await;
}
