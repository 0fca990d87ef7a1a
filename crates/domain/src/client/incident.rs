//! What answers an incident: a reported leak, and the revocation of many clients at once.
//!
//! A leak is reported by a holder of the token, and needs no actor: a token's holder may
//! always end it. An actor who is named all the same must be one who may act at all. Of many clients, an actor revokes those of an owner whose clients they
//! oversee, or, as an owner of the instance, anybody's.

use super::{ApiClient, BadText, ClientState, Expiry, TokenHint, Transition, check_text, rfc3339};
use crate::{
    Timestamp,
    access::{Holder, Owner},
    audit::{Action, Event, FieldChange},
    id::{ClientId, SiteId, UserId},
    refusal::Refusal,
    role::InstanceRole,
    token::{TokenScheme, without_tokens},
};

/// The longest name of what found a leaked token, in characters.
pub const MAX_LEAK_SOURCE: usize = 100;
/// The longest address of where a token was found, in characters.
pub const MAX_LEAK_URL: usize = 2048;
/// The most clients that are revoked at once. All of them are one transaction, which every
/// other write waits for, and one revision, which every index takes over as a whole.
pub const MAX_REVOKED_AT_ONCE: u32 = 10_000;

/// Who found a leaked token, and where. Kept in the audit trail, so what looks like a token is
/// taken out of it. That is no reason to refuse a report: an address that looks like one must
/// not decide whether a token is revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeakOrigin {
    source: String,
    url: String,
}

impl LeakOrigin {
    /// Of texts that were checked, each of which may be empty.
    pub fn new(source: &str, url: &str) -> Self {
        Self {
            source: without_tokens(source).into_owned(),
            url: without_tokens(url).into_owned(),
        }
    }

    /// Checks the name of what found the token.
    pub fn check_source(text: &str) -> Result<(), BadText> {
        check_text(text, MAX_LEAK_SOURCE, |_| false)
    }

    /// Checks the address of where it was found.
    pub fn check_url(text: &str) -> Result<(), BadText> {
        check_text(text, MAX_LEAK_URL, |_| false)
    }
}

/// A token that was found where it must not be, as it is stored.
#[derive(Clone, Debug)]
pub struct LeakedToken {
    /// When the overlap with its successor ends, or ended; `Never` if it is its client's newest.
    pub end: Expiry,
    /// How its hash was computed.
    pub scheme: TokenScheme,
    /// What may be shown of it.
    pub hint: TokenHint,
}

/// What determines whether a leaked token works.
#[derive(Clone, Copy, Debug)]
pub struct LeakCircumstances {
    /// Whether the client's owner can act.
    pub owner_can_act: bool,
    /// Until when legacy tokens are accepted.
    pub legacy_tokens_until: Expiry,
    /// The moment of the report.
    pub now: Timestamp,
}

/// A client after a leak was reported.
#[derive(Clone, Debug)]
pub struct ReportedLeak {
    /// The client after the report.
    pub client: ApiClient,
    /// Whether the token worked, from any address at all.
    pub was_live: bool,
    /// The event of the revocation; `None` if the client was not revoked by this report.
    pub revocation: Option<Event>,
    /// The event of the report. If nothing was revoked, it is recorded only unless the same
    /// report was recorded before.
    pub leak: Event,
}

/// Selects clients to revoke: those that pass all filters that are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The clients of this owner.
    pub owner: Option<Owner>,
    /// Clients with a grant on this site.
    pub site: Option<SiteId>,
    /// Clients that this user created.
    pub created_by: Option<UserId>,
}

/// What the event of a revocation tells of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedClient {
    /// The client's id.
    pub id: ClientId,
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: Owner,
}

impl RevokedClient {
    /// The event of its revocation, as for a single one.
    pub fn event(self, now: Timestamp) -> Event {
        Event {
            action: Action::ClientRevoked,
            subject: self.id.uuid(),
            subject_name: self.name,
            owner: Some(self.owner),
            changes: revocation(now),
        }
    }
}

