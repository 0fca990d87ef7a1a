//! Envoy's check, both ways.

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{
        SiteRole,
        envoy::service::auth::v3::{CheckResponse, check_response::HttpResponse},
    },
    server,
};
use prost::Message;

mod messages;

use messages::{full, sources, strange};

use super::{USUAL_WAY, WENT_WELL, connect, framed, go_both_ways, sent};
use crate::{
    fixtures::*,
    harness::TestApp,
    sidecars::{
        envoy::{Sending, asking},
        table,
    },
};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

#[tokio::test]
async fn every_case_of_the_table_goes_both_ways() {
    let app = TestApp::start().await;
    let cases = table::cases(&app).await;
    go_both_ways(&app, CHECK, &in_both_forms(&cases)).await;
    let cases = table::with_legacy_tokens(&app, cases).await;
    go_both_ways(&app, CHECK, &in_both_forms(&cases)).await;
}

/// The messages for these cases: with what is needed alone, and with everything.
fn in_both_forms(cases: &[table::Case]) -> Vec<(String, Vec<u8>)> {
    let mut messages = Vec::new();
    for case in cases {
        let token = case.token.as_deref().unwrap_or_default();
        let plain = asking(&case.settings, &case.path).bearing(token);
        let full = full(&case.settings, &case.path, token);
        for (form, request) in [("plain", plain), ("full", full)] {
            let what = format!("{form}: {}", case.what);
            messages.push((what, framed(&request.encode_to_vec())));
        }
    }
    messages
}

#[tokio::test]
async fn strange_messages_go_both_ways() {
    let app = TestApp::with_world().await;
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    let made = app.dashboard().await.created(request).await;
    let settings = [
        ("permission", "site.view"),
        ("site_path", "/s/{site_id}/**"),
    ];
    let whole = full(&settings, &format!("/s/{SITE}/hits"), &made.token).encode_to_vec();
    let mut messages = vec![("whole".to_owned(), framed(&whole))];
    for (what, message) in strange(&made.token) {
        messages.push((what.to_owned(), framed(&message)));
    }
    for spoofed in ["x-hitkeep-site-id", "X-HitKeep-More", "x_hitkeep_more"] {
        for token in [&*made.token, "x"] {
            let request = full(&[], "/", token).with([(spoofed, "1")]);
            messages.push((spoofed.to_owned(), framed(&request.encode_to_vec())));
        }
    }
    for size in [1_000, 20_000, 70_000] {
        let large = "x".repeat(size);
        let request = full(&[], "/", &made.token).with([("cookie", large.as_str())]);
        messages.push((format!("{size} bytes"), framed(&request.encode_to_vec())));
    }
    for at in 0..whole.len() {
        messages.push((format!("cut at {at}"), framed(&whole[..at])));
        for flip in [1, 4, 0x80] {
            let mut flipped = whole.clone();
            flipped[at] ^= flip;
            messages.push((format!("byte {at} with {flip:#x}"), framed(&flipped)));
        }
    }
    messages.push(("two messages".to_owned(), framed(&whole).repeat(2)));
    messages.push(("a prefix alone".to_owned(), vec![0, 0, 0, 0, 9]));
    go_both_ways(&app, CHECK, &messages).await;
}

/// That there are two ways at all: the usual one is limited to none here.
#[tokio::test]
async fn what_is_answered_at_once_takes_no_place_of_those_who_wait() {
    let app = TestApp::with(server::Options {
        max_introspections: 0,
        ..server::Options::default()
    })
    .await;
    app.change(world()).await;
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    let made = app.dashboard().await.created(request).await;
    let mut sender = connect(&app).await;
    let introspects = format!("Bearer {}", app.token(CallerPermission::Introspect));
    let with = ("authorization", introspects.as_str());
    let template = [("permission", "site.view"), ("site_path", "/s/{site_id}")];
    let deletes = [("permission", "site.delete"), ("site_id", SITE)];
    let path = format!("/s/{SITE}");
    for (settings, path, token, code) in [
        (&template[..], &*path, &*made.token, 0),
        (&[], "/", &made.token, 0),
        (&deletes, "/", &made.token, 7),
        (&[("human_only", "true")], "/", &made.token, 7),
        (&template, "//", &made.token, 3),
        (&template, "/s/x", &made.token, 3),
        (&template, &path, "x", 16),
        (&template, &path, "", 16),
    ] {
        let message = framed(&full(settings, path, token).encode_to_vec());
        let (short, reply) = sent(&mut sender, CHECK, &[with], &message).await;
        assert!(short.contains(WENT_WELL), "{short}");
        let reply = CheckResponse::decode(&reply[5..]).unwrap();
        assert_eq!(reply.status.unwrap().code, code, "{settings:?}");
        let passes = matches!(reply.http_response, Some(HttpResponse::OkResponse(_)));
        assert_eq!(passes, code == 0);
        let (usual, reply) = sent(&mut sender, CHECK, &[with, USUAL_WAY], &message).await;
        assert_too_many(&usual, &reply);
    }
    for (settings, path) in [(&[("site", SITE)][..], "/"), (&template, "/x")] {
        let message = framed(&full(settings, path, &made.token).encode_to_vec());
        let (usual, reply) = sent(&mut sender, CHECK, &[with], &message).await;
        assert_too_many(&usual, &reply);
    }
}

/// Envoy gets the answer that there is no verdict.
fn assert_too_many(head: &str, reply: &[u8]) {
    assert!(head.contains(WENT_WELL), "{head}");
    let reply = CheckResponse::decode(&reply[5..]).unwrap();
    assert_eq!(
        reply.status.unwrap().code,
        i32::from(tonic::Code::Unavailable)
    );
}

#[tokio::test]
async fn the_source_goes_both_ways() {
    for hops in [0, 2] {
        let mut options = server::Options::default();
        options.grpc.trusted_hops = hops;
        let app = TestApp::with(options).await;
        app.change(world()).await;
        let mut request = personal(VERA).granted(SITE, SiteRole::Viewer);
        let client = request.api_client.as_mut().unwrap();
        client.allowed_cidrs = vec!["192.0.2.7/32".to_owned()];
        let made = app.dashboard().await.created(request).await;
        let mut messages = Vec::new();
        for (what, message) in sources(&made.token) {
            messages.push((format!("{what}, {hops} hops"), framed(&message)));
        }
        let whole = full(&[], "/", &made.token).encode_to_vec();
        // The source is in the first bytes.
        for at in 0..80 {
            for flip in [1, 4, 0x80] {
                let mut flipped = whole.clone();
                flipped[at] ^= flip;
                messages.push((format!("byte {at} with {flip:#x}"), framed(&flipped)));
            }
        }
        go_both_ways(&app, CHECK, &messages).await;
    }
}
