//! Is this token good, and for what? The verdict on a token, from what is known
//! of its client and its owner at one moment.

use chrono::TimeDelta;

use super::{
    Timestamp,
    access::{Delegated, EffectiveAccess, Owner, OwnerStanding},
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

/// Until when a token works, with everything as it is now. Eight bytes, so that an
/// index can keep one beside each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorksUntil(
    /// In microseconds since 1970: nothing that ends does so more exactly than that.
    i64,
);

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
    /// Until when one of the client's tokens works.
    pub fn works_until(&self, token: TokenStanding) -> WorksUntil {
        if self.life != Life::Live {
            return WorksUntil::NEVER;
        }
        match self.expiry.min(token.end()) {
            Expiry::Never => WorksUntil::FOREVER,
            Expiry::At(end) => WorksUntil(end.timestamp_micros()),
        }
    }

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

impl WorksUntil {
    /// It does not work.
    pub const NEVER: Self = Self(i64::MIN);
    /// It does not end by itself.
    const FOREVER: Self = Self(i64::MAX);

    /// When the token ends by itself, if it works at that moment. `None`: it does not
    /// work, or perhaps so; [`Settled::judge`] tells, and why.
    pub fn at(self, now: Timestamp) -> Option<Expiry> {
        if self == Self::FOREVER {
            return Some(Expiry::Never);
        }
        // Both are rounded down, so what is less here is earlier.
        if now.timestamp_micros() >= self.0 {
            return None;
        }
        Timestamp::from_timestamp_micros(self.0).map(Expiry::At)
    }
}

impl Subject {
    /// Works out everything that does not depend on the time.
    pub fn settle(self) -> (TokenStanding, Settled) {
        let settled = Settled {
            client: self.client,
            owner: self.delegated.owner(),
            access: self.delegated.effective(&self.owner),
            life: Life::of(self.revoked, self.owner.current.can_act()),
            name: self.name.into_boxed_str(),
            expiry: self.expiry,
        };
        (self.token, settled)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{id::UserId, role::InstanceRole};

    fn at(microsecond: i64) -> Timestamp {
        Timestamp::from_timestamp_micros(microsecond).unwrap()
    }

    fn any_expiry() -> impl Strategy<Value = Expiry> {
        prop_oneof![
            Just(Expiry::Never),
            (-5_i64..5).prop_map(|time| Expiry::At(at(time)))
        ]
    }

    fn any_standing() -> impl Strategy<Value = TokenStanding> {
        any_expiry().prop_map(|end| match end {
            Expiry::Never => TokenStanding::Current,
            Expiry::At(end) => TokenStanding::ReplacedUntil(end),
        })
    }

    fn any_life() -> impl Strategy<Value = Life> {
        let lives = [Life::Live, Life::Revoked, Life::OwnerInactive];
        proptest::sample::select(lives.to_vec())
    }

    fn settled(life: Life, expiry: Expiry) -> Settled {
        Settled {
            client: ClientId::from_uuid(Uuid::from_u128(1)),
            owner: Owner::User(UserId::from_uuid(Uuid::from_u128(2))),
            life,
            access: EffectiveAccess {
                instance_role: InstanceRole::User,
                grants: std::iter::empty().collect(),
            },
            expiry,
            name: "a client".into(),
        }
    }

    proptest! {
        #[test]
        fn works_until_agrees_with_the_verdict(
            life in any_life(),
            expiry in any_expiry(),
            standing in any_standing(),
            now in -5_i64..5,
        ) {
            let settled = settled(life, expiry);
            let works = settled.works_until(standing);
            let verdict = settled.judge(standing, at(now));
            prop_assert_eq!(works.at(at(now)), verdict.ok());
        }

        /// What falls between two microseconds is left to the verdict.
        #[test]
        fn it_never_claims_more(
            end in 0_u32..5000,
            now in 0_u32..5000,
        ) {
            let at = |nanosecond| Timestamp::from_timestamp(0, nanosecond).unwrap();
            let settled = settled(Life::Live, Expiry::At(at(end)));
            if settled.works_until(TokenStanding::Current).at(at(now)).is_some() {
                prop_assert!(settled.judge(TokenStanding::Current, at(now)).is_ok());
            }
        }
    }
}
