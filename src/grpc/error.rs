//! All errors that callers can see, with the one table of codes and reasons. Database
//! messages, paths and queries never appear in them.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::retry::{RetryDelays, push_back};
use crate::{
    domain::{
        Revision,
        caller::{CallerName, CallerPermission},
        directory::{Removal, order::DirectoryChanged},
        refusal::Refusal,
    },
    live_index::Unanswerable,
    pb::{self, ErrorReason},
    store::{
        IsCollision, NotAcknowledged,
        directory::DirectoryError,
        error::{StoreError, causes},
    },
    transport::activity::TooMuchBuffered,
};

/// The domain of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "auth.hitkeep.com";
/// The prefix of the reasons' names in the proto enum.
const REASON_PREFIX: &str = "ERROR_REASON_";
/// How long a caller is asked to wait after it was refused because of load.
static OVERLOAD_DELAYS: RetryDelays = RetryDelays::from(Duration::from_millis(500));
/// How long a replica is asked to wait until it asks for a snapshot again.
static SNAPSHOT_DELAYS: RetryDelays = RetryDelays::from(Duration::from_secs(1));
/// The most violations that are collected.
pub(super) const MAX_VIOLATIONS: usize = 1000;
/// How many bytes of violations a status has. Its details become a header, and many clients
/// accept no more than 8 KiB of headers: beyond that, the client would get no status at
/// all.
const MAX_NAMED_BYTES: usize = 4500;
/// The encoding overhead of a violation.
const VIOLATION_OVERHEAD: usize = 8;
/// How many bytes of violations the message repeats, for clients that ignore details.
const MAX_SUMMARY_BYTES: usize = 400;

/// An invalid field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its path from the request, such as `api_client.site_grants[1].role`.
    pub field: String,
    /// The violated rule.
    pub description: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Fields are missing, malformed or over their limits.
    #[error("{}", summary(.0))]
    InvalidFields(Vec<Violation>),
    #[error(transparent)]
    Refused(Refusal),
    /// A directory replacement would remove too much.
    #[error(
        "the replacement would remove {} of {} {}: set allow_mass_removal in its first chunk if \
         that is meant", .0.removed, .0.known, .0.kind
    )]
    MassRemoval(Removal),
    /// A directory replacement would undo something newer.
    #[error(
        "the directory has a change that is newer than this replacement, the last sequence applied \
         is {}: read the source again and send what it is now, or set start_over in the first chunk \
         if the source was restored from a backup", .0.applied_sequence.unwrap_or_default()
    )]
    DirectoryChanged(#[from] DirectoryChanged),
    /// The leaked token is a service account's.
    #[error(
        "it is the token of the service account {}: replace it with `hitkeep-auth \
         service-account rotate`, or end it with `hitkeep-auth service-account revoke`; nothing \
         was done", .0.as_str()
    )]
    ServiceAccountToken(CallerName),
    /// The write was made before, and its reply is no longer available.
    #[error(
        "the call was made already with this request_id, and its reply is no longer kept: the \
         token was replaced, or the API client revoked or deleted; nothing was done"
    )]
    ReplyGone,
    /// The credentials are missing or unknown.
    #[error(
        "no known caller: send \"authorization: Bearer\" with a service account's token, or a \
         certificate with a name that is bound to one service account"
    )]
    CallerUnknown,
    #[error("the service account lacks the permission \"{0}\"")]
    CallerNotPermitted(CallerPermission),
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("too many requests at once, try again")]
    Overloaded,
    /// A replica needs a snapshot, and too many are being sent.
    #[error("too many snapshots are being sent, try again later")]
    SnapshotsBusy,
    /// The server upstream did not take what this replica passes on.
    #[error("the server upstream cannot be reached")]
    UpstreamUnavailable,
    /// The server upstream has something of the client that this replica does not understand.
    #[error("this replica is too old to understand the API client, another server may")]
    NotUnderstood,
    #[error("{}", store_message(.0))]
    Store(#[from] StoreError),
    /// The index is too stale to judge a token.
    #[error("{0}, so it cannot be determined whether a token works: try again")]
    Unanswerable(#[from] Unanswerable),
    /// The server or the connection is about to end, and with it every stream.
    #[error("the server is shutting down, or wants its callers to reconnect: try again")]
    ShuttingDown,
    /// The requested revision was not reached in time.
    #[error("revision {wanted} was not reached within the deadline, this is {reached}", wanted = wanted.0, reached = reached.0)]
    RevisionNotReached {
        /// The requested revision.
        wanted: Revision,
        /// The revision of the index.
        reached: Revision,
    },
    /// The method does not exist, or does not support that compression.
    #[error("{0}")]
    MethodUnknown(String),
    #[error("internal error")]
    Defect(&'static str),
}

impl From<TooMuchBuffered> for ApiError {
    fn from(TooMuchBuffered: TooMuchBuffered) -> Self {
        Self::Overloaded
    }
}

impl From<DirectoryError> for ApiError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Store(error) => Self::Store(error),
            DirectoryError::MassRemoval(removal) => Self::MassRemoval(removal),
            DirectoryError::Unknown(references) => {
                let violation = |reference: crate::store::directory::UnknownReference| Violation {
                    field: format!("changes[{}].{}", reference.index, reference.field),
                    description: format!("names {}, which is unknown", reference.id),
                };
                let first = references.into_iter().take(MAX_VIOLATIONS);
                Self::InvalidFields(first.map(violation).collect())
            }
        }
    }
}

