//! What restrictions do on every door: the same on all of them.

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{
        self,
        InactiveReason::{NotYetActive, OwnerInactive, Revoked, SourceNotAllowed},
        UsageRefusalReason,
        envoy::{
            config::core::v3::{
                Address, Pipe, SocketAddress, address::Address as At, socket_address::PortSpecifier,
            },
            service::auth::v3::{CheckRequest, attribute_context::Peer},
        },
    },
    server,
};
use http::request;

use super::{allowing, starting};
use crate::{
    fixtures::*,
    harness::{Caller, TestApp, violations},
    http::client::{form, get as http_get},
    sidecars::envoy::{Sending, asking},
    support::waiting::until,
};

const RANGES: [&str; 2] = ["192.0.2.0/24", "2001:db8::/32"];
/// Addresses, and whether they are in the ranges.
const ADDRESSES: [(&str, bool); 7] = [
    ("192.0.2.1", true),
    ("192.0.2.255", true),
    ("::ffff:192.0.2.1", true),
    ("2001:db8:ffff::1", true),
    ("192.0.3.0", false),
    ("2001:db9::1", false),
    ("", false),
];

fn from(token: &str, source: &str) -> pb::IntrospectRequest {
    pb::IntrospectRequest {
        source_ip: source.to_owned(),
        ..introspect(token)
    }
}

/// A server behind that many proxies.
async fn behind(hops: u8) -> TestApp {
    let mut options = server::Options::default();
    options.grpc.trusted_hops = hops;
    let app = TestApp::with(options).await;
    app.change(world()).await;
    app
}

/// Envoy's question, with where the request came from.
fn envoy_from(token: &str, peer: At) -> CheckRequest {
    let mut request = asking(&[], "/").bearing(token);
    request.attributes.as_mut().unwrap().source = Some(Peer {
        address: Some(Address {
            address: Some(peer),
        }),
        ..Peer::default()
    });
    request
}

fn socket(address: &str) -> At {
    At::SocketAddress(SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(50_000)),
        ..SocketAddress::default()
    })
}

/// Whether Envoy is to let a request pass.
async fn passes(envoy: &Caller, request: CheckRequest) -> bool {
    let answer = envoy.check(request).await.unwrap();
    let code = answer.status.unwrap().code;
    assert!([0, i32::from(tonic::Code::Unauthenticated)].contains(&code));
    code == 0
}

/// A question of a proxy over HTTP.
fn proxied(app: &TestApp, token: &str) -> request::Builder {
    http_get("/forward-auth")
        .header("x-hitkeep-caller", app.token(CallerPermission::Introspect))
        .header("authorization", format!("Bearer {token}"))
}

#[tokio::test]
async fn introspections_go_by_the_address_that_the_caller_states() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let restricted = dashboard.created(allowing(VERA, &RANGES)).await;
    let free = dashboard.created(personal(VERA)).await;
    let mut stream = sidecar.stream().await;
    for (source, is_allowed) in ADDRESSES {
        for (token, is_active) in [(&restricted.token, is_allowed), (&free.token, true)] {
            let request = from(token, source);
            let answer = sidecar.introspect(request.clone()).await.unwrap();
            assert_eq!(answer.active, is_active, "{source}");
            let reason = if is_active {
                pb::InactiveReason::Unspecified
            } else {
                SourceNotAllowed
            };
            assert_eq!(answer.inactive_reason(), reason);
            // Nothing else of an inactive answer, which is not to be kept.
            assert_eq!(answer.max_cache_age.is_some(), is_active);
            assert_eq!(answer.client_id.is_empty(), !is_active);
            assert_eq!(stream.ask(request.clone()).await.unwrap(), answer);
            let batch = pb::BatchIntrospectRequest {
                requests: vec![pb::BatchIntrospectItem {
                    token: request.token,
                    check: None,
                    source_ip: request.source_ip,
                }],
                at_least_revision: None,
            };
            let batched = sidecar.batch(batch).await.unwrap();
            assert_eq!(batched.responses, [answer]);
        }
    }
    // A decision is asked for all the same.
    let mut request = check(&restricted.token, SITE, "site.view");
    let denied = sidecar.introspect(request.clone()).await.unwrap();
    let decision = denied.decision.unwrap();
    assert_eq!(decision.reason(), pb::DecisionReason::Inactive);
    request.source_ip = "192.0.2.1".to_owned();
    let denied = sidecar.introspect(request).await.unwrap();
    let decision = denied.decision.unwrap();
    assert_eq!(decision.reason(), pb::DecisionReason::NoSiteGrant);
}

