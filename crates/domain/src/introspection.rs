//! Whether a token is active, and with which access, from the state of its client and its
//! owner at one moment.

use chrono::TimeDelta;

use super::{
    Timestamp,
    access::{Delegated, EffectiveAccess, Owner, OwnerStanding},
    client::{Activation, ClientState, Expiry},
    id::ClientId,
    source::{AllowedSources, Source},
};

/// Why a token is inactive. If several reasons apply, the first in this order is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InactiveReason {
    /// The token does not exist or is malformed.
    UnknownToken,
    /// A newer token replaced it, and the overlap has ended.
    TokenRotated,
    /// Its client was revoked.
    Revoked,
    /// Its client's expiry has passed, or it is a legacy token and these are no longer
    /// accepted.
    Expired,
    /// Its client's owner is a disabled user or an archived team.
    OwnerInactive,
    /// Its client's activation is still to come.
    NotYetActive,
    /// The request comes from an address that its client does not allow, or from an unknown
    /// one where the client allows only some.
    SourceNotAllowed,
}

/// Whether a token is its client's newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStanding {
    /// The newest token.
    Current,
    /// A newer token replaced it; it is valid before this time only.
    ReplacedUntil(Timestamp),
}

/// A token's client and owner, as of one moment.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Whether the presented token was replaced.
    pub token: TokenStanding,
    /// The client that the token belongs to.
    pub client: ClientId,
    /// The client's name.
    pub name: String,
    /// The client's owner, instance role and grants.
    pub delegated: Delegated,
    /// When the client's tokens expire.
    pub expiry: Expiry,
    /// From where the client's tokens work.
    pub sources: AllowedSources,
    /// When the client's tokens begin to work.
    pub activation: Activation,
    /// Whether the client is revoked.
    pub revoked: bool,
    /// The owner, and the owner's roles on the granted sites.
    pub owner: OwnerStanding,
}

/// A client's state apart from its expiry, which depends on the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseState {
    /// Neither of the others applies.
    Active,
    /// An actor revoked the client.
    Revoked,
    /// The owner is a disabled user or an archived team.
    OwnerInactive,
}

/// A client with everything resolved that does not depend on the time. When a token
/// arrives, only the comparison with the clock is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedClient {
    /// Identifies the client.
    pub client: ClientId,
    /// The user or team that the client belongs to.
    pub owner: Owner,
    /// The state apart from expiry.
    pub base_state: BaseState,
    /// What the client may do at present.
    pub access: EffectiveAccess,
    /// When the client's tokens expire.
    pub expiry: Expiry,
    /// The client's name.
    pub name: Box<str>,
    /// What else limits the use of the client's tokens; `None` for most clients.
    pub restrictions: Option<Box<Restrictions>>,
}

/// From where and from when on a client's tokens work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restrictions {
    /// The addresses from which they work.
    pub sources: AllowedSources,
    /// When they begin to work.
    pub activation: Activation,
}

/// Until when a token is valid, if nothing changes. Eight bytes, so that the index can keep
/// one for each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorksUntil(
    /// Microseconds since 1970, the resolution of every expiry.
    i64,
);

impl TokenStanding {
    /// When the token's own validity ends, apart from its client's expiry.
    pub const fn end(self) -> Expiry {
        match self {
            Self::Current => Expiry::Never,
            Self::ReplacedUntil(end) => Expiry::At(end),
        }
    }
}

impl BaseState {
    /// The state that follows from the revocation and the owner's standing.
    pub const fn of(revoked: bool, owner_can_act: bool) -> Self {
        match (revoked, owner_can_act) {
            (true, _) => Self::Revoked,
            (false, false) => Self::OwnerInactive,
            (false, true) => Self::Active,
        }
    }
}

impl Restrictions {
    /// The restrictions of a client; `None` if its tokens work from everywhere and at once.
    /// Boxed, since few clients have any.
    pub fn of(sources: AllowedSources, activation: Activation) -> Option<Box<Self>> {
        let is_restricted = !sources.is_everywhere() || activation != Activation::AtOnce;
        is_restricted.then(|| {
            Box::new(Self {
                sources,
                activation,
            })
        })
    }
}