impl IsCollision for ApiError {
    fn is_collision(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_collision())
    }
}

impl ApiError {
    /// A message cannot be decoded, or is too large.
    pub fn unreadable_message() -> Self {
        Self::InvalidFields(vec![Violation {
            field: "the message".to_owned(),
            description:
                "cannot be read, or is too large: over 64 KiB of an introspection, 1 MiB of a \
                          batch, 256 KiB of a check, 4 MiB of another call"
                    .to_owned(),
        }])
    }

    /// The code and reason of each error.
    pub const fn code_and_reason(&self) -> (Code, ErrorReason) {
        match self {
            Self::InvalidFields(_)
            | Self::Refused(
                Refusal::ExpiryPast
                | Refusal::ExpiryTooEarly
                | Refusal::ActivationTooLate
                | Refusal::TeamInstanceRole
                | Refusal::TokenInName
                | Refusal::TokenInDescription
                | Refusal::TooManyGrants { .. }
                | Refusal::Several(_),
            ) => (Code::InvalidArgument, ErrorReason::InvalidField),
            Self::Refused(Refusal::NotFound) => (Code::NotFound, ErrorReason::ApiClientNotFound),
            Self::Refused(Refusal::OwnerNotManaged) => {
                (Code::PermissionDenied, ErrorReason::OwnerNotManaged)
            }
            Self::Refused(
                Refusal::ExceedsInstanceRole { .. } | Refusal::ExceedsSiteRole { .. },
            ) => (Code::PermissionDenied, ErrorReason::DelegationExceedsActor),
            Self::Refused(Refusal::SiteNotDelegable { .. }) => {
                (Code::PermissionDenied, ErrorReason::SiteNotDelegable)
            }
            Self::Refused(Refusal::WrongState { .. }) => {
                (Code::FailedPrecondition, ErrorReason::ApiClientInactive)
            }
            Self::Refused(Refusal::EtagMismatch) => (Code::Aborted, ErrorReason::EtagMismatch),
            Self::Refused(Refusal::Quota { .. }) => {
                (Code::ResourceExhausted, ErrorReason::ApiClientQuota)
            }
            Self::Refused(Refusal::TooManyClients { .. }) => {
                (Code::FailedPrecondition, ErrorReason::SelectionTooLarge)
            }
            Self::ServiceAccountToken(_) => {
                (Code::FailedPrecondition, ErrorReason::ServiceAccountToken)
            }
            Self::MassRemoval(_) => (Code::FailedPrecondition, ErrorReason::MassRemoval),
            Self::DirectoryChanged(_) => (Code::Aborted, ErrorReason::DirectoryChanged),
            Self::ReplyGone => (Code::FailedPrecondition, ErrorReason::ReplyGone),
            Self::CallerUnknown => (Code::Unauthenticated, ErrorReason::CallerUnknown),
            Self::CallerNotPermitted(_) => {
                (Code::PermissionDenied, ErrorReason::CallerNotPermitted)
            }
            Self::DeadlineExceeded => (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded),
            // A transaction that collided until its retries ran out counts as overload:
            // nothing was written, and a retry may succeed.
            Self::Overloaded
            | Self::SnapshotsBusy
            | Self::Store(StoreError::Overloaded(_) | StoreError::Collision(_)) => {
                (Code::Unavailable, ErrorReason::Overloaded)
            }
            Self::UpstreamUnavailable
            | Self::Store(StoreError::Unavailable(_))
            | Self::Unanswerable(Unanswerable::NoAnswer) => {
                (Code::Unavailable, ErrorReason::DatabaseUnavailable)
            }
            Self::NotUnderstood
            | Self::Unanswerable(
                Unanswerable::Loading | Unanswerable::Stale(_) | Unanswerable::Behind,
            ) => (Code::Unavailable, ErrorReason::StaleIndex),
            Self::ShuttingDown => (Code::Unavailable, ErrorReason::ShuttingDown),
            Self::RevisionNotReached { .. } => (Code::Unavailable, ErrorReason::RevisionNotReached),
            Self::MethodUnknown(_) => (Code::Unimplemented, ErrorReason::MethodUnknown),
            Self::Defect(_) | Self::Store(StoreError::Defect(_) | StoreError::Inconsistent(_)) => {
                (Code::Internal, ErrorReason::Internal)
            }
        }
    }