#[tokio::test]
async fn a_text_that_is_no_address_is_a_mistake_of_the_caller() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let free = dashboard.created(personal(VERA)).await;
    let mut stream = sidecar.stream().await;
    for source in [
        "x",
        "192.0.2",
        "192.0.2.1:80",
        "192.0.2.0/24",
        " 192.0.2.1",
        "fe80::1%1",
    ] {
        for token in [&*free.token, "x"] {
            let refused = sidecar.introspect(from(token, source)).await;
            assert_eq!(violations(&refused), ["source_ip"], "{source}");
            let error = stream
                .ask(from(token, source))
                .await
                .unwrap()
                .error
                .unwrap();
            assert_eq!(error.reason(), pb::ErrorReason::InvalidField);
            assert_eq!(error.field_violations[0].field, "source_ip");
        }
        let good = pb::BatchIntrospectItem {
            token: free.token.clone(),
            ..pb::BatchIntrospectItem::default()
        };
        let bad = pb::BatchIntrospectItem {
            source_ip: source.to_owned(),
            ..good.clone()
        };
        let batch = pb::BatchIntrospectRequest {
            requests: vec![good, bad],
            at_least_revision: None,
        };
        let batched = sidecar.batch(batch).await.unwrap().responses;
        assert!(batched[0].active);
        let error = batched[1].error.as_ref().unwrap();
        assert_eq!(error.field_violations[0].field, "requests[1].source_ip");
    }
}

#[tokio::test]
async fn envoy_states_the_address_and_its_client_does_not() {
    for hops in [0, 1] {
        let app = behind(hops).await;
        let (dashboard, envoy) = (app.dashboard().await, app.sidecar().await);
        let made = dashboard.created(allowing(VERA, &RANGES)).await;
        for (address, is_allowed) in ADDRESSES {
            // What the end client writes does not count.
            for header in ["192.0.2.1", "198.51.100.1"] {
                let request = envoy_from(&made.token, socket(address));
                let request = request.with([("x-forwarded-for", header)]);
                assert_eq!(passes(&envoy, request).await, is_allowed, "{address}");
            }
        }
        for unknown in [
            socket("x"),
            socket("192.0.2.1:80"),
            At::Pipe(Pipe {
                path: "192.0.2.1".to_owned(),
            }),
        ] {
            assert!(!passes(&envoy, envoy_from(&made.token, unknown)).await);
        }
        assert!(!passes(&envoy, asking(&[], "/").bearing(&made.token)).await);
        let free = dashboard.created(personal(VERA)).await;
        assert!(passes(&envoy, asking(&[], "/").bearing(&free.token)).await);
    }
}

#[tokio::test]
async fn behind_another_proxy_envoy_hands_on_what_that_says() {
    let app = behind(2).await;
    let (dashboard, envoy) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(allowing(VERA, &RANGES)).await;
    let proxy = "203.0.113.9";
    for (header, is_allowed) in [
        ("192.0.2.1, 203.0.113.9", true),
        ("198.51.100.1, 192.0.2.1, 203.0.113.9", true),
        // If Envoy does not append, nobody knows who wrote the last one.
        ("192.0.2.1", false),
        ("198.51.100.1, 192.0.2.1", false),
        ("192.0.2.1, 198.51.100.1", false),
        ("192.0.2.1, 198.51.100.1, 203.0.113.9", false),
        ("", false),
    ] {
        let asking = || envoy_from(&made.token, socket(proxy));
        let request = asking().with([("x-forwarded-for", header)]);
        assert_eq!(passes(&envoy, request).await, is_allowed, "{header}");
        let each = header.split(", ").map(|value| ("x-forwarded-for", value));
        let request = asking().with_raw(each);
        assert_eq!(passes(&envoy, request).await, is_allowed, "{header}");
    }
    // Who goes round that proxy is not believed to come from it.
    assert!(!passes(&envoy, envoy_from(&made.token, socket("192.0.2.1"))).await);
}

