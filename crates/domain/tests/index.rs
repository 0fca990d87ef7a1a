//! The index beside a model of it: whatever was put and removed in whatever order, it says what
//! one says that was made of the last state alone, and no version that was given out changes.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::{BTreeMap, BTreeSet};

use hitkeep_auth_domain::{
    Position, Revision, Timestamp,
    access::{EffectiveAccess, Owner},
    caller::{CallerName, CallerPermission, ReplacedToken, ServiceAccount},
    certificate::CertificateName,
    client::Expiry,
    id::{ClientId, ServiceAccountId, UserId},
    index::{Client, Index, Known, Writer},
    introspection::{BaseState, ResolvedClient, Restrictions, TokenStanding},
    ledger::Ledger,
    role::InstanceRole,
    source::{AllowedSources, Source},
    token::{LegacyHash, StoredHash, TokenHash, TokenHint, TokenScheme},
    usage::Outcome,
};
use proptest::prelude::*;
use uuid::Uuid;

/// Ids and hashes are few, so that they meet often.
const CLIENTS: u8 = 6;
/// Half of them are of legacy tokens, with the same bytes as the others.
const HASHES: u8 = 24;
const BYTES: u8 = HASHES / 2;

fn at_revision(revision: u64) -> Position {
    Position {
        revision: Revision(revision),
        ..Position::UNKNOWN
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(second, 0).unwrap()
}

fn client(number: u8) -> ClientId {
    // Half of them have the same lower half.
    let (high, low) = (u64::from(number) << 40, u64::from(number % 2));
    ClientId::from_uuid(Uuid::from_u64_pair(high, low))
}

/// In two places, with three tags each: some agree in more than the index looks at first.
fn bytes(number: u8) -> [u8; 32] {
    let mut hash = [7; 32];
    hash[0] = number % 2;
    hash[9] = number % 3;
    hash[31] = number;
    hash
}

fn hash(number: u8) -> StoredHash {
    match number.checked_sub(BYTES) {
        None => TokenHash(bytes(number)).into(),
        Some(number) => LegacyHash(bytes(number)).into(),
    }
}

/// Until when a token certainly works.
fn works(index: &Index, hash: &StoredHash, now: Timestamp) -> Option<Expiry> {
    match (&find(index, hash)?.0.known, hash) {
        (Known::Unreadable(_), _) => None,
        (Known::Resolved(of), StoredHash::Blake3(hash)) => index.find(hash)?.works(of, now),
        (Known::Resolved(of), StoredHash::HitkeepSha256(h)) => index.find_legacy(h)?.works(of, now),
    }
}

/// The client of a token, and the token's standing.
fn find<'i>(index: &'i Index, hash: &StoredHash) -> Option<(&'i Client, TokenStanding)> {
    match hash {
        StoredHash::Blake3(hash) => {
            let found = index.find(hash)?;
            Some((found.client(), found.standing()))
        }
        StoredHash::HitkeepSha256(hash) => {
            let found = index.find_legacy(hash)?;
            Some((found.client(), found.standing()))
        }
    }
}

fn known(number: u8, state: u8) -> Known {
    if state == 0 {
        return Known::Unreadable(client(number));
    }
    Known::Resolved(ResolvedClient {
        client: client(number),
        owner: Owner::User(UserId::from_uuid(Uuid::from_u128(1))),
        base_state: BaseState::Active,
        access: EffectiveAccess {
            instance_role: InstanceRole::User,
            grants: std::iter::empty().collect(),
        },
        expiry: Expiry::Never,
        name: format!("state {state}").into(),
        restrictions: restrictions(state),
    })
}

/// The hash of the token that an account had before.
fn replaced(number: u8) -> TokenHash {
    TokenHash(bytes(number | 0x80))
}

/// Some states have them.
fn restrictions(state: u8) -> Option<Box<Restrictions>> {
    let ranges = (state % 3 == 1).then(|| "192.0.2.0/24".parse().unwrap());
    let sources = AllowedSources::new(ranges.into_iter().collect()).unwrap();
    let starts = (state % 3 == 2).then(|| at(2));
    Restrictions::of(sources, starts.into())
}

fn account(number: u8) -> (TokenHash, ServiceAccount) {
    let account = ServiceAccount {
        id: ServiceAccountId::from_uuid(Uuid::from_u128(number.into())),
        name: CallerName::parse(&format!("caller-{number}")).unwrap(),
        permissions: [CallerPermission::Introspect].into_iter().collect(),
        certificate_names: Vec::new(),
        token_hint: TokenHint(String::new()),
        create_time: at(0),
        revoke_time: None,
        replaced_token: Some(ReplacedToken {
            hash: replaced(number),
            ends: at(5),
        }),
    };
    (TokenHash(bytes(number)), account)
}

