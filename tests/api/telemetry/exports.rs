//! Traces and logs as the collector gets them.

use hitkeep_auth::{
    domain::caller::CallerPermission::{Introspect, Manage},
    pb,
};
use opentelemetry_proto::tonic::{
    logs::v1::SeverityNumber,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{Code, client::Grpc};
use tonic_prost::ProstCodec;

use super::run::{PARENT, Run, TRACE, traced, within};
use crate::{
    fixtures::*,
    harness::Caller,
    telemetry::collector::{BufferedBytes, attribute, hex, text},
};

/// Another trace, for calls that must not be recorded.
const OTHER: &str = "11111111111111111111111111111111";

fn of(span: &Span, key: &str) -> String {
    attribute(&span.attributes, key)
}

#[tokio::test]
async fn a_call_is_a_tree_of_spans_in_the_trace_of_its_caller() {
    let run = Run::with_world(traced).await;
    let mut dashboard = within(run.caller(Manage).await, TRACE, "01");
    dashboard
        .metadata
        .push(("tracestate", "vendor=opaque".into()));
    dashboard
        .metadata
        .push(("x-request-id", "the-request".into()));
    dashboard.created(personal(VERA)).await;

    let name = "hitkeep.auth.v1.ApiClientService/CreateApiClient";
    let server = run.collector.span(TRACE, name).await;
    assert_eq!(hex(&server.parent_span_id), PARENT);
    assert_eq!(server.trace_state, "vendor=opaque");
    assert_eq!(server.kind(), SpanKind::Server);
    for (key, expected) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "hitkeep.auth.v1.ApiClientService"),
        ("rpc.method", "CreateApiClient"),
        ("rpc.grpc.status_code", "0"),
        ("request.id", "the-request"),
        ("caller.name", "manage"),
        ("actor.user_id", VERA),
        ("error.type", ""),
    ] {
        assert_eq!(of(&server, key), expected, "{key}");
    }
    assert!(server.end_time_unix_nano > server.start_time_unix_nano);
    assert_eq!(
        server.status.clone().unwrap_or_default().code(),
        StatusCode::Unset
    );

    let transaction = run.collector.span(TRACE, "store.transaction").await;
    assert_eq!(transaction.parent_span_id, server.span_id);
    assert_eq!(transaction.kind(), SpanKind::Client);
    assert_eq!(of(&transaction, "db.system.name"), "postgresql");
    assert_eq!(of(&transaction, "db.operation.name"), "transaction");
    assert_eq!(of(&transaction, "error.type"), "");
    let connection = run.collector.span(TRACE, "store.connection").await;
    assert_eq!(connection.parent_span_id, transaction.span_id);

    // Who exports is said with it.
    let kept = run.collector.kept();
    let resource = &kept.resources[0];
    assert_eq!(attribute(resource, "service.name"), "hitkeep-auth");
    assert_eq!(
        attribute(resource, "service.version"),
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(attribute(resource, "service.instance.id").len(), 36);
    run.stop().await;
}

