//! Label values: few, and none that a caller chooses.

/// The methods of the fast path, which have sharded counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastMethod {
    /// `IntrospectionService.Introspect`.
    Introspect,
    /// Envoy's `Authorization.Check`.
    Check,
}

impl FastMethod {
    /// All methods, in the order of their counters.
    pub const ALL: [Self; 2] = [Self::Introspect, Self::Check];
}

/// The result of an introspection, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictReason {
    /// The token is active; no permission was asked for.
    Active,
    /// The token is active, and has the permission.
    Allowed,
    /// The token is active, and has no role on the site.
    NoSiteGrant,
    /// The token is active, and its role does not include the permission.
    RoleTooLow,
    UnknownToken,
    /// A newer token replaced it.
    TokenRotated,
    Revoked,
    Expired,
    /// Its client's owner is a disabled user or an archived team.
    OwnerInactive,
    /// Its client's activation is still to come.
    NotYetActive,
    /// Its client does not allow the address that it was presented from.
    SourceNotAllowed,
    /// The state of the token could not be determined.
    Unanswerable,
    /// The proxy's route is misconfigured, so the token was not looked up.
    Misconfigured,
}

impl VerdictReason {
    /// All results, in the order of their counters.
    pub const ALL: [Self; 13] = [
        Self::Active,
        Self::Allowed,
        Self::NoSiteGrant,
        Self::RoleTooLow,
        Self::UnknownToken,
        Self::TokenRotated,
        Self::Revoked,
        Self::Expired,
        Self::OwnerInactive,
        Self::NotYetActive,
        Self::SourceNotAllowed,
        Self::Unanswerable,
        Self::Misconfigured,
    ];

    /// Whether it is about a token that some API client has.
    pub(super) const fn is_of_known_token(self) -> bool {
        match self {
            Self::Active
            | Self::Allowed
            | Self::NoSiteGrant
            | Self::RoleTooLow
            | Self::TokenRotated
            | Self::Revoked
            | Self::Expired
            | Self::OwnerInactive
            | Self::NotYetActive
            | Self::SourceNotAllowed => true,
            Self::UnknownToken | Self::Unanswerable | Self::Misconfigured => false,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Allowed => "ALLOWED",
            Self::NoSiteGrant => "NO_SITE_GRANT",
            Self::RoleTooLow => "ROLE_TOO_LOW",
            Self::UnknownToken => "UNKNOWN_TOKEN",
            Self::TokenRotated => "TOKEN_ROTATED",
            Self::Revoked => "REVOKED",
            Self::Expired => "EXPIRED",
            Self::OwnerInactive => "OWNER_INACTIVE",
            Self::NotYetActive => "NOT_YET_ACTIVE",
            Self::SourceNotAllowed => "SOURCE_NOT_ALLOWED",
            Self::Unanswerable => "CANNOT_TELL",
            Self::Misconfigured => "MISCONFIGURED",
        }
    }
}

/// The protocol of a socket listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    Grpc,
    Http,
}

impl ListenerKind {
    /// All listeners, in the order of their counters.
    pub(super) const ALL: [Self; 2] = [Self::Grpc, Self::Http];

    /// The value of the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// How a write to the database ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteResult {
    /// It was committed.
    Done,
    /// It was refused or failed and changed nothing, or was not acknowledged.
    NotDone,
}

impl WriteResult {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotDone => "not_done",
        }
    }
}

impl<T, E> From<&Result<T, E>> for WriteResult {
    fn from(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(_) => Self::NotDone,
        }
    }
}

/// The purpose of one of the feed's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedConnection {
    Reading,
    /// It receives notifications (LISTEN).
    Listening,
    /// A replica follows a server upstream with it.
    Upstream,
}

impl FeedConnection {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Listening => "listening",
            Self::Upstream => "upstream",
        }
    }
}