/// What happens to an index.
#[derive(Clone, Debug)]
enum Step {
    /// This becomes known of a client: its state and its tokens, of which the first
    /// is the current one, where it has one.
    Put(u8, u8, Vec<u8>, bool),
    Remove(u8),
    Callers(Vec<u8>),
    /// A version is given out.
    Version,
    /// A full reload.
    Reload,
}

fn any_step() -> impl Strategy<Value = Step> {
    let hashes = proptest::collection::vec(0..HASHES, 0..4);
    prop_oneof![
        6 => (0..CLIENTS, 0_u8..4, hashes, any::<bool>())
            .prop_map(|(client, state, hashes, current)| Step::Put(client, state, hashes, current)),
        2 => (0..CLIENTS).prop_map(Step::Remove),
        1 => proptest::collection::vec(0..BYTES, 0..3).prop_map(Step::Callers),
        2 => Just(Step::Version),
        1 => Just(Step::Reload),
    ]
}

type Tokens = Vec<(StoredHash, TokenStanding)>;

/// The model: what is known of each client, and of each hash whose it became last.
#[derive(Clone, Debug, Default)]
struct Model {
    clients: BTreeMap<u8, (Known, Tokens)>,
    holders: BTreeMap<StoredHash, u8>,
    callers: BTreeSet<u8>,
}

impl Model {
    fn apply(&mut self, step: &Step, writer: &mut Writer) {
        match step {
            Step::Put(number, state, hashes, current) => {
                let mut tokens = Tokens::new();
                for (place, hashed) in hashes.iter().enumerate() {
                    let standing = if place == 0 && *current {
                        TokenStanding::Current
                    } else {
                        TokenStanding::ReplacedUntil(at(i64::from(*state)))
                    };
                    // The database has each hash once.
                    if tokens.iter().all(|(other, _)| *other != hash(*hashed)) {
                        tokens.push((hash(*hashed), standing));
                    }
                }
                self.forget(*number);
                for (hash, _) in &tokens {
                    self.holders.insert(*hash, *number);
                }
                writer.put(known(*number, *state), &tokens);
                self.clients
                    .insert(*number, (known(*number, *state), tokens));
            }
            Step::Remove(number) => {
                self.forget(*number);
                writer.remove(client(*number));
            }
            Step::Callers(numbers) => {
                self.callers = numbers.iter().copied().collect();
                writer.set_callers(self.callers.iter().map(|number| account(*number)).collect());
            }
            Step::Version => {}
            Step::Reload => *writer = self.reloaded(),
        }
    }

    fn forget(&mut self, number: u8) {
        self.clients.remove(&number);
        self.holders.retain(|_, holder| *holder != number);
    }

    /// An index that is made of this state alone.
    fn reloaded(&self) -> Writer {
        let clients = self.clients.iter().map(|(number, (known, tokens))| {
            // Those alone that did not become another's.
            let is_its =
                |(hash, _): &&(StoredHash, TokenStanding)| self.holders.get(hash) == Some(number);
            let tokens = tokens.iter().filter(is_its).copied();
            (known.clone(), tokens.collect())
        });
        let mut writer = Writer::of(clients);
        writer.set_callers(self.callers.iter().map(|number| account(*number)).collect());
        writer
    }

    fn check(&self, index: &Index) -> Result<(), TestCaseError> {
        prop_assert_eq!(index.clients(), self.clients.len());
        for number in 0..HASHES {
            let hash = hash(number);
            let found = find(index, &hash);
            let found = found.map(|(client, standing)| (client.known.clone(), standing));
            let expected = self.holders.get(&hash).map(|holder| {
                let (known, tokens) = &self.clients[holder];
                let (_, standing) = tokens.iter().find(|(other, _)| *other == hash).unwrap();
                (known.clone(), *standing)
            });
            prop_assert_eq!(&found, &expected, "hash {}", number);
            for now in [0, 2, 9].map(at) {
                let certain = expected.as_ref().and_then(|(known, standing)| match known {
                    Known::Resolved(client) if client.restrictions.is_none() => {
                        client.evaluate(*standing, Source::Unknown, now).ok()
                    }
                    Known::Resolved(_) | Known::Unreadable(_) => None,
                });
                prop_assert_eq!(works(index, &hash, now), certain, "hash {}", number);
            }
        }
        for number in 0..BYTES {
            let is_there = self.callers.contains(&number);
            for (hash, now, works) in [
                (TokenHash(bytes(number)), 2, true),
                (TokenHash(bytes(number)), 9, true),
                (replaced(number), 2, true),
                (replaced(number), 5, false),
                (replaced(number), 9, false),
            ] {
                let caller = index.callers().find(&hash, || at(now));
                prop_assert_eq!(
                    caller.map(|account| account.name.clone()),
                    (is_there && works).then(|| account(number).1.name)
                );
            }
        }
        let is_legacy = |hash: &&StoredHash| hash.scheme() == TokenScheme::HitkeepSha256;
        let legacy: Vec<_> = self.holders.keys().filter(is_legacy).collect();
        prop_assert_eq!(index.has_legacy_tokens(), !legacy.is_empty());
        for now in [0, 2, 9].map(at) {
            let works = |hash: &&&StoredHash| {
                let (known, tokens) = &self.clients[&self.holders[**hash]];
                let standing = tokens.iter().find(|(other, _)| other == **hash).unwrap().1;
                match known {
                    Known::Resolved(client) => client
                        .evaluate(standing, Source::Text("192.0.2.1"), now)
                        .is_ok(),
                    Known::Unreadable(_) => false,
                }
            };
            let working = legacy.iter().filter(works).count();
            prop_assert_eq!(index.working_legacy_tokens(now), working);
        }
        Ok(())
    }
}

