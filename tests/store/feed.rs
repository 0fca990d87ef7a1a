//! What replicas read: everything at once, or what the change log names, comes to the
//! same, and to what the database says when it is asked about one token.

use std::{collections::BTreeSet, time::Duration};

use hitkeep_auth::{
    domain::{
        Revision,
        id::ClientId,
        index::Known::{Resolved, Unreadable},
        token::StoredHash,
    },
    live_index::{self, LiveIndex},
    store::{
        Store,
        feed::{CatchUp, Changes, Feed, Position, State},
    },
    telemetry::metrics::Metrics,
};
use tokio::time::Instant;
use uuid::Uuid;

mod rows;

use crate::{
    by_hand::{accepts, any_statement, client, full_world, hashes, seed},
    database::{store, texts},
    dice::Dice,
    postgres,
};
use rows::{Known, Rows};

/// Set it to the seed that a failure printed, to see the same statements again.
const SEED: Option<u64> = None;
const WORLDS: usize = 4;
const ROUNDS: usize = 15;
/// Statements between two looks at the log, at most.
const STATEMENTS: usize = 4;
/// Of changed clients, for who reads them all.
const ANY_NUMBER: usize = usize::MAX;

/// What the database says of each token, asked about one by one.
async fn looked_up(store: &Store, hashes: &[StoredHash]) -> Known {
    let mut known = Known::new();
    for hash in hashes {
        let subject = store.look_up(Some(*hash)).await.unwrap().subject;
        known.extend(subject.map(|subject| (*hash, subject.resolve())));
    }
    known
}

/// What an index knows that begins now: of each token, and of whom it can say nothing.
async fn replicated(store: &Store, hashes: &[StoredHash]) -> (Known, BTreeSet<ClientId>) {
    let patience = Duration::from_secs(20);
    let options = live_index::IndexOptions {
        refresh_timeout: patience,
        ..live_index::IndexOptions::default()
    };
    let (index, _writer) = LiveIndex::start(store, options, &Metrics::default());
    let give_up = Instant::now() + patience;
    let view = index.loaded_view(give_up).await.unwrap();
    let (mut known, mut unreadable) = (Known::new(), BTreeSet::new());
    for hash in hashes {
        let index = view.index();
        let found = match hash {
            StoredHash::Blake3(hash) => {
                let found = index.find(hash);
                found.map(|found| (found.client(), found.standing()))
            }
            StoredHash::HitkeepSha256(hash) => {
                let found = index.find_legacy(hash);
                found.map(|found| (found.client(), found.standing()))
            }
        };
        let Some((client, standing)) = found else {
            continue;
        };
        match &client.known {
            Resolved(client) => drop(known.insert(*hash, (standing, client.clone()))),
            Unreadable(client) => drop(unreadable.insert(*client)),
        }
    }
    (known, unreadable)
}

async fn all(feed: &mut Feed) -> (Known, State) {
    let mut rows = Rows::default();
    let (state, _) = feed.read_all(&mut rows).await.unwrap();
    assert!(rows.unreadable.is_empty(), "{:?}", rows.unreadable);
    (rows.known(), state)
}

/// Looks at the log, and brings what is known up to it. Gives how many clients were
/// read.
async fn follow(feed: &mut Feed, known: &mut Known, position: &mut Position) -> usize {
    let mut rows = Rows::default();
    match feed
        .catch_up(*position, ANY_NUMBER, &mut rows)
        .await
        .unwrap()
    {
        CatchUp::Nothing(state) => {
            assert_eq!(state.position, *position);
            assert!(rows.clients.is_empty());
            0
        }
        CatchUp::Changed(state, Changes { clients, passed }) => {
            assert!(state.position.revision > position.revision);
            assert_eq!(passed.first(), Some(&state.position), "it ends there");
            let named: BTreeSet<_> = clients.iter().copied().collect();
            assert_eq!(named.len(), clients.len(), "each is named once");
            assert!(rows.clients.keys().all(|client| named.contains(client)));
            known.retain(|_, (_, client)| !named.contains(&client.client));
            known.extend(rows.known());
            *position = state.position;
            named.len()
        }
        CatchUp::Lost | CatchUp::TooMuch => panic!("nothing was trimmed"),
    }
}

