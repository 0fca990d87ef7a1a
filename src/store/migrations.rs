//! Schema migrations. Servers may apply them concurrently: one does, and the others wait
//! and find nothing pending.

use std::collections::BTreeSet;

use diesel::{
    ConnectionError,
    migration::{MigrationSource, MigrationVersion},
    pg::Pg,
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{
    StoreOptions, connect::Connector, connection::Connection, error::StoreError,
    error::connect::ConnectError, session::WITHOUT_LIMITS,
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
/// The advisory lock held while migrating; an arbitrary number unique to this service.
const LOCK: &str = "SELECT pg_advisory_lock(7201148302467195)";

/// The versions of the migrations that the first ten replace. A database with all of them has
/// the schema that those make.
pub const FOLDED: [&str; 15] = [
    "20261123000000",
    "20261123000001",
    "20261123000002",
    "20261123000003",
    "20261123000004",
    "20261123000006",
    "20261129000011",
    "20261129000012",
    "20261129000013",
    "20261129000014",
    "20261129000015",
    "20261129000016",
    "20261129000017",
    "20261129000018",
    "20261129000019",
];
/// How many replace them.
const FOLDED_INTO: usize = 10;

/// Sets the search path to the schema of the service's tables alone, since functions keep
/// the search path under which migrations create them.
const ONLY_SCHEMA: &str = "
    SELECT set_config('search_path', quote_ident(coalesce(
        (SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE relname = 'index_state' AND nspname = ANY (current_schemas(false))
         ORDER BY array_position(current_schemas(false), nspname) LIMIT 1),
        current_schema())), false)";

/// Why migrations could not be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("cannot connect to the database")]
    Connect(#[source] ConnectionError),
    /// The advisory lock could not be acquired.
    #[error("cannot lock the database for migration")]
    Lock(#[source] diesel::result::Error),
    /// The schema of the tables could not be looked up.
    #[error("cannot find the schema of the tables")]
    Schema(#[source] diesel::result::Error),
    /// A build from before a release made the database, by migrations that no release has.
    #[error(
        "a build from before a release made this database ({}), and no migration leads on from \
         there: create it again", .0.join(", ")
    )]
    Unreleased(Vec<String>),
    /// A migration failed; it was rolled back.
    #[error("a migration failed")]
    Run(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Applies all pending migrations, and returns their names.
///
/// # Panics
/// On a current-thread runtime, which cannot block in place.
pub async fn apply(database_url: &str) -> Result<Vec<String>, MigrationError> {
    let names = names().map_err(MigrationError::Run)?;
    let mut connection = connect_locked(database_url).await?;
    let adopted = connection.batch_execute(&adoption(&names)).await;
    adopted.map_err(|error| MigrationError::Run(Box::new(error)))?;
    let mut harness = AsyncMigrationHarness::new(connection);
    let found = harness.applied_migrations().map_err(MigrationError::Run)?;
    let found: BTreeSet<_> = found.iter().map(ToString::to_string).collect();
    let Unknown { unreleased, .. } = unknown(found.iter().map(String::as_str), &names);
    if !unreleased.is_empty() {
        return Err(MigrationError::Unreleased(unreleased));
    }
    let applied = harness
        .run_pending_migrations(MIGRATIONS)
        .map_err(MigrationError::Run)?;
    named(&applied)
}

/// Reverts all migrations, and returns their names. All data is lost; no command does this.
///
/// # Panics
/// On a current-thread runtime, which cannot block in place.
pub async fn revert_all(database_url: &str) -> Result<Vec<String>, MigrationError> {
    let mut harness = AsyncMigrationHarness::new(connect_locked(database_url).await?);
    let reverted = harness
        .revert_all_migrations(MIGRATIONS)
        .map_err(MigrationError::Run)?;
    named(&reverted)
}

/// The names of the pending migrations. Changes nothing, even in an empty database.
pub(super) async fn pending(connection: &mut Connection) -> Result<Vec<String>, StoreError> {
    use diesel::sql_types::Text;
    use diesel_async::RunQueryDsl;

    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        version: String,
    }

    // The migrations are embedded, so that an error in them is a defect.
    let mut known = names().map_err(StoreError::Defect)?;
    // The first migration run creates diesel's own table.
    let exists = "SELECT name::text AS version \
                  FROM to_regclass('__diesel_schema_migrations') AS name \
                  WHERE name IS NOT NULL";
    let applied: Vec<Row> = if diesel::sql_query(exists)
        .load::<Row>(connection)
        .await?
        .is_empty()
    {
        Vec::new()
    } else {
        let versions = "SELECT version::text AS version FROM __diesel_schema_migrations";
        diesel::sql_query(versions).load(connection).await?
    };
    known.retain(|name| !applied.iter().any(|row| row.version == version(name)));
    Ok(known)
}

/// The names of all migrations, in their order.
pub(super) fn names() -> diesel::migration::Result<Vec<String>> {
    let migrations = MigrationSource::<Pg>::migrations(&MIGRATIONS)?;
    let mut names: Vec<_> = migrations
        .iter()
        .map(|migration| migration.name().to_string())
        .collect();
    names.sort();
    Ok(names)
}

/// The statement that notes, in a database with all [`FOLDED`] migrations and no other, those
/// that replace them.
fn adoption(names: &[String]) -> String {
    let quoted = |versions: Vec<String>| format!("'{}'", versions.join("', '"));
    let folded = quoted(FOLDED.map(str::to_owned).to_vec());
    let replacing = names.iter().take(FOLDED_INTO);
    let replacing = quoted(replacing.map(|name| version(name)).collect());
    format!(
        "DO $$ BEGIN \
             IF to_regclass('__diesel_schema_migrations') IS NULL THEN RETURN; END IF; \
             IF (SELECT array_agg(version::text ORDER BY version) FROM __diesel_schema_migrations) \
                 = ARRAY[{folded}] \
             THEN \
                 DELETE FROM __diesel_schema_migrations; \
                 INSERT INTO __diesel_schema_migrations (version) \
                     SELECT unnest(ARRAY[{replacing}]); \
             END IF; \
         END $$"
    )
}

/// The version in a name `DATE-NUMBER_WORDS`, without hyphens, as the database stores it.
pub(super) fn version(name: &str) -> String {
    name.split('_').next().unwrap_or(name).replace('-', "")
}

/// Versions in a database that are of no migration here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// After all that are known: a later release, whose tables this one can use.
    pub(super) newer: Vec<String>,
    /// Before the last that is known. No release lacks what an earlier one had, so a build from
    /// before a release made the database.
    pub(super) unreleased: Vec<String>,
}

/// Those among the versions in a database of which there is no migration by these names.
pub(super) fn unknown<'v>(found: impl Iterator<Item = &'v str>, names: &[String]) -> Unknown {
    let known: BTreeSet<_> = names.iter().map(|name| version(name)).collect();
    let (newer, unreleased) = found
        .filter(|found| !known.contains(*found))
        .map(ToOwned::to_owned)
        .partition(|found| known.last().is_none_or(|last| last < found));
    Unknown { newer, unreleased }
}

/// The names of versions, in the same order.
fn named(versions: &[MigrationVersion<'_>]) -> Result<Vec<String>, MigrationError> {
    let names = names().map_err(MigrationError::Run)?;
    let name = |wanted: String| {
        let mut names = names.iter();
        names
            .find(|name| version(name) == wanted)
            .cloned()
            .unwrap_or(wanted)
    };
    Ok(versions.iter().map(|v| name(v.to_string())).collect())
}

async fn connect_locked(database_url: &str) -> Result<AsyncPgConnection, MigrationError> {
    let opened = Connector::new(&StoreOptions::new(database_url))
        .open()
        .await;
    let bad = |error: ConnectError| ConnectionError::BadConnection(error.to_string());
    let (client, wire) = opened.map_err(bad).map_err(MigrationError::Connect)?;
    let connection = AsyncPgConnection::try_from_client_and_connection(client, wire).await;
    let mut connection = connection.map_err(MigrationError::Connect)?;
    // Sent separately: a timeout applies to a batch as a whole.
    connection
        .batch_execute(WITHOUT_LIMITS)
        .await
        .map_err(MigrationError::Lock)?;
    // Released when this connection ends, for whatever reason.
    connection
        .batch_execute(LOCK)
        .await
        .map_err(MigrationError::Lock)?;
    connection
        .batch_execute(ONLY_SCHEMA)
        .await
        .map_err(MigrationError::Schema)?;
    Ok(connection)
}
