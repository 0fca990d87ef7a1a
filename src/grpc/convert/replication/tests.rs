//! Tests, which are built for tests alone: clients arrive as they were sent, or as unreadable.

use uuid::Uuid;

use super::*;
use crate::{
    client::follow::wire::{Malformed, read_accounts, read_client},
    domain::{
        Timestamp,
        access::EffectiveAccess,
        caller::{CallerName, CallerPermission, ReplacedToken, ServiceAccount},
        client::{Activation, Expiry},
        id::{ServiceAccountId, TeamId},
        index::Writer,
        introspection::Restrictions,
        role::InstanceRole,
        source::{AllowedSources, Cidr},
        token::{TokenHash, TokenHint},
    },
};

/// One that no version has.
const LATER: Features = Features(1 << 40);

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(second, 5000).unwrap()
}

fn resolved() -> ResolvedClient {
    let grants = [
        (SiteId::from_uuid(id(3)), SiteRole::Viewer),
        (SiteId::from_uuid(id(4)), SiteRole::Owner),
    ];
    ResolvedClient {
        client: ClientId::from_uuid(id(1)),
        owner: Owner::Team(TeamId::from_uuid(id(2))),
        base_state: BaseState::OwnerInactive,
        access: EffectiveAccess {
            instance_role: InstanceRole::Admin,
            grants: grants.into_iter().collect(),
        },
        expiry: Expiry::At(at(7)),
        name: "a client".into(),
        restrictions: None,
    }
}

const TOKENS: usize = 2;

fn hash(number: u8) -> StoredHash {
    TokenHash([number; 32]).into()
}

fn with_client<T>(known: Known, use_it: impl FnOnce(&Client) -> T) -> T {
    let tokens = [
        (hash(1), TokenStanding::Current),
        (hash(2), TokenStanding::ReplacedUntil(at(9))),
    ];
    let client = known.id();
    let mut writer = Writer::default();
    writer.put(known, &tokens);
    let version = writer.version(Position::UNKNOWN);
    use_it(version.client(client).unwrap())
}

fn audience(enforces: Features) -> Audience {
    Audience {
        enforces,
        without_names: false,
    }
}

fn sent() -> pb::ReplicatedClient {
    with_client(Known::Resolved(resolved()), |client| {
        to_client(client, audience(Features::ENFORCED))
    })
}

fn read(sent: pb::ReplicatedClient) -> Result<Known, Malformed> {
    read_client(sent, Features::ENFORCED).map(|(known, tokens)| {
        assert_eq!(tokens.len(), TOKENS);
        known
    })
}

#[test]
fn a_client_arrives_as_it_was_sent() {
    let (known, tokens) = read_client(sent(), Features::ENFORCED).unwrap();
    assert_eq!(known, Known::Resolved(resolved()));
    let expected = vec![
        (hash(1), TokenStanding::Current),
        (hash(2), TokenStanding::ReplacedUntil(at(9))),
    ];
    assert_eq!(tokens, expected);
    let unreadable = Known::Unreadable(ClientId::from_uuid(id(1)));
    let sent = with_client(unreadable.clone(), |client| {
        to_client(client, audience(Features::ENFORCED))
    });
    assert_eq!(read(sent), Ok(unreadable));
}

#[test]
fn names_are_left_out_where_that_is_wanted() {
    let audience = Audience {
        without_names: true,
        ..audience(Features::ENFORCED)
    };
    let sent = with_client(Known::Resolved(resolved()), |client| {
        to_client(client, audience)
    });
    let Ok(Known::Resolved(client)) = read(sent) else {
        panic!("it is readable");
    };
    assert_eq!(&*client.name, "");
    assert_eq!(client.owner, resolved().owner);
}

#[test]
fn a_client_that_needs_a_feature_is_readable_only_for_those_who_have_it() {
    let sent = |enforces| {
        with_client(Known::Resolved(resolved()), |client| {
            to_client_with(client, audience(enforces), LATER)
        })
    };
    let unreadable = Known::Unreadable(ClientId::from_uuid(id(1)));
    // Neither sent to a replica without it, nor read by one, whichever server sends it.
    let without = sent(Features::default());
    assert_eq!(read_client(without, LATER).unwrap().0, unreadable);
    let with = sent(LATER);
    assert_eq!(with.needs, [40]);
    assert_eq!(read(with.clone()), Ok(unreadable));
    let known = read_client(with, LATER).unwrap().0;
    assert_eq!(known, Known::Resolved(resolved()));
    // The tokens are known all the same: they are not unknown ones.
    assert_eq!(sent(Features::default()).tokens.len(), TOKENS);
}

#[test]
fn what_a_later_version_may_send_is_unreadable() {
    use pb::replicated_client::Content;

    let change = |change: fn(&mut pb::ReplicatedClient, &mut pb::SettledClient)| {
        let mut sent = sent();
        let Some(Content::Settled(mut settled)) = sent.content.take() else {
            panic!("it is settled");
        };
        change(&mut sent, &mut settled);
        sent.content = Some(Content::Settled(settled));
        sent
    };
    let mut later: Vec<_> = [
        (|client, _| client.needs = vec![40])
            as fn(&mut pb::ReplicatedClient, &mut pb::SettledClient),
        |client, _| client.needs = vec![640],
        |client, _| client.needs = vec![-1],
        |_, settled| settled.owner = None,
        |_, settled| settled.state = 0,
        |_, settled| settled.state = 9,
        |_, settled| settled.instance_role = 9,
        |_, settled| settled.site_grants[0].role = 9,
        |_, settled| settled.allowed_cidrs = vec!["10.0.0.1".to_owned()],
        |_, settled| settled.allowed_cidrs = vec!["10.0.0.0/8".to_owned(); 2],
    ]
    .map(change)
    .into();
    later.push(pb::ReplicatedClient {
        content: None,
        ..sent()
    });
    for sent in later {
        let what = format!("{sent:?}");
        let unreadable = Known::Unreadable(ClientId::from_uuid(id(1)));
        assert_eq!(read(sent), Ok(unreadable), "{what}");
    }
}