impl ResolvedClient {
    /// Until when one of the client's tokens is valid, wherever it is presented. Never where
    /// that is not certain, so that [`Self::evaluate`] decides.
    pub fn works_until(&self, token: TokenStanding) -> WorksUntil {
        if self.base_state != BaseState::Active || self.restrictions.is_some() {
            return WorksUntil::NEVER;
        }
        match self.expiry.min(token.end()) {
            Expiry::Never => WorksUntil::FOREVER,
            Expiry::At(end) => WorksUntil(end.timestamp_micros()),
        }
    }

    /// Whether one of the client's tokens is active for a request from `source`: until when,
    /// or why not.
    pub fn evaluate(
        &self,
        token: TokenStanding,
        source: Source<'_>,
        now: Timestamp,
    ) -> Result<Expiry, InactiveReason> {
        self.evaluate_until(token, Expiry::Never, source, now)
    }

    /// The same for a token that works until `limit` at most, such as a legacy one. From then
    /// on it is expired, like every token of a client whose own expiry has passed.
    pub fn evaluate_until(
        &self,
        token: TokenStanding,
        limit: Expiry,
        source: Source<'_>,
        now: Timestamp,
    ) -> Result<Expiry, InactiveReason> {
        let end = self.evaluate_anywhere(token, limit, now)?;
        match &self.restrictions {
            Some(restrictions) if !restrictions.sources.allow(source) => {
                Err(InactiveReason::SourceNotAllowed)
            }
            Some(_) | None => Ok(end),
        }
    }

    /// Whether one of the client's tokens is active somewhere.
    pub fn evaluate_anywhere(
        &self,
        token: TokenStanding,
        limit: Expiry,
        now: Timestamp,
    ) -> Result<Expiry, InactiveReason> {
        let expiry = self.expiry.min(limit);
        if token.end().has_come(now) {
            return Err(InactiveReason::TokenRotated);
        }
        let (revoked, can_act) = match self.base_state {
            BaseState::Active => (false, true),
            BaseState::Revoked => (true, true),
            BaseState::OwnerInactive => (false, false),
        };
        let restrictions = self.restrictions.as_ref();
        match ClientState::of(revoked, expiry, can_act, now) {
            ClientState::Active
                if restrictions.is_some_and(|some| !some.activation.has_come(now)) =>
            {
                Err(InactiveReason::NotYetActive)
            }
            ClientState::Active => Ok(expiry.min(token.end())),
            ClientState::Revoked => Err(InactiveReason::Revoked),
            ClientState::Expired => Err(InactiveReason::Expired),
            ClientState::OwnerInactive => Err(InactiveReason::OwnerInactive),
        }
    }
}

impl WorksUntil {
    /// There is no time at which the token is certainly valid.
    pub const NEVER: Self = Self(i64::MIN);
    /// The token does not expire.
    const FOREVER: Self = Self(i64::MAX);

    /// Whether the token is certainly valid at `now`. If not, [`ResolvedClient::evaluate`] must
    /// decide: it also knows the reason.
    pub fn is_after(self, now: Timestamp) -> bool {
        // Both are rounded down, so a smaller value here is an earlier time.
        self == Self::FOREVER || now.timestamp_micros() < self.0
    }

    /// When the token expires, if it is certainly valid at `now`.
    pub fn at(self, now: Timestamp) -> Option<Expiry> {
        if self == Self::FOREVER {
            return Some(Expiry::Never);
        }
        let end = || Timestamp::from_timestamp_micros(self.0).map(Expiry::At);
        self.is_after(now).then(end).flatten()
    }
}

impl Subject {
    /// Resolves everything that does not depend on the time.
    pub fn resolve(self) -> (TokenStanding, ResolvedClient) {
        let client = ResolvedClient {
            client: self.client,
            owner: self.delegated.owner(),
            access: self.delegated.effective(&self.owner),
            base_state: BaseState::of(self.revoked, self.owner.current.can_act()),
            name: self.name.into_boxed_str(),
            expiry: self.expiry,
            restrictions: Restrictions::of(self.sources, self.activation),
        };
        (self.token, client)
    }
}

