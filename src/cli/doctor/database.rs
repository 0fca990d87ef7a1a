//! What a server needs of its database.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::timeout;

use super::{CHECK_TIMEOUT, Failure, Finding, Report, in_time};
use crate::{
    cli::counted,
    config::ServeArgs,
    store::{
        NoConnection, Standbys, StoreOptions,
        examination::{
            ClockDifference, ConnectionLimits, Examination, MigrationFacts, NotRead, Pooling,
            ServerFacts,
        },
    },
    system::SystemClock,
};

/// The oldest Postgres that the service runs on, as a number.
const OLDEST_VERSION: u32 = 150_000;
/// Connections of a server beside its pool: two follow changes, and one looks for the primary; or
/// two, while a change is not confirmed.
const BESIDE_POOL: usize = 4;
/// A larger difference of the clocks deserves a warning.
const MAX_CLOCK_DIFFERENCE: TimeDelta = TimeDelta::seconds(1);
/// What connecting may take beyond its own timeouts, such as reading certificates.
const CONNECT_MARGIN: Duration = Duration::from_secs(1);

pub(super) async fn check(args: &ServeArgs, report: &mut Report) -> Result<(), Failure> {
    // An unreadable URL is an error of the configuration.
    let Ok(options) = args.store() else {
        return Ok(());
    };
    let examination = match connect(&options).await {
        Ok(examination) => examination,
        Err(finding) => return report.add("database", finding),
    };
    let reached = format!("{} accepts connections", examination.place());
    report.add("database", Finding::ok(reached))?;
    let it = &examination;
    let standbys = options.standbys;
    let pooling = in_time(async { judge(it.pooling().await, pooling) }).await;
    report.add("pooler", pooling)?;
    match timeout(CHECK_TIMEOUT, it.server()).await {
        Ok(Ok(facts)) => {
            report.add("version", version(&facts))?;
            report.add("writes", writes(&facts, standbys))?;
            report.add("replication", replication(&facts))?;
        }
        Ok(Err(error)) => report.add("version", not_read(&error))?,
        Err(_) => {
            let late = in_time(std::future::pending());
            report.add("version", late.await)?;
        }
    }
    let machine = SystemClock::default();
    let clock = in_time(async { judge(it.clock(&machine).await, clock) }).await;
    report.add("clock", clock)?;
    let migrations = in_time(async { judge(it.migrations().await, migrations) }).await;
    report.add("migrations", migrations)?;
    let rights = in_time(async { judge(it.missing_rights().await, |found| rights(&found)) }).await;
    report.add("rights", rights)?;
    let security =
        in_time(async { judge(it.secured_tables().await, |found| row_security(&found)) }).await;
    report.add("row security", security)?;
    let settings =
        in_time(async { judge(it.overridden_settings().await, |found| settings(&found)) }).await;
    report.add("settings", settings)?;
    let needed = options.pool_size + BESIDE_POOL;
    let limits = async { judge(it.connection_limits().await, |found| limits(found, needed)) };
    report.add("connections", in_time(limits).await)?;
    let notified = async { judge(it.is_notified().await, notifications) };
    report.add("notifications", in_time(notified).await)
}

async fn connect(options: &StoreOptions) -> Result<Examination, Finding> {
    let place = Examination::place_of(options);
    // Two connections, one after the other.
    let limit = Examination::connect_timeout_of(options, CHECK_TIMEOUT) * 2 + CONNECT_MARGIN;
    let begun = timeout(limit, Examination::begin(options)).await;
    let begun = begun.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        let why = format!("nothing answers within {seconds} s");
        Err(NoConnection::Unreachable(why))
    });
    begun.map_err(|error| match error {
        NoConnection::Unreachable(why) => Finding::error(
            format!("Postgres at {place} cannot be used ({why})"),
            "start it, or correct the host and port in the database URL, or the network to it",
        ),
        NoConnection::Refused(why) => Finding::error(
            format!("Postgres at {place} refuses the connection ({why})"),
            "correct the user, the password or the database in the database URL",
        ),
    })
}

