//! What these tests know of the index itself, and of its absence: as long as
//! `Introspect` asks the database, some of what it must do cannot be seen.

use std::time::Duration;

use hitkeep_auth::{live_index, server};

/// How long after a change was acknowledged a replica may go by what was before it. No time is
/// added for a busy machine: what is asked later is judged later, however long that takes.
pub const BOUND: Duration = Duration::from_secs(2);

/// What the servers of these tests are set to.
pub fn options() -> server::Options {
    server::Options {
        index: live_index::IndexOptions {
            max_staleness: BOUND,
            // Every answer comes that can come, however slow the machine.
            refresh_timeout: Duration::from_mins(1),
            ..live_index::IndexOptions::default()
        },
        ..server::Options::default()
    }
}

/// Whether there is a change log, and so an index that is fed by it.
pub const IS_THERE: &str = "SELECT (to_regclass('index_changes') IS NOT NULL)::int";

/// The channels that a database's functions notify.
pub const CHANNELS: &str = "SELECT DISTINCT channel[1] AS text \
     FROM pg_proc, regexp_matches(prosrc, 'pg_notify\\(''([^'']+)''', 'g') AS channel \
     UNION SELECT DISTINCT channel[1] \
     FROM pg_proc, regexp_matches(prosrc, 'NOTIFY +([a-z_]+)', 'g') AS channel";
