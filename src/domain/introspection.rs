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

impl Subject {
    /// The verdict at a moment.
    pub fn judge(self, now: Timestamp) -> Result<Active, InactiveReason> {
        let token_end = match self.token {
            TokenStanding::Current => Expiry::Never,
            TokenStanding::ReplacedUntil(end) => Expiry::At(end),
        };
        if token_end.has_come(now) {
            return Err(InactiveReason::TokenRotated);
        }
        match ClientState::of(self.revoked, self.expiry, self.owner.can_act(), now) {
            ClientState::Active => {}
            ClientState::Revoked => return Err(InactiveReason::Revoked),
            ClientState::Expired => return Err(InactiveReason::Expired),
            ClientState::OwnerInactive => return Err(InactiveReason::OwnerInactive),
        }
        Ok(Active {
            client: self.client,
            name: self.name,
            owner: self.delegated.owner(),
            access: self.delegated.effective(&self.owner),
            expiry: self.expiry,
            ends: self.expiry.min(token_end),
        })
    }
}

impl Active {
    /// How long an answer may be kept: `at_most`, and never past the moment at
    /// which the token ends by itself.
    pub fn cache_age(&self, at_most: TimeDelta, now: Timestamp) -> TimeDelta {
        match self.ends {
            Expiry::Never => at_most,
            Expiry::At(end) => at_most.min(end - now),
        }
    }
}

/// The answer to a check, given the verdict on the token.
pub fn decide(verdict: &Result<Active, InactiveReason>, check: &PermissionCheck) -> Decision {
    match verdict {
        Ok(active) => active.access.decide(check),
        Err(_) => Decision::Inactive,
    }
}
