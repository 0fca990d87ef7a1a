//! Caller authentication: who is at the other end, and may they ask for that?
//!
//! Every method but health and reflection needs a known caller, also one that
//! does not exist: a stranger learns nothing about what there is.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, header::AUTHORIZATION};
use tokio::time::Instant;
use tonic::{Status, server::NamedService};

use crate::{
    domain::{
        caller::{CallerPermission, ServiceAccount},
        token::{Token, TokenHash, TokenKind},
    },
    grpc::{
        Services,
        context::{Caller, Deadline},
        error::ApiError,
    },
    pb::{
        api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        introspection_service_server::IntrospectionServiceServer,
    },
    replica::Replica,
    store::Store,
};

/// How long a call without a deadline waits for what its caller's fate depends on.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: health and reflection.
    Open,
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
            "grpc.health.v1.Health"
            | "grpc.reflection.v1.ServerReflection"
            | "grpc.reflection.v1alpha.ServerReflection" => Self::Open,
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

/// Where callers are known: to the replica, or to the store.
#[derive(Clone)]
pub(super) struct Callers {
    pub(super) store: Store,
    pub(super) replica: Replica,
}

/// Passes a request on with its proven [`Caller`], or refuses it.
pub(super) async fn authenticate(
    State(callers): State<Callers>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = Access::of(request.uri().path());
    if access == Access::Open {
        return next.run(request).await;
    }
    let deadline = request.extensions().get::<Deadline>().copied();
    match callers.caller(request.headers(), deadline, access).await {
        Ok(caller) => {
            let name = caller.account.name.as_str();
            tracing::Span::current().record("caller.name", name);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => Status::from(error).into_http(),
    }
}

impl Callers {
    async fn caller(
        &self,
        headers: &HeaderMap,
        deadline: Option<Deadline>,
        access: Access,
    ) -> Result<Caller, ApiError> {
        let token = bearer(headers).and_then(|text| Token::parse(text).ok());
        let token = token.filter(|token| token.kind() == TokenKind::ServiceAccount);
        let token = token.ok_or(ApiError::CallerUnknown)?.hash();
        // A stream has none; it does not wait for long in any case.
        let give_up = deadline.map_or_else(|| Instant::now() + MAX_WAIT, |deadline| deadline.0);
        let account = self.find(token, access, give_up).await?;
        match access {
            Access::Permitted(permission) if !account.may(permission) => {
                Err(ApiError::CallerNotPermitted(permission))
            }
            Access::Open | Access::Known | Access::Permitted(_) => Ok(Caller { account, token }),
        }
    }

    async fn find(
        &self,
        token: TokenHash,
        access: Access,
        give_up: Instant,
    ) -> Result<Arc<ServiceAccount>, ApiError> {
        // An old index knows the callers of long ago. For introspection that will do,
        // because from an old index no token is answered as active; everything else
        // needs the database anyway.
        let introspects = access == Access::Permitted(CallerPermission::Introspect);
        let view = self.replica.loaded_view(give_up).await?;
        let is_fresh = view.require_fresh().is_ok();
        let known = view.index().caller(&token).cloned();
        drop(view);
        if !introspects && !is_fresh {
            let account = self.store.find_caller(token).await?;
            return account.map(Arc::new).ok_or(ApiError::CallerUnknown);
        }
        if let Some(account) = known {
            return Ok(account);
        }
        // Perhaps it was made a moment ago.
        self.replica.ask(give_up).await?;
        let view = self.replica.view()?;
        let account = view.index().caller(&token).cloned();
        account.ok_or(ApiError::CallerUnknown)
    }
}

/// The token in the `authorization` metadata, which must be there once: with two
/// of them it is open which one the caller means.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    // RFC 9110, section 11.1: the scheme's case does not matter.
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
