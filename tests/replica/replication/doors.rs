//! Every door of a replica: what it says of a token is what the same door of its server says.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::TimeDelta;
use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{
        self,
        InactiveReason::{Expired, Revoked, SourceNotAllowed, UnknownToken},
        SiteRole,
        envoy::{
            config::core::v3::{
                Address, SocketAddress, address::Address as At, socket_address::PortSpecifier,
            },
            service::auth::v3::{
                AttributeContext, CheckRequest,
                attribute_context::{HttpRequest, Peer, Request as Checked},
                authorization_client::AuthorizationClient,
            },
        },
    },
    server,
};
use http::{Request, request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message as _;

use crate::{
    checker::bare,
    cluster::Said,
    fixtures::*,
    follower::{Follower, Settings},
    gateway::Gateway,
    harness::{Caller, Connections, TestApp},
};

const PERMISSION: &str = "site.view";

/// A process that answers, and how it is asked.
struct Process {
    caller: Caller,
    http: Connections,
    /// The token of an account that may introspect.
    token: String,
}

/// What a door says of a token.
#[derive(Debug, PartialEq)]
struct Answer {
    door: &'static str,
    works: bool,
    /// All of it.
    text: String,
}

impl Process {
    /// Why a token does not work that is presented from there, and what each door says of it.
    async fn says(&self, token: &str, source: &str) -> (pb::InactiveReason, Vec<Answer>) {
        let asked = pb::IntrospectRequest {
            source_ip: source.to_owned(),
            ..check(token, SITE, PERMISSION)
        };
        let one = self.caller.introspect(asked.clone()).await.unwrap();
        let mut stream = self.caller.stream().await;
        let streamed = stream.ask(asked.clone()).await.unwrap();
        let batch = pb::BatchIntrospectRequest {
            requests: vec![pb::BatchIntrospectItem {
                token: asked.token,
                check: asked.check,
                source_ip: asked.source_ip,
            }],
            at_least_revision: None,
        };
        let batched = self.caller.batch(batch).await.unwrap().responses.remove(0);
        let reason = one.inactive_reason();
        let introspections = [
            ("Introspect", one),
            ("IntrospectStream", streamed),
            ("BatchIntrospect", batched),
        ];
        let mut answers: Vec<_> = introspections
            .into_iter()
            .map(|(door, answer)| Answer {
                door,
                works: answer.active,
                text: format!("{:?}", bare(&answer)),
            })
            .collect();
        answers.push(self.envoy(token, source).await);
        answers.push(self.rfc_7662(token, source).await);
        answers.push(self.forward_auth(token, source).await);
        (reason, answers)
    }

    async fn envoy(&self, token: &str, source: &str) -> Answer {
        let socket = SocketAddress {
            address: source.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(50_000)),
            ..SocketAddress::default()
        };
        let http = HttpRequest {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: [("authorization".to_owned(), format!("Bearer {token}"))].into(),
            ..HttpRequest::default()
        };
        let settings = [("permission", PERMISSION), ("site_id", SITE)];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let request = CheckRequest {
            attributes: Some(AttributeContext {
                source: (!source.is_empty()).then(|| Peer {
                    address: Some(Address {
                        address: Some(At::SocketAddress(socket)),
                    }),
                    ..Peer::default()
                }),
                request: Some(Checked {
                    http: Some(http),
                    time: None,
                }),
                context_extensions: settings.into(),
                ..AttributeContext::default()
            }),
        };
        let mut client = AuthorizationClient::new(self.caller.channel.clone());
        let answer = client.check(self.caller.request(request)).await.unwrap();
        let answer = answer.into_inner();
        // Printed, it does not show the values of headers.
        let text = format!("{answer:?} {:?}", answer.encode_to_vec());
        Answer {
            door: "Check",
            works: answer.status.unwrap().code == 0,
            text,
        }
    }

    async fn rfc_7662(&self, token: &str, source: &str) -> Answer {
        let request = Request::post("/oauth2/introspect")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("authorization", format!("Bearer {}", self.token));
        let form = format!("token={token}&source_ip={source}");
        let (status, _, body) = self.ask(request, form).await;
        assert_eq!(status, 200, "{body}");
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        Answer {
            door: "/oauth2/introspect",
            works: json["active"].as_bool().unwrap(),
            text: body,
        }
    }

    async fn forward_auth(&self, token: &str, source: &str) -> Answer {
        let path = format!("/forward-auth?permission={PERMISSION}&site_id={SITE}");
        let mut request = Request::get(path)
            .header("x-hitkeep-caller", &self.token)
            .header("authorization", format!("Bearer {token}"));
        if !source.is_empty() {
            request = request.header("x-forwarded-for", source);
        }
        let (status, headers, body) = self.ask(request, String::new()).await;
        Answer {
            door: "/forward-auth",
            works: status == 200,
            text: format!("{status} {headers:?} {body}"),
        }
    }

    /// Asks over HTTP: the status, the headers that say something about the token, and the body.
    async fn ask(
        &self,
        request: request::Builder,
        body: String,
    ) -> (u16, BTreeMap<String, String>, String) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.http.send(Ok(theirs)).unwrap();
        let request = request.header("host", "test");
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let headers = head.headers.iter().filter(|(name, _)| {
            let name = name.as_str();
            name.starts_with("x-hitkeep-") || name == "www-authenticate"
        });
        let headers =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let text = String::from_utf8(body.into()).unwrap();
        (head.status.as_u16(), headers.collect(), text)
    }
}

