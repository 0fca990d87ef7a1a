//! Envoy's check: how it asks, and what it is answered.

use std::{sync::Arc, time::Duration};

use hitkeep_auth::{
    pb::{
        SiteRole,
        envoy::{
            config::core::v3::{
                HeaderMap, HeaderValue, HeaderValueOption,
                header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd,
            },
            service::auth::v3::{
                AttributeContext, CheckRequest, CheckResponse,
                attribute_context::{HttpRequest, Request},
                authorization_client::AuthorizationClient,
                check_response::HttpResponse,
            },
        },
    },
    server,
    store::{self, Store},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

mod routes;

use super::table::Said;
use crate::{
    fixtures::*,
    harness::{Caller, TestApp, channel, told},
};

/// A request for Envoy to ask about, to a route with those settings.
pub fn asking(settings: &[(&str, &str)], path: &str) -> CheckRequest {
    let setting = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            context_extensions: settings.iter().map(setting).collect(),
            request: Some(Request {
                http: Some(http),
                time: None,
            }),
            ..AttributeContext::default()
        }),
    }
}

/// What the client of such a request sends.
pub trait Sending {
    /// Headers, those of one name joined, as Envoy does it.
    fn with<'h>(self, headers: impl IntoIterator<Item = (&'h str, &'h str)>) -> Self;
    /// Headers each by itself.
    fn with_raw<'h>(self, headers: impl IntoIterator<Item = (&'h str, &'h str)>) -> Self;
    /// The token.
    fn bearing(self, token: &str) -> Self;
    fn http(&mut self) -> &mut HttpRequest;
}

impl Sending for CheckRequest {
    fn with<'h>(mut self, headers: impl IntoIterator<Item = (&'h str, &'h str)>) -> Self {
        for (name, value) in headers {
            let joined = self.http().headers.entry(name.to_owned());
            let joined = joined.and_modify(|all| *all = format!("{all},{value}"));
            joined.or_insert_with(|| value.to_owned());
        }
        self
    }

    fn with_raw<'h>(mut self, headers: impl IntoIterator<Item = (&'h str, &'h str)>) -> Self {
        let header = |(name, value): (&str, &str)| HeaderValue {
            key: name.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let map = self
            .http()
            .header_map
            .get_or_insert_with(HeaderMap::default);
        map.headers.extend(headers.into_iter().map(header));
        self
    }

    fn bearing(self, token: &str) -> Self {
        self.with([("authorization", format!("Bearer {token}").as_str())])
    }

    fn http(&mut self) -> &mut HttpRequest {
        let attributes = self.attributes.as_mut().unwrap();
        attributes.request.as_mut().unwrap().http.as_mut().unwrap()
    }
}

impl Caller {
    /// What Envoy calls.
    pub async fn check(&self, request: CheckRequest) -> Result<CheckResponse, Status> {
        let mut client = AuthorizationClient::new(self.channel.clone());
        let answer = client.check(self.request(request)).await;
        answer.map(tonic::Response::into_inner)
    }
}

/// The headers that are to be set, each of which has to overwrite.
fn set(headers: &[HeaderValueOption]) -> Vec<(String, String)> {
    let pair = |option: &HeaderValueOption| {
        assert_eq!(option.append_action(), OverwriteIfExistsOrAdd);
        let header = option.header.clone().unwrap();
        (header.key, header.value)
    };
    headers.iter().map(pair).collect()
}

