//! Caller authentication: who is at the other end, and may they ask for that?
//!
//! Every method but health and reflection needs a known caller, also one that
//! does not exist: a stranger learns nothing about what there is.

use std::time::Duration;

use axum::{body::Body, extract::State, middleware::Next, response::Response};
use http::{HeaderMap, Request, header::AUTHORIZATION};
use tokio::time::Instant;
use tonic::{Status, server::NamedService};

use crate::{
    domain::{caller::CallerPermission, replay::CallerSecret, token::Token},
    grpc::{
        Services,
        callers::Callers,
        context::{Deadline, Peer, Proof, Proven},
    },
    pb::{
        api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        introspection_service_server::IntrospectionServiceServer,
    },
};

/// How long a call without a deadline waits for what its caller's fate depends on.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: health.
    Health,
    /// Nothing: reflection.
    Reflection,
    /// A known caller with that permission.
    Permitted(CallerPermission),
    /// A known caller; the method does not exist.
    Known,
}

impl Access {
    /// What the method of that path asks.
    pub(super) fn of(path: &str) -> Self {
        let service = path
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default();
        match service {
            "grpc.health.v1.Health" => Self::Health,
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
                Self::Reflection
            }
            ApiClientServiceServer::<Services>::NAME => Self::Permitted(CallerPermission::Manage),
            IntrospectionServiceServer::<Services>::NAME
            | AuthorizationServer::<Services>::NAME => {
                Self::Permitted(CallerPermission::Introspect)
            }
            DirectoryServiceServer::<Services>::NAME => {
                Self::Permitted(CallerPermission::Directory)
            }
            AuditServiceServer::<Services>::NAME => Self::Permitted(CallerPermission::Audit),
            _ => Self::Known,
        }
    }
}

/// Passes a request on with its proven caller, or refuses it.
pub(super) async fn authenticate(
    State(callers): State<Callers>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let needed = match Access::of(request.uri().path()) {
        Access::Health | Access::Reflection => return next.run(request).await,
        Access::Permitted(permission) => Some(permission),
        Access::Known => None,
    };
    let deadline = request.extensions().get::<Deadline>().copied();
    // A stream has none; it does not wait for long in any case.
    let give_up = deadline.map_or_else(|| Instant::now() + MAX_WAIT, |deadline| deadline.0);
    match callers.prove(shown(&request), needed, give_up).await {
        Ok(caller) => {
            Proven::note(request.extensions(), &caller);
            if let Some(secret) = secret(&request, needed) {
                request.extensions_mut().insert(secret);
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => Status::from(error).into_http(),
    }
}

/// What a request's caller shows of itself. Who sends a token means that: a bad one is
/// not made good by a certificate, and a good one may have other permissions than the
/// certificate's account.
pub(super) fn shown<B>(request: &Request<B>) -> Option<Proof> {
    if request.headers().contains_key(AUTHORIZATION) {
        bearer(request.headers()).and_then(Proof::of_token)
    } else {
        let peer = request.extensions().get::<Peer>().cloned();
        peer.map(Proof::Certificate)
    }
}

/// The secret of a caller that manages API clients, whose replies are sealed with it.
/// A certificate gives none: its private key never gets here.
fn secret<B>(request: &Request<B>, needed: Option<CallerPermission>) -> Option<CallerSecret> {
    if needed != Some(CallerPermission::Manage) {
        return None;
    }
    let token = Token::parse(bearer(request.headers())?).ok()?;
    Some(CallerSecret::of(&token))
}

/// The token in the `authorization` metadata, which must be there once: with two
/// of them it is open which one the caller means.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    // RFC 9110, section 11.1: the scheme's case does not matter.
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