#[tokio::test]
async fn other_proxies_state_the_address_in_a_header() {
    for (hops, header, is_allowed) in [
        (0, "192.0.2.1", false),
        (1, "192.0.2.1", true),
        (1, "198.51.100.1, 192.0.2.1", true),
        (1, "192.0.2.1, 198.51.100.1", false),
        (1, "192.0.2.1:443", true),
        (1, "[2001:db8::1]:443", true),
        (1, "unknown", false),
        (1, "", false),
        (2, "192.0.2.1, 198.51.100.1", true),
        (2, "192.0.2.1", false),
    ] {
        let app = behind(hops).await;
        let dashboard = app.dashboard().await;
        let made = dashboard.created(allowing(VERA, &RANGES)).await;
        let request = proxied(&app, &made.token).header("x-forwarded-for", header);
        let expected = if is_allowed {
            "200"
        } else {
            "401 invalid_token"
        };
        assert_eq!(
            app.ask(request, "").await.told(),
            expected,
            "{hops} {header}"
        );
        let free = dashboard.created(personal(VERA)).await;
        let request = proxied(&app, &free.token).header("x-forwarded-for", header);
        assert_eq!(app.ask(request, "").await.told(), "200");
        if hops == 1 {
            // Two headers are one.
            let request = proxied(&app, &made.token)
                .header("x-forwarded-for", "198.51.100.1")
                .header("x-forwarded-for", header);
            assert_eq!(app.ask(request, "").await.told(), expected);
        }
    }
}

#[tokio::test]
async fn rfc_7662_takes_the_address_as_a_parameter() {
    let app = behind(1).await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(allowing(VERA, &RANGES)).await;
    let bearer = format!("Bearer {}", app.token(CallerPermission::Introspect));
    let ask = async |body: String| {
        // This header tells of the way of this request, and not of the end client's.
        let request = form("/oauth2/introspect")
            .header("authorization", &bearer)
            .header("x-forwarded-for", "192.0.2.1");
        app.ask(request, body).await
    };
    for (source, is_allowed) in ADDRESSES {
        let answer = ask(format!("token={}&source_ip={source}", made.token)).await;
        assert_eq!(answer.json()["active"], is_allowed, "{source}");
    }
    let answer = ask(format!("token={}", made.token)).await;
    assert_eq!(answer.json(), serde_json::json!({ "active": false }));
    for bad in ["source_ip=x", "source_ip=192.0.2.1&source_ip=192.0.2.1"] {
        let answer = ask(format!("token={}&{bad}", made.token)).await;
        assert_eq!(answer.told(), "400 invalid_request", "{bad}");
    }
}

#[tokio::test]
async fn a_client_works_from_its_time_on() {
    let app = behind(0).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(starting(VERA, in_seconds(&app, 60)))
        .await;
    let rotated = dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 3600))
        .await;
    let rotated = rotated.expect("a client that is to work can be rotated");
    for token in [&made.token, &rotated.token] {
        assert_eq!(sidecar.inactive_reason(token).await, Some(NotYetActive));
        let request = asking(&[], "/").bearing(token);
        assert!(!passes(&sidecar, request).await);
        let answer = app.ask(proxied(&app, token), "").await;
        assert_eq!(answer.told(), "401 invalid_token");
    }
    let answer = sidecar.introspect(introspect(&made.token)).await.unwrap();
    assert_eq!(answer.max_cache_age, None, "it is not to be kept");
    // To the microsecond.
    app.clock
        .advance(TimeDelta::seconds(60) - TimeDelta::microseconds(1));
    let reason = sidecar.inactive_reason(&made.token).await;
    assert_eq!(reason, Some(NotYetActive));
    app.clock.advance(TimeDelta::microseconds(1));
    for token in [&made.token, &rotated.token] {
        assert_eq!(sidecar.inactive_reason(token).await, None);
        let request = asking(&[], "/").bearing(token);
        assert!(passes(&sidecar, request).await);
        assert_eq!(app.ask(proxied(&app, token), "").await.told(), "200");
    }
    let answer = sidecar.introspect(introspect(&made.token)).await.unwrap();
    assert_eq!(answer.max_cache_age.unwrap().seconds, 5);
}

