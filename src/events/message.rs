//! One attempt to deliver one event: a signed `CloudEvent` in structured mode, and what the
//! receiver made of it.

use std::{error::Error, path::PathBuf, time::Duration};

use chrono::SecondsFormat;
use http::{
    HeaderValue, Request, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{Endpoint, SigningKeys};
use crate::{
    client::tls::{Authorities, Certificates, TlsError},
    domain::Timestamp,
    store::{outbox::OutboxEvent, tls::distrustful_client_config},
};

/// The media type of a `CloudEvent` in structured mode.
const CLOUD_EVENT: HeaderValue =
    HeaderValue::from_static("application/cloudevents+json; charset=utf-8");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("hitkeep-auth/", env!("CARGO_PKG_VERSION")));
/// The attribute `source` of all events.
const SOURCE: &str = "/hitkeep-auth";
/// The most of a response's body that is read; what it says is of no interest, but a
/// connection can be used again only after its end.
const MAX_RESPONSE_BYTES: usize = 16 * 1024;
/// How long a connection may be idle before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest delay that a receiver can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Sends events to one endpoint. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Endpoint,
    timeout: Duration,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    /// The receiver wants no more events.
    Gone,
    /// The receiver may not have the event.
    Failed {
        /// Whether the receiver is there, and refuses this event alone as far as is known.
        is_rejected: bool,
        /// The class of the failure.
        why: String,
        /// The shortest delay before the next attempt that the receiver asks for.
        retry_after: Option<Duration>,
    },
}

impl Sender {
    /// A sender that trusts the authorities of a file, or those of the system. Blocks on the
    /// file system.
    pub(super) fn new(
        endpoint: Endpoint,
        authorities: Option<PathBuf>,
        timeout: Duration,
    ) -> Result<Self, TlsError> {
        let tls = if endpoint.is_encrypted() {
            let authorities = authorities.map_or(Authorities::System, Authorities::File);
            let identity = None;
            Certificates {
                authorities,
                identity,
            }
            .client_config()?
        } else {
            // Not used for http://.
            distrustful_client_config()
        };
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls);
        // It follows no redirects: an event is for the configured receiver alone.
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector.https_or_http().enable_http1().build());
        Ok(Self {
            client,
            endpoint,
            timeout,
        })
    }

    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends an event once.
    pub(super) async fn send(
        &self,
        event: &OutboxEvent,
        keys: &SigningKeys,
        now: Timestamp,
    ) -> Answer {
        let deadline = Instant::now() + self.timeout;
        let request = self.client.request(self.request(event, keys, now));
        let response = match timeout_at(deadline, request).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let what = if error.is_connect() {
                    "no connection"
                } else {
                    "no response"
                };
                return Answer::failed(format!("{what}: {}", deepest(&error)));
            }
            Err(_) => {
                let seconds = self.timeout.as_secs_f64();
                return Answer::failed(format!("no response within {seconds} s"));
            }
        };
        let (head, body) = response.into_parts();
        // The answer is complete without it. A body that is too long or too slow costs the
        // connection.
        let rest = Limited::new(body, MAX_RESPONSE_BYTES).collect();
        drop(timeout_at(deadline, rest).await);
        match head.status {
            status if status.is_success() => Answer::Accepted,
            StatusCode::GONE => Answer::Gone,
            status => {
                let is_away = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                let after = head.headers.get(RETRY_AFTER);
                let after = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
                Answer::Failed {
                    is_rejected: status.is_client_error() && !is_away.contains(&status),
                    why: format!("status {}", status.as_u16()),
                    retry_after: after
                        .map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER)),
                }
            }
        }
    }

    fn request(
        &self,
        event: &OutboxEvent,
        keys: &SigningKeys,
        now: Timestamp,
    ) -> Request<Full<Bytes>> {
        let id = event.id.to_string();
        let body = cloud_event(event);
        let seconds = now.timestamp();
        Request::post(self.endpoint.uri())
            .header(CONTENT_TYPE, CLOUD_EVENT)
            .header(USER_AGENT, AGENT)
            .header("webhook-signature", keys.sign(&id, seconds, &body))
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .body(Full::new(body.into()))
            .expect("all headers are ASCII")
    }
}

impl Answer {
    const fn failed(why: String) -> Self {
        Self::Failed {
            is_rejected: false,
            why,
            retry_after: None,
        }
    }
}

/// The innermost cause, which is the one that says something.
fn deepest(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The event as JSON. The same bytes for each attempt, so that they can be compared.
fn cloud_event(event: &OutboxEvent) -> Vec<u8> {
    json!({
        "specversion": "1.0",
        "id": event.id,
        "source": SOURCE,
        "type": event.event_type,
        "subject": event.client_id,
        "time": event.create_time.to_rfc3339_opts(SecondsFormat::Micros, true),
        "datacontenttype": "application/json",
        // Of a fixed length, so that the order of the texts is that of the numbers.
        "sequence": format!("{:020}", event.sequence),
        "data": event.data,
    })
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_event_is_a_cloud_event_in_structured_mode() {
        let event = OutboxEvent {
            sequence: 42,
            id: Uuid::from_u128(1),
            client_id: Uuid::from_u128(2),
            event_type: "com.hitkeep.auth.api_client.revoked".to_owned(),
            data: json!({ "client_id": Uuid::from_u128(2) }),
            create_time: "2026-03-01T12:00:00Z".parse().unwrap(),
            try_until: "2026-03-04T12:00:00Z".parse().unwrap(),
            attempts: 0,
        };
        let text = String::from_utf8(cloud_event(&event)).unwrap();
        assert_eq!(
            text,
            r#"{"specversion":"1.0","id":"00000000-0000-0000-0000-000000000001","source":"/hitkeep-auth","type":"com.hitkeep.auth.api_client.revoked","subject":"00000000-0000-0000-0000-000000000002","time":"2026-03-01T12:00:00.000000Z","datacontenttype":"application/json","sequence":"00000000000000000042","data":{"client_id":"00000000-0000-0000-0000-000000000002"}}"#
        );
    }
}