/// A finding about a fact, or about why it is not known.
fn judge<T>(fact: Result<T, NotRead>, judge: impl FnOnce(T) -> Finding) -> Finding {
    fact.map_or_else(|error| not_read(&error), judge)
}

fn not_read(error: &NotRead) -> Finding {
    Finding::error(
        format!("it cannot be read ({error})"),
        "see to it that the role may read the tables and catalogs of the database",
    )
}

fn pooling(found: Pooling) -> Finding {
    match found {
        Pooling::Session => Finding::ok("a connection keeps its server process"),
        Pooling::Transaction => Finding::error(
            "connections share server processes: a pooler is in transaction mode",
            "set pool_mode = session for this database, or connect to Postgres directly",
        ),
    }
}

fn version(facts: &ServerFacts) -> Finding {
    let version = format!("PostgreSQL {}", facts.version);
    if facts.version_number < OLDEST_VERSION {
        return Finding::error(version, "upgrade to PostgreSQL 15 or newer");
    }
    Finding::ok(version)
}

fn writes(facts: &ServerFacts, standbys: Standbys) -> Finding {
    if facts.is_in_recovery {
        let lag = match facts.lag_seconds {
            Some(lag) => format!("{lag:.1} s since the last replayed transaction"),
            None => "nothing replayed yet".to_owned(),
        };
        return match standbys {
            Standbys::Allowed => Finding::warning(
                format!("the server is a standby ({lag}): calls that change something fail"),
                "name the primary in the database URL as well, to have writes",
            ),
            Standbys::Refused => Finding::error(
                format!("the server is a standby ({lag})"),
                "name the primary in the database URL; --allow-standby serves introspection alone",
            ),
        };
    }
    if facts.is_subscriber {
        return Finding::error(
            "the API clients are received by logical replication, whose lag is unknown",
            "name the publisher in the database URL",
        );
    }
    if facts.is_read_only {
        return Finding::error(
            "the database takes no writes (default_transaction_read_only is on)",
            "name the primary in the database URL, or turn the setting off",
        );
    }
    Finding::ok("the server takes writes")
}

fn replication(facts: &ServerFacts) -> Finding {
    let ServerFacts {
        synchronous_names,
        standbys,
        synchronous,
        hidden,
        replay_lag_seconds,
        ..
    } = facts;
    let lag = replay_lag_seconds
        .map(|lag| format!("; the slowest is {lag:.1} s behind"))
        .unwrap_or_default();
    if synchronous_names.is_empty() {
        return Finding::ok(format!(
            "{standbys} standbys are connected, and commits wait for none{lag}"
        ));
    }
    let awaited = awaited(synchronous_names);
    if *synchronous >= awaited {
        return Finding::ok(format!(
            "commits wait for {}, and {synchronous} are connected{lag}",
            counted(awaited, "standby")
        ));
    }
    if *hidden > 0 {
        return Finding::warning(
            "commits wait for standbys, whose state this role may not see",
            "GRANT pg_read_all_stats to the role, or look at pg_stat_replication as another one",
        );
    }
    Finding::error(
        format!(
            "commits wait for {} ({synchronous_names}), and {synchronous} are connected: no \
             change is ever acknowledged",
            counted(awaited, "standby")
        ),
        "start a synchronous standby, or change synchronous_standby_names",
    )
}

/// For how many standbys a commit waits, by `synchronous_standby_names`: `ANY 2 (a, b, c)`,
/// `FIRST 2 (a, b, c)` and `2 (a, b, c)` say it, and of names alone the first one counts.
fn awaited(names: &str) -> u32 {
    let method = names.split_once('(').map(|(method, _)| method);
    let number = method.and_then(|method| method.split_whitespace().last());
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}

