//! What a judgement records.

use std::sync::{Mutex, atomic::Ordering};

use chrono::TimeDelta;
use hitkeep_auth_domain::{
    Position, Revision, Timestamp,
    access::{EffectiveAccess, EffectiveGrants, Owner},
    client::Expiry,
    id::{ClientId, UserId},
    index::{Index, Known, Writer},
    introspection::{BaseState, ResolvedClient, TokenStanding},
    ledger::{Ledger, Recorded},
    role::InstanceRole,
    token::{LegacyToken, StoredHash, TokenHash},
    usage::{Batch, RefusalReason},
};
use uuid::Uuid;

use super::{super::EmbeddedOptions, *};
use crate::embedded::live::Live;

const CLIENT: ClientId = ClientId::from_uuid(Uuid::from_u128(1));

/// Of the same client: the newest token, and one that it replaced and that still works.
const NEWEST: TokenHash = TokenHash([1; 32]);
const REPLACED: TokenHash = TokenHash([2; 32]);

/// A token that HitKeep issued. The client has one with `a`, which was replaced as well.
fn legacy(digit: &str) -> LegacyToken {
    LegacyToken::parse(digit.repeat(64)).unwrap()
}

/// An index with that client.
fn version(overlap_end: Timestamp) -> Index {
    let client = ResolvedClient {
        client: CLIENT,
        owner: Owner::User(UserId::from_uuid(Uuid::from_u128(2))),
        base_state: BaseState::Active,
        access: EffectiveAccess {
            instance_role: InstanceRole::User,
            grants: EffectiveGrants::default(),
        },
        expiry: Expiry::Never,
        name: Box::from("reports"),
        restrictions: None,
    };
    let tokens = vec![
        (StoredHash::Blake3(NEWEST), TokenStanding::Current),
        (
            StoredHash::Blake3(REPLACED),
            TokenStanding::ReplacedUntil(overlap_end),
        ),
        (
            legacy("a").hash().into(),
            TokenStanding::ReplacedUntil(overlap_end),
        ),
    ];
    let writer = Writer::of(std::iter::once((Known::Resolved(client), tokens)));
    writer.version(Position {
        database: Uuid::from_u128(3),
        revision: Revision(1),
        nonce: Uuid::from_u128(4),
    })
}

fn embedded() -> (Embedded, Recorded) {
    embedded_with(EmbeddedOptions::default())
}

fn embedded_with(options: EmbeddedOptions) -> (Embedded, Recorded) {
    let live = Live::new(options);
    let overlap_end = live.clock().now() + TimeDelta::hours(1);
    live.index.store(Some(Arc::new(version(overlap_end))));
    live.complete_at.store(i64::MAX, Ordering::Release);
    let (ledger, recorded) = Ledger::new();
    let embedded = Embedded {
        live: Arc::new(live),
        ledger,
        follower: tokio::spawn(async {}).abort_handle(),
        reporter: Mutex::new(None),
    };
    (embedded, recorded)
}

#[tokio::test]
async fn the_use_of_a_replaced_token_is_recorded() {
    let (embedded, mut recorded) = embedded();
    for (token, is_replaced) in [(NEWEST, false), (REPLACED, true)] {
        let presented = PresentedToken::Hash(token);
        let judged = embedded.judge(&presented, &Question::about(""));
        judged.unwrap().unwrap().unwrap();
        let mut batch = Batch::default();
        recorded.take(&mut batch);
        let (client, pending) = batch.after(None).next().unwrap();
        assert_eq!(*client, CLIENT);
        assert_eq!(pending.replaced_token_used().is_some(), is_replaced);
    }
}

