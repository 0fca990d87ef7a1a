//! Replacements of the directory, which are rare and large: few at once.
//!
//! There are so few permits that calls with invented tokens would hold them all while they wait
//! for the index. So a replacement takes its permit once its caller is known.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::{calls::method::REPLACE_DIRECTORY, grpc::error::ApiError};

/// How many may be authenticated at once.
const MAX_UNAUTHENTICATED: usize = 256;

#[derive(Debug)]
pub(super) struct Replacements {
    authenticated: Semaphore,
    unauthenticated: Arc<Semaphore>,
}

/// Held by a call until its caller is known.
#[derive(Clone)]
struct Unauthenticated(#[expect(dead_code, reason = "it is held")] Arc<OwnedSemaphorePermit>);

impl Replacements {
    /// Admits so many at once.
    pub(super) fn of(max: usize) -> Arc<Self> {
        Arc::new(Self {
            authenticated: Semaphore::new(max),
            unauthenticated: Arc::new(Semaphore::new(MAX_UNAUTHENTICATED)),
        })
    }
}

/// Admits a replacement to authentication.
pub(super) async fn authenticate(
    replacements: &Replacements,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok(permit) = Arc::clone(&replacements.unauthenticated).try_acquire_owned() else {
        return Status::from(ApiError::Overloaded).into_http();
    };
    let permit = Unauthenticated(Arc::new(permit));
    request.extensions_mut().insert(permit);
    next.run(request).await
}

/// Admits a replacement whose caller is known; passes other calls on.
pub(super) async fn limit(
    State(replacements): State<Arc<Replacements>>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.uri().path() != REPLACE_DIRECTORY {
        return next.run(request).await;
    }
    drop(request.extensions_mut().remove::<Unauthenticated>());
    match replacements.authenticated.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => Status::from(ApiError::Overloaded).into_http(),
    }
}
