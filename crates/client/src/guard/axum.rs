//! Extractors for axum, and its response to an error.

use axum::{
    body::Body,
    extract::{FromRef, FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::request::Parts;

use super::{question, token_of};
use crate::{authenticator::Authenticator, error::Error, principal::Principal};

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.to_http::<Body>()
    }
}

/// The principal that a guard found, or else whose token the request has. For a rejection of
/// one's own, take `Result<Principal, Error>`.
impl<S> FromRequestParts<S> for Principal
where
    S: Send + Sync,
    Authenticator: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        if let Some(found) = parts.extensions.get::<Self>() {
            return Ok(found.clone());
        }
        let by = Authenticator::from_ref(state);
        let question = question(token_of(&parts.headers)?, &parts.extensions);
        let principal = by.ask(&question).await?;
        parts.extensions.insert(principal.clone());
        Ok(principal)
    }
}

/// `None` if the request has no token. One that is there has to work.
impl<S> OptionalFromRequestParts<S> for Principal
where
    S: Send + Sync,
    Authenticator: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Error> {
        match <Self as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(principal) => Ok(Some(principal)),
            Err(Error::NoToken) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
