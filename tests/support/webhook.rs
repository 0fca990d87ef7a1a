//! A receiver of events: it hands each request to the test, which answers when it likes, and
//! checks what is signed with a computation of its own.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA256, digest};
use rustls::{ServerConfig, crypto::ring::default_provider, pki_types::PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{certificates::Identity, waiting::within};

/// The page that says what is sent.
const PAGE: &str = include_str!("../../docs/events.md");

/// A receiver at an address of its own.
pub struct Receiver {
    pub address: SocketAddr,
    scheme: &'static str,
    requests: mpsc::UnboundedReceiver<Received>,
    task: JoinHandle<()>,
}

/// A request that waits for its answer. Without one, its connection is closed.
pub struct Received {
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
    answer: oneshot::Sender<Response<Full<hyper::body::Bytes>>>,
}

impl Receiver {
    pub async fn start() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// A receiver at that address, where one may have been before.
    pub async fn at(address: SocketAddr) -> Self {
        Self::serve(address, None).await
    }

    /// A receiver that shows that certificate.
    pub async fn encrypted(identity: &Identity) -> Self {
        let key = PrivatePkcs8KeyDer::from(identity.key.serialize_der());
        let certificate = identity.certificate.der().clone();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        Self::serve(SocketAddr::from(([127, 0, 0, 1], 0)), Some(tls)).await
    }

    async fn serve(address: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind(address).await.expect("it is free");
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            // With it go its connections.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let (sender, tls) = (sender.clone(), tls.clone());
                let service = service_fn(move |request| receive(sender.clone(), request));
                connections.spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    // Ends as the other end likes.
                    let Some(tls) = tls else {
                        let serving = http.serve_connection(TokioIo::new(connection), service);
                        return drop(serving.await);
                    };
                    if let Ok(connection) = tls.accept(connection).await {
                        let serving = http.serve_connection(TokioIo::new(connection), service);
                        drop(serving.await);
                    }
                });
            }
        });
        Self {
            address,
            scheme,
            requests,
            task,
        }
    }

    pub fn url(&self) -> String {
        let Self {
            address, scheme, ..
        } = self;
        format!("{scheme}://{address}/events?key=unguessable")
    }

    /// The next request.
    pub async fn next(&mut self) -> Received {
        within("an event", self.requests.recv())
            .await
            .expect("the receiver runs")
    }

    /// The next request's event, which is accepted.
    pub async fn accept(&mut self) -> Value {
        let received = self.next().await;
        let event = received.event();
        received.answer(200);
        event
    }

    /// A request that has arrived, if there is one.
    pub fn arrived(&mut self) -> Option<Received> {
        self.requests.try_recv().ok()
    }

    /// Ends it, with its connections.
    pub async fn end(mut self) {
        self.task.abort();
        (&mut self.task).await.ok();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(
    sender: mpsc::UnboundedSender<Received>,
    request: Request<Incoming>,
) -> Result<Response<Full<hyper::body::Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "/events?key=unguessable");
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes().to_vec();
    let (answer, answered) = oneshot::channel();
    let received = Received {
        headers: head.headers,
        body,
        answer,
    };
    sender.send(received).ok();
    Ok(answered.await?)
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The event: a whole one, in structured mode.
    pub fn event(&self) -> Value {
        let media_type = "application/cloudevents+json; charset=utf-8";
        assert_eq!(self.header("content-type"), media_type);
        let event: Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["id"], self.header("webhook-id"));
        assert_eq!(event["subject"], event["data"]["client_id"]);
        assert_documented(&event);
        event
    }

    /// Whether one of its signatures is made with that secret.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap());
        let (id, time) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let mut content = format!("{id}.{time}.").into_bytes();
        content.extend(&self.body);
        let wanted = format!(
            "v1,{}",
            STANDARD.encode(hmac_sha256(&key.unwrap(), &content))
        );
        let mut signatures = self.header("webhook-signature").split(' ');
        signatures.any(|signature| signature == wanted)
    }

    /// Answers with a status.
    pub fn answer(self, status: u16) {
        self.answer_with(status, &[]);
    }

    /// The same, with headers.
    pub fn answer_with(self, status: u16, headers: &[(&str, &str)]) {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        let body = Full::new("an answer".into());
        // The other end may be gone.
        self.answer.send(answer.body(body).unwrap()).ok();
    }
}

/// Requires that an event has the fields that the page's example of its type has. Some are
/// there at times only.
fn assert_documented(event: &Value) {
    let blocks = PAGE.split("```json").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().expect("its end"));
    let mut examples = blocks.map(|block| serde_json::from_str::<Value>(block).expect(block));
    let example = examples.find(|example| example["type"] == event["type"]);
    let example = example.unwrap_or_else(|| panic!("no example of {event}"));
    let names = |value: &Value| -> Vec<String> {
        let fields = value.as_object().expect("an object");
        let at_times = ["actor_user_id", "caller", "expire_time"];
        let always = fields.keys().filter(|name| !at_times.contains(&&***name));
        let mut names: Vec<_> = always.cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&event["data"]), names(&example["data"]), "{event}");
    for name in event["data"].as_object().unwrap().keys() {
        assert!(example["data"].get(name).is_some(), "{name} of {event}");
    }
    if example.get("specversion").is_some() {
        assert_eq!(names(event), names(&example));
    }
}

/// The end of an event's type, such as `created`.
pub fn kind(event: &Value) -> String {
    let kind = event["type"].as_str().expect("a type");
    let kind = kind.strip_prefix("com.hitkeep.auth.api_client.");
    kind.expect("one of ours").to_owned()
}

/// HMAC by its definition (RFC 2104).
fn hmac_sha256(key: &[u8], content: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64);
    let pad = |with: u8| -> Vec<u8> {
        let mut block = [with; 64];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block.to_vec()
    };
    let inner = digest(&SHA256, &[pad(0x36), content.to_vec()].concat());
    let outer = [pad(0x5c), inner.as_ref().to_vec()].concat();
    digest(&SHA256, &outer).as_ref().to_vec()
}
