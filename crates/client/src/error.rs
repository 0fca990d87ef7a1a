//! Why a request may not pass.

use std::{fmt, sync::Arc, time::Duration};

use hitkeep_auth_domain::{
    access::PermissionCheck,
    proxy_auth::{
        route::{NeedError, PathAmbiguity, RouteError},
        verdict::Refused,
    },
};
use hitkeep_auth_proto as pb;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a request may not pass.
///
/// | variant | means | HTTP | gRPC |
/// |---|---|---|---|
/// | [`NoToken`](Self::NoToken) | there is no token | 401 | `UNAUTHENTICATED` |
/// | [`Inactive`](Self::Inactive) | the token does not work | 401 | `UNAUTHENTICATED` |
/// | [`Forbidden`](Self::Forbidden) | it does not carry the permission | 403 | `PERMISSION_DENIED` |
/// | [`HumanOnly`](Self::HumanOnly) | no token is enough | 403 | `PERMISSION_DENIED` |
/// | [`Unavailable`](Self::Unavailable) | it is unknown whether the token works | 503 | `UNAVAILABLE` |
/// | [`AmbiguousPath`](Self::AmbiguousPath) | the request names no site | 400 | `INVALID_ARGUMENT` |
/// | [`Misconfigured`](Self::Misconfigured) | the policy can never be met | 500 | `INTERNAL` |
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no token.
    #[error("there is no token")]
    NoToken,
    /// The token does not work. The reason is for logs: the client that presented the token is
    /// not to know it.
    #[error("the token does not work ({0})")]
    Inactive(InactiveReason),
    /// The token works, and does not carry this permission.
    #[error("the token does not carry {}", .0.permission())]
    Forbidden(PermissionCheck),
    /// The token works, and no token is enough: only a person may pass.
    #[error("no token is enough, only a person")]
    HumanOnly,
    /// It is unknown whether the token works. Nothing may pass then, and it says nothing
    /// against the token.
    #[error("it is unknown whether the token works: {0}")]
    Unavailable(#[from] Unavailable),
    /// The request does not name a site, or not clearly.
    #[error("the request does not clearly name a site")]
    AmbiguousPath(PathAmbiguity),
    /// The policy of the route or method is wrong.
    #[error("misconfigured: {0}")]
    Misconfigured(Misconfigured),
}

/// Why a token does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InactiveReason {
    /// There is no such token, or it is none at all.
    UnknownToken,
    /// A newer token took its place.
    TokenRotated,
    /// The API client was revoked.
    Revoked,
    /// The API client has expired.
    Expired,
    /// The owning user is disabled, or the owning team archived.
    OwnerInactive,
    /// The API client's `not_before_time` has not come.
    NotYetActive,
    /// The API client works from some addresses only, and the request is from another one, or
    /// the question did not say from where ([`Question::from`](crate::Question::from)).
    SourceNotAllowed,
    /// The request has several tokens, so that programs could disagree on which one is meant.
    /// This is found before anybody is asked.
    Ambiguous,
    /// A reason of a newer service, by its number.
    Other(i32),
}

/// Why it is unknown whether a token works.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The call failed: the service cannot be reached, is overloaded, is not sure to be up to
    /// date, or does not accept this program as a caller.
    #[error("{}", Described(.0))]
    Call(Arc<Status>),
    /// There was no answer in time.
    #[error("there was no answer in time")]
    Late,
    /// The answer is none that this version understands.
    #[error("the service sent {0}")]
    NotUnderstood(&'static str),
    /// The copy of the index is not complete yet.
    #[error("the index is not loaded yet")]
    Loading,
    /// The copy of the index was last proven complete longer ago than the limit.
    #[error("the index is {} ms old", .0.as_millis())]
    Stale(Duration),
    /// The client is of a kind that this version cannot judge.
    #[error("the API client has something that this version does not know")]
    Unreadable,
    /// The question was given up, because the program or its runtime ends.
    #[error("the question was given up")]
    Ended,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Misconfigured {
    /// The route's template, or what else is said of it.
    #[error("{0}")]
    Route(RouteError),
    /// Nothing says what the method needs.
    #[error("nothing says what {0} needs")]
    Method(Box<str>),
}

/// A failed call, with its reason.
struct Described<'s>(&'s Status);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match reason(self.0) {
            Some(reason) => f.write_str(without_prefix(reason.as_str_name(), "ERROR_REASON_"))?,
            None => write!(f, "{:?}", self.0.code())?,
        }
        if self.0.message().is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.0.message())
    }
}

