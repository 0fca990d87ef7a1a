//! The HTTP client of the exporters. They run on threads without a runtime, so requests are
//! sent on the runtime on which the client was made.

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

use super::tls::{self, CollectorTlsError};
use crate::telemetry::settings::Collector;

/// The longest response that is read; useful ones are far shorter.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

pub(super) struct CollectorClient {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    headers: HeaderMap,
    timeout: Duration,
    runtime: Handle,
    cause: LastCause,
}

/// The cause of the last failure. The SDK's error does not contain it, and without it a
/// wrong port looks like a wrong certificate.
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

    /// Returns the cause, and forgets it.
    pub(super) fn take(&self) -> Option<String> {
        let mut cause = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cause.take()
    }
}

impl fmt::Debug for CollectorClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The headers may contain a secret.
        f.write_str("CollectorClient")
    }
}

impl CollectorClient {
    /// A client that uses the current runtime.
    pub(super) fn new(collector: &Collector, cause: LastCause) -> Result<Self, CollectorTlsError> {
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
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request).await;
        if let Err(error) = &answer {
            self.cause.note(&**error);
        }
        answer
    }
}
