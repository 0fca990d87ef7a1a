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

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    const MOMENT: TimeDelta = TimeDelta::microseconds(1);

    fn noon() -> Timestamp {
        Timestamp::UNIX_EPOCH + TimeDelta::hours(12)
    }

    #[test]
    fn an_expiry_has_come_from_its_moment_on() {
        let expiry = Expiry::from(Some(noon()));
        assert_eq!(expiry, Expiry::At(noon()));
        assert_eq!(expiry.time(), Some(noon()));
        assert!(!expiry.has_come(noon() - MOMENT));
        assert!(expiry.has_come(noon()));
        assert!(expiry.has_come(noon() + MOMENT));
        let never = Expiry::from(None);
        assert_eq!((never, never.time()), (Expiry::Never, None));
        assert!(!never.has_come(Timestamp::MAX_UTC));
    }

    #[test]
    fn an_activation_has_come_from_its_moment_on() {
        let activation = Activation::from(Some(noon()));
        assert_eq!(activation, Activation::At(noon()));
        assert_eq!(activation.time(), Some(noon()));
        assert!(!activation.has_come(noon() - MOMENT));
        assert!(activation.has_come(noon()));
        assert!(activation.has_come(noon() + MOMENT));
        let at_once = Activation::from(None);
        assert_eq!((at_once, at_once.time()), (Activation::AtOnce, None));
        assert!(at_once.has_come(Timestamp::MIN_UTC));
    }

    #[test]
    fn tokens_work_at_some_time_if_they_begin_before_they_end() {
        let at = |time| (Activation::At(time), Expiry::At(time));
        let ((start, end), (earlier, _), (later, _)) =
            (at(noon()), at(noon() - MOMENT), at(noon() + MOMENT));
        assert!(earlier.is_before(end));
        assert!(!start.is_before(end));
        assert!(!later.is_before(end));
        assert!(start.is_before(Expiry::Never));
        assert!(Activation::AtOnce.is_before(end));
        assert!(Activation::AtOnce.is_before(Expiry::Never));
    }

    #[test]
    fn the_first_reason_is_the_state() {
        use ClientState::{Active, Expired, OwnerInactive, Revoked};

        let (past, never) = (Expiry::At(noon()), Expiry::Never);
        for (revoked, expiry, owner_can_act, expected) in [
            (false, never, true, Active),
            (false, never, false, OwnerInactive),
            (false, past, true, Expired),
            (false, past, false, Expired),
            (true, never, true, Revoked),
            (true, never, false, Revoked),
            (true, past, true, Revoked),
            (true, past, false, Revoked),
        ] {
            let state = ClientState::of(revoked, expiry, owner_can_act, noon());
            assert_eq!(state, expected, "{revoked} {expiry:?} {owner_can_act}");
        }
    }
}
