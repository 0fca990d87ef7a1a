//! What a version of the index says of a token.

use chrono::TimeDelta;
use hitkeep_auth_domain::{
    Position, Timestamp,
    access::{EffectiveAccess, EffectiveGrants, Owner},
    client::{Activation, Expiry},
    clock::Entropy,
    id::{ClientId, UserId},
    index::{Index, Judged, Known, Writer},
    introspection::{BaseState, InactiveReason, ResolvedClient, Restrictions, TokenStanding},
    role::InstanceRole,
    source::{AllowedSources, Source},
    token::{LegacyToken, PresentedToken, StoredHash, Token, TokenKind},
};
use uuid::Uuid;

const CLIENT: ClientId = ClientId::from_uuid(Uuid::from_u128(1));

struct Filled(u8);

impl Entropy for Filled {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(self.0);
    }
}

/// A token of this service.
fn token(kind: TokenKind, number: u8) -> PresentedToken {
    PresentedToken::read(Token::mint(kind, &Filled(number)).reveal())
}

fn legacy(digit: char) -> PresentedToken {
    PresentedToken::read(digit.to_string().repeat(64))
}

fn stored(presented: &PresentedToken) -> StoredHash {
    match presented {
        PresentedToken::Hash(hash) => (*hash).into(),
        PresentedToken::Legacy(token) => LegacyToken::hash(token).into(),
        PresentedToken::Unknown => unreachable!("it has no hash"),
    }
}

fn at(hour: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + TimeDelta::hours(hour)
}

fn client() -> ResolvedClient {
    ResolvedClient {
        client: CLIENT,
        owner: Owner::User(UserId::from_uuid(Uuid::from_u128(2))),
        base_state: BaseState::Active,
        access: EffectiveAccess {
            instance_role: InstanceRole::User,
            grants: EffectiveGrants::default(),
        },
        expiry: Expiry::At(at(10)),
        name: Box::from("reports"),
        restrictions: None,
    }
}

/// An index with one client and these tokens of it.
fn index(known: Known, tokens: &[(&PresentedToken, TokenStanding)]) -> Index {
    let tokens = tokens
        .iter()
        .map(|(token, standing)| (stored(token), *standing));
    let mut writer = Writer::default();
    writer.put(known, &tokens.collect::<Vec<_>>());
    writer.version(Position::UNKNOWN)
}

/// What is said of a token.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Malformed,
    NotFound,
    LegacyNotFound,
    Unreadable,
    Inactive(InactiveReason),
    Active { ends: Expiry, is_replaced: bool },
}

fn judge(index: &Index, token: &PresentedToken, source: Source<'_>, legacy_until: Expiry) -> Said {
    match index.judge(token, source, legacy_until, at(5)) {
        Judged::Malformed => Said::Malformed,
        Judged::NotFound => Said::NotFound,
        Judged::LegacyNotFound => Said::LegacyNotFound,
        Judged::Unreadable => Said::Unreadable,
        Judged::Inactive(client, reason) => {
            assert_eq!(client.known.id(), CLIENT);
            Said::Inactive(reason)
        }
        Judged::Active {
            client,
            resolved,
            ends,
            is_replaced,
        } => {
            assert_eq!(client.known, Known::Resolved(resolved.clone()));
            assert_eq!(resolved.client, CLIENT);
            Said::Active { ends, is_replaced }
        }
    }
}

/// From an unknown source.
fn judge_anywhere(index: &Index, token: &PresentedToken, legacy_until: Expiry) -> Said {
    judge(index, token, Source::Unknown, legacy_until)
}

/// Only of what may be newer than the version does it say no more than that.
#[test]
fn what_no_client_has_is_told_apart() {
    let [known, unknown] = [1, 2].map(|number| token(TokenKind::Personal, number));
    let [known_legacy, unknown_legacy] = ['a', 'b'].map(legacy);
    let current = TokenStanding::Current;
    let without_legacy = index(Known::Resolved(client()), &[(&known, current)]);
    let with_legacy = index(Known::Resolved(client()), &[(&known_legacy, current)]);
    for index in [without_legacy, with_legacy] {
        for (presented, expected) in [
            (PresentedToken::read("hkp_mistyped"), Said::Malformed),
            (token(TokenKind::ServiceAccount, 1), Said::Malformed),
            (unknown.clone(), Said::NotFound),
            (token(TokenKind::Team, 1), Said::NotFound),
            (unknown_legacy.clone(), Said::LegacyNotFound),
        ] {
            assert_eq!(judge_anywhere(&index, &presented, Expiry::Never), expected);
        }
    }
}