#[tokio::test]
async fn a_failure_is_a_span_and_a_record_of_the_same_trace() {
    let run = Run::with_world(traced).await;
    let dashboard = within(run.caller(Manage).await, TRACE, "01");
    let refused = dashboard.get(get(VERA, NOBODY)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let name = "hitkeep.auth.v1.ApiClientService/GetApiClient";
    let span = run.collector.span(TRACE, name).await;
    assert_eq!(of(&span, "rpc.grpc.status_code"), "5");
    assert_eq!(of(&span, "error.type"), "NOT_FOUND");
    assert_eq!(of(&span, "hitkeep_auth.reason"), "API_CLIENT_NOT_FOUND");
    // It is the caller's doing.
    assert_eq!(
        span.status.clone().unwrap_or_default().code(),
        StatusCode::Unset
    );
    let find = |kept: &BufferedBytes| {
        let mut logs = kept.logs.iter();
        let of_trace = logs.find(|log| hex(&log.trace_id) == TRACE);
        of_trace.cloned()
    };
    let log = run.collector.until("log", find).await;
    assert_eq!(log.span_id, span.span_id);
    assert_eq!(log.severity_number(), SeverityNumber::Info);
    assert!(text(log.body.as_ref()).contains("failed"), "{log:?}");
    assert_eq!(
        attribute(&log.attributes, "rpc.reason"),
        "API_CLIENT_NOT_FOUND"
    );
    assert_eq!(attribute(&log.attributes, "caller.name"), "manage");
    // And on stderr, where the same trace is named.
    let (ended, _) = run.stop().await;
    let lines = ended.stderr.lines().filter(|line| line.contains(TRACE));
    let lines: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [line] = lines.as_slice() else {
        panic!("one line for one failure: {}", ended.stderr)
    };
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(line["span_id"], hex(&span.span_id));
}

/// An introspection whose message comes once that other caller, on the same connection,
/// was answered, so that the server waits for it.
async fn introspected_late(caller: &Caller, other: &Caller, token: &str) -> pb::IntrospectResponse {
    let mut grpc = Grpc::new(caller.channel.clone());
    grpc.ready().await.expect("the connection is open");
    let (send, sent) = oneshot::channel();
    let message = futures_util::stream::once(async { sent.await.expect("it is sent") });
    let path = "/hitkeep.auth.v1.IntrospectionService/Introspect";
    let codec = ProstCodec::<pb::IntrospectRequest, _>::default();
    let call = grpc.client_streaming(caller.request(message), path.parse().unwrap(), codec);
    let others = async {
        let answer = other.introspect(introspect(token)).await;
        send.send(introspect(token)).expect("it is waited for");
        answer
    };
    let (answer, others) = tokio::join!(call, others);
    assert!(others.unwrap().active);
    answer.unwrap().into_inner()
}

/// One that is answered out of memory has no database in it; its caller says whether
/// it is recorded.
#[tokio::test]
async fn an_introspection_is_recorded_where_its_caller_records_it() {
    let run = Run::with_world(traced).await;
    let made = run.caller(Manage).await.created(personal(VERA)).await;
    let sidecar = run.caller(Introspect).await;
    let unrecorded = within(sidecar.clone(), OTHER, "00");
    let mut recorded = within(sidecar, TRACE, "01");
    recorded
        .metadata
        .push(("tracestate", "vendor=opaque".into()));
    recorded
        .metadata
        .push(("x-request-id", "the-request".into()));
    for _ in 0..3 {
        let answer = unrecorded.introspect(introspect(&made.token)).await;
        assert!(answer.unwrap().active);
    }
    let answer = recorded.introspect(introspect(&made.token)).await.unwrap();
    assert!(answer.active);
    let answer = introspected_late(&recorded, &unrecorded, &made.token).await;
    assert!(answer.active);
    // One that the index does not know, on the slow path.
    let unknown = recorded.introspect(introspect("hkp_x")).await.unwrap();
    assert!(!unknown.active);
    let mut stream = recorded.stream().await;
    stream.ask(introspect(&made.token)).await.unwrap();
    drop(stream.requests);
    assert!(stream.answers.message().await.unwrap().is_none());
    let (_, collector) = run.stop().await;
    let kept = collector.kept();
    let service = "hitkeep.auth.v1.IntrospectionService";
    let named = |name: &str| {
        let name = format!("{service}/{name}");
        let spans = kept.spans.iter().filter(|span| span.name == name);
        spans.collect::<Vec<_>>()
    };
    let introspections = named("Introspect");
    assert_eq!(introspections.len(), 3, "{introspections:#?}");
    let streams = named("IntrospectStream");
    assert_eq!(streams.len(), 1, "{streams:#?}");
    for span in introspections.iter().chain(&streams) {
        assert_eq!(hex(&span.trace_id), TRACE);
        assert_eq!(hex(&span.parent_span_id), PARENT);
        assert_eq!(span.trace_state, "vendor=opaque");
        assert_eq!(span.kind(), SpanKind::Server);
        assert!(span.end_time_unix_nano > span.start_time_unix_nano);
        let name = format!("{}/{}", of(span, "rpc.service"), of(span, "rpc.method"));
        assert_eq!(span.name, name);
        assert_eq!(of(span, "rpc.system"), "grpc");
        assert_eq!(of(span, "rpc.grpc.status_code"), "0");
        assert_eq!(of(span, "request.id"), "the-request");
        assert_eq!(of(span, "caller.name"), "introspect");
        let status = span.status.clone().unwrap_or_default();
        assert_eq!(status.code(), StatusCode::Unset);
    }
    let others = kept
        .spans
        .iter()
        .filter(|span| hex(&span.trace_id) == OTHER);
    assert_eq!(others.count(), 0);
}

#[tokio::test]
async fn without_a_trace_the_lot_decides() {
    let run = Run::with_world(|collector, command| {
        collector.of(command);
        command.env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
        command.env("OTEL_TRACES_SAMPLER_ARG", "0");
    })
    .await;
    let made = run.caller(Manage).await.created(personal(VERA)).await;
    let sidecar = run.caller(Introspect).await;
    sidecar.introspect(introspect(&made.token)).await.unwrap();
    let recorded = within(sidecar, TRACE, "01");
    recorded.introspect(introspect(&made.token)).await.unwrap();
    let (_, collector) = run.stop().await;
    let spans = collector.kept().spans;
    let traces: Vec<_> = spans.iter().map(|span| hex(&span.trace_id)).collect();
    assert_eq!(traces, [TRACE]);
}

#[tokio::test]
async fn http_is_traced_as_well_and_probes_are_not() {
    let run = Run::with_world(traced).await;
    let head = format!(
        "POST /oauth2/introspect HTTP/1.1\r\nauthorization: Bearer {}\r\n\
         content-type: application/x-www-form-urlencoded\r\n\
         traceparent: 00-{TRACE}-{PARENT}-01",
        run.token(Introspect)
    );
    let asked = run.ask(&head, "token=hkp_x").await;
    assert!(asked.starts_with("HTTP/1.1 200"), "{asked}");
    let head = format!("GET /readyz HTTP/1.1\r\ntraceparent: 00-{OTHER}-{PARENT}-01");
    let probed = run.ask(&head, "").await;
    assert!(probed.starts_with("HTTP/1.1 200"), "{probed}");
    let (_, collector) = run.stop().await;
    let kept = collector.kept();
    let span = kept.span(TRACE, "POST /oauth2/introspect").expect("a span");
    assert_eq!(hex(&span.parent_span_id), PARENT);
    assert_eq!(span.kind(), SpanKind::Server);
    for (key, expected) in [
        ("http.request.method", "POST"),
        ("http.route", "/oauth2/introspect"),
        ("http.response.status_code", "200"),
        ("caller.name", "introspect"),
    ] {
        assert_eq!(of(&span, key), expected, "{key}");
    }
    assert!(!kept.spans.iter().any(|span| hex(&span.trace_id) == OTHER));
}

/// Neither where the variables say no more than a name, nor where they say that
/// nothing is to be exported.
#[tokio::test]
async fn nothing_is_exported_unless_told() {
    let none = [
        "OTEL_TRACES_EXPORTER",
        "OTEL_METRICS_EXPORTER",
        "OTEL_LOGS_EXPORTER",
    ];
    for variables in [&["OTEL_SDK_DISABLED"][..], &none] {
        let run = Run::with_world(|collector, command| {
            collector.of(command);
            for name in variables {
                let is_switch = *name == "OTEL_SDK_DISABLED";
                command.env(name, if is_switch { "true" } else { "none" });
            }
        })
        .await;
        let dashboard = within(run.caller(Manage).await, TRACE, "01");
        dashboard.created(personal(VERA)).await;
        let (ended, collector) = run.stop().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(collector.kept().bytes.is_empty());
    }
}

#[tokio::test]
async fn headers_go_to_the_collector_and_nowhere_else() {
    let secret = "very-secret-key";
    let run = Run::with(|collector, command| {
        collector.of(command);
        command.env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-key={secret}"));
        command.env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
        command.env("OTEL_SERVICE_NAME", "auth-eu");
        command.env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        );
        command.env("HITKEEP_AUTH_LOG", "trace");
    })
    .await;
    let (ended, collector) = run.stop().await;
    let kept = collector.kept();
    assert!(!kept.metadata.is_empty());
    for metadata in &kept.metadata {
        assert_eq!(metadata.get("x-key").unwrap(), secret);
        assert_eq!(metadata.get("grpc-encoding").unwrap(), "gzip");
    }
    for resource in &kept.resources {
        assert_eq!(attribute(resource, "service.name"), "auth-eu");
        assert_eq!(attribute(resource, "deployment.environment.name"), "test");
    }
    let bytes = String::from_utf8_lossy(&kept.bytes);
    assert!(!bytes.contains(secret) && !ended.stderr.contains(secret));
}

/// A collector that takes everything and says nothing must not hold up a restart.
#[tokio::test]
async fn a_collector_that_hangs_does_not_keep_it_from_stopping() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let run = Run::with_world(|collector, command| {
        collector.of(command);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
        command.env("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000");
    })
    .await;
    run.caller(Manage).await.created(personal(VERA)).await;
    let (ended, _) = run.stop().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = "stopped before all telemetry was exported";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
}

/// What cannot be exported is logged once, and not with each attempt.
#[tokio::test]
async fn a_collector_that_is_away_is_told_once() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let mut run = Run::with_world(|collector, command| {
        collector.of(command);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    })
    .await;
    run.caller(Manage).await.created(personal(VERA)).await;
    let told = "metrics cannot be exported";
    run.server.stderr.line_so_far(told).await;
    let (ended, _) = run.stop().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for what in ["traces", "metrics", "logs"] {
        let told = format!("{what} cannot be exported");
        let lines = ended.stderr.lines().filter(|line| line.contains(&told));
        assert!(lines.count() <= 1, "{}", ended.stderr);
    }
}
