//! The doors of the service: each way of asking about a token, and what was said, in
//! words that all of them share.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use hitkeep_auth::pb::{
    ErrorReason, InactiveReason, IntrospectRequest, IntrospectResponse,
    envoy::service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse,
        attribute_context::{HttpRequest, Request},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
    introspection_service_client::IntrospectionServiceClient,
};

use crate::support::{
    calls,
    population::Known,
    service::{Caller, Service},
};

/// How long an answer is waited for where the caller can say so.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long the server waits where the caller cannot: `--request-timeout`.
const SERVERS_DEADLINE: Duration = Duration::from_secs(10);
/// How long the server may take beyond either before it is a failure of its own.
const GRACE: Duration = Duration::from_secs(1);
/// What a proxy asks for on the client's first site, where every client has a role.
const PERMISSION: &str = "site.view";

/// A way of asking about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// A call for each question.
    Introspect,
    /// A stream that stays open.
    Stream,
    /// Envoy's `ext_authz`.
    Check,
    /// Introspection as RFC 7662 has it.
    Oauth,
    /// What nginx, Caddy and Traefik ask.
    ForwardAuth,
}

/// What was said about a token.
pub enum Answer {
    /// It works.
    Active,
    /// It does not, and why.
    Inactive(String),
    /// Allowed: the service cannot tell.
    None(String),
    /// The service did what it must not do.
    Failure(String),
}

/// Somebody at a door of one server. Asks one question at a time.
pub struct Asker {
    caller: Caller,
    way: Way,
}

enum Way {
    Introspect(IntrospectionServiceClient<Channel>),
    Stream {
        service: IntrospectionServiceClient<Channel>,
        open: Option<Open>,
    },
    Check(AuthorizationClient<Channel>),
    Http {
        client: Client<HttpConnector, Full<Bytes>>,
        address: String,
        door: Door,
    },
}

/// A stream on which every question so far was answered.
struct Open {
    requests: mpsc::Sender<IntrospectRequest>,
    answers: Streaming<IntrospectResponse>,
}

impl Door {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Introspect,
        Self::Stream,
        Self::Check,
        Self::Oauth,
        Self::ForwardAuth,
    ];

    /// What it is called in a table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Introspect => "Introspect",
            Self::Stream => "IntrospectStream",
            Self::Check => "Envoy's Check",
            Self::Oauth => "/oauth2/introspect",
            Self::ForwardAuth => "/forward-auth",
        }
    }
}

impl Asker {
    /// One at that door, on a connection of its own.
    pub async fn at(door: Door, server: &Service, caller: &Caller) -> Self {
        let way = match door {
            Door::Introspect => {
                Way::Introspect(IntrospectionServiceClient::new(server.connect().await))
            }
            Door::Stream => Way::Stream {
                service: IntrospectionServiceClient::new(server.connect().await),
                open: None,
            },
            Door::Check => Way::Check(AuthorizationClient::new(server.connect().await)),
            Door::Oauth | Door::ForwardAuth => Way::Http {
                client: Client::builder(TokioExecutor::new()).build_http(),
                address: server.http_address().expect("HTTP is asked for").to_owned(),
                door,
            },
        };
        Self {
            caller: caller.clone(),
            way,
        }
    }

    /// What is said about a client's token.
    pub async fn ask(&mut self, client: &Known) -> Answer {
        let Self { caller, way } = self;
        let limit = match way {
            Way::Introspect(_) | Way::Check(_) => DEADLINE,
            Way::Stream { .. } | Way::Http { .. } => SERVERS_DEADLINE,
        };
        let asked = async {
            match way {
                Way::Introspect(service) => {
                    let mut request = caller.says(calls::introspect(&client.token));
                    request.set_timeout(DEADLINE);
                    let answer = service
                        .introspect(request)
                        .await
                        .map(tonic::Response::into_inner);
                    answer.map(|answer| said(answer.active, answer.inactive_reason()))
                }
                Way::Stream { service, open } => {
                    // Whatever ends in between, an answer that is late included, ends it.
                    let before = open.take();
                    let (stream, answer) = stream(before, service, caller, client).await?;
                    *open = Some(stream);
                    Ok(streamed(&answer))
                }
                Way::Check(service) => {
                    let mut request = caller.says(check(client));
                    request.set_timeout(DEADLINE);
                    service
                        .check(request)
                        .await
                        .map(|answer| checked(answer.into_inner()))
                }
                Way::Http {
                    client: http,
                    address,
                    door,
                } => {
                    let request = http_request(*door, address, caller, client);
                    Ok(over_http(*door, http, request).await)
                }
            }
        };
        match timeout(limit + GRACE, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => classify(&status),
            Err(_) => Answer::Failure("no answer long after the deadline".to_owned()),
        }
    }
}

fn said(active: bool, reason: InactiveReason) -> Answer {
    if active {
        Answer::Active
    } else {
        Answer::Inactive(reason.as_str_name().to_owned())
    }
}

