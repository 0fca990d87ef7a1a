//! What a client is made of: its texts, its expiry, its state, and how long an old
//! token may go on beside a new one. What is there is valid.

use chrono::TimeDelta;

use crate::domain::{Timestamp, role::words};

/// The longest name, in characters.
pub const MAX_NAME: usize = 120;
/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 500;
/// The longest that an old token can work beside its successor.
pub const MAX_OVERLAP: TimeDelta = TimeDelta::days(7);

/// A client's name: 1 to 120 characters, trimmed, none of them a control
/// character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

/// A client's description: at most 500 characters, none of them a control
/// character but for line breaks and tabs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description(String);

/// Why a text cannot be a name or a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// Nothing but white space.
    #[error("must not be empty")]
    Empty,
    /// Over its limit.
    #[error("must have at most {limit} characters")]
    TooLong {
        /// How many characters there may be.
        limit: usize,
    },
    /// Not for the eyes of people, and NUL not for Postgres either.
    #[error("must not contain control characters")]
    ControlCharacter,
}

impl Name {
    /// Trims and checks a name.
    pub fn parse(text: &str) -> Result<Self, BadText> {
        let text = text.trim();
        if text.is_empty() {
            return Err(BadText::Empty);
        }
        check_text(text, MAX_NAME, |_| false)?;
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Description {
    /// Checks a description.
    pub fn parse(text: &str) -> Result<Self, BadText> {
        check_text(text, MAX_DESCRIPTION, |c| matches!(c, '\n' | '\r' | '\t'))?;
        Ok(Self(text.to_owned()))
    }

    /// The description.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Refuses a text that is too long or has control characters.
pub fn check_text(text: &str, limit: usize, allowed: fn(char) -> bool) -> Result<(), BadText> {
    if text.chars().count() > limit {
        return Err(BadText::TooLong { limit });
    }
    if text.chars().any(|c| c.is_control() && !allowed(c)) {
        return Err(BadText::ControlCharacter);
    }
    Ok(())
}

/// When a client stops working. Ordered: later is greater, never the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expiry {
    /// At that moment, and from then on.
    At(Timestamp),
    /// Never.
    Never,
}

impl Expiry {
    /// The moment, if there is one.
    pub const fn time(self) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::Never => None,
        }
    }

    /// Whether it has come.
    pub fn has_come(self, now: Timestamp) -> bool {
        self <= Self::At(now)
    }
}

impl From<Option<Timestamp>> for Expiry {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::Never, Self::At)
    }
}

words! {
    /// Whether a client's current token can work, and if not, the first reason.
    ClientState ("client state") {
        /// It works.
        Active = "ACTIVE",
        /// Somebody revoked the client.
        Revoked = "REVOKED",
        /// Its expiry has come.
        Expired = "EXPIRED",
        /// Its owner cannot act.
        OwnerInactive = "OWNER_INACTIVE",
    }
}

impl ClientState {
    /// The state that follows from what is known of a client.
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

/// How long an old token works beside its successor: 0 to 7 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap(TimeDelta);

impl Overlap {
    /// `None` where it is negative or over the limit. Kept to the microsecond,
    /// as every time is; the limit holds for what is asked.
    pub fn new(length: TimeDelta) -> Option<Self> {
        let allowed = (TimeDelta::zero()..=MAX_OVERLAP).contains(&length);
        let micros = length.num_microseconds().filter(|_| allowed)?;
        Some(Self(TimeDelta::microseconds(micros)))
    }

    /// How long it is.
    pub const fn length(self) -> TimeDelta {
        self.0
    }
}
