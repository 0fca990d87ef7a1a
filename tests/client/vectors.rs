//! The vectors that the service has written, for the crate: headers, answers, and what an index
//! inside of a program says after each step of a replication.

use std::{pin::Pin, sync::Mutex, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hitkeep_auth::pb::{
    self,
    replicate_request::Message as Asked,
    replicate_response::Message as Sent,
    replication_service_server::{ReplicationService, ReplicationServiceServer},
};
use hitkeep_auth_client::{
    Authenticator, EmbeddedOptions, Error, InactiveReason, Misconfigured, PermissionCheck,
    Principal, Question, Unavailable,
    guard::{PathAmbiguity, RouteError, token_of},
};
use prost::Message as _;
use serde_json::{Map, Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{calls::client_of, support::vectors::vectors};

#[test]
fn tokens_are_found_as_the_service_finds_them() {
    for vector in vectors("credentials") {
        let mut headers = http::HeaderMap::new();
        for header in vector["headers"].as_array().unwrap() {
            let name: http::HeaderName = text(&header[0]).parse().unwrap();
            headers.append(name, text(&header[1]).parse().unwrap());
        }
        let found = match token_of(&headers) {
            Ok(token) => json!({ "found": "token", "token": token }),
            Err(Error::NoToken) => json!({ "found": "none" }),
            Err(Error::Inactive(InactiveReason::Ambiguous)) => json!({ "found": "several" }),
            Err(other) => panic!("{other}"),
        };
        for (name, value) in found.as_object().unwrap() {
            assert_eq!(&vector[name], value, "{vector}");
        }
    }
}

#[test]
fn refusals_are_those_of_the_service() {
    let mut compared = 0;
    for vector in vectors("answers") {
        let error = match text(&vector["verdict"]) {
            "allowed" => continue,
            "no_token" => Error::NoToken,
            "inactive" => Error::Inactive(InactiveReason::Revoked),
            "forbidden" => Error::Forbidden(check(&vector).unwrap()),
            "human_only" => Error::HumanOnly,
            "cannot_tell" => Error::Unavailable(Unavailable::Loading),
            "misconfigured" => Error::Misconfigured(Misconfigured::Route(RouteError::SiteTwice)),
            "ambiguous_path" => Error::AmbiguousPath(PathAmbiguity::Path),
            "no_site" => Error::AmbiguousPath(PathAmbiguity::Site),
            other => panic!("{other}"),
        };
        let response = error.to_http::<String>();
        let headers = response.headers().iter();
        let headers: Value = headers
            .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()]))
            .collect();
        let answered = (
            json!(response.status().as_u16()),
            headers,
            json!(response.body()),
        );
        let [status, headers, body] =
            ["status", "headers", "body"].map(|part| vector[part].clone());
        assert_eq!(answered, (status, headers, body), "{vector}");
        let status = Status::from(error);
        assert_eq!(json!(status.code() as i32), vector["grpc_code"], "{vector}");
        assert_eq!(json!(status.message()), vector["description"], "{vector}");
        compared += 1;
    }
    assert!(compared > 8, "{compared}");
}

