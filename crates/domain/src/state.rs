//! Whether a client is active: its expiry, its revocation and its owner, at one moment.

use super::{Timestamp, role::string_enum};

/// When a client expires. A later expiry is greater, and `Never` is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expiry {
    /// From this moment on, it is expired.
    At(Timestamp),
    /// It does not expire.
    Never,
}

impl Expiry {
    /// The time of the expiry; `None` for `Never`.
    pub const fn time(self) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::Never => None,
        }
    }

    /// Whether the client is expired at `now`.
    pub fn has_come(self, now: Timestamp) -> bool {
        self <= Self::At(now)
    }
}

impl From<Option<Timestamp>> for Expiry {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::Never, Self::At)
    }
}

/// From when on a client's tokens work. A later activation is greater, and `AtOnce` is the
/// least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activation {
    /// They work since the client was created.
    #[default]
    AtOnce,
    /// They work from this moment on.
    At(Timestamp),
}

impl Activation {
    /// The time of the activation; `None` for `AtOnce`.
    pub const fn time(self) -> Option<Timestamp> {
        match self {
            Self::AtOnce => None,
            Self::At(time) => Some(time),
        }
    }

    /// Whether tokens work at `now`, as far as this is concerned.
    pub fn has_come(self, now: Timestamp) -> bool {
        self <= Self::At(now)
    }

    /// Whether it comes before an expiry; otherwise tokens would work at no time.
    pub fn is_before(self, expiry: Expiry) -> bool {
        match (self, expiry) {
            (Self::AtOnce, _) | (_, Expiry::Never) => true,
            (Self::At(start), Expiry::At(end)) => start < end,
        }
    }
}

impl From<Option<Timestamp>> for Activation {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::AtOnce, Self::At)
    }
}

string_enum! {
    /// Whether a client's current token is active; if not, the first reason that applies.
    ClientState ("client state") {
        /// The token is active.
        Active = "ACTIVE",
        /// An actor revoked the client.
        Revoked = "REVOKED",
        /// The expiry has passed.
        Expired = "EXPIRED",
        /// The owner is a disabled user or an archived team.
        OwnerInactive = "OWNER_INACTIVE",
    }
}

impl ClientState {
    /// Derives the state; revocation comes before expiry, and expiry before the owner.
    pub fn of(revoked: bool, expiry: Expiry, owner_can_act: bool, now: Timestamp) -> Self {
        if revoked {
            Self::Revoked
        } else if expiry.has_come(now) {
            Self::Expired
        } else if !owner_can_act {
            Self::OwnerInactive
        } else {
            Self::Active
        }
    }
}
