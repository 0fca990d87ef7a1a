//! Rows that no version of the service writes, made by hand after taking the
//! constraint away that forbids them: each is reported, none is guessed at.

use hitkeep_auth::{
    domain::{
        Timestamp,
        access::Owner,
        audit::Filter,
        id::{ClientId, SiteId, TeamId, UserId},
        token::TokenHash,
        usage::Day,
    },
    store::{
        Snapshot, Store, Transaction,
        clients::{ClientFilter, Listing},
        error::{StoreError, causes},
    },
};
use uuid::Uuid;

use crate::{
    database::{nobody, store, texts, world},
    postgres,
};

/// A way to read.
#[derive(Clone, Copy, Debug)]
enum Read {
    PersonalToken,
    TeamToken,
    PersonalClient,
    TeamClient,
    PersonalList,
    ActorFacts,
    TeamFacts,
    SiteFacts,
    Caller,
    Accounts,
    Events,
    Snapshot,
    DirectoryStatus,
    Usage,
}

const fn id(number: u128) -> Uuid {
    // As the database's id() reads it: the digits are decimal there, and hex here.
    Uuid::from_u128(number)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const USER: UserId = UserId::from_uuid(id(0x1));
const TEAM: TeamId = TeamId::from_uuid(id(0x11));
const SITE: SiteId = SiteId::from_uuid(id(0x21));

async fn read(url: &str, store: &Store, read: Read) -> Result<(), StoreError> {
    match read {
        Read::PersonalToken => store
            .look_up(Some(hash(url, 2).await.into()))
            .await
            .map(drop),
        Read::TeamToken => store
            .look_up(Some(hash(url, 3).await.into()))
            .await
            .map(drop),
        Read::Caller => store.find_caller(hash(url, 51).await).await.map(drop),
        Read::SiteFacts => {
            let facts = async |tx: &mut Transaction| {
                tx.facts(USER, Owner::User(USER), &[SITE]).await.map(drop)
            };
            store.transaction(&nobody(), facts).await.map(drop)
        }
        _ => {
            let body = async |snapshot: &mut Snapshot| read_from(snapshot, read).await;
            store.read(body).await
        }
    }
}

async fn read_from(snapshot: &mut Snapshot, read: Read) -> Result<(), StoreError> {
    let listing = Listing {
        owner: Some(Owner::User(USER)),
        filter: ClientFilter::default(),
        include_inactive: true,
        after: None,
        limit: 10,
    };
    let filter = Filter::default();
    let client = |number| ClientId::from_uuid(id(number));
    match read {
        Read::PersonalClient => snapshot.find_client(client(0x31)).await.map(drop),
        Read::TeamClient => snapshot.find_client(client(0x32)).await.map(drop),
        Read::PersonalList => snapshot.page_clients(listing).await.map(drop),
        Read::ActorFacts => snapshot.facts(USER, Owner::User(USER)).await.map(drop),
        Read::TeamFacts => snapshot.facts(USER, Owner::Team(TEAM)).await.map(drop),
        Read::Accounts => snapshot.list_accounts().await.map(drop),
        Read::Events => snapshot.page_events(&filter, None, 10).await.map(drop),
        Read::Usage => {
            let days = Day::within(at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
            snapshot.usage_days(client(0x31), days).await.map(drop)
        }
        Read::DirectoryStatus => snapshot.directory_status().await.map(drop),
        // That it opens is all.
        Read::Snapshot => Ok(()),
        Read::PersonalToken | Read::TeamToken | Read::Caller | Read::SiteFacts => {
            unreachable!("they are not read from a snapshot")
        }
    }
}

/// The world's hash of that number.
async fn hash(url: &str, number: u32) -> TokenHash {
    let mut connection = postgres::connect(url).await;
    let sql = format!("SELECT encode(hash({number}), 'hex') AS text");
    let hex = texts(&mut connection, &sql).await.remove(0);
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    TokenHash(hash)
}

/// Which constraint goes, what is then written, and who must notice.
const CASES: &[(&str, &str, &[Read])] = &[
    (
        "api_clients DROP CONSTRAINT api_clients_allowed_cidrs_check",
        "UPDATE api_clients SET allowed_cidrs = ARRAY['10.0.0.1'] WHERE id = id(31)",
        &[
            Read::PersonalClient,
            Read::PersonalList,
            Read::PersonalToken,
        ],
    ),
    (
        "index_state DROP CONSTRAINT index_state_revision_check",
        "UPDATE index_state SET revision = -1",
        &[Read::Snapshot, Read::PersonalToken],
    ),
    (
        "directory_state DROP CONSTRAINT directory_state_applied_sequence_check",
        "UPDATE directory_state SET applied_sequence = -1",
        &[Read::DirectoryStatus],
    ),
    (
        "users DROP CONSTRAINT users_instance_role_check",
        "UPDATE users SET instance_role = 'Owner'",
        &[Read::PersonalToken, Read::ActorFacts, Read::TeamFacts],
    ),
    (
        "team_members DROP CONSTRAINT team_members_role_check",
        "UPDATE team_members SET role = 'guest'",
        &[Read::PersonalToken, Read::TeamFacts, Read::SiteFacts],
    ),
    (
        "site_members DROP CONSTRAINT site_members_role_check",
        "UPDATE site_members SET role = ''",
        &[Read::PersonalToken, Read::SiteFacts],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_instance_role_check",
        "UPDATE api_clients SET instance_role = 'root' WHERE id = id(31)",
        &[
            Read::PersonalToken,
            Read::PersonalClient,
            Read::PersonalList,
        ],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_team_instance_role_check",
        "UPDATE api_clients SET instance_role = 'admin' WHERE id = id(32)",
        &[Read::TeamToken, Read::TeamClient],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_one_owner_check",
        "UPDATE api_clients SET owner_team_id = id(11), owner_user_id = id(1), \
         instance_role = 'user'",
        &[
            Read::PersonalToken,
            Read::TeamToken,
            Read::PersonalClient,
            Read::PersonalList,
        ],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_one_owner_check",
        "UPDATE api_clients SET owner_team_id = NULL, owner_user_id = NULL",
        &[Read::PersonalToken, Read::TeamToken, Read::PersonalClient],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_owner_user_id_fkey",
        "UPDATE api_clients SET owner_user_id = id(99) WHERE id = id(31)",
        &[Read::PersonalToken],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_owner_team_id_fkey",
        "UPDATE api_clients SET owner_team_id = id(99) WHERE id = id(32)",
        &[Read::TeamToken],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_name_check",
        "UPDATE api_clients SET name = ''",
        &[Read::PersonalClient, Read::PersonalList],
    ),
    (
        "api_clients DROP CONSTRAINT api_clients_description_check",
        "UPDATE api_clients SET description = repeat('x', 501)",
        &[Read::PersonalClient, Read::PersonalList],
    ),
    (
        "api_client_grants DROP CONSTRAINT api_client_grants_role_check",
        "UPDATE api_client_grants SET role = 'god'",
        &[
            Read::PersonalToken,
            Read::TeamToken,
            Read::PersonalClient,
            Read::PersonalList,
        ],
    ),
    (
        "api_client_grants DROP CONSTRAINT api_client_grants_site_id_fkey",
        "UPDATE api_client_grants SET site_id = id(99)",
        &[Read::PersonalToken, Read::TeamToken],
    ),
    (
        "api_client_usage_days DROP CONSTRAINT api_client_usage_days_outcome_check",
        "UPDATE api_client_usage_days SET outcome = 'used'",
        &[Read::Usage],
    ),
    (
        "api_client_usage_days DROP CONSTRAINT api_client_usage_days_count_check",
        "UPDATE api_client_usage_days SET count = -1",
        &[Read::Usage],
    ),
    (
        "service_accounts DROP CONSTRAINT service_accounts_name_check",
        "UPDATE service_accounts SET name = 'Live' WHERE id = id(51)",
        &[Read::Caller, Read::Accounts],
    ),
    (
        "service_accounts DROP CONSTRAINT service_accounts_permissions_check",
        "UPDATE service_accounts SET permissions = '{introspect,everything}'",
        &[Read::Caller, Read::Accounts],
    ),
    (
        "audit_events DROP CONSTRAINT audit_events_action_check",
        "UPDATE audit_events SET action = 'api_client.used'",
        &[Read::Events],
    ),
    (
        "audit_events DROP CONSTRAINT audit_events_one_owner_check",
        "UPDATE audit_events SET owner_team_id = id(11)",
        &[Read::Events],
    ),
    // What no constraint can say.
    (
        "audit_events ALTER COLUMN changes SET NOT NULL",
        "UPDATE audit_events SET changes = '{}'",
        &[Read::Events],
    ),
    (
        "audit_events ALTER COLUMN actor_ip_address SET NOT NULL",
        "UPDATE audit_events SET actor_user_id = id(1), actor_ip_address = 'somewhere'",
        &[Read::Events],
    ),
    (
        "index_state ALTER COLUMN revision SET NOT NULL",
        "DELETE FROM index_state",
        &[Read::PersonalToken],
    ),
];

#[tokio::test]
async fn what_cannot_be_is_reported() {
    for (alter, write, reads) in CASES {
        let url = world().await;
        let store = store(&url);
        for way in *reads {
            let sound = read(&url, &store, *way).await;
            assert!(sound.is_ok(), "{way:?} of a sound database: {sound:?}");
        }
        postgres::execute(&url, &format!("ALTER TABLE {alter}")).await;
        postgres::execute(&url, write).await;
        for way in *reads {
            let found = read(&url, &store, *way).await;
            assert!(
                matches!(found, Err(StoreError::Inconsistent(_))),
                "{way:?} after {write}: {found:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_postgres_quotes_of_a_row_is_not_handed_on() {
    let url = world().await;
    postgres::execute(
        &url,
        "CREATE FUNCTION quote() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'no' USING ERRCODE = 'unique_violation', DETAIL = 'secret'; END $$; \
         ALTER TABLE directory_state RENAME TO stored; \
         CREATE VIEW directory_state AS SELECT quote() AS applied_sequence",
    )
    .await;
    let store = store(&url);
    let error = store
        .read(async |snapshot: &mut Snapshot| snapshot.directory_status().await.map(drop))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Defect(_)), "{error:?}");
    let all = format!("{error} {} {error:?}", causes(&error));
    assert!(all.contains("SQLSTATE 23505"), "{all}");
    assert!(!all.contains("secret"), "{all}");
}