impl ApiClient {
    /// Ends a leaked token by revoking its client. The reporter needs no rights.
    ///
    /// A client is revoked also if it does not work at present, since a later expiry or the
    /// return of its owner would make the token work again. It stays as it is only if it is
    /// revoked already, or if the token was replaced and its overlap has ended: nothing brings
    /// such a token back.
    pub fn report_leak(
        self,
        token: &LeakedToken,
        origin: &LeakOrigin,
        circumstances: LeakCircumstances,
    ) -> ReportedLeak {
        let LeakCircumstances {
            owner_can_act,
            legacy_tokens_until,
            now,
        } = circumstances;
        let is_replaced = token.end.has_come(now);
        let is_accepted = match token.scheme {
            TokenScheme::Blake3 => true,
            TokenScheme::HitkeepSha256 => !legacy_tokens_until.has_come(now),
        };
        // Where the token works is not asked: its finder may be there.
        let was_live = !is_replaced
            && is_accepted
            && self.activation.has_come(now)
            && self.state(owner_can_act, now) == ClientState::Active;
        let mut changes = vec![FieldChange::new("token_hint", "", &token.hint.0)];
        for (field, text) in [("source", &origin.source), ("url", &origin.url)] {
            if !text.is_empty() {
                changes.push(FieldChange::new(field, "", text));
            }
        }
        let leak = self.event(Action::ClientLeaked, changes);
        let Transition { client, event } = if is_replaced {
            Transition {
                client: self,
                event: None,
            }
        } else {
            self.revoked(now)
        };
        ReportedLeak {
            client,
            was_live,
            revocation: event,
            leak,
        }
    }

    /// Revokes it, if it is not revoked already.
    pub(super) fn revoked(self, now: Timestamp) -> Transition {
        if self.revoke_time.is_some() {
            return Transition {
                client: self,
                event: None,
            };
        }
        let client = Self {
            revoke_time: Some(now),
            update_time: now,
            ..self
        };
        let event = client.event(Action::ClientRevoked, revocation(now));
        Transition {
            client,
            event: Some(event),
        }
    }
}

fn revocation(now: Timestamp) -> Vec<FieldChange> {
    vec![FieldChange::new("revoke_time", "", &rfc3339(now))]
}

/// Refuses an actor on whose behalf a leak is reported and who may do nothing, with the refusal
/// for a client that does not exist. No right of others counts.
pub fn check_reporter(actor: &Holder) -> Result<(), Refusal> {
    match actor.instance_role() {
        Some(_) => Ok(()),
        None => Err(Refusal::NotFound),
    }
}

/// Refuses an actor that may not see everybody's clients: only an owner of the instance may.
pub fn check_all_listable(actor: &Holder) -> Result<(), Refusal> {
    match actor.instance_role() {
        Some(InstanceRole::Owner) => Ok(()),
        Some(InstanceRole::Admin | InstanceRole::User) | None => Err(Refusal::OwnerNotManaged),
    }
}