proptest! {
    // An index that is made at once takes its time here, however little is in it.
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn it_says_what_the_last_state_says(steps in proptest::collection::vec(any_step(), 1..40)) {
        let (mut writer, mut model) = (Writer::default(), Model::default());
        let mut versions = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            model.apply(step, &mut writer);
            prop_assert_eq!(writer.clients(), model.clients.len());
            let position = at_revision(number.try_into().unwrap());
            if matches!(step, Step::Version) {
                versions.push((writer.version(position), position, model.clone()));
            } else {
                model.check(&writer.version(position))?;
            }
        }
        model.check(&model.reloaded().version(at_revision(0)))?;
        // None of them has changed since.
        for (version, position, then) in versions {
            prop_assert_eq!(version.position, position);
            prop_assert_eq!(version.revision(), position.revision);
            then.check(&version)?;
        }
    }
}

#[test]
fn a_token_that_goes_from_one_client_to_another_is_the_others_in_either_order() {
    let current = |number| (hash(number), TokenStanding::Current);
    let replaced = |number| (hash(number), TokenStanding::ReplacedUntil(at(9)));
    for taken_first in [true, false] {
        for standing in [current(1), replaced(1)] {
            let mut writer = Writer::default();
            writer.put(known(1, 1), &[current(1), replaced(2)]);
            writer.put(known(2, 1), &[current(3)]);
            let before = writer.version(at_revision(1));
            // Only one of them is the newest.
            let own = match standing.1 {
                TokenStanding::Current => replaced(3),
                TokenStanding::ReplacedUntil(_) => current(3),
            };
            let mut steps = [
                (known(1, 2), vec![replaced(2)]),
                (known(2, 2), vec![own, standing]),
            ];
            if taken_first {
                steps.reverse();
            }
            for (known, tokens) in steps {
                writer.put(known, &tokens);
            }
            let after = writer.version(at_revision(2));
            let whose = |index: &Index, number| {
                find(index, &hash(number)).map(|(client, _)| client.known.id())
            };
            assert_eq!(whose(&after, 1), Some(client(2)));
            assert_eq!(whose(&after, 2), Some(client(1)));
            assert_eq!(whose(&after, 3), Some(client(2)));
            assert_eq!(find(&after, &hash(1)).unwrap().1, standing.1);
            assert_eq!(whose(&before, 1), Some(client(1)));
            // The end of the one it was taken from does not take it from the other.
            writer.remove(client(1));
            let end = writer.version(at_revision(3));
            assert_eq!(whose(&end, 1), Some(client(2)));
            assert_eq!(whose(&end, 2), None);
        }
    }
}

#[test]
fn service_accounts_are_found_by_their_tokens_and_certificates() {
    let name = |name: &str| CertificateName::dns(name).unwrap();
    let [a, b, c, unknown] =
        ["a", "b", "c", "unknown"].map(|host| name(&format!("{host}.example")));
    let named = |number, certificate_names| {
        let (hash, account) = account(number);
        let account = ServiceAccount {
            certificate_names,
            ..account
        };
        (hash, account)
    };
    let mut writer = Writer::default();
    writer.set_callers(vec![
        named(1, vec![a.clone(), b.clone()]),
        named(2, vec![c.clone()]),
    ]);
    let version = writer.version(at_revision(1));
    let callers = version.callers();
    let by_names = |names: &[&CertificateName]| {
        let names: Vec<_> = names.iter().copied().cloned().collect();
        callers.named(&names).map(|account| account.name.clone())
    };
    let [first, second] = [1, 2].map(|number| Some(account(number).1.name));
    assert_eq!(by_names(&[&a]), first);
    assert_eq!(by_names(&[&unknown, &b, &a]), first);
    assert_eq!(by_names(&[&c]), second);
    for nothing in [&[][..], &[&unknown], &[&a, &c]] {
        assert_eq!(by_names(nothing), None, "{nothing:?}");
    }
    for number in [1, 2] {
        assert!(callers.is_replaced(&replaced(number)));
        assert!(!callers.is_replaced(&TokenHash(bytes(number))));
    }
    let accounts: BTreeMap<_, _> = callers
        .accounts()
        .map(|(hash, account)| (account.name.as_str().to_owned(), *hash))
        .collect();
    let expected = [1, 2].map(|number| (format!("caller-{number}"), TokenHash(bytes(number))));
    assert_eq!(accounts, expected.into());
}

