//! The client that exports over HTTP. The SDK's exporters run on threads of their own,
//! which have no runtime: what they send goes out on the one that this was made on.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use tokio::runtime::Handle;

use super::tls::{self, TlsError};
use crate::telemetry::settings::Collector;

/// The longest answer that is read: more than any that says something.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A client for one collector.
pub(super) struct Client {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    headers: HeaderMap,
    timeout: Duration,
    runtime: Handle,
    cause: LastCause,
}

/// What was behind the last failure. The SDK keeps it to itself, and without it nobody
/// could tell a wrong port from a wrong certificate.
#[derive(Clone, Default)]
pub(super) struct LastCause(Arc<Mutex<Option<String>>>);

impl LastCause {
    fn note(&self, error: &(dyn Error + 'static)) {
        let mut cause = error.to_string();
        let mut behind = error.source();
        while let Some(error) = behind {
            cause = format!("{cause}: {error}");
            behind = error.source();
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
    }

    /// What it was, once.
    pub(super) fn take(&self) -> Option<String> {
        let mut cause = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cause.take()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be a secret in the headers.
        f.write_str("Client")
    }
}

impl Client {
    /// A client that works on the runtime that this is called on.
    pub(super) fn new(collector: &Collector, cause: LastCause) -> Result<Self, TlsError> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::for_http(collector)?)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            client: legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .build(connector),
            headers: collector.headers.iter().cloned().collect(),
            timeout: collector.timeout,
            runtime: Handle::current(),
            cause,
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut request = request.map(Full::new);
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        let client = self.client.clone();
        let answered = async move {
            let (head, body) = client.request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        let limit = self.timeout;
        let answered = async move { tokio::time::timeout(limit, answered).await };
        self.runtime.spawn(answered).await??
    }
}

#[tonic::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request).await;
        if let Err(error) = &answer {
            self.cause.note(&**error);
        }
        answer
    }
}