/// A replica that does not enforce what a client needs must not judge its tokens.
#[test]
fn restrictions_arrive_and_need_their_features() {
    let ranges: Vec<Cidr> = vec!["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()];
    let sources = AllowedSources::new(ranges).unwrap();
    let (everywhere, later) = (AllowedSources::default(), Activation::At(at(8)));
    for (sources, activation, needs) in [
        (sources.clone(), Activation::AtOnce, vec![1]),
        (everywhere, later, vec![2]),
        (sources, later, vec![1, 2]),
    ] {
        let restricted = Known::Resolved(ResolvedClient {
            restrictions: Restrictions::of(sources, activation),
            ..resolved()
        });
        let sent = with_client(restricted.clone(), |client| {
            to_client(client, audience(Features::ENFORCED))
        });
        assert_eq!(sent.needs, needs);
        assert_eq!(read(sent.clone()), Ok(restricted.clone()));
        let unreadable = Known::Unreadable(ClientId::from_uuid(id(1)));
        for enforced in [Features::default(), Features::HITKEEP_TOKENS] {
            let (known, _) = read_client(sent.clone(), enforced).unwrap();
            assert_eq!(known, unreadable);
            let sent = with_client(restricted.clone(), |client| {
                to_client(client, audience(enforced))
            });
            assert_eq!(read(sent), Ok(unreadable.clone()));
        }
    }
}

#[test]
fn what_no_version_sends_is_an_error() {
    let mut malformed = vec![sent(), sent(), sent()];
    malformed[0].id.pop();
    malformed[1].tokens[0].hash.pop();
    malformed[2].tokens[1].end_time = Some(prost_types::Timestamp {
        seconds: 0,
        nanos: -1,
    });
    for sent in malformed {
        assert!(read(sent.clone()).is_err(), "{sent:?}");
    }
}

#[test]
fn legacy_tokens_are_sent_to_those_who_can_hash_them() {
    let known = Known::Resolved(resolved());
    let legacy = StoredHash::new(TokenScheme::HitkeepSha256, [1; 32]);
    let tokens = [
        (hash(1), TokenStanding::Current),
        (legacy, TokenStanding::ReplacedUntil(at(9))),
    ];
    let mut writer = Writer::default();
    writer.put(known.clone(), &tokens);
    let version = writer.version(Position::UNKNOWN);
    let client = version.client(known.id()).unwrap();
    let sent = to_client(client, audience(Features::ENFORCED));
    assert_eq!(sent.needs, [3]);
    let read = read_client(sent.clone(), Features::ENFORCED);
    assert_eq!(read, Ok((known, tokens.to_vec())));
    let unreadable = Known::Unreadable(client.known.id());
    let (other, _) = read_client(sent, Features::default()).unwrap();
    assert_eq!(other, unreadable);
    let sent = to_client(client, audience(Features::default()));
    assert_eq!(read_client(sent, Features::ENFORCED).unwrap().0, unreadable);
}

#[test]
fn a_token_of_a_later_scheme_makes_its_client_unreadable() {
    for scheme in [0, 9] {
        let mut later = sent();
        later.tokens[0].scheme = scheme;
        let (known, tokens) = read_client(later, Features::ENFORCED).unwrap();
        assert_eq!(known, Known::Unreadable(ClientId::from_uuid(id(1))));
        assert_eq!(tokens.len(), TOKENS - 1, "it cannot be found");
    }
}

#[test]
fn an_account_arrives_with_the_token_that_it_replaced() {
    let account = ServiceAccount {
        id: ServiceAccountId::from_uuid(id(5)),
        name: CallerName::parse("sidecar").unwrap(),
        permissions: vec![CallerPermission::Introspect],
        certificate_names: Vec::new(),
        token_hint: TokenHint(String::new()),
        create_time: Timestamp::UNIX_EPOCH,
        revoke_time: None,
        replaced_token: Some(ReplacedToken {
            hash: TokenHash([8; 32]),
            ends: at(9),
        }),
    };
    let hash = TokenHash([7; 32]);
    let mut writer = Writer::default();
    writer.set_callers(vec![(hash, account.clone())]);
    let version = writer.version(Position::UNKNOWN);
    let sent = to_accounts(version.callers());
    // Who does not read the replaced token does not know it: it is nowhere else.
    assert_eq!(sent.accounts[0].token_hash, [7; 32]);
    assert_eq!(read_accounts(sent.clone()), Ok(vec![(hash, account)]));
    for spoil in [
        |token: &mut pb::ReplacedAccountToken| token.end_time = None,
        |token: &mut pb::ReplacedAccountToken| token.hash = vec![8; 31],
    ] {
        let mut bad = sent.clone();
        spoil(bad.accounts[0].replaced_token.as_mut().unwrap());
        assert!(read_accounts(bad).is_err());
    }
}