    /// The reason's name.
    pub(crate) fn reason(&self) -> &'static str {
        let (_, reason) = self.code_and_reason();
        reason.as_str_name().trim_start_matches(REASON_PREFIX)
    }

    /// The reason's parameters, for programs.
    fn metadata(&self) -> HashMap<String, String> {
        let pairs = match self {
            Self::Refused(Refusal::ExceedsInstanceRole { wanted }) => {
                vec![("instance_role", wanted.to_string())]
            }
            Self::Refused(Refusal::ExceedsSiteRole { site, wanted }) => {
                vec![("site_id", site.to_string()), ("role", wanted.to_string())]
            }
            Self::Refused(Refusal::SiteNotDelegable { site }) => {
                vec![("site_id", site.to_string())]
            }
            Self::Refused(Refusal::WrongState { state }) => vec![("state", state.to_string())],
            Self::Refused(Refusal::Quota { limit } | Refusal::TooManyClients { limit }) => {
                vec![("limit", limit.to_string())]
            }
            Self::ServiceAccountToken(name) => {
                vec![("service_account", name.as_str().to_owned())]
            }
            Self::MassRemoval(Removal {
                kind,
                known,
                removed,
            }) => vec![
                ("kind", (*kind).to_owned()),
                ("known", known.to_string()),
                ("removed", removed.to_string()),
            ],
            Self::DirectoryChanged(DirectoryChanged { applied_sequence }) => vec![(
                "applied_sequence",
                applied_sequence.unwrap_or_default().to_string(),
            )],
            Self::CallerNotPermitted(permission) => vec![("permission", permission.to_string())],
            Self::RevisionNotReached { wanted, reached } => {
                vec![
                    ("wanted", wanted.0.to_string()),
                    ("reached", reached.0.to_string()),
                ]
            }
            _ => Vec::new(),
        };
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }

    /// The error as a response within a stream, which goes on. It is logged like a failed
    /// call; the current span identifies the request.
    pub(super) fn into_stream_error(self) -> pb::IntrospectError {
        self.log_request(format_args!("a request of a stream failed"));
        self.to_introspect_error()
    }

    /// The error as a response, where others stand beside it.
    pub(super) fn to_introspect_error(&self) -> pb::IntrospectError {
        let (code, reason) = self.code_and_reason();
        let violation = |violation: Violation| pb::FieldViolation {
            field: violation.field,
            description: violation.description,
        };
        pb::IntrospectError {
            code: code.into(),
            reason: reason.into(),
            message: self.to_string(),
            metadata: self.metadata(),
            field_violations: self.violations().into_iter().map(violation).collect(),
        }
    }

    /// Logs why some requests of a batch failed, in one line: a batch may have a thousand of
    /// them.
    pub(super) fn log_batch(&self, failed: usize) {
        self.log_request(format_args!(
            "{failed} requests of a batch failed, one of them"
        ));
    }

    /// The causes, for the log only; None if the error says everything.
    pub(crate) fn causes(&self) -> Option<String> {
        match self {
            Self::Store(failure) => Some(format!("{failure}: {}", causes(failure))),
            Self::Defect(what) => Some((*what).to_owned()),
            _ => None,
        }
    }

    /// Logs a failure that does not fail its call.
    fn log_request(&self, what: fmt::Arguments<'_>) {
        let (rpc_reason, causes, why) = (self.reason(), self.causes(), self.to_string());
        // Quoted, since a violation may hold any characters.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(rpc.reason = rpc_reason, causes, "{what}: {why:?}")
            };
        }
        match self.code_and_reason().0 {
            Code::Internal => line!(error),
            Code::Unavailable | Code::DeadlineExceeded => line!(warn),
            _ => line!(info),
        }
    }

    /// How long the caller should wait before it calls again, where load is the reason.
    fn retry_delay(&self) -> Option<Duration> {
        let delays = match self {
            Self::SnapshotsBusy => &SNAPSHOT_DELAYS,
            error if error.code_and_reason().1 == ErrorReason::Overloaded => &OVERLOAD_DELAYS,
            _ => return None,
        };
        Some(delays.next())
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::InvalidFields(violations) => violations.clone(),
            Self::Refused(refusal) => violation(refusal).into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Several(all) => {
                Self::InvalidFields(all.iter().filter_map(violation).collect())
            }
            one => Self::Refused(one),
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let (code, _) = error.code_and_reason();
        let mut details =
            ErrorDetails::with_error_info(error.reason(), ERROR_DOMAIN, error.metadata());
        let violations = error.violations();
        let named = fitting(&violations, MAX_NAMED_BYTES);
        for violation in named {
            details.add_bad_request_violation(&violation.field, &violation.description);
        }
        if named.len() < violations.len() {
            let rest = format!("and {} more", violations.len() - named.len());
            details.add_bad_request_violation("...", rest);
        }
        let retry_delay = error.retry_delay();
        if retry_delay.is_some() {
            details.set_retry_info(retry_delay);
        }
        let mut status = Self::with_error_details(code, error.to_string(), details);
        if let Some(delay) = retry_delay {
            push_back(status.metadata_mut(), delay);
        }
        // For the log. The source is never sent to the caller.
        status.set_source(Arc::new(error));
        status
    }
}