#[tokio::test]
async fn following_comes_to_the_same_as_reading_everything() {
    let seed = seed(SEED);
    println!("SEED = {seed}");
    let mut dice = Dice::new(seed);
    let mut followed = 0;
    for _ in 0..WORLDS {
        let url = full_world().await;
        let store = store(&url);
        let mut connection = postgres::connect(&url).await;
        let hashes = hashes(&mut connection).await;
        let (mut one, mut other) = (
            store.connect_feed().await.unwrap(),
            store.connect_feed().await.unwrap(),
        );
        let (mut known, state) = all(&mut one).await;
        let mut position = state.position;
        assert_eq!(known, looked_up(&store, &hashes).await);
        assert!(known.len() > 5);
        for _ in 0..ROUNDS {
            let mut sql = Vec::new();
            for _ in 0..=dice.below(STATEMENTS) {
                let statement = any_statement(&mut dice);
                accepts(&mut connection, &statement).await;
                sql.push(statement);
            }
            followed += follow(&mut one, &mut known, &mut position).await;
            let (everything, state) = all(&mut other).await;
            assert_eq!(known, everything, "{sql:#?}");
            assert_eq!(position, state.position, "{sql:#?}");
            assert_eq!(everything, looked_up(&store, &hashes).await, "{sql:#?}");
        }
        let (begun, unreadable) = replicated(&store, &hashes).await;
        assert_eq!(begun, known);
        assert!(unreadable.is_empty());
    }
    println!("{followed} clients read anew");
    // Otherwise this would have shown nothing.
    assert!(followed > WORLDS * ROUNDS / 3);
}

#[tokio::test]
async fn what_is_read_is_of_one_moment() {
    let url = full_world().await;
    let store = store(&url);
    let mut feed = store.connect_feed().await.unwrap();
    let (known, before) = all(&mut feed).await;

    // Something changes after the first rows were read.
    let meddle = url.clone();
    let meddling = move || {
        let url = meddle.clone();
        let meddling = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let sql = "DELETE FROM api_client_grants; DELETE FROM api_client_tokens; \
                       UPDATE team_members SET role = 'owner'; DELETE FROM site_members";
            runtime.block_on(postgres::execute(&url, sql));
        });
        meddling.join().unwrap();
    };
    let mut rows = Rows::default();
    rows.at_first_client(meddling);
    let (state, _) = feed.read_all(&mut rows).await.unwrap();
    assert_eq!(state.position, before.position);
    assert_eq!(rows.known(), known);
    // It is in the next look at the log.
    let (mut known, mut position) = (known, state.position);
    follow(&mut feed, &mut known, &mut position).await;
    assert_eq!(known, Known::new());
}

#[tokio::test]
async fn more_changes_than_are_wanted_are_not_read() {
    let url = full_world().await;
    let store = store(&url);
    let mut feed = store.connect_feed().await.unwrap();
    let known = all(&mut feed).await.1.position;
    postgres::execute(&url, "UPDATE api_clients SET name = name || '!'").await;
    let mut rows = Rows::default();
    let caught_up = feed.catch_up(known, ANY_NUMBER, &mut rows).await.unwrap();
    let CatchUp::Changed(_, changed) = caught_up else {
        panic!("{caught_up:?}");
    };
    let all = changed.clients.len();
    assert!(all > 2);
    for (at_most, is_too_much) in [(all, false), (all - 1, true), (0, true)] {
        let mut rows = Rows::default();
        let caught_up = feed.catch_up(known, at_most, &mut rows).await.unwrap();
        assert_eq!(matches!(caught_up, CatchUp::TooMuch), is_too_much);
        assert_eq!(rows.clients.len(), if is_too_much { 0 } else { all });
    }
    // The connection goes on being of use, also where nothing changed.
    let now = feed.state(known).await.unwrap().position;
    let caught_up = feed.catch_up(now, 0, &mut Rows::default()).await.unwrap();
    assert!(matches!(caught_up, CatchUp::Nothing(_)), "{caught_up:?}");
}

