//! Label values: few, and none that a caller chooses.

/// An enum of label values, with the list of all of them: counters are indexed by it, so none
/// may be missing.
macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            /// All values, in the order of their counters.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$value),+];

            /// The value of the label.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }
    )+};
}

labels! {
    /// The result of an introspection, or why there is none.
    VerdictReason {
        /// The token is active; no permission was asked for.
        Active = "ACTIVE",
        /// The token is active, and has the permission.
        Allowed = "ALLOWED",
        /// The token is active, and has no role on the site.
        NoSiteGrant = "NO_SITE_GRANT",
        /// The token is active, and its role does not include the permission.
        RoleTooLow = "ROLE_TOO_LOW",
        UnknownToken = "UNKNOWN_TOKEN",
        /// A newer token replaced it.
        TokenRotated = "TOKEN_ROTATED",
        Revoked = "REVOKED",
        Expired = "EXPIRED",
        /// Its client's owner is a disabled user or an archived team.
        OwnerInactive = "OWNER_INACTIVE",
        /// Its client's activation is still to come.
        NotYetActive = "NOT_YET_ACTIVE",
        /// Its client does not allow the address that it was presented from.
        SourceNotAllowed = "SOURCE_NOT_ALLOWED",
        /// The state of the token could not be determined.
        Unanswerable = "CANNOT_TELL",
        /// The proxy's route is misconfigured, so the token was not looked up.
        Misconfigured = "MISCONFIGURED",
    }

    /// The protocol of a socket listener.
    ListenerKind {
        Grpc = "grpc",
        Http = "http",
    }

    /// How a write to the database ended.
    WriteResult {
        /// It was committed.
        Done = "done",
        /// It was refused or failed and changed nothing, or was not acknowledged.
        NotDone = "not_done",
    }

    /// The purpose of one of the feed's connections.
    FeedConnection {
        Reading = "reading",
        /// It receives notifications (LISTEN).
        Listening = "listening",
        /// A replica follows a server upstream with it.
        Upstream = "upstream",
    }
}

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

impl VerdictReason {
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
}

impl<T, E> From<&Result<T, E>> for WriteResult {
    fn from(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(_) => Self::NotDone,
        }
    }
}