/// The reason of a failed call, if it is the service's own.
pub fn reason(status: &Status) -> Option<pb::ErrorReason> {
    let info = status.get_details_error_info()?;
    (info.domain == "auth.hitkeep.com").then_some(())?;
    pb::ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason))
}

/// The causes of an error in one line, outermost first.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // A wrapper often repeats the message of its source.
        if !causes.last().is_some_and(|wrapper| wrapper.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    causes.join(": ")
}

fn without_prefix(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

impl InactiveReason {
    pub(crate) fn of(reason: i32) -> Self {
        match pb::InactiveReason::try_from(reason) {
            Ok(pb::InactiveReason::UnknownToken) => Self::UnknownToken,
            Ok(pb::InactiveReason::TokenRotated) => Self::TokenRotated,
            Ok(pb::InactiveReason::Revoked) => Self::Revoked,
            Ok(pb::InactiveReason::Expired) => Self::Expired,
            Ok(pb::InactiveReason::OwnerInactive) => Self::OwnerInactive,
            Ok(pb::InactiveReason::NotYetActive) => Self::NotYetActive,
            Ok(pb::InactiveReason::SourceNotAllowed) => Self::SourceNotAllowed,
            _ => Self::Other(reason),
        }
    }
}

impl fmt::Display for InactiveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = match self {
            Self::UnknownToken => pb::InactiveReason::UnknownToken,
            Self::TokenRotated => pb::InactiveReason::TokenRotated,
            Self::Revoked => pb::InactiveReason::Revoked,
            Self::Expired => pb::InactiveReason::Expired,
            Self::OwnerInactive => pb::InactiveReason::OwnerInactive,
            Self::NotYetActive => pb::InactiveReason::NotYetActive,
            Self::SourceNotAllowed => pb::InactiveReason::SourceNotAllowed,
            Self::Ambiguous => return f.write_str("AMBIGUOUS"),
            Self::Other(number) => return write!(f, "reason {number}"),
        };
        f.write_str(without_prefix(known.as_str_name(), "INACTIVE_REASON_"))
    }
}

impl From<Status> for Unavailable {
    fn from(status: Status) -> Self {
        if status.code() == Code::DeadlineExceeded && reason(&status).is_none() {
            return Self::Late;
        }
        Self::Call(Arc::new(status))
    }
}

impl From<NeedError> for Error {
    fn from(error: NeedError) -> Self {
        match error {
            NeedError::Route(mistake) => Self::Misconfigured(Misconfigured::Route(mistake)),
            NeedError::Client(unclear) => Self::AmbiguousPath(unclear),
        }
    }
}

impl Error {
    /// The refusal, as the service's own endpoints for proxies have it.
    pub(crate) fn refused(&self) -> Refused {
        match self {
            Self::NoToken => Refused::NoToken,
            Self::Inactive(_) => Refused::Inactive,
            Self::Forbidden(check) => Refused::PermissionDenied(*check),
            Self::HumanOnly => Refused::HumanOnly,
            Self::Unavailable(_) => Refused::Unanswerable,
            Self::AmbiguousPath(unclear) => Refused::AmbiguousPath(*unclear),
            Self::Misconfigured(Misconfigured::Route(mistake)) => {
                Refused::Misconfigured(mistake.clone())
            }
            Self::Misconfigured(Misconfigured::Method(_)) => {
                Refused::Misconfigured(RouteError::MethodUnknown)
            }
        }
    }
}