/// Not to answer is allowed where the service says that it cannot, or runs out
/// of time; anything else is a defect.
fn classify(status: &Status) -> Answer {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    unanswered(status.code(), &reason.unwrap_or_default())
}

fn unanswered(code: Code, reason: &str) -> Answer {
    let text = format!("{code:?} {reason}");
    match code {
        // The client's side of the deadline says Cancelled.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Answer::None(text),
        _ => Answer::Failure(text),
    }
}

/// Asks on the stream that is open, or on a new one.
async fn stream(
    open: Option<Open>,
    service: &mut IntrospectionServiceClient<Channel>,
    caller: &Caller,
    client: &Known,
) -> Result<(Open, IntrospectResponse), Status> {
    let request = calls::introspect(&client.token);
    let mut open = if let Some(open) = open {
        // Where the stream has ended, its end is the answer.
        open.requests.send(request).await.ok();
        open
    } else {
        let (requests, taken) = mpsc::channel(1);
        requests.send(request).await.expect("it is empty");
        let stream = caller.says(ReceiverStream::new(taken));
        let answers = service.introspect_stream(stream).await?.into_inner();
        Open { requests, answers }
    };
    let answer = open.answers.message().await?;
    let answer = answer.ok_or_else(|| Status::internal("the stream ended without a word"))?;
    Ok((open, answer))
}

fn streamed(answer: &IntrospectResponse) -> Answer {
    match &answer.error {
        None => said(answer.active, answer.inactive_reason()),
        Some(error) => {
            let reason = ErrorReason::try_from(error.reason).unwrap_or_default();
            // As the status of a call of its own has it.
            let reason = reason.as_str_name().trim_start_matches("ERROR_REASON_");
            unanswered(Code::from(error.code), reason)
        }
    }
}

fn check(client: &Known) -> CheckRequest {
    let settings = [("permission", PERMISSION), ("site_id", &client.sites[0])];
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let bearer = format!("Bearer {}", client.token);
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request {
                http: Some(HttpRequest {
                    method: "GET".to_owned(),
                    path: "/hits".to_owned(),
                    headers: [text(("authorization", &bearer))].into(),
                    ..HttpRequest::default()
                }),
                ..Request::default()
            }),
            context_extensions: settings.map(text).into(),
            ..AttributeContext::default()
        }),
    }
}

fn checked(answer: CheckResponse) -> Answer {
    match answer.http_response {
        Some(HttpResponse::OkResponse(_)) => Answer::Active,
        Some(HttpResponse::DeniedResponse(denied)) => {
            let status = denied.status.map(|status| status.code).unwrap_or_default();
            let status = u16::try_from(status).unwrap_or_default();
            refused(StatusCode::from_u16(status).unwrap_or_default())
        }
        other => Answer::Failure(format!("{other:?}")),
    }
}

/// What a proxy is told of a request that must not pass. That a role is too low is never
/// true here.
fn refused(status: StatusCode) -> Answer {
    match status {
        StatusCode::UNAUTHORIZED => Answer::Inactive("401".to_owned()),
        StatusCode::SERVICE_UNAVAILABLE => Answer::None("503".to_owned()),
        other => Answer::Failure(other.to_string()),
    }
}

fn http_request(
    door: Door,
    address: &str,
    caller: &Caller,
    client: &Known,
) -> http::Request<Full<Bytes>> {
    let request = http::Request::builder();
    let bearer = |token: &str| format!("Bearer {token}");
    let request = if door == Door::Oauth {
        let form = format!("token={}", client.token);
        request
            .method(Method::POST)
            .uri(format!("http://{address}/oauth2/introspect"))
            .header("authorization", bearer(&caller.token))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(form))
    } else {
        let site = &client.sites[0];
        let query = format!("permission={PERMISSION}&site_id={site}");
        request
            .uri(format!("http://{address}/forward-auth?{query}"))
            .header("authorization", bearer(&client.token))
            .header("x-hitkeep-caller", &caller.token)
            .header("x-forwarded-uri", "/hits")
            .body(Full::default())
    };
    request.expect("its parts are well-formed")
}

async fn over_http(
    door: Door,
    client: &Client<HttpConnector, Full<Bytes>>,
    request: http::Request<Full<Bytes>>,
) -> Answer {
    let answer = match client.request(request).await {
        Ok(answer) => answer,
        Err(error) => return Answer::Failure(format!("no HTTP: {error}")),
    };
    let status = answer.status();
    let body = match answer.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Answer::Failure(format!("half an answer: {error}")),
    };
    match (door, status) {
        (Door::Oauth, StatusCode::OK) => {
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            match body["active"].as_bool() {
                Some(true) => Answer::Active,
                Some(false) => Answer::Inactive("active: false".to_owned()),
                None => Answer::Failure(format!("no answer in {body}")),
            }
        }
        // There, the refused one would be the caller.
        (Door::Oauth, StatusCode::UNAUTHORIZED) => Answer::Failure(status.to_string()),
        (_, StatusCode::OK) => Answer::Active,
        (_, refusal) => refused(refusal),
    }
}