#[tokio::test]
async fn other_reasons_come_first() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let mut request = allowing(VERA, &RANGES);
    request.api_client.as_mut().unwrap().not_before_time = Some(in_seconds(&app, 60));
    let made = dashboard.created(request).await;
    let reason = async || sidecar.inactive_reason(&made.token).await;
    assert_eq!(reason().await, Some(NotYetActive));
    app.change([put_user(VERA, pb::InstanceRole::User, true)])
        .await;
    assert_eq!(reason().await, Some(OwnerInactive));
    app.change([put_user(VERA, pb::InstanceRole::User, false)])
        .await;
    app.clock.advance(TimeDelta::seconds(60));
    assert_eq!(reason().await, Some(SourceNotAllowed));
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    assert_eq!(reason().await, Some(Revoked));
}

/// Changed by hand or by a call, it counts with the next revision.
#[tokio::test]
async fn a_change_counts_at_once() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    let restricted = pb::ApiClient {
        id: made.id.clone(),
        allowed_cidrs: vec!["192.0.2.0/24".to_owned()],
        ..pb::ApiClient::default()
    };
    let updated = dashboard
        .update(update(VERA, restricted, &["allowed_cidrs"]))
        .await;
    assert!(updated.unwrap().revision > made.revision);
    let reason = sidecar.inactive_reason(&made.token).await;
    assert_eq!(reason, Some(SourceNotAllowed));
    let by_hand = async |set: &str| {
        app.psql(&format!(
            "UPDATE api_clients SET {set} WHERE id = '{}'",
            made.id
        ))
        .await;
        app.settle().await;
        sidecar.inactive_reason(&made.token).await
    };
    let later = "allowed_cidrs = '{}', not_before_time = '2026-01-01T12:00:01Z'";
    assert_eq!(by_hand(later).await, Some(NotYetActive));
    assert_eq!(by_hand("not_before_time = NULL").await, None);
}

#[tokio::test]
async fn refusals_are_counted_by_their_reasons() {
    let mut options = server::Options::default();
    options.index.usage.flush_interval = std::time::Duration::from_millis(10);
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let mut request = allowing(VERA, &RANGES);
    request.api_client.as_mut().unwrap().not_before_time = Some(in_seconds(&app, 60));
    let made = dashboard.created(request).await;
    sidecar
        .introspect(from(&made.token, "192.0.2.1"))
        .await
        .unwrap();
    app.clock.advance(TimeDelta::seconds(60));
    for source in ["192.0.2.1", "198.51.100.1", ""] {
        sidecar.introspect(from(&made.token, source)).await.unwrap();
    }
    let expected = [
        (UsageRefusalReason::NotYetActive, 1),
        (UsageRefusalReason::SourceNotAllowed, 2),
    ];
    until("they are written", async || {
        let days = dashboard.usage(usage(VERA, &made.id)).await.unwrap().days;
        let refusals = days.iter().flat_map(|day| &day.refusals);
        let refusals: Vec<_> = refusals.map(|one| (one.reason(), one.count)).collect();
        let uses: u64 = days.iter().map(|day| day.uses).sum();
        if refusals == expected && uses == 1 {
            Ok(())
        } else {
            Err((uses, refusals))
        }
    })
    .await;
}
