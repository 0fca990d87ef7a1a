//! What a session is set to, whatever the server, the database or the role have as their
//! default: `ALTER ROLE … SET`, `ALTER DATABASE … SET` and `postgresql.conf` do not change
//! how the service works.
//!
//! Two settings are left alone. `default_transaction_read_only` tells a server that must
//! not be written to. `search_path` says where the service's tables are.

use std::{fmt::Write, sync::LazyLock};

/// The settings, in the words in which Postgres shows them. A server that does not know
/// one of them goes without: `transaction_timeout` is new in Postgres 17.
const SETTINGS: [(&str, &str); 31] = [
    // The service's own deadline comes first. These end what it has lost hold of.
    ("statement_timeout", "10s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "20s"),
    // Connections of the pool and the listener lie idle for as long as there is nothing
    // to do, and a large replacement of the directory takes longer than its statements.
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    // How values are written as text, and how texts are read.
    ("client_encoding", "UTF8"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    // Each message that the server sends is read, and none below a warning is of use.
    ("client_min_messages", "warning"),
    // What a transaction sees. Those that need more than this say so.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // A policy that hides rows would make tokens unknown that work. With this, a query
    // that a policy applies to fails instead.
    ("row_security", "off"),
    // The triggers that stamp revisions fire always, but those that keep foreign keys do
    // for this value alone. A role that may not set it, and was given another default,
    // gets no connection.
    ("session_replication_role", "origin"),
    // Plans. Which one is taken for what is known to be best is up to the planner, but it
    // has to have the choice; compiling them takes longer than running them.
    ("plan_cache_mode", "auto"),
    ("jit", "off"),
    ("enable_seqscan", "on"),
    ("enable_indexscan", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_bitmapscan", "on"),
    ("enable_nestloop", "on"),
    ("enable_hashjoin", "on"),
    ("enable_mergejoin", "on"),
    ("enable_hashagg", "on"),
    ("enable_sort", "on"),
    ("enable_material", "on"),
];

/// A commit that is acknowledged before it is on disk can be lost, and a revocation with
/// it. Who demands more than the disk of this server keeps that.
const SYNCHRONOUS_COMMIT: &str = "('synchronous_commit', CASE \
     WHEN pg_catalog.current_setting('synchronous_commit') IN ('off', 'local') THEN 'on' \
     ELSE pg_catalog.current_setting('synchronous_commit') END)";

/// One statement that sets a session, and leaves alone what is right already.
pub(super) static SESSION: LazyLock<String> = LazyLock::new(|| {
    let mut wanted = SYNCHRONOUS_COMMIT.to_owned();
    for (name, value) in SETTINGS {
        write!(wanted, ", ('{name}', '{value}')").expect("a string takes whatever is written");
    }
    format!(
        "SELECT pg_catalog.set_config(name, value, false) \
         FROM (VALUES {wanted}) AS wanted (name, value) \
         WHERE pg_catalog.current_setting(name, true) <> value"
    )
});

/// For migrations, which may wait for each other and take as long as they need.
pub(super) const WITHOUT_LIMITS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0";
