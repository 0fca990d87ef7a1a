//! Is this token good, and for what? The verdict on a token, from what is known
//! of its client and its owner at one moment.

use chrono::TimeDelta;

use super::{
    Timestamp,
    access::{Decision, Delegated, EffectiveAccess, Owner, OwnerStanding, PermissionCheck},
    client::{ClientState, Expiry},
    id::ClientId,
};

/// Why a token does not work: the first that applies, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InactiveReason {
    /// No such token, or not a token at all.
    UnknownToken,
    /// A newer one took its place, and its overlap has ended.
    TokenRotated,
    /// The client was revoked.
    Revoked,
    /// The client's expiry has come.
    Expired,
    /// The client's owner cannot act.
    OwnerInactive,
}

/// A token's place among its client's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStanding {
    /// The newest.
    Current,
    /// A newer one took its place; it works until then, and not from then on.
    ReplacedUntil(Timestamp),
}

/// A token's client and owner, as of one moment.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The token's place.
    pub token: TokenStanding,
    /// The client.
    pub client: ClientId,
    /// Its name.
    pub name: String,
    /// What was written on it.
    pub delegated: Delegated,
    /// When it stops working.
    pub expiry: Expiry,
    /// Whether it is revoked.
    pub revoked: bool,
    /// Its owner, and what it holds on the granted sites.
    pub owner: OwnerStanding,
}

/// Whether a client works, its expiry apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Live,
    /// Somebody revoked it.
    Revoked,
    /// Its owner cannot act.
    OwnerInactive,
}

/// A client with everything worked out that does not depend on the time: what is
/// left to do when a token arrives is to look at the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The client.
    pub client: ClientId,
    /// Its owner.
    pub owner: Owner,
    /// Whether it works.
    pub life: Life,
    /// Its effective access.
    pub access: EffectiveAccess,
    /// When it expires.
    pub expiry: Expiry,
    /// Its name.
    pub name: Box<str>,
}

/// What a working token may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// The client.
    pub client: ClientId,
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: Owner,
    /// Its effective access.
    pub access: EffectiveAccess,
    /// When the client expires.
    pub expiry: Expiry,
    /// When this token ends by itself: the expiry, or an overlap's end.
    pub ends: Expiry,
}

impl TokenStanding {
    /// When the token ends by its place alone.
    pub const fn end(self) -> Expiry {
        match self {
            Self::Current => Expiry::Never,
            Self::ReplacedUntil(end) => Expiry::At(end),
        }
    }
}

impl Life {
    /// From what is known of a client, apart from its expiry.
    pub const fn of(revoked: bool, owner_can_act: bool) -> Self {
        match (revoked, owner_can_act) {
            (true, _) => Self::Revoked,
            (false, false) => Self::OwnerInactive,
            (false, true) => Self::Live,
        }
    }
}

impl Settled {
    /// The verdict on one of the client's tokens: when it ends by itself, or why
    /// it does not work.
    pub fn judge(&self, token: TokenStanding, now: Timestamp) -> Result<Expiry, InactiveReason> {
        if token.end().has_come(now) {
            return Err(InactiveReason::TokenRotated);
        }
        let (revoked, can_act) = match self.life {
            Life::Live => (false, true),
            Life::Revoked => (true, true),
            Life::OwnerInactive => (false, false),
        };
        match ClientState::of(revoked, self.expiry, can_act, now) {
            ClientState::Active => Ok(self.expiry.min(token.end())),
            ClientState::Revoked => Err(InactiveReason::Revoked),
            ClientState::Expired => Err(InactiveReason::Expired),
            ClientState::OwnerInactive => Err(InactiveReason::OwnerInactive),
        }
    }
}

impl Subject {
    /// Works out everything that does not depend on the time.
    pub fn settle(self) -> (TokenStanding, Settled) {
        let settled = Settled {
            client: self.client,
            owner: self.delegated.owner(),
            access: self.delegated.effective(&self.owner),
            life: Life::of(self.revoked, self.owner.can_act()),
            name: self.name.into_boxed_str(),
            expiry: self.expiry,
        };
        (self.token, settled)
    }

    /// The verdict at a moment.
    pub fn judge(self, now: Timestamp) -> Result<Active, InactiveReason> {
        let (token, settled) = self.settle();
        let ends = settled.judge(token, now)?;
        Ok(Active {
            client: settled.client,
            name: settled.name.into_string(),
            owner: settled.owner,
            access: settled.access,
            expiry: settled.expiry,
            ends,
        })
    }
}

/// How long an answer may be kept: `at_most`, and never past the moment at which
/// the token `ends` by itself.
pub fn cache_age(ends: Expiry, at_most: TimeDelta, now: Timestamp) -> TimeDelta {
    match ends {
        Expiry::Never => at_most,
        Expiry::At(end) => at_most.min(end - now),
    }
}

/// The answer to a check, given the verdict on the token.
pub fn decide(verdict: &Result<Active, InactiveReason>, check: &PermissionCheck) -> Decision {
    match verdict {
        Ok(active) => active.access.decide(check),
        Err(_) => Decision::Inactive,
    }
}
