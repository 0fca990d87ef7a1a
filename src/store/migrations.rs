//! The database's shape: which migrations there are, which of them a database
//! has, and how it gets the rest. Replicas may try at once: one applies, the
//! others wait and find nothing to do.

use diesel::{
    ConnectionError,
    migration::{MigrationSource, MigrationVersion},
    pg::Pg,
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{
    Options,
    connect::{ConnectError, Connector},
    connection::Connection,
    error::StoreError,
    session::WITHOUT_LIMITS,
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
/// Held while migrating; a number of this project's own.
const LOCK: &str = "SELECT pg_advisory_lock(7201148302467195)";

/// Puts the schema that has the service's tables first in the search path, whatever comes
/// before it there: by default that is a schema with the role's own name, which somebody may
/// have made for something else, also after the first migration. Finds the tables through
/// the search path, so that this says where they are to somebody who keeps them elsewhere
/// than in `public`. Changes nothing where there are none yet.
pub(super) const SCHEMA: &str = "
    SELECT set_config('search_path', concat_ws(', ', quote_ident(nspname),
                      nullif(current_setting('search_path'), '')), false)
    FROM (SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
          WHERE relname = 'index_state' AND nspname = ANY (current_schemas(false))
          ORDER BY array_position(current_schemas(false), nspname) LIMIT 1) AS home";
/// The same for migrations. Nothing comes after that schema, because the functions keep the
/// search path under which they are made.
const ONLY_SCHEMA: &str = "
    SELECT set_config('search_path', quote_ident(coalesce(
        (SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE relname = 'index_state' AND nspname = ANY (current_schemas(false))
         ORDER BY array_position(current_schemas(false), nspname) LIMIT 1),
        current_schema())), false)";

/// Why migrations could not be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Postgres cannot be reached.
    #[error("cannot connect to the database")]
    Connect(#[source] ConnectionError),
    /// The lock that orders migrations could not be had.
    #[error("cannot lock the database for migration")]
    Lock(#[source] diesel::result::Error),
    /// Where the tables are could not be looked up.
    #[error("cannot find the schema of the tables")]
    Schema(#[source] diesel::result::Error),
    /// A migration failed; it was rolled back.
    #[error("a migration failed")]
    Run(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Applies what is pending, and names it.
///
/// # Panics
/// On a current-thread runtime, which cannot block in place.
pub async fn apply(database_url: &str) -> Result<Vec<String>, MigrationError> {
    let mut harness = AsyncMigrationHarness::new(connect_locked(database_url).await?);
    let applied = harness
        .run_pending_migrations(MIGRATIONS)
        .map_err(MigrationError::Run)?;
    named(&applied)
}

/// Reverts everything, and names it. All data is lost; no command does it.
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

/// Names what is pending. Changes nothing, not even in an empty database.
pub(super) async fn pending(connection: &mut Connection) -> Result<Vec<String>, StoreError> {
    use diesel::sql_types::Text;
    use diesel_async::RunQueryDsl;

    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        version: String,
    }

    // They are part of the program: waiting does not mend them.
    let mut known = names().map_err(StoreError::Defect)?;
    // diesel's own table is made by the first migration run.
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
fn names() -> diesel::migration::Result<Vec<String>> {
    let migrations = MigrationSource::<Pg>::migrations(&MIGRATIONS)?;
    let mut names: Vec<_> = migrations
        .iter()
        .map(|migration| migration.name().to_string())
        .collect();
    names.sort();
    Ok(names)
}

/// A name is `DATE-NUMBER_WORDS`, its version, which is what the database
/// keeps, the same without words and hyphens.
fn version(name: &str) -> String {
    name.split('_').next().unwrap_or(name).replace('-', "")
}

/// The names that belong to versions, in the versions' order.
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
    let opened = Connector::new(&Options::new(database_url)).open().await;
    let bad = |error: ConnectError| ConnectionError::BadConnection(error.to_string());
    let (client, wire) = opened.map_err(bad).map_err(MigrationError::Connect)?;
    let connection = AsyncPgConnection::try_from_client_and_connection(client, wire).await;
    let mut connection = connection.map_err(MigrationError::Connect)?;
    // Before: a limit holds for the whole of what is sent at once.
    connection
        .batch_execute(WITHOUT_LIMITS)
        .await
        .map_err(MigrationError::Lock)?;
    // Released when this connection ends, whatever happens before.
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