#[test]
fn a_client_that_cannot_be_read_has_no_judgement() {
    for token in [token(TokenKind::Personal, 1), legacy('a')] {
        let index = index(
            Known::Unreadable(CLIENT),
            &[(&token, TokenStanding::Current)],
        );
        assert_eq!(
            judge_anywhere(&index, &token, Expiry::Never),
            Said::Unreadable
        );
    }
}

/// A token ends with its overlap or with its client, a legacy one with what is accepted too; and
/// it was replaced if its overlap ends before its client does, whatever is accepted.
#[test]
fn a_token_works_until_the_earliest_end() {
    let active = |hour, is_replaced| Said::Active {
        ends: Expiry::At(at(hour)),
        is_replaced,
    };
    let inactive = Said::Inactive;
    let current = TokenStanding::Current;
    let until = |hour| TokenStanding::ReplacedUntil(at(hour));
    let blake3 = token(TokenKind::Personal, 1);
    for (standing, expected) in [
        (current, active(10, false)),
        (until(7), active(7, true)),
        (until(10), active(10, false)),
        (until(11), active(10, false)),
        (until(5), inactive(InactiveReason::TokenRotated)),
    ] {
        let index = index(Known::Resolved(client()), &[(&blake3, standing)]);
        // No limit of legacy tokens counts for it.
        for limit in [Expiry::Never, Expiry::At(at(1))] {
            assert_eq!(
                judge_anywhere(&index, &blake3, limit),
                expected,
                "{standing:?}"
            );
        }
    }
    let legacy = legacy('a');
    for (standing, limit, expected) in [
        (current, Expiry::Never, active(10, false)),
        (current, Expiry::At(at(8)), active(8, false)),
        (until(7), Expiry::At(at(8)), active(7, true)),
        (until(8), Expiry::At(at(8)), active(8, true)),
        (until(9), Expiry::At(at(8)), active(8, true)),
        (until(10), Expiry::At(at(8)), active(8, false)),
        (
            current,
            Expiry::At(at(5)),
            inactive(InactiveReason::Expired),
        ),
        (
            until(5),
            Expiry::Never,
            inactive(InactiveReason::TokenRotated),
        ),
    ] {
        let index = index(Known::Resolved(client()), &[(&legacy, standing)]);
        assert_eq!(
            judge_anywhere(&index, &legacy, limit),
            expected,
            "{standing:?}, {limit:?}"
        );
    }
}

/// Each token has its own end: an imported one that was replaced, and the newest.
#[test]
fn tokens_of_both_schemes_belong_to_one_client() {
    let (newest, replaced) = (token(TokenKind::Personal, 1), legacy('a'));
    let tokens = [
        (&replaced, TokenStanding::ReplacedUntil(at(7))),
        (&newest, TokenStanding::Current),
    ];
    let index = index(Known::Resolved(client()), &tokens);
    for (token, hour, is_replaced) in [(&newest, 10, false), (&replaced, 7, true)] {
        let said = judge_anywhere(&index, token, Expiry::Never);
        let ends = Expiry::At(at(hour));
        assert_eq!(said, Said::Active { ends, is_replaced });
    }
}

#[test]
fn what_limits_a_client_limits_each_of_its_tokens() {
    let ranges = vec!["192.0.2.0/24".parse().unwrap()];
    let restrictions =
        |ranges, activation| Restrictions::of(AllowedSources::new(ranges).unwrap(), activation);
    let revoked = ResolvedClient {
        base_state: BaseState::Revoked,
        ..client()
    };
    let limited = ResolvedClient {
        restrictions: restrictions(ranges, Activation::AtOnce),
        ..client()
    };
    let later = ResolvedClient {
        restrictions: restrictions(vec![], Activation::At(at(6))),
        ..client()
    };
    let active = Said::Active {
        ends: Expiry::At(at(10)),
        is_replaced: false,
    };
    let inside = Source::Text("192.0.2.7");
    for token in [token(TokenKind::Team, 1), legacy('a')] {
        for (client, source, expected) in [
            (&client(), Source::Unknown, &active),
            (&revoked, inside, &Said::Inactive(InactiveReason::Revoked)),
            (&limited, inside, &active),
            (
                &limited,
                Source::Text("198.51.100.7"),
                &Said::Inactive(InactiveReason::SourceNotAllowed),
            ),
            (
                &later,
                inside,
                &Said::Inactive(InactiveReason::NotYetActive),
            ),
        ] {
            let known = Known::Resolved(client.clone());
            let index = index(known, &[(&token, TokenStanding::Current)]);
            assert_eq!(judge(&index, &token, source, Expiry::Never), *expected);
        }
    }
}