/// The violation of the field that the domain refuses; None if it refuses something else.
fn violation(refusal: &Refusal) -> Option<Violation> {
    let field = match refusal {
        Refusal::ExpiryPast | Refusal::ExpiryTooEarly => "api_client.expire_time",
        Refusal::ActivationTooLate => "api_client.not_before_time",
        Refusal::TeamInstanceRole => "api_client.instance_role",
        Refusal::TokenInName => "api_client.name",
        Refusal::TokenInDescription => "api_client.description",
        Refusal::TooManyGrants { .. } => "api_client.site_grants",
        _ => return None,
    };
    Some(Violation {
        field: field.to_owned(),
        description: refusal.to_string(),
    })
}

/// The first violations that fit into that many bytes, but at least one.
fn fitting(violations: &[Violation], bytes: usize) -> &[Violation] {
    let mut left = bytes;
    let fits = |violation: &&Violation| {
        let size = violation.field.len() + violation.description.len() + VIOLATION_OVERHEAD;
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    };
    let count = violations.iter().take_while(fits).count();
    &violations[..count.max(1).min(violations.len())]
}

/// The first violations in one line, for clients that ignore details.
fn summary(violations: &[Violation]) -> String {
    let each = |violation: &Violation| format!("{} {}", violation.field, violation.description);
    let first = fitting(violations, MAX_SUMMARY_BYTES);
    let mut named: Vec<_> = first.iter().map(each).collect();
    if first.len() < violations.len() {
        named.push(format!("and {} more", violations.len() - first.len()));
    }
    named.join("; ")
}

fn store_message(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(source) if source.is::<NotAcknowledged>() => {
            "the database does not confirm the change, which may be in force or lost: send it \
             again, a creation or rotation with its request_id"
        }
        StoreError::Unavailable(_) => "the database cannot be reached",
        StoreError::Overloaded(_) | StoreError::Collision(_) => {
            "the database is overloaded, try again"
        }
        StoreError::Inconsistent(_) | StoreError::Defect(_) => "internal error",
    }
}
