//! Asking over HTTP: one request on a connection of its own, and all that comes back.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::DuplexStream;

use crate::harness::TestApp;

/// How much a memory connection holds before its writer waits.
const DUPLEX_BYTES: usize = 64 * 1024;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    /// All values of a header, in one line.
    pub fn header(&self, name: &str) -> Option<String> {
        let values = self.headers.get_all(name).iter();
        let values: Vec<_> = values.map(|value| value.to_str().unwrap()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type").unwrap(), "application/json");
        assert_eq!(self.header("cache-control").unwrap(), "no-store");
        serde_json::from_str(&self.body).expect(&self.body)
    }

    /// Status and the word that says why: `401 invalid_token`.
    pub fn told(&self) -> String {
        let status = self.status.as_u16();
        if self.body.is_empty() {
            return status.to_string();
        }
        let body = self.json();
        assert!(!body["error_description"].as_str().unwrap().is_empty());
        assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
        format!("{status} {}", body["error"].as_str().unwrap())
    }
}

/// A POST of a form.
pub fn form(path: &str) -> request::Builder {
    let kind = "application/x-www-form-urlencoded";
    Request::post(path).header("content-type", kind)
}

pub fn get(path: &str) -> request::Builder {
    Request::builder().method(Method::GET).uri(path)
}

/// Credentials in HTTP Basic.
pub fn basic(name: &str, password: &str) -> String {
    let encoded = BASE64_STANDARD.encode(format!("{name}:{password}"));
    format!("Basic {encoded}")
}

impl TestApp {
    /// Our end of a new connection to the HTTP listener.
    pub fn http_connection(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
        self.connect_http(theirs);
        ours
    }

    /// Asks over HTTP/1.1.
    pub async fn ask(&self, request: request::Builder, body: impl Into<Bytes>) -> Answer {
        ask_on(self.http_connection(), request, body).await
    }

    /// Asks over HTTP/2, without asking first whether that is spoken.
    pub async fn ask_http2(&self, request: request::Builder, body: impl Into<Bytes>) -> Answer {
        let request = request.body(Full::new(body.into())).unwrap();
        let io = TokioIo::new(self.http_connection());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        received(sender.send_request(request).await.unwrap()).await
    }
}

/// Asks over HTTP/1.1 on that connection.
pub async fn ask_on(
    connection: DuplexStream,
    request: request::Builder,
    body: impl Into<Bytes>,
) -> Answer {
    let request = request.header("host", "test");
    let request = request.body(Full::new(body.into())).unwrap();
    let io = TokioIo::new(connection);
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    received(sender.send_request(request).await.unwrap()).await
}

async fn received(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.into()).unwrap(),
    }
}
