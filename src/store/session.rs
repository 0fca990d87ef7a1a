//! The settings of each session, which override `ALTER ROLE … SET`, `ALTER DATABASE … SET`
//! and `postgresql.conf`, so that these do not change how the service works.
//!
//! Two settings are kept: `default_transaction_read_only`, which marks a server that must
//! not be written to, and `search_path`, which locates the service's tables.

use std::{fmt::Write, sync::LazyLock};

/// The settings, with values as Postgres displays them. A setting that the server does not
/// know is skipped: `transaction_timeout` is new in Postgres 17.
const SETTINGS: [(&str, &str); 31] = [
    // The service's own deadlines are shorter. These end abandoned statements and sessions.
    ("statement_timeout", "10s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "20s"),
    // Connections of the pool and the listener may be idle without end, and a large
    // replacement of the directory takes longer than each of its statements.
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    // Text formats of values.
    ("client_encoding", "UTF8"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    // Messages below a warning cost time to read and are not used.
    ("client_min_messages", "warning"),
    // The default isolation; transactions that need more request it.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // A row-level policy could hide rows, and make valid tokens unknown. With this, a query
    // that a policy applies to fails instead.
    ("row_security", "off"),
    // The triggers that stamp revisions always fire, but those of foreign keys only with
    // this value. A role that may not set it, and has another default, cannot connect.
    ("session_replication_role", "origin"),
    // The planner may choose any plan. JIT compilation takes longer than running a plan.
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

/// A commit that is acknowledged before it is on disk can be lost, and a revocation with it.
/// Stricter values are kept.
const SYNCHRONOUS_COMMIT: &str = "('synchronous_commit', CASE \
     WHEN pg_catalog.current_setting('synchronous_commit') IN ('off', 'local') THEN 'on' \
     ELSE pg_catalog.current_setting('synchronous_commit') END)";

/// One statement that applies the settings, and skips those that have their values already.
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

/// Moves the schema with the service's tables to the front of the search path. By default, a
/// schema with the role's name comes first, which may be created for another purpose at any
/// time. The tables are found through the search path, with which operators can keep them
/// elsewhere than in `public`. Changes nothing if there are no tables yet.
pub(super) const SCHEMA: &str = "
    SELECT set_config('search_path', concat_ws(', ', quote_ident(nspname),
                      nullif(current_setting('search_path'), '')), false)
    FROM (SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
          WHERE relname = 'index_state' AND nspname = ANY (current_schemas(false))
          ORDER BY array_position(current_schemas(false), nspname) LIMIT 1) AS home";
/// For migrations, which may wait for each other and take long.
pub(super) const WITHOUT_LIMITS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0";
