//! Where the tables are found: where the migrations put them, whatever schema comes first
//! in a role's search path later on.

use std::collections::BTreeSet;

use hitkeep_auth::{
    domain::{
        Revision,
        directory::{DirectoryChange, User},
        id::UserId,
        role::InstanceRole,
    },
    store::{Store, Transaction, directory::DirectoryError, feed::Position, migrations},
};
use uuid::Uuid;

use crate::{
    database::{nobody, store, texts},
    empty::empty_database,
    postgres,
};

/// The same database, for that role.
fn as_role(url: &str, role: &str) -> String {
    url.replace("postgres://postgres@", &format!("postgres://{role}@"))
}

/// Puts a user into the directory, and sees that a follower of the database finds it.
async fn serves(store: &Store, number: u128) {
    assert_eq!(
        store.pending_migrations().await.unwrap(),
        Vec::<String>::new()
    );
    let nowhere = Position {
        database: Uuid::nil(),
        revision: Revision(0),
        nonce: Uuid::nil(),
    };
    let mut feed = store.connect_feed().await.unwrap();
    let known = feed.state(nowhere).await.unwrap().position;
    let user = DirectoryChange::PutUser(User {
        id: UserId::from_uuid(Uuid::from_u128(number)),
        instance_role: InstanceRole::User,
        disabled: false,
    });
    let body = async |tx: &mut Transaction| -> Result<(), DirectoryError> {
        tx.apply_changes(&[user]).await
    };
    let changed = store.transaction(&nobody(), body).await.unwrap().revision;
    assert_eq!(changed.0, known.revision.0 + 1);
    let found = feed.state(known).await.unwrap();
    assert_eq!(found.position.revision, changed);
    assert!(found.continues);
}

/// The schemas that have a table of that name.
async fn schemas_with(url: &str, table: &str) -> Vec<String> {
    let mut connection = postgres::connect(url).await;
    let sql = format!(
        "SELECT relnamespace::regnamespace::text AS text FROM pg_class \
         WHERE relname = '{table}' AND relkind = 'r'"
    );
    texts(&mut connection, &sql).await
}

/// As docs/OPERATIONS.md has it: one role owns the tables, and another one serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_with_the_name_of_the_role_that_serves_is_not_looked_into() {
    let url = empty_database().await;
    postgres::execute(
        &url,
        "CREATE ROLE path_owner LOGIN; CREATE ROLE path LOGIN; \
         GRANT CREATE, USAGE ON SCHEMA public TO path_owner; GRANT USAGE ON SCHEMA public TO path",
    )
    .await;
    let owner = as_role(&url, "path_owner");
    let grants = "ALTER DEFAULT PRIVILEGES IN SCHEMA public \
                  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO path";
    postgres::execute(&owner, grants).await;
    migrations::apply(&owner).await.unwrap();
    // With tables that have our tables' names, as Supabase's `auth` has.
    postgres::execute(
        &url,
        "CREATE SCHEMA path; GRANT ALL ON SCHEMA path TO path; \
         CREATE TABLE path.users (id text); CREATE TABLE path.api_clients (id text); \
         CREATE TABLE path.index_changes (id text); \
         GRANT ALL ON ALL TABLES IN SCHEMA path TO path",
    )
    .await;
    serves(&store(&as_role(&url, "path")), 1).await;
    // By hand, without the service, the triggers find their own tables too.
    let by_hand = "INSERT INTO public.teams VALUES (gen_random_uuid())";
    postgres::execute(&as_role(&url, "path"), by_hand).await;
    serves(&store(&as_role(&url, "path")), 2).await;
    let mut connection = postgres::connect(&url).await;
    let counts = "SELECT format('%s %s', revision, (SELECT count(*) FROM path.users)) AS text \
                  FROM public.index_state";
    assert_eq!(texts(&mut connection, counts).await, ["3 0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_with_the_name_of_the_role_that_migrates_gets_no_second_set_of_tables() {
    let url = empty_database().await;
    postgres::execute(
        &url,
        "CREATE ROLE path_both LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO path_both",
    )
    .await;
    let both = as_role(&url, "path_both");
    migrations::apply(&both).await.unwrap();
    postgres::execute(&url, "CREATE SCHEMA path_both AUTHORIZATION path_both").await;
    assert_eq!(
        migrations::apply(&both).await.unwrap(),
        Vec::<String>::new()
    );
    // Also where there is something to do.
    let last = "DELETE FROM __diesel_schema_migrations \
                WHERE version = (SELECT max(version) FROM __diesel_schema_migrations)";
    postgres::execute(&url, last).await;
    assert_eq!(store(&both).pending_migrations().await.unwrap().len(), 1);
    drop(migrations::apply(&both).await);
    assert_eq!(schemas_with(&url, "index_state").await, ["public"]);
    assert_eq!(
        schemas_with(&url, "__diesel_schema_migrations").await,
        ["public"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_path_says_where_the_tables_are_to_be() {
    let url = empty_database().await;
    postgres::execute(
        &url,
        "CREATE ROLE path_own LOGIN; CREATE SCHEMA \"Own\" AUTHORIZATION path_own; \
         ALTER ROLE path_own SET search_path = \"Own\"",
    )
    .await;
    // Beside those of another installation, in the schema that everybody has.
    migrations::apply(&url).await.unwrap();
    let own = as_role(&url, "path_own");
    assert!(!store(&own).pending_migrations().await.unwrap().is_empty());
    migrations::apply(&own).await.unwrap();
    let schemas = schemas_with(&url, "api_clients").await;
    let schemas: BTreeSet<_> = schemas.iter().map(String::as_str).collect();
    assert_eq!(schemas, BTreeSet::from(["\"Own\"", "public"]));
    serves(&store(&own), 1).await;
    serves(&store(&own), 2).await;
    serves(&store(&url), 1).await;
}
