//! Every error that a caller can see, and the one table that says its code and
//! reason. A database's message, a path or a query never gets through here.

use std::{collections::HashMap, sync::Arc};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    domain::{
        Revision,
        caller::CallerPermission,
        directory::{Removal, order::DirectoryChanged},
        refusal::Refusal,
    },
    pb::{self, ErrorReason},
    replica::CannotTell,
    store::{
        IsCollision,
        directory::DirectoryError,
        error::{StoreError, causes},
    },
    transport::activity::TooMuchBuffered,
};

/// The domain of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "auth.hitkeep.com";
/// What stands in front of a reason's name in the proto enum.
const REASON_PREFIX: &str = "ERROR_REASON_";
/// Violations that are collected at most.
pub(super) const MAX_VIOLATIONS: usize = 1000;
/// The bytes of violations that an answer names. Its details become a header, and
/// many clients take no more than 8 KiB of headers; what is too much there reaches
/// nobody at all.
const MAX_NAMED_BYTES: usize = 4500;
/// What a violation takes beside its texts.
const VIOLATION_OVERHEAD: usize = 8;
/// The bytes of violations that the message repeats, for those who read no
/// details.
const MAX_SUMMARY_BYTES: usize = 400;

/// A field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its path from the request, such as `api_client.site_grants[1].role`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Fields are missing, malformed or over their limits.
    #[error("{}", summary(.0))]
    InvalidFields(Vec<Violation>),
    /// The domain says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
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
    /// The write was made before, and its reply can no longer be given.
    #[error(
        "the call was made already with this request_id, and its reply is no longer kept: the \
         token was replaced, or the API client revoked or deleted; nothing was done"
    )]
    ReplyGone,
    /// Nobody known is at the other end.
    #[error(
        "no known caller: send \"authorization: Bearer\" with a service account's token, or a \
         certificate with a name that is bound to one service account"
    )]
    CallerUnknown,
    /// The caller may not ask for that.
    #[error("the service account lacks the permission \"{0}\"")]
    CallerNotPermitted(CallerPermission),
    /// The deadline passed while working.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// Too much at once.
    #[error("too many requests at once, try again")]
    Overloaded,
    /// The store failed.
    #[error("{}", store_message(.0))]
    Store(#[from] StoreError),
    /// The index cannot vouch for the token.
    #[error("{0}, so it cannot be told whether a token works: try again")]
    CannotTell(#[from] CannotTell),
    /// The server is about to end, or an old connection is, and with it every stream.
    #[error("the server is shutting down, or wants its callers to reconnect: try again")]
    ShuttingDown,
    /// The revision asked for was not reached in time.
    #[error("revision {wanted} was not reached within the deadline, this is {reached}", wanted = wanted.0, reached = reached.0)]
    RevisionNotReached {
        /// The one asked for.
        wanted: Revision,
        /// The one there is.
        reached: Revision,
    },
    /// There is no such method, or it does not speak that compression.
    #[error("{0}")]
    MethodUnknown(String),
    /// A defect of ours.
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
    /// A message is not the one it should be, or is too large.
    pub fn unreadable_message() -> Self {
        Self::InvalidFields(vec![Violation {
            field: "the message".to_owned(),
            description:
                "cannot be read, or is too large: over 64 KiB of an introspection, 256 KiB of a \
                          check, 4 MiB of another call"
                    .to_owned(),
        }])
    }

    /// The table.
    pub const fn code_and_reason(&self) -> (Code, ErrorReason) {
        match self {
            Self::InvalidFields(_)
            | Self::Refused(Refusal::ExpiryPast | Refusal::TeamInstanceRole) => {
                (Code::InvalidArgument, ErrorReason::InvalidField)
            }
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
            Self::MassRemoval(_) => (Code::FailedPrecondition, ErrorReason::MassRemoval),
            Self::DirectoryChanged(_) => (Code::Aborted, ErrorReason::DirectoryChanged),
            Self::ReplyGone => (Code::FailedPrecondition, ErrorReason::ReplyGone),
            Self::CallerUnknown => (Code::Unauthenticated, ErrorReason::CallerUnknown),
            Self::CallerNotPermitted(_) => {
                (Code::PermissionDenied, ErrorReason::CallerNotPermitted)
            }
            Self::DeadlineExceeded => (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded),
            // A transaction that collided until its tries ran out is too much at
            // once as well: nothing was done, and it may go through later.
            Self::Overloaded
            | Self::Store(StoreError::Overloaded(_) | StoreError::Collision(_)) => {
                (Code::Unavailable, ErrorReason::Overloaded)
            }
            Self::Store(StoreError::Unavailable(_)) | Self::CannotTell(CannotTell::NoAnswer) => {
                (Code::Unavailable, ErrorReason::DatabaseUnavailable)
            }
            Self::CannotTell(CannotTell::Loading | CannotTell::Stale(_) | CannotTell::Behind) => {
                (Code::Unavailable, ErrorReason::StaleIndex)
            }
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

    /// What the reason is about, for programs.
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
            Self::Refused(Refusal::Quota { limit }) => vec![("limit", limit.to_string())],
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

    /// The error as an answer within a stream, which goes on after it. It has its line in
    /// the log as a call that fails has; whose it is, says the span that this is called in.
    pub(super) fn into_answer(self) -> pb::IntrospectError {
        self.tell_of_answer();
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

    /// What is behind it, for our log alone; nothing where it says everything itself.
    pub(crate) fn causes(&self) -> Option<String> {
        match self {
            Self::Store(failure) => Some(format!("{failure}: {}", causes(failure))),
            Self::Defect(what) => Some((*what).to_owned()),
            _ => None,
        }
    }

    fn tell_of_answer(&self) {
        let (rpc_reason, causes, why) = (self.reason(), self.causes(), self.to_string());
        // Quoted, since what is wrong with a request may hold anything.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    rpc.reason = rpc_reason,
                    causes,
                    "a request of a stream failed: {why:?}"
                )
            };
        }
        match self.code_and_reason().0 {
            Code::Internal => line!(error),
            Code::Unavailable | Code::DeadlineExceeded => line!(warn),
            _ => line!(info),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::InvalidFields(violations) => violations.clone(),
            Self::Refused(refusal @ Refusal::ExpiryPast) => vec![Violation {
                field: "api_client.expire_time".to_owned(),
                description: refusal.to_string(),
            }],
            Self::Refused(refusal @ Refusal::TeamInstanceRole) => vec![Violation {
                field: "api_client.instance_role".to_owned(),
                description: refusal.to_string(),
            }],
            _ => Vec::new(),
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
        let mut status = Self::with_error_details(code, error.to_string(), details);
        // For the line in our log. It never gets to the caller.
        status.set_source(Arc::new(error));
        status
    }
}

/// The first violations, as many as fit into so many bytes, but at least one.
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

/// The first violations in a line, for those who read no details.
fn summary(violations: &[Violation]) -> String {
    let each = |violation: &Violation| format!("{} {}", violation.field, violation.description);
    let first = fitting(violations, MAX_SUMMARY_BYTES);
    let mut named: Vec<_> = first.iter().map(each).collect();
    if first.len() < violations.len() {
        named.push(format!("and {} more", violations.len() - first.len()));
    }
    named.join("; ")
}

const fn store_message(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "the database cannot be reached",
        StoreError::Overloaded(_) | StoreError::Collision(_) => {
            "the database is overloaded, try again"
        }
        StoreError::Inconsistent(_) | StoreError::Defect(_) => "internal error",
    }
}
