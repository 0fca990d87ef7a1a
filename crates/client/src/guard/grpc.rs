//! The layer for gRPC servers.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tonic::{Code, Status, metadata::AsciiMetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

use super::Methods;
use crate::{authenticator::Authenticator, error::Error};

/// How long a client should wait before it asks again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Lets only those calls pass to a gRPC server whose token does, with the
/// [`Principal`](crate::Principal) in their extensions. The token is in the metadata, as in
/// the headers of HTTP ([`token_of`](super::token_of)). Of a stream, it is checked when that
/// begins, and not again.
///
/// It is given to [`tonic::transport::Server`]'s `layer`.
#[derive(Clone, Debug)]
pub struct GrpcGuardLayer {
    authenticator: Authenticator,
    methods: Arc<Methods>,
}

/// What [`GrpcGuardLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct GrpcGuard<S> {
    inner: S,
    layer: GrpcGuardLayer,
}

impl GrpcGuardLayer {
    /// A layer with what the methods need.
    pub fn new(authenticator: Authenticator, methods: Methods) -> Self {
        Self {
            authenticator,
            methods: Arc::new(methods),
        }
    }
}

impl<S> Layer<S> for GrpcGuardLayer {
    type Service = GrpcGuard<S>;

    fn layer(&self, inner: S) -> GrpcGuard<S> {
        GrpcGuard {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S, B, R> Service<Request<B>> for GrpcGuard<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The one that is ready.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let GrpcGuardLayer {
            authenticator,
            methods,
        } = self.layer.clone();
        Box::pin(async move {
            let (path, metadata) = (request.uri().path(), request.headers());
            let authorized =
                methods.authorize(&authenticator, path, metadata, request.extensions());
            match authorized.await {
                Ok(principal) => {
                    if let Some(principal) = principal {
                        request.extensions_mut().insert(principal);
                    }
                    inner.call(request).await
                }
                Err(error) => Ok(Status::from(error).into_http()),
            }
        })
    }
}

impl Error {
    /// The code that a caller is answered with.
    pub const fn grpc_code(&self) -> Code {
        match self {
            Self::NoToken | Self::Inactive(_) => Code::Unauthenticated,
            Self::Forbidden(_) | Self::HumanOnly => Code::PermissionDenied,
            Self::Unavailable(_) => Code::Unavailable,
            Self::AmbiguousPath(_) => Code::InvalidArgument,
            Self::Misconfigured(_) => Code::Internal,
        }
    }
}

/// The answer of a gRPC server. Why a token is inactive is not revealed, nor what a question
/// failed with, which may be that the service does not know this program.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let description = error.refused().description();
        let Error::Unavailable(_) = error else {
            return Self::new(error.grpc_code(), description);
        };
        let details = ErrorDetails::with_retry_info(Some(RETRY_DELAY));
        let mut status = Self::with_error_details(error.grpc_code(), description, details);
        let seconds = AsciiMetadataValue::from(RETRY_DELAY.as_secs());
        status.metadata_mut().insert("retry-after", seconds);
        status
    }
}
