//! The values of attributes: few, and none that a caller chooses.

/// Calls that are answered so often, and so fast, that they are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastMethod {
    /// `Introspect`.
    Introspect,
    /// Envoy's `Check`.
    Check,
}

impl FastMethod {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Introspect, Self::Check];
}

/// What is said of a token, or why nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works; nothing else was asked.
    Active,
    /// It works, and carries what was asked for.
    Allowed,
    /// It works, and carries nothing on that site.
    NoSiteGrant,
    /// It works, and its role does not carry the permission.
    RoleTooLow,
    /// There is no such token.
    UnknownToken,
    /// Another one took its place.
    TokenRotated,
    /// Its client was revoked.
    Revoked,
    /// Its client's expiry has come.
    Expired,
    /// Its client's owner cannot act.
    OwnerInactive,
    /// It cannot be told whether it works.
    CannotTell,
    /// The proxy's route has a mistake, so that it was not looked at.
    Misconfigured,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Active,
        Self::Allowed,
        Self::NoSiteGrant,
        Self::RoleTooLow,
        Self::UnknownToken,
        Self::TokenRotated,
        Self::Revoked,
        Self::Expired,
        Self::OwnerInactive,
        Self::CannotTell,
        Self::Misconfigured,
    ];

    pub(super) const fn word(self) -> &'static str {
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
            Self::CannotTell => "CANNOT_TELL",
            Self::Misconfigured => "MISCONFIGURED",
        }
    }
}

/// Where connections come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Where gRPC is spoken.
    Grpc,
    /// Where HTTP is.
    Http,
}

impl Listener {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Grpc, Self::Http];

    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// How work on the database ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It was refused or failed, and nothing is done.
    NotDone,
}

impl Outcome {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotDone => "not_done",
        }
    }
}

impl<T, E> From<&Result<T, E>> for Outcome {
    fn from(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(_) => Self::NotDone,
        }
    }
}

/// What a connection of the feed's is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedConnection {
    /// To read what changed.
    Reading,
    /// To hear that something did.
    Listening,
}

impl FeedConnection {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Listening => "listening",
        }
    }
}