/// The metadata, as pairs.
fn metadata(response: &CheckResponse) -> Vec<(String, String)> {
    use prost_types::value::Kind::StringValue;

    let fields = response.dynamic_metadata.iter().flat_map(|all| &all.fields);
    let text = |value: &prost_types::Value| match &value.kind {
        Some(StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    fields
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

/// A refusal in a line: the code of gRPC, the status of HTTP, the error in the body
/// and the headers but those that are always there.
pub fn refusal(response: &CheckResponse) -> String {
    let code = Code::from(response.status.as_ref().unwrap().code);
    let Some(HttpResponse::DeniedResponse(denied)) = &response.http_response else {
        panic!("it is no refusal: {response:?}");
    };
    let status = denied.status.as_ref().unwrap().code;
    let body: serde_json::Value = serde_json::from_str(&denied.body).unwrap();
    let headers = set(&denied.headers);
    let (usual, other): (Vec<_>, Vec<_>) = headers.into_iter().partition(|(name, value)| {
        [
            ("cache-control", "no-store"),
            ("content-type", "application/json"),
        ]
        .contains(&(name, value))
    });
    assert_eq!(usual.len(), 2);
    assert_eq!(metadata(response), []);
    let other: Vec<_> = other.iter().map(|(n, v)| format!(" {n}: {v}")).collect();
    let error = body["error"].as_str().unwrap();
    format!("{code:?} {status} {error}{}", other.concat())
}

/// The headers to set and those to remove, where the request may pass.
pub fn passed(response: &CheckResponse) -> (Vec<(String, String)>, Vec<String>) {
    assert_eq!(response.status.as_ref().unwrap().code, 0);
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else {
        panic!("{}", refusal(response));
    };
    let headers = set(&ok.headers);
    assert_eq!(metadata(response), headers);
    (headers, ok.headers_to_remove.clone())
}

/// The verdict of an answer, every part of which has to fit.
pub fn answered(response: &CheckResponse) -> Said {
    if matches!(response.http_response, Some(HttpResponse::OkResponse(_))) {
        let (headers, _) = passed(response);
        let mut values = headers.iter();
        let mut next = |expected: &str| {
            let (name, value) = values.next()?;
            assert_eq!(name, expected);
            Some(value.clone())
        };
        let said = Said::Allowed {
            client: next("x-hitkeep-client-id").unwrap(),
            instance_role: next("x-hitkeep-instance-role").unwrap(),
            owner: next("x-hitkeep-owner").unwrap(),
            site: next("x-hitkeep-site-id").zip(next("x-hitkeep-site-role")),
        };
        assert_eq!(values.next(), None);
        return said;
    }
    let told = refusal(response);
    let scope = "PermissionDenied 403 insufficient_scope www-authenticate: Bearer \
                 realm=\"hitkeep\", error=\"insufficient_scope\", scope=\"";
    match &*told {
        NO_TOKEN => Said::NoToken,
        INACTIVE => Said::Inactive,
        HUMAN_ONLY => Said::HumanOnly,
        other => match other.strip_prefix(scope) {
            Some(rest) => Said::NotEnough(rest.trim_end_matches('"').to_owned()),
            None => panic!("{other}"),
        },
    }
}

const NO_TOKEN: &str =
    "Unauthenticated 401 unauthorized www-authenticate: Bearer realm=\"hitkeep\"";
const INACTIVE: &str = "Unauthenticated 401 invalid_token www-authenticate: Bearer \
                        realm=\"hitkeep\", error=\"invalid_token\"";
pub const HUMAN_ONLY: &str = "PermissionDenied 403 insufficient_scope www-authenticate: Bearer \
                              realm=\"hitkeep\", error=\"insufficient_scope\"";
pub const CANNOT_TELL: &str = "Unavailable 503 temporarily_unavailable retry-after: 1";
pub const MISCONFIGURED: &str = "Internal 500 server_error";
pub const UNCLEAR: &str = "InvalidArgument 400 invalid_request";

/// Well-formed, and of no client.
const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

#[tokio::test]
async fn what_is_allowed_says_as_whom() {
    let app = TestApp::with_world().await;
    let made = app
        .dashboard()
        .await
        .created(team_client(ALICE).granted(SITE, SiteRole::Admin))
        .await;
    let settings = [("permission", "site.view"), ("site_id", SITE)];
    let request = asking(&settings, "/").bearing(&made.token);
    let answer = app.sidecar().await.check(request).await.unwrap();
    let (headers, removed) = passed(&answer);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (&**n, &**v)).collect();
    assert_eq!(
        headers,
        [
            ("x-hitkeep-client-id", &*made.id),
            ("x-hitkeep-instance-role", "user"),
            ("x-hitkeep-owner", &format!("team:{TEAM}")),
            ("x-hitkeep-site-id", SITE),
            ("x-hitkeep-site-role", "admin"),
        ]
    );
    assert_eq!(removed, Vec::<String>::new());
}

#[tokio::test]
async fn a_request_without_http_has_no_token() {
    let app = TestApp::with_world().await;
    let sidecar = app.sidecar().await;
    let mut without_http = asking(&[], "/");
    without_http.attributes.as_mut().unwrap().request = None;
    for request in [
        CheckRequest { attributes: None },
        without_http,
        asking(&[], ""),
        asking(&[], "/"),
    ] {
        let answer = sidecar.check(request).await.unwrap();
        assert_eq!(refusal(&answer), NO_TOKEN);
    }
}

#[tokio::test]
async fn headers_of_ours_that_the_client_sent_go_away() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    let spoofed = [
        ("x-hitkeep-site-id", SITE),
        ("X-HitKeep-Site-Id", SITE),
        ("x-hitkeep-owner", "user:root"),
        ("X-HitKeep-Client-Id", "1"),
        ("x_hitkeep_owner", "user:root"),
        ("x-hitkeep-", ""),
        ("x-hitkeep-future", "1"),
        ("x-hitkeep-future", "2"),
        ("x-hitkeeper", "1"),
        ("accept", "*/*"),
    ];
    let gone = [
        "x-hitkeep-",
        "x-hitkeep-future",
        "x-hitkeep-site-id",
        "x_hitkeep_owner",
    ];
    for request in [
        asking(&[], "/").bearing(&made.token).with(spoofed),
        asking(&[], "/").bearing(&made.token).with_raw(spoofed),
    ] {
        let (_, removed) = passed(&sidecar.check(request).await.unwrap());
        assert_eq!(removed, gone);
    }
    // What is set is overwritten, and so is not removed.
    let made = app
        .dashboard()
        .await
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let request = asking(&[("site_id", SITE)], "/").bearing(&made.token);
    let answer = sidecar.check(request.with(spoofed)).await.unwrap();
    let gone = ["x-hitkeep-", "x-hitkeep-future", "x_hitkeep_owner"];
    assert_eq!(passed(&answer).1, gone);
}

#[tokio::test]
async fn what_cannot_be_told_is_an_answer_of_503() {
    let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let (gone, sidecar) = (
        app.dashboard().await.created(personal(VERA)).await,
        app.sidecar().await,
    );
    let revoked = app.dashboard().await.revoke(revoke(VERA, &gone.id)).await;
    revoked.unwrap();
    let says = async |token: &str| {
        let answer = sidecar.check(asking(&[], "/").bearing(token)).await;
        let answer = answer.unwrap();
        match &answer.http_response {
            Some(HttpResponse::OkResponse(_)) => "passes".to_owned(),
            _ => refusal(&answer),
        }
    };
    assert_eq!(says(&made.token).await, "passes");
    assert_eq!(says(NOBODYS).await, INACTIVE);
    proxy.cut();
    assert_eq!(says(&made.token).await, "passes");
    assert_eq!(says(NOBODYS).await, CANNOT_TELL);
    app.clock.grow_old(Duration::from_secs(11));
    assert_eq!(says(&made.token).await, CANNOT_TELL);
    // A client that would be refused in any case may have a token that was revoked.
    let closed = asking(&[("human_only", "true")], "/").bearing(&made.token);
    let answer = sidecar.check(closed).await.unwrap();
    assert_eq!(refusal(&answer), CANNOT_TELL);
    // What is known to be dead stays dead, and what no token can be never was one.
    assert_eq!(says(&gone.token).await, INACTIVE);
    assert_eq!(says("hkp_nothing").await, INACTIVE);
    proxy.mend();
    app.until_health(
        "envoy.service.auth.v3.Authorization",
        ServingStatus::Serving,
    )
    .await;
    assert_eq!(says(NOBODYS).await, INACTIVE);
    assert_eq!(says(&made.token).await, "passes");
}

#[tokio::test]
async fn a_token_that_was_made_a_moment_ago_is_known_on_every_server() {
    let app = TestApp::with_world().await;
    let other = app.beside(server::Options::default()).await;
    let sidecar = other.sidecar().await;
    for _ in 0..20 {
        let made = app.dashboard().await.created(personal(VERA)).await;
        let request = asking(&[], "/").bearing(&made.token);
        passed(&sidecar.check(request).await.unwrap());
    }
}

#[tokio::test]
async fn only_who_may_introspect_may_ask() {
    let app = TestApp::with_world().await;
    let refused = app.dashboard().await.check(asking(&[], "/")).await;
    assert_eq!(told(&refused), "PermissionDenied CALLER_NOT_PERMITTED");
    let stranger = app.caller(NOBODYS).await;
    let refused = stranger.check(asking(&[], "/")).await;
    assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
}

/// A server that has not read its database yet knows no caller either. That is not Envoy's
/// fault, so it gets an answer.
#[tokio::test]
async fn before_there_is_an_index_nothing_can_be_told() {
    let app = TestApp::with_world().await;
    let nowhere = store::StoreOptions::new("postgres://nobody@127.0.0.1:1/nowhere");
    let (clock, entropy) = (Arc::clone(&app.clock), Arc::clone(&app.entropy));
    let store = Store::new(&nowhere, clock as _, entropy as _);
    let (connections, incoming) = mpsc::unbounded_channel();
    let (_stop, stopped) = mpsc::channel(1);
    let incoming = UnboundedReceiverStream::new(incoming);
    let options = server::Options::default();
    tokio::spawn(server::serve(store, options, incoming, stopped));
    let sidecar = Caller {
        channel: channel(&connections).await,
        ..app.sidecar().await
    };
    let refused = sidecar
        .check(asking(&[], "/").bearing(NOBODYS))
        .await
        .unwrap();
    assert_eq!(refused.status.unwrap().code, i32::from(Code::Unavailable));
    let Some(HttpResponse::DeniedResponse(denied)) = refused.http_response else {
        panic!("{:?}", refused.http_response);
    };
    assert_eq!(denied.status.unwrap().code, 503);
}