/// Ids that end alike, some of which lie in one place, and tokens that all do.
#[test]
fn many_clients_that_are_alike_are_told_apart() {
    const MANY: u64 = 3000;
    // Squares, since what is evenly spaced is spread evenly.
    let id = |number: u64| ClientId::from_uuid(Uuid::from_u64_pair(number * number, 1));
    let token = |number: u64| {
        let mut hash = [0; 32];
        // All in one place of the index, and all with one tag.
        hash[24..].copy_from_slice(&number.to_be_bytes());
        TokenHash(hash)
    };
    let mut writer = Writer::default();
    for number in 0..MANY {
        let known = Known::Unreadable(id(number));
        writer.put(known, &[(token(number).into(), TokenStanding::Current)]);
    }
    let full = writer.version(at_revision(1));
    for number in (0..MANY).step_by(2) {
        writer.remove(id(number));
    }
    let half = writer.version(at_revision(2));
    assert_eq!((full.clients(), half.clients()), (3000, 1500));
    for number in 0..MANY {
        let whose = |index: &Index| {
            let found = index.find(&token(number));
            found.map(|found| found.client().known.id())
        };
        assert_eq!(whose(&full), Some(id(number)));
        assert_eq!(whose(&half), (number % 2 == 1).then(|| id(number)));
    }
}

#[test]
fn what_was_noted_stays_with_a_client_that_changes() {
    let (ledger, recorded) = Ledger::new();
    let mut writer = Writer::default();
    let tokens = [(hash(1), TokenStanding::Current)];
    writer.put(known(1, 1), &tokens);
    let old = writer.version(at_revision(1));
    let note = |index: &Index| {
        let slot = &find(index, &hash(1)).expect("it is there").0.usage;
        ledger.record(client(1), slot, Outcome::Used, at(0));
        format!("{slot:?}")
    };
    let first = note(&old);
    writer.put(known(1, 2), &tokens);
    let new = writer.version(at_revision(2));
    let seen = note(&new);
    assert_ne!(seen, first, "the first note is in there too");
    // They are the same counters: a holder of the old version counts there too.
    assert_eq!(format!("{:?}", find(&old, &hash(1)).unwrap().0.usage), seen);
    assert_ne!(note(&old), seen);
    // One that was removed and is inserted again begins at zero.
    writer.remove(client(1));
    writer.put(known(1, 3), &tokens);
    let another = writer.version(at_revision(3));
    let fresh = format!("{:?}", find(&another, &hash(1)).unwrap().0.usage);
    assert!(!fresh.contains("Counters"), "{fresh}");
    drop(recorded);
}

/// A copy of a version has each client once, with all that the version knows of it.
#[test]
fn the_parts_of_a_version_are_all_its_clients() {
    let mut writer = Writer::default();
    for number in 0..CLIENTS {
        // One of each scheme.
        let tokens = [
            (hash(number), TokenStanding::Current),
            (hash(number + BYTES), TokenStanding::ReplacedUntil(at(9))),
        ];
        writer.put(known(number, number % 3), &tokens);
    }
    let version = writer.version(at_revision(1));
    writer.remove(client(1));
    let copied = |version: &Index| {
        let clients = (0..Index::PARTS).flat_map(|part| version.part(part));
        let clients = clients.map(|client| (client.known.clone(), client.standings().collect()));
        clients.collect::<Vec<_>>()
    };
    let clients = copied(&version);
    assert_eq!(clients.len(), usize::from(CLIENTS));
    let copy = Writer::of(clients.into_iter()).version(version.position);
    for number in 0..CLIENTS {
        let of = |version: &Index| {
            let client = version.client(client(number)).expect("it is there");
            let tokens: BTreeMap<_, _> = client
                .standings()
                .map(|(hash, standing)| (hash, format!("{standing:?}")))
                .collect();
            (client.known.clone(), tokens)
        };
        assert_eq!(of(&copy), of(&version));
    }
    let later = writer.version(at_revision(2));
    assert!(later.client(client(1)).is_none());
    assert_eq!(copied(&later).len(), usize::from(CLIENTS) - 1);
    assert_eq!(version.part(Index::PARTS).count(), 0);
}
