//! Caller authentication: who is at the other end, and may they ask for that?
//!
//! Every method but health and reflection needs a known caller, also one that
//! does not exist: a stranger learns nothing about what there is.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, header::AUTHORIZATION};
use tonic::{Status, server::NamedService};

use crate::{
    domain::{
        caller::{CallerPermission, ServiceAccount},
        token::{Token, TokenKind},
    },
    grpc::{Services, context::Caller, error::ApiError},
    pb::{
        api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        introspection_service_server::IntrospectionServiceServer,
    },
    store::Store,
};

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
            IntrospectionServiceServer::<Services>::NAME => {
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

/// Passes a request on with its proven [`Caller`], or refuses it.
pub(super) async fn authenticate(
    State(store): State<Store>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = Access::of(request.uri().path());
    if access == Access::Open {
        return next.run(request).await;
    }
    match caller(&store, request.headers(), access).await {
        Ok(account) => {
            let name = account.name.as_str();
            tracing::Span::current().record("caller.name", name);
            request.extensions_mut().insert(Caller(Arc::new(account)));
            next.run(request).await
        }
        Err(error) => Status::from(error).into_http(),
    }
}

async fn caller(
    store: &Store,
    headers: &HeaderMap,
    access: Access,
) -> Result<ServiceAccount, ApiError> {
    let token = bearer(headers).and_then(|text| Token::parse(text).ok());
    let token = token.filter(|token| token.kind() == TokenKind::ServiceAccount);
    let token = token.ok_or(ApiError::CallerUnknown)?;
    let account = store
        .find_caller(token.hash())
        .await?
        .ok_or(ApiError::CallerUnknown)?;
    match access {
        Access::Permitted(permission) if !account.may(permission) => {
            Err(ApiError::CallerNotPermitted(permission))
        }
        Access::Open | Access::Known | Access::Permitted(_) => Ok(account),
    }
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