#[tokio::test]
async fn a_replication_leads_to_the_decisions_of_the_service() {
    let replication = vectors("replication").pop().unwrap();
    let steps = replication["steps"].as_array().unwrap().clone();
    let (reached, reaches) = watch::channel(0);
    let server = Played {
        now: text(&replication["now"]).parse().unwrap(),
        steps: steps.clone(),
        reaches: Mutex::new(Some(reaches)),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = Server::builder()
        .add_service(ReplicationServiceServer::new(server))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let serving = tokio::spawn(serving);
    let options = EmbeddedOptions {
        max_staleness: Duration::from_mins(10),
        refresh_timeout: Duration::from_mins(1),
        ..EmbeddedOptions::default()
    };
    let by = Authenticator::embedded(&client_of(&address, "hks_unused"), options);
    by.ready().await;
    for (at, step) in steps.iter().enumerate() {
        reached.send_replace(at);
        // The server sends the step before it answers about a token that nobody has.
        let nobodys = Question::about(UNKNOWN);
        assert!(matches!(
            by.ask(&nobodys).await,
            Err(Error::Inactive(InactiveReason::UnknownToken))
        ));
        for decision in step["decisions"].as_array().unwrap() {
            let mut question = Question::about(text(&decision["token"]));
            if let Some(source) = decision["source_ip"].as_str() {
                question = question.from(source.parse().unwrap());
            }
            if let Some(check) = check(&decision["needs"]) {
                question = question.permission(check);
            }
            let said = said(by.ask(&question).await);
            for (name, value) in said.as_object().unwrap() {
                assert_eq!(&decision[name], value, "{}: {decision}", step["what"]);
            }
        }
    }
    serving.abort();
}

/// Well-formed, and no step has it.
const UNKNOWN: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

fn check(needs: &Value) -> Option<PermissionCheck> {
    let permission = needs["permission"].as_str()?;
    Some(match needs["site"].as_str() {
        Some(site) => PermissionCheck::Site {
            site: site.parse().unwrap(),
            permission: permission.parse().unwrap(),
        },
        None => PermissionCheck::Instance(permission.parse().unwrap()),
    })
}

/// What was said, in the form of the vectors.
fn said(answer: Result<Principal, Error>) -> Value {
    let principal = match answer {
        Ok(principal) => principal,
        Err(Error::Unavailable(Unavailable::Unreadable)) => {
            return json!({ "verdict": "cannot_tell" });
        }
        Err(Error::Inactive(reason)) => {
            return json!({ "verdict": "inactive", "reason": reason.to_string() });
        }
        Err(Error::Forbidden(_)) => return json!({ "verdict": "forbidden" }),
        Err(other) => panic!("{other}"),
    };
    let roles = principal.site_roles();
    let roles: Map<String, Value> = roles
        .map(|(site, role)| (site.to_string(), role.as_str().into()))
        .collect();
    json!({
        "verdict": "allowed",
        "client_id": principal.client_id().to_string(),
        "client_name": principal.client_name(),
        "owner": principal.owner().to_string(),
        "instance_role": principal.instance_role().as_str(),
        "site_roles": roles,
        "expire_time": principal.expire_time().map(|end| end.to_rfc3339()),
    })
}

/// A server that sends the vectors' frames, and answers about them.
struct Played {
    now: hitkeep_auth_client::Timestamp,
    steps: Vec<Value>,
    /// The step that is to be sent; taken by the one stream.
    reaches: Mutex<Option<watch::Receiver<usize>>>,
}

#[tonic::async_trait]
impl ReplicationService for Played {
    type ReplicateStream =
        Pin<Box<dyn Stream<Item = Result<pb::ReplicateResponse, Status>> + Send>>;

    async fn replicate(
        &self,
        request: Request<Streaming<pb::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let mut requests = request.into_inner();
        let taken = self.reaches.lock().unwrap().take();
        let mut reaches = taken.ok_or(Status::internal("a second stream"))?;
        let (sender, responses) = mpsc::channel(100);
        let (steps, now) = (self.steps.clone(), self.now);
        tokio::spawn(async move {
            let send = async |message: Sent| {
                let message = Some(message);
                drop(sender.send(Ok(pb::ReplicateResponse { message })).await);
            };
            let mut sent = None;
            while let Ok(Some(request)) = requests.message().await {
                let Some(Asked::Question(question)) = request.message else {
                    continue;
                };
                let step = *reaches.borrow_and_update();
                if sent != Some(step) {
                    for frame in steps[step]["frames"].as_array().unwrap() {
                        let frame = BASE64.decode(text(frame)).unwrap();
                        let frame = pb::ReplicateResponse::decode(&*frame).unwrap();
                        send(frame.message.unwrap()).await;
                    }
                    sent = Some(step);
                }
                send(Sent::Answer(answer(question.number, &steps[step], now))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn report_usage(
        &self,
        _: Request<pb::ReportUsageRequest>,
    ) -> Result<Response<pb::ReportUsageResponse>, Status> {
        Ok(Response::new(pb::ReportUsageResponse {}))
    }
}

fn answer(number: u64, step: &Value, now: hitkeep_auth_client::Timestamp) -> pb::ReplicationAnswer {
    let bytes = |name: &str| {
        let hex = text(&step["position"][name]);
        let digits = hex.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    };
    pb::ReplicationAnswer {
        number,
        position: Some(pb::Position {
            database_id: bytes("database_id"),
            revision: step["position"]["revision"].as_u64().unwrap(),
            nonce: bytes("nonce"),
        }),
        staleness: Some(prost_types::Duration::default()),
        now: Some(prost_types::Timestamp {
            seconds: now.timestamp(),
            nanos: 0,
        }),
        error: None,
    }
}
