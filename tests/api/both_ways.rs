//! Introspect and Envoy's Check have a fast path, below the router, and the slow one.
//! The same table goes both ways, and comes back as the same bytes.

use bytes::Bytes;
use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{self, SiteRole},
};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use crate::{fixtures::*, harness::TestApp};

mod check;

const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
/// What makes a call take the slow path, and means nothing.
const USUAL_WAY: (&str, &str) = ("grpc-encoding", "identity");
/// What the trailers say then.
const WENT_WELL: &str = "grpc-status: \"0\"";
const DUPLEX_BYTES: usize = 64 * 1024;

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

/// HTTP/2, without a gRPC library on top.
async fn connect(app: &TestApp) -> Sender {
    let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
    app.connect(theirs);
    let io = TokioIo::new(ours);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// All that comes back, but the time.
async fn sent(
    sender: &mut Sender,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (String, Vec<u8>) {
    let mut request = http::Request::post(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(Bytes::copy_from_slice(body)))
        .unwrap();
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().map(shown).unwrap_or_default();
    let head = format!("{} {}\n{trailers}", parts.status, shown(&parts.headers));
    (head, body.to_bytes().to_vec())
}

/// Headers as lines in an order of their own, without the date.
pub fn shown(headers: &http::HeaderMap) -> String {
    let mut lines: Vec<_> = headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    lines.sort();
    lines.join("\n")
}

/// A message as it is framed.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    frame
}

/// Messages of all kinds: what they are, and their bytes.
async fn messages(app: &TestApp) -> Vec<(String, Vec<u8>)> {
    let dashboard = app.dashboard().await;
    let expiring = personal(VERA)
        .granted(SITE, SiteRole::Editor)
        .expiring(in_seconds(app, 60));
    let personal = dashboard.created(expiring).await;
    let named = team_client(ALICE)
        .granted(SITE, SiteRole::Admin)
        .granted(SECOND_SITE, SiteRole::Viewer)
        .named("Zähler für alles: ✓");
    let team = dashboard.created(named).await;
    let plain = dashboard.created(crate::fixtures::personal(ADAM)).await;
    let revoked = dashboard.created(crate::fixtures::personal(VERA)).await;
    dashboard.revoke(revoke(VERA, &revoked.id)).await.unwrap();
    let rotated = dashboard.created(crate::fixtures::personal(VERA)).await;
    dashboard.rotate(rotate(VERA, &rotated.id)).await.unwrap();
    let legacy = team_client(ALICE).granted(SITE, SiteRole::Admin);
    let legacy = app.legacy(&dashboard.created(legacy).await.token).await;
    let old = dashboard.created(crate::fixtures::personal(VERA)).await;
    let rotated_legacy = app.legacy(&old.token).await;
    dashboard.rotate(rotate(VERA, &old.id)).await.unwrap();
    let restricted = |ranges: &[&str], start| {
        let mut request = crate::fixtures::personal(VERA);
        let client = request.api_client.as_mut().unwrap();
        client.allowed_cidrs = ranges.iter().map(|range| (*range).to_owned()).collect();
        client.not_before_time = start;
        request
    };
    let somewhere = restricted(&["192.0.2.0/24", "2001:db8::/32"], None);
    let somewhere = dashboard.created(somewhere).await;
    let later = restricted(&[], Some(in_seconds(app, 3600)));
    let later = dashboard.created(later).await;
    let newest = app.number("SELECT revision FROM index_state").await;
    let caller = app.token(CallerPermission::Introspect).to_owned();
    let tokens = [
        ("personal", personal.token.as_str()),
        ("team", &team.token),
        ("plain", &plain.token),
        ("revoked", &revoked.token),
        ("rotated", &rotated.token),
        (
            "unknown",
            "hkp_00000000000000000000000000000000000000000004Rx6xu",
        ),
        ("restricted", &somewhere.token),
        ("not yet active", &later.token),
        ("legacy", &legacy),
        ("rotated legacy", &rotated_legacy),
        ("unknown legacy", &"0a".repeat(32)),
        ("malformed legacy", &"0A".repeat(32)),
        ("malformed", "hkp_nothing"),
        ("empty", ""),
        ("not ASCII", "hkp_é"),
        ("a caller's", &caller),
    ];
    let check = |site: &str, permission: &str| {
        Some(pb::PermissionCheck {
            site_id: site.to_owned(),
            permission: permission.to_owned(),
        })
    };
    let checks = [
        None,
        check(SITE, "site.view"),
        check(SITE, "site.delete"),
        check(OTHER_SITE, "site.view"),
        check("", "instance.view_system"),
        check(SITE, "instance.view_system"),
        check("", "site.view"),
        check("x", "site.view"),
        check(SITE, "site.fly"),
        check("", ""),
    ];
    let sources = [
        "",
        "192.0.2.1",
        "::ffff:192.0.2.1",
        "2001:db8::1",
        "192.0.2.1:80",
        "x",
    ];
    let revisions = [None, Some(0), Some(u64::try_from(newest).unwrap())];
    let mut messages = Vec::new();
    for (kind, token) in tokens {
        for check in &checks {
            for at_least_revision in revisions {
                let request = pb::IntrospectRequest {
                    token: token.to_owned(),
                    check: check.clone(),
                    at_least_revision,
                    source_ip: String::new(),
                };
                let what = format!("{kind} {check:?} {at_least_revision:?}");
                messages.push((what, framed(&request.encode_to_vec())));
            }
            for source_ip in sources {
                let request = pb::IntrospectRequest {
                    token: token.to_owned(),
                    check: check.clone(),
                    at_least_revision: None,
                    source_ip: source_ip.to_owned(),
                };
                let what = format!("{kind} {check:?} from {source_ip}");
                messages.push((what, framed(&request.encode_to_vec())));
            }
        }
    }
    let whole = pb::IntrospectRequest {
        token: team.token.clone(),
        check: check(SITE, "site.view"),
        at_least_revision: Some(1),
        source_ip: "192.0.2.1".to_owned(),
    }
    .encode_to_vec();
    // As other programs write them, or as no program should.
    let reversed = [&whole[55..], &whole[..55]].concat();
    let twice = [&whole[..], &whole[..]].concat();
    let unknown_field = [&whole[..], &[0x7a, 1, 0]].concat();
    let long = [&whole[..], &[0x7a, 0x80, 8], &[0; 1024]].concat();
    for (what, message) in [
        ("in another order", &reversed),
        ("twice", &twice),
        ("with an unknown field", &unknown_field),
        ("with a long unknown field", &long),
        ("cut short", &whole[..20].to_vec()),
        (
            "with too long a length",
            &[&[0x0a, 0xff], &whole[2..]].concat(),
        ),
        ("nothing", &Vec::new()),
    ] {
        messages.push((what.to_owned(), framed(message)));
    }
    let mut compressed = framed(&whole);
    compressed[0] = 1;
    messages.push(("compressed".to_owned(), compressed));
    messages.push(("a prefix alone".to_owned(), vec![0, 0, 0, 0, 9]));
    messages.push(("two messages".to_owned(), framed(&whole).repeat(2)));
    messages
}

#[tokio::test]
async fn both_ways_answer_the_same_bytes() {
    let app = TestApp::with_world().await;
    let messages = messages(&app).await;
    go_both_ways(&app, INTROSPECT, &messages).await;
}

/// Sends each message both ways, and what comes back is the same.
async fn go_both_ways(app: &TestApp, path: &str, messages: &[(String, Vec<u8>)]) {
    let mut sender = connect(app).await;
    let introspects = format!("Bearer {}", app.token(CallerPermission::Introspect));
    let lower_case = introspects.replace("Bearer", "bEARER");
    let manages = format!("Bearer {}", app.token(CallerPermission::Manage));
    for (what, message) in messages {
        let with = ("authorization", introspects.as_str());
        let id = ("x-request-id", "the-same");
        for headers in [vec![with, id], vec![with]] {
            let short = sent(&mut sender, path, &headers, message).await;
            let has_own_id = !short.0.contains(WENT_WELL) || short.0.contains("x-request-id");
            if has_own_id && headers.len() == 1 {
                // Each failure has a request id of its own, and so has an answer to Envoy about
                // a check that cannot be read.
                continue;
            }
            let usual = [&headers[..], &[USUAL_WAY]].concat();
            let usual = sent(&mut sender, path, &usual, message).await;
            assert_eq!(short, usual, "{what}");
        }
    }
    let (_, message) = &messages[0];
    for headers in [
        vec![("authorization", lower_case.as_str())],
        vec![("authorization", manages.as_str())],
        vec![("authorization", "Bearer x")],
        vec![],
        vec![
            ("authorization", introspects.as_str()),
            ("authorization", &introspects),
        ],
    ] {
        let id = ("x-request-id", "the-same");
        let headers = [&headers[..], &[id]].concat();
        let short = sent(&mut sender, path, &headers, message).await;
        let usual = [&headers[..], &[USUAL_WAY]].concat();
        let usual = sent(&mut sender, path, &usual, message).await;
        assert_eq!(short, usual, "{headers:?}");
    }
}

/// That there are two ways at all: the usual one is limited to none here.
#[tokio::test]
async fn what_is_answered_at_once_takes_no_place_of_those_who_wait() {
    let app = TestApp::with(hitkeep_auth::server::Options {
        max_introspections: 0,
        ..hitkeep_auth::server::Options::default()
    })
    .await;
    app.change(world()).await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let mut sender = connect(&app).await;
    let introspects = format!("Bearer {}", app.token(CallerPermission::Introspect));
    let message = framed(&introspect(&made.token).encode_to_vec());
    let with = ("authorization", introspects.as_str());
    let (short, _) = sent(&mut sender, INTROSPECT, &[with], &message).await;
    assert!(short.contains(WENT_WELL), "{short}");
    let (usual, _) = sent(&mut sender, INTROSPECT, &[with, USUAL_WAY], &message).await;
    assert!(usual.contains("too%20many%20requests"), "{usual}");
}
