//! The layer for HTTP servers.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, StatusCode, header::HeaderName};
use tower::{Layer, Service};

use super::Policy;
use crate::{authenticator::Authenticator, error::Error};

/// Lets only those requests pass to an HTTP service whose token does, with the
/// [`Principal`](crate::Principal) in their extensions. Others are answered like by the
/// service's own endpoints for proxies ([`Error::to_http`]).
///
/// Put what answers CORS preflights in front of it: these never have a token.
#[derive(Clone, Debug)]
pub struct HttpGuardLayer {
    authenticator: Authenticator,
    policy: Arc<Policy>,
}

/// What [`HttpGuardLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct HttpGuard<S> {
    inner: S,
    layer: HttpGuardLayer,
}

impl HttpGuardLayer {
    /// A layer with that policy for all requests.
    pub fn new(authenticator: Authenticator, policy: Policy) -> Self {
        Self {
            authenticator,
            policy: Arc::new(policy),
        }
    }
}

impl<S> Layer<S> for HttpGuardLayer {
    type Service = HttpGuard<S>;

    fn layer(&self, inner: S) -> HttpGuard<S> {
        HttpGuard {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S, B, R> Service<Request<B>> for HttpGuard<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: From<String>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let HttpGuardLayer {
            authenticator,
            policy,
        } = self.layer.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match policy.authorize(&authenticator, &parts).await {
                Ok(principal) => {
                    if let Some(principal) = principal {
                        parts.extensions.insert(principal);
                    }
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(error) => Ok(error.to_http()),
            }
        })
    }
}

impl Error {
    /// The status that a client is answered with.
    pub fn http_status(&self) -> StatusCode {
        StatusCode::from_u16(self.refused().answer().status)
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The answer to a request that may not pass, as the service's own endpoints for proxies
    /// have it: a challenge after RFC 6750, and a body of JSON. If it is unknown whether the
    /// token works, that is 503 with `retry-after`. Why a token is inactive is not revealed.
    pub fn to_http<B: From<String>>(&self) -> Response<B> {
        let answer = self.refused().answer();
        let mut response = Response::new(B::from(answer.body.into_owned()));
        *response.status_mut() = self.http_status();
        for (name, value) in answer.headers {
            let value = HeaderValue::try_from(&*value).expect("its values are visible ASCII");
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
        response
    }
}