/// Where the log does not lead from what is known to what there is.
#[tokio::test]
async fn a_log_that_does_not_lead_here_is_no_use() {
    let url = full_world().await;
    let store = store(&url);
    let mut feed = store.connect_feed().await.unwrap();
    let old = all(&mut feed).await.1.position;
    let change = "UPDATE users SET disabled = NOT disabled WHERE id = id(1)";
    postgres::execute(&url, change).await;
    let new = all(&mut feed).await.1.position;
    let another = Uuid::from_u128(7);
    let is_lost = async |feed: &mut Feed, known: Position| {
        let mut rows = Rows::default();
        let caught_up = feed.catch_up(known, ANY_NUMBER, &mut rows).await.unwrap();
        let lost = matches!(caught_up, CatchUp::Lost);
        assert!(!lost || rows.clients.is_empty(), "nothing is handed over");
        let state = feed.state(known).await.unwrap();
        assert_eq!(state.continues, !lost, "{known:?}");
        assert_eq!(state.position.revision, new.revision);
        lost
    };
    for (known, lost) in [
        (old, false),
        (new, false),
        (
            Position {
                database: another,
                ..old
            },
            true,
        ),
        (
            Position {
                database: another,
                ..new
            },
            true,
        ),
        (
            Position {
                nonce: another,
                ..old
            },
            true,
        ),
        (
            Position {
                nonce: another,
                ..new
            },
            true,
        ),
        // The nonce of another revision is none.
        (
            Position {
                nonce: new.nonce,
                ..old
            },
            true,
        ),
        (
            Position {
                nonce: old.nonce,
                ..new
            },
            true,
        ),
        // Further than there is: a restored backup.
        (
            Position {
                revision: Revision(new.revision.0 + 1),
                ..new
            },
            true,
        ),
        (
            Position {
                revision: Revision(u64::MAX >> 1),
                ..new
            },
            true,
        ),
    ] {
        assert_eq!(is_lost(&mut feed, known).await, lost, "{known:?}");
    }
    // What is known at the revision up to which the log was trimmed needs nothing of it.
    let trim = format!(
        "DELETE FROM index_changes WHERE revision <= {}",
        new.revision.0
    );
    postgres::execute(&url, &trim).await;
    assert!(is_lost(&mut feed, old).await);
    assert!(!is_lost(&mut feed, new).await);
    // Nor is a revision of any use whose nonce is no longer known.
    postgres::execute(&url, "UPDATE index_state SET trimmed_revision = 0").await;
    assert!(!is_lost(&mut feed, old).await);
    postgres::execute(&url, "DELETE FROM index_revisions").await;
    assert!(is_lost(&mut feed, old).await);
    assert!(!is_lost(&mut feed, new).await);
}

/// Which constraint goes, what is then written, and of which clients nothing can be
/// said any more.
const UNREADABLE: &[(&str, &str, &[u32])] = &[
    (
        "users DROP CONSTRAINT users_instance_role_check",
        "UPDATE users SET instance_role = 'Owner' WHERE id = id(2)",
        &[33, 34, 38],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_instance_role_check",
        "UPDATE api_clients SET instance_role = 'root' WHERE id = id(36)",
        &[36],
    ),
    (
        "api_clients ALTER expire_time DROP NOT NULL",
        "UPDATE api_clients SET expire_time = 'infinity' WHERE id = id(36)",
        &[36],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_one_owner_check",
        "UPDATE api_clients SET owner_user_id = NULL WHERE id = id(33)",
        &[33],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_owner_team_id_fkey",
        "UPDATE api_clients SET owner_team_id = id(99) WHERE id = id(35)",
        &[35],
    ),
    (
        "api_client_grants DROP CONSTRAINT api_client_grants_role_check",
        "UPDATE api_client_grants SET role = 'god' WHERE site_id = id(23)",
        &[33, 35],
    ),
    (
        "site_members DROP CONSTRAINT site_members_role_check",
        "UPDATE site_members SET role = '' WHERE user_id = id(3)",
        &[36],
    ),
    (
        "team_members DROP CONSTRAINT team_members_role_check",
        "UPDATE team_members SET role = 'guest' WHERE team_id = id(11) AND user_id = id(2)",
        &[33],
    ),
    (
        "api_client_tokens DROP CONSTRAINT api_client_tokens_hash_check",
        "UPDATE api_client_tokens SET hash = '\\x00' WHERE client_id = id(37)",
        &[37],
    ),
    (
        "api_client_tokens DROP CONSTRAINT api_client_tokens_scheme_check",
        "UPDATE api_client_tokens SET scheme = 'md5' WHERE client_id = id(33)",
        &[33],
    ),
];

