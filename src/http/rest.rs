//! The routes under `/api/user` with which HitKeep's dashboard manages API clients, for a
//! HitKeep that hands these requests on unchanged: the same paths, bodies, replies and
//! statuses. Off unless `--hitkeep-rest` is set.
//!
//! The end client's own credentials travel along in `authorization` and `cookie`, and are
//! never read. HitKeep authenticates itself, and names the person, in headers of its own.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post, put},
};
use http::{Method, StatusCode};
use tokio::time::{Instant, timeout_at};

mod body;
mod reply;
mod scope;

use super::HttpState;
use crate::{
    calls::{admission::CallKind, credentials},
    domain::caller::CallerPermission,
    grpc::{
        Management,
        context::{CallerSlot, Deadline, Proof},
        error::ApiError,
    },
};
use body::{CreateBody, Json, ReplaceBody};
use reply::Refused;
pub(super) use reply::internal_error;
use scope::{OnOneClient, Scope};

/// The routes of a person's own clients.
const OWN: &str = "/api/user/api-clients";
const OWN_ONE: &str = "/api/user/api-clients/{client}";
const OWN_ROTATE: &str = "/api/user/api-clients/{client}/rotate";
/// The same for those of a team.
const TEAM: &str = "/api/user/teams/{team}/api-clients";
const TEAM_ONE: &str = "/api/user/teams/{team}/api-clients/{client}";
const TEAM_ROTATE: &str = "/api/user/teams/{team}/api-clients/{client}/rotate";

/// All routes, which are also values of a metric label.
pub(super) const ROUTES: [&str; 6] = [OWN, OWN_ONE, OWN_ROTATE, TEAM, TEAM_ONE, TEAM_ROTATE];

/// The routes behind their own layer.
pub(super) fn routes(state: &HttpState, management: Arc<Management>) -> Router<HttpState> {
    let collection = || get(list).post(create).fallback(reply::method_not_allowed);
    let one = || {
        put(replace)
            .delete(delete)
            .fallback(reply::method_not_allowed)
    };
    let rotation = || post(rotate).fallback(reply::method_not_allowed);
    Router::new()
        .route(OWN, collection())
        .route(OWN_ONE, one())
        .route(OWN_ROTATE, rotation())
        .route(TEAM, collection())
        .route(TEAM_ONE, one())
        .route(TEAM_ROTATE, rotation())
        .route_layer(Extension(management))
        .route_layer(from_fn_with_state(state.clone(), admit))
}

/// Admits a request within the limit of calls that use the database, gives it its deadline,
/// and authenticates its caller: the same as for calls over gRPC, in the same order.
async fn admit(State(state): State<HttpState>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let kind = if [Method::GET, Method::HEAD].contains(request.method()) {
        CallKind::Read
    } else {
        CallKind::Write
    };
    let Some(_permit) = state.database_calls.admit(kind, begun) else {
        return reply::failure(&ApiError::Overloaded);
    };
    let deadline = begun + state.services.request_timeout();
    let answered = async {
        let token = credentials::proxy_token(request.headers());
        let proof = token.as_deref().and_then(Proof::of_token);
        let needed = Some(CallerPermission::Manage);
        let caller = state
            .services
            .authenticate_caller(proof, needed, deadline)
            .await?;
        CallerSlot::record(request.extensions(), &caller);
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(Deadline(deadline));
        Ok(next.run(request).await)
    };
    match timeout_at(deadline, answered).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => reply::failure(&error),
        Err(_) => reply::failure(&ApiError::DeadlineExceeded),
    }
}

/// What the handlers manage with.
type Managing = Extension<Arc<Management>>;

async fn list(Extension(management): Managing, scope: Scope) -> Result<Response, Refused> {
    let clients = management.list_clients_of(&scope.0).await?;
    Ok(reply::clients(&clients))
}

async fn create(
    Extension(management): Managing,
    scope: Scope,
    Json(body): Json<CreateBody>,
) -> Result<Response, Refused> {
    let draft = body.draft(scope.0.owner)?;
    let (client, token) = management.create_client_of(&scope.0, draft).await?;
    Ok(reply::issued(StatusCode::CREATED, &client, &token))
}

async fn replace(
    Extension(management): Managing,
    OnOneClient { scope, client }: OnOneClient,
    Json(body): Json<ReplaceBody>,
) -> Result<Response, Refused> {
    let replacement = body.replacement(scope.owner)?;
    let replaced = management
        .replace_client_of(&scope, client, replacement)
        .await?;
    Ok(reply::client(&replaced))
}

/// The body is ignored, as HitKeep ignores it.
async fn rotate(
    Extension(management): Managing,
    OnOneClient { scope, client }: OnOneClient,
) -> Result<Response, Refused> {
    let (client, token) = management.rotate_client_of(&scope, client).await?;
    Ok(reply::issued(StatusCode::OK, &client, &token))
}

async fn delete(
    Extension(management): Managing,
    OnOneClient { scope, client }: OnOneClient,
) -> Result<Response, Refused> {
    management.delete_client_of(&scope, client).await?;
    Ok(reply::with_status(StatusCode::NO_CONTENT, Body::empty()))
}