/// A revision that was reached is no longer there once a backup is restored.
#[tokio::test]
async fn a_version_that_was_set_back_is_not_judged_by() {
    let (embedded, mut recorded) = embedded();
    let presented = PresentedToken::Hash(NEWEST);
    let at_least = |revision| Question::about("").at_least(Revision(revision));
    let judged = embedded.judge(&presented, &at_least(1));
    judged.unwrap().unwrap().unwrap();
    recorded.take(&mut Batch::default());
    // The follower had said so before.
    embedded.live.progress.send_modify(|progress| {
        progress.position = Some(Position {
            database: Uuid::from_u128(3),
            revision: Revision(2),
            nonce: Uuid::from_u128(4),
        });
    });
    let judged = embedded.judge(&presented, &at_least(2));
    assert!(matches!(judged, Err(Unavailable::Late)));
    assert!(recorded.is_empty(), "nothing was decided");
    let asked = embedded.ask_patiently(&presented, &at_least(2)).await;
    assert!(matches!(asked, Err(Error::Unavailable(Unavailable::Late))));
}

/// What was recorded since of the client.
fn recorded_outcomes(recorded: &mut Recorded) -> Vec<Outcome> {
    let mut batch = Batch::default();
    recorded.take(&mut batch);
    let pending = batch.after(None).next();
    let counts = pending.map(|(_, pending)| pending.counts());
    let counts = counts.unwrap_or_default().iter();
    let mut outcomes: Vec<_> = counts.map(|count| count.outcome).collect();
    outcomes.sort_unstable();
    outcomes
}

/// Each is counted as one in addition, and none works for longer than they are accepted.
#[tokio::test]
async fn legacy_tokens_work_until_they_are_no_longer_accepted() {
    let an_hour = TimeDelta::hours(1);
    let now = EmbeddedOptions::default().clock.now();
    let expired = Outcome::Refused(RefusalReason::Expired);
    for (until, outcome) in [
        (None, Outcome::Used),
        (Some(now + an_hour), Outcome::Used),
        (Some(now - an_hour), expired),
    ] {
        let (embedded, mut recorded) = embedded_with(EmbeddedOptions {
            accept_legacy_until: until,
            ..EmbeddedOptions::default()
        });
        let known = PresentedToken::Legacy(legacy("a"));
        let judged = embedded.judge(&known, &Question::about(""));
        match judged.unwrap().unwrap() {
            Ok(principal) => {
                assert_eq!(outcome, Outcome::Used);
                assert_eq!(principal.client_id(), CLIENT);
            }
            Err(error) => {
                assert_eq!(outcome, expired);
                assert!(matches!(error, Error::Inactive(InactiveReason::Expired)));
            }
        }
        let outcomes = recorded_outcomes(&mut recorded);
        assert_eq!(outcomes, [outcome, Outcome::LegacyToken]);
        // No server is asked for one that the index does not have.
        let unknown = PresentedToken::Legacy(legacy("b"));
        let judged = embedded.judge(&unknown, &Question::about(""));
        let judged = judged.unwrap().unwrap();
        assert!(matches!(
            judged,
            Err(Error::Inactive(InactiveReason::UnknownToken))
        ));
        assert_eq!(recorded_outcomes(&mut recorded), []);
    }
}

/// Nor does it count what it does not answer.
#[tokio::test]
async fn a_stale_version_proves_of_no_token_that_it_works_or_is_unknown() {
    let (embedded, mut recorded) = embedded();
    embedded
        .live
        .complete_at
        .store(i64::MIN + 1, Ordering::Release);
    for presented in [
        PresentedToken::Hash(NEWEST),
        PresentedToken::Legacy(legacy("a")),
        PresentedToken::Legacy(legacy("b")),
    ] {
        let judged = embedded.judge(&presented, &Question::about(""));
        assert!(
            matches!(judged, Err(Unavailable::Stale(_))),
            "{presented:?}"
        );
        assert_eq!(recorded_outcomes(&mut recorded), []);
    }
    // One that cannot be a token is none at any time.
    let judged = embedded.judge(&PresentedToken::Unknown, &Question::about(""));
    assert!(matches!(
        judged,
        Ok(Some(Err(Error::Inactive(InactiveReason::UnknownToken))))
    ));
}