#[tokio::test]
async fn every_door_says_what_that_of_the_server_says() {
    let mut options = server::Options::default();
    options.grpc.trusted_hops = 1;
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let viewer = || personal(VERA).granted(SITE, SiteRole::Viewer);
    let active = dashboard.created(viewer()).await;
    let revoked = dashboard.created(viewer()).await;
    dashboard.revoke(revoke(VERA, &revoked.id)).await.unwrap();
    let mut request = viewer();
    request.api_client.as_mut().unwrap().expire_time = Some(in_seconds(&app, 60));
    let expired = dashboard.created(request).await;
    let mut request = viewer();
    request.api_client.as_mut().unwrap().allowed_cidrs = vec!["192.0.2.0/24".to_owned()];
    let restricted = dashboard.created(request).await;
    let deleted = dashboard.created(viewer()).await;
    dashboard.delete(delete(VERA, &deleted.id)).await.unwrap();
    app.clock.advance(TimeDelta::seconds(60));
    app.settle().await;

    let gateway = Gateway::to(&app.connections);
    let mut settings = Settings::patient();
    settings.options.grpc.trusted_hops = 1;
    let caller = app.token(CallerPermission::Introspect);
    let replicate = app.token(CallerPermission::Replicate).to_owned();
    let follower = Follower::with_tokens(caller, &[&gateway], settings, replicate).await;
    follower.until_says(&active.token, Said::Active).await;
    let server = Process {
        caller: app.sidecar().await,
        http: app.http_connections.clone(),
        token: caller.to_owned(),
    };
    let replica = Process {
        caller: follower.sidecar.clone(),
        http: follower.http_connections.clone(),
        token: caller.to_owned(),
    };
    for (what, token, source, reason) in [
        ("active", &*active.token, "", None),
        ("revoked", &*revoked.token, "", Some(Revoked)),
        ("expired", &*expired.token, "", Some(Expired)),
        ("restricted", &*restricted.token, "192.0.2.1", None),
        (
            "from elsewhere",
            &*restricted.token,
            "198.51.100.1",
            Some(SourceNotAllowed),
        ),
        (
            "from an unknown address",
            &*restricted.token,
            "",
            Some(SourceNotAllowed),
        ),
        ("deleted", &*deleted.token, "", Some(UnknownToken)),
        ("malformed", "x", "", Some(UnknownToken)),
    ] {
        let (why, expected) = server.says(token, source).await;
        assert_eq!(why, reason.unwrap_or_default(), "{what}");
        for answer in &expected {
            assert_eq!(answer.works, reason.is_none(), "{what}: {answer:?}");
        }
        assert_eq!(replica.says(token, source).await, (why, expected), "{what}");
    }
}