fn clock(found: ClockDifference) -> Finding {
    let ClockDifference {
        offset,
        uncertainty,
    } = found;
    let seconds = offset.as_seconds_f64();
    let exact = uncertainty.as_seconds_f64();
    let difference = format!("{seconds:+.3} s from this machine's, to within {exact:.3} s");
    if offset.abs() - uncertainty > MAX_CLOCK_DIFFERENCE {
        return Finding::warning(
            format!("the database's clock is {difference}"),
            "synchronize both with NTP: tokens expire by the database's clock, certificates by \
             this machine's",
        );
    }
    Finding::ok(format!("the database's is {difference}"))
}

fn migrations(found: MigrationFacts) -> Finding {
    let MigrationFacts {
        pending,
        newer,
        unreleased,
    } = found;
    if !unreleased.is_empty() {
        let found = unreleased.join(", ");
        return Finding::error(
            format!("a build from before a release made this database ({found})"),
            "create the database again: no migration leads on from there",
        );
    }
    if !pending.is_empty() {
        return Finding::error(
            format!("{} are missing ({})", pending.len(), pending.join(", ")),
            "apply them with `hitkeep-auth migrate`, as the role that owns the tables",
        );
    }
    if !newer.is_empty() {
        return Finding::warning(
            format!(
                "{} are of a newer version ({})",
                newer.len(),
                newer.join(", ")
            ),
            "upgrade this server to the version that applied them",
        );
    }
    Finding::ok("all are applied")
}

fn rights(missing: &[String]) -> Finding {
    if missing.is_empty() {
        return Finding::ok("the role may read and write the tables");
    }
    Finding::error(
        format!("the role lacks {}", missing.join(", ")),
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA … TO the role, and USAGE ON \
         ALL SEQUENCES",
    )
}

fn row_security(secured: &[String]) -> Finding {
    if secured.is_empty() {
        return Finding::ok("no row is hidden from the role");
    }
    Finding::error(
        format!("row-level security applies on {}", secured.join(", ")),
        "ALTER ROLE … BYPASSRLS, or disable row-level security on these tables",
    )
}

fn settings(overridden: &[String]) -> Finding {
    if overridden.is_empty() {
        return Finding::ok("no timeout of the role or the server is in the way");
    }
    Finding::ok(format!(
        "each connection replaces {} with its own",
        overridden.join(", ")
    ))
}

fn limits(found: ConnectionLimits, needed: usize) -> Finding {
    let limits = [
        ("max_connections of the server", found.server),
        ("CONNECTION LIMIT of the role", found.role),
        ("CONNECTION LIMIT of the database", found.database),
    ];
    let limited = limits.into_iter().filter_map(|(what, limit)| {
        let limit = usize::try_from(limit).ok()?;
        Some((limit, what))
    });
    let Some((limit, what)) = limited.min() else {
        return Finding::ok("their number is not limited");
    };
    if limit < needed {
        return Finding::warning(
            format!("{limit} are allowed ({what}), and one server needs {needed}"),
            "raise the limit, or lower --pool-size",
        );
    }
    Finding::ok(format!(
        "{limit} are allowed for all servers and others, and one server needs {needed}"
    ))
}

fn notifications(arrive: bool) -> Finding {
    if arrive {
        return Finding::ok("they arrive");
    }
    Finding::error(
        "a notification did not arrive: changes would be seen by polling only",
        "connect to Postgres directly, or through a pooler in session mode",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_waits_for_as_many_standbys_as_the_setting_says() {
        for (names, expected) in [
            ("a", 1),
            ("a, b", 1),
            ("*", 1),
            ("\"a(2 (\"", 1),
            ("2 (a, b)", 2),
            ("FIRST 2 (a, b, c)", 2),
            ("first 3(a, b, c)", 3),
            ("ANY 2 (a, b)", 2),
            ("any 10 (*)", 10),
        ] {
            assert_eq!(awaited(names), expected, "{names}");
        }
    }
}