/// How long a caller may cache an answer: `at_most`, and never past the token's expiry.
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
    use crate::{id::UserId, role::InstanceRole};

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

    fn any_base_state() -> impl Strategy<Value = BaseState> {
        let states = [
            BaseState::Active,
            BaseState::Revoked,
            BaseState::OwnerInactive,
        ];
        proptest::sample::select(states.to_vec())
    }

    fn client(base_state: BaseState, expiry: Expiry) -> ResolvedClient {
        ResolvedClient {
            client: ClientId::from_uuid(Uuid::from_u128(1)),
            owner: Owner::User(UserId::from_uuid(Uuid::from_u128(2))),
            base_state,
            access: EffectiveAccess {
                instance_role: InstanceRole::User,
                grants: std::iter::empty().collect(),
            },
            expiry,
            name: "a client".into(),
            restrictions: None,
        }
    }

    fn any_source() -> impl Strategy<Value = Source<'static>> {
        let sources = [
            Source::Unknown,
            Source::Text("192.0.2.1"),
            Source::Text("198.51.100.1"),
            Source::Text("unknown"),
        ];
        proptest::sample::select(sources.to_vec())
    }

    #[test]
    fn an_answer_is_cached_no_longer_than_its_token_works() {
        let minute = TimeDelta::minutes(1);
        let seven = TimeDelta::seconds(7);
        let now = at(5);
        for (ends, expected) in [
            (Expiry::Never, minute),
            (Expiry::At(now + minute * 2), minute),
            (Expiry::At(now + minute), minute),
            (Expiry::At(now + seven), seven),
        ] {
            assert_eq!(cache_age(ends, minute, now), expected, "{ends:?}");
        }
    }

    proptest! {
        #[test]
        fn works_until_agrees_with_the_evaluation(
            base_state in any_base_state(),
            expiry in any_expiry(),
            standing in any_standing(),
            now in -5_i64..5,
        ) {
            let client = client(base_state, expiry);
            let works = client.works_until(standing);
            let verdict = client.evaluate(standing, Source::Unknown, at(now));
            prop_assert_eq!(works.at(at(now)), verdict.ok());
        }

        /// Restrictions take away, and never give; each reason comes after those without them.
        #[test]
        fn restrictions_only_restrict(
            base_state in any_base_state(),
            expiry in any_expiry(),
            standing in any_standing(),
            activation in any_expiry(),
            is_restricted: bool,
            source in any_source(),
            now in -5_i64..5,
        ) {
            let activation = Activation::from(activation.time());
            let ranges = is_restricted.then(|| "192.0.2.0/24".parse().unwrap());
            let sources = AllowedSources::new(ranges.into_iter().collect()).unwrap();
            let free = client(base_state, expiry);
            let restricted = ResolvedClient {
                restrictions: Restrictions::of(sources, activation),
                ..free.clone()
            };
            let has_come = activation.time().is_none_or(|start| start <= at(now));
            let is_allowed = !is_restricted || source == Source::Text("192.0.2.1");
            let expected = match free.evaluate(standing, source, at(now)) {
                Ok(_) if !has_come => Err(InactiveReason::NotYetActive),
                Ok(_) if !is_allowed => Err(InactiveReason::SourceNotAllowed),
                verdict => verdict,
            };
            prop_assert_eq!(restricted.evaluate(standing, source, at(now)), expected);
            if let Some(end) = restricted.works_until(standing).at(at(now)) {
                prop_assert_eq!(expected, Ok(end));
            }
        }

        /// A limit is one more expiry, and the earlier one counts.
        #[test]
        fn a_limit_counts_like_an_earlier_expiry(
            base_state in any_base_state(),
            expiry in any_expiry(),
            limit in any_expiry(),
            standing in any_standing(),
            now in -5_i64..5,
        ) {
            let limited = client(base_state, expiry).evaluate_until(standing, limit, Source::Unknown, at(now));
            let shorter = client(base_state, expiry.min(limit));
            prop_assert_eq!(limited, shorter.evaluate(standing, Source::Unknown, at(now)));
        }

        /// Within the same microsecond, the full evaluation decides.
        #[test]
        fn works_until_is_never_later_than_the_evaluation(
            end in 0_u32..5000,
            now in 0_u32..5000,
        ) {
            let at = |nanosecond| Timestamp::from_timestamp(0, nanosecond).unwrap();
            let client = client(BaseState::Active, Expiry::At(at(end)));
            if client.works_until(TokenStanding::Current).at(at(now)).is_some() {
                let verdict = client.evaluate(TokenStanding::Current, Source::Unknown, at(now));
                prop_assert!(verdict.is_ok());
            }
        }
    }
}
