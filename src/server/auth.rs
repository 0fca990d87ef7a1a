//! Authenticates callers and checks their permissions.
//!
//! Every method except health and reflection requires an authenticated caller, even a
//! method that does not exist: an unknown caller must not learn which methods exist.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, extract::State, middleware::Next, response::Response};
use http::Request;
use tokio::time::Instant;
use tonic::Status;

use crate::{
    calls::{credentials, method::Access},
    grpc::{
        Services,
        context::{CallerSlot, Deadline},
    },
};

/// How long a call without a deadline may wait for the index that authenticates its caller.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Attaches the authenticated caller to a request, or refuses it.
pub(super) async fn authenticate(
    State(services): State<Arc<Services>>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let needed = match Access::of(request.uri().path()) {
        Access::Health | Access::Reflection => return next.run(request).await,
        Access::Permitted(permission) => Some(permission),
        Access::Authenticated => None,
    };
    let deadline = request.extensions().get::<Deadline>().copied();
    // Streams have no deadline; authentication does not take long in any case.
    let wait_until = deadline.map_or_else(|| Instant::now() + MAX_WAIT, |deadline| deadline.0);
    match services
        .authenticate_caller(credentials::proof(&request), needed, wait_until)
        .await
    {
        Ok(caller) => {
            CallerSlot::record(request.extensions(), &caller);
            if let Some(secret) = credentials::secret(&request, needed) {
                request.extensions_mut().insert(secret);
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => Status::from(error).into_http(),
    }
}