#[tokio::test]
async fn a_row_that_nobody_can_read_is_told_and_no_other_client_suffers() {
    for (alter, write, expected) in UNREADABLE {
        let url = full_world().await;
        let store = store(&url);
        let mut feed = store.connect_feed().await.unwrap();
        let (sound, before) = all(&mut feed).await;
        let mut connection = postgres::connect(&url).await;
        let hashes = hashes(&mut connection).await;
        let sql = format!("ALTER TABLE {alter}; {write}");
        postgres::execute(&url, &sql).await;
        let expected: BTreeSet<_> = expected.iter().map(|number| client(*number)).collect();
        let whole = |rows: Rows| {
            let mut known = rows.known();
            known.retain(|_, (_, client)| !expected.contains(&client.client));
            known
        };

        let mut rows = Rows::default();
        feed.read_all(&mut rows).await.unwrap();
        assert_eq!(rows.unreadable, expected, "{write}");
        // Rows of such a client may come besides, and mean nothing.
        rows.strays = 0;
        let mut rest = sound.clone();
        rest.retain(|_, (_, client)| !expected.contains(&client.client));
        assert_eq!(whole(rows), rest, "{write}");
        // Their tokens are not unknown, where they can be read themselves.
        let (begun, unreadable) = replicated(&store, &hashes).await;
        assert_eq!(begun, rest, "{write}");
        let with_token = "SELECT DISTINCT client_id::text AS text FROM api_client_tokens \
                          WHERE octet_length(hash) = 32 AND scheme <> 'md5'";
        let with_token = texts(&mut connection, with_token).await;
        let with_token = with_token.iter().map(|id| id.parse().unwrap()).collect();
        let expected_of_all = expected.intersection(&with_token).copied();
        assert_eq!(unreadable, expected_of_all.collect(), "{write}");

        let mut rows = Rows::default();
        let caught_up = feed
            .catch_up(before.position, ANY_NUMBER, &mut rows)
            .await
            .unwrap();
        let CatchUp::Changed(_, changed) = caught_up else {
            panic!("{write}: {caught_up:?}");
        };
        assert_eq!(rows.unreadable, expected, "{write}");
        assert_eq!(
            changed.clients.into_iter().collect::<BTreeSet<_>>(),
            expected
        );
        assert!(rows.clients.keys().all(|client| expected.contains(client)));
    }
}

#[tokio::test]
async fn callers_are_those_that_are_not_revoked() {
    let url = full_world().await;
    let store = store(&url);
    let mut feed = store.connect_feed().await.unwrap();
    let (state, accounts) = feed.read_all(&mut Rows::default()).await.unwrap();
    let names = |accounts: &[(
        hitkeep_auth::domain::token::TokenHash,
        hitkeep_auth::domain::caller::ServiceAccount,
    )]| {
        let names = accounts
            .iter()
            .map(|(_, account)| account.name.as_str().to_owned());
        names.collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&accounts), BTreeSet::from(["live".to_owned()]));
    let hash = accounts[0].0;
    let found = store.find_caller(hash).await.unwrap().unwrap();
    assert_eq!(found, accounts[0].1);
    assert_eq!(found.certificate_names[0].as_str(), "dns:live.example");

    // An unreadable one is none, and the others are there.
    let more = "ALTER TABLE service_accounts DROP CONSTRAINT service_accounts_permissions_check; \
                INSERT INTO service_accounts \
                SELECT id(n), 'account-' || n, CASE n WHEN 60 THEN '{everything}'::text[] \
                    ELSE '{audit}' END, hash(n), '', now(), NULL \
                FROM generate_series(60, 61) AS n";
    postgres::execute(&url, more).await;
    let changed = feed.state(state.position).await.unwrap();
    assert_ne!(changed.accounts, state.accounts);
    assert_eq!(changed.position, state.position);
    let accounts = feed.read_accounts().await.unwrap();
    let expected = ["account-61", "live"].map(str::to_owned);
    assert_eq!(names(&accounts), BTreeSet::from(expected));
}

#[tokio::test]
async fn a_listener_hears_of_each_commit_and_of_nothing_else() {
    let url = full_world().await;
    let store = store(&url);
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let listener = store
        .listen(move || sender.send(()).unwrap())
        .await
        .unwrap();
    let mut connection = postgres::connect(&url).await;
    let silent = [
        "UPDATE users SET disabled = disabled",
        "UPDATE api_clients SET description = 'new'",
        "UPDATE api_client_usage SET last_used_time = now()",
        "BEGIN; UPDATE users SET disabled = true; ROLLBACK",
    ];
    let loud = [
        "UPDATE users SET disabled = true; UPDATE teams SET archived = true",
        "UPDATE service_accounts SET permissions = '{audit}'",
        "TRUNCATE site_members",
    ];
    for change in loud {
        for sql in silent {
            assert!(accepts(&mut connection, sql).await);
        }
        assert!(accepts(&mut connection, change).await);
        heard.recv().await.expect("it listens");
    }
    // They come in the order of the commits: so what else was on its way is here.
    let last = texts(&mut connection, "SELECT index_stamp()::text AS text").await;
    assert_eq!(last.len(), 1);
    heard.recv().await.expect("it listens");
    assert!(heard.try_recv().is_err());
    drop(listener);
    assert_eq!(heard.recv().await, None);
}