/// Refuses to revoke more clients at once than [`MAX_REVOKED_AT_ONCE`].
pub fn check_revocable(found: usize) -> Result<(), Refusal> {
    if found > MAX_REVOKED_AT_ONCE as usize {
        return Err(Refusal::TooManyClients {
            limit: MAX_REVOKED_AT_ONCE,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        access::{Delegated, SiteGrants},
        client::{Activation, Description, Name},
        source::AllowedSources,
    };

    fn client(expiry: Expiry, revoke_time: Option<Timestamp>) -> ApiClient {
        let user = UserId::from_uuid(uuid::Uuid::from_u128(1));
        ApiClient {
            activation: Activation::AtOnce,
            sources: AllowedSources::default(),
            id: ClientId::from_uuid(uuid::Uuid::from_u128(2)),
            delegated: Delegated::Personal {
                user,
                instance_role: InstanceRole::User,
                grants: SiteGrants::new(),
            },
            name: Name::parse("a client").unwrap(),
            description: Description::default(),
            expiry,
            revoke_time,
            created_by: None,
            create_time: Timestamp::UNIX_EPOCH,
            update_time: Timestamp::UNIX_EPOCH,
            last_used: None,
            token_hint: TokenHint("hint".to_owned()),
            token_scheme: Some(TokenScheme::Blake3),
        }
    }

    proptest! {
        /// Whatever the circumstances: after a report, the token works neither now nor later,
        /// and it was live exactly if nothing spoke against it.
        #[test]
        fn a_reported_token_never_works_again(
            ends in prop::option::of(-2_i64..3),
            expires in prop::option::of(-2_i64..3),
            is_revoked in any::<bool>(),
            owner_can_act in any::<bool>(),
            is_legacy in any::<bool>(),
            accepted in prop::option::of(-2_i64..3),
            begins in prop::option::of(-2_i64..3),
        ) {
            let now = Timestamp::UNIX_EPOCH + TimeDelta::days(1);
            let at = |seconds: i64| now + TimeDelta::seconds(seconds);
            let before = ApiClient {
                activation: begins.map(at).into(),
                ..client(
                    expires.map(at).into(),
                    is_revoked.then_some(Timestamp::UNIX_EPOCH),
                )
            };
            let token = LeakedToken {
                end: ends.map(at).into(),
                scheme: if is_legacy { TokenScheme::HitkeepSha256 } else { TokenScheme::Blake3 },
                hint: TokenHint("leaked".to_owned()),
            };
            let circumstances = LeakCircumstances {
                owner_can_act,
                legacy_tokens_until: accepted.map(at).into(),
                now,
            };
            let reported = before.clone().report_leak(&token, &LeakOrigin::default(), circumstances);
            let has_ended = ends.is_some_and(|end| end <= 0);
            let works = !has_ended
                && !is_revoked
                && expires.is_none_or(|expiry| expiry > 0)
                && begins.is_none_or(|begin| begin <= 0)
                && owner_can_act
                && (!is_legacy || accepted.is_none_or(|until| until > 0));
            prop_assert_eq!(reported.was_live, works);
            prop_assert!(has_ended || reported.client.revoke_time.is_some());
            prop_assert_eq!(reported.revocation.is_some(), !has_ended && !is_revoked);
            if reported.revocation.is_none() {
                prop_assert_eq!(&reported.client, &before);
            }
            // Again: nothing.
            let again = reported.client.clone().report_leak(
                &token,
                &LeakOrigin::default(),
                circumstances,
            );
            prop_assert!(!again.was_live && again.revocation.is_none());
            prop_assert_eq!(again.leak, reported.leak);
            prop_assert_eq!(again.client, reported.client);
        }
    }

    #[test]
    fn no_token_is_kept_as_an_origin() {
        for text in ["a\u{7}".to_owned(), "x".repeat(MAX_LEAK_URL + 1)] {
            assert!(LeakOrigin::check_source(&text).is_err(), "{text}");
            assert!(LeakOrigin::check_url(&text).is_err(), "{text}");
        }
        let digits = "a".repeat(64);
        for (text, kept) in [
            (
                "https://a.example/commit/1f#L1",
                "https://a.example/commit/1f#L1",
            ),
            (
                "https://a.example/?t=hks_12345678",
                "https://a.example/?t=[token]",
            ),
            // No token is that short.
            (
                "https://a.example/hkp_keys_2.env",
                "https://a.example/hkp_keys_2.env",
            ),
            (&digits, "[token]"),
        ] {
            assert_eq!(LeakOrigin::check_url(text), Ok(()), "{text}");
            let origin = LeakOrigin::new(text, text);
            assert_eq!((&*origin.source, &*origin.url), (kept, kept));
        }
    }
}
