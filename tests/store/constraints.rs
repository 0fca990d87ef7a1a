//! Every constraint: one statement that breaks it, and one that looks much the
//! same and is legitimate. A constraint that is not in the table fails the test.

mod accounts;
mod clients;
mod directory;
mod events;
mod imports;
mod index;
mod requests;
mod usage;

use std::collections::BTreeSet;

use diesel::result::Error as DieselError;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};

use crate::{
    database::{texts, world},
    postgres,
};

/// A constraint, a statement that breaks it, and one that does not.
struct Case {
    constraint: &'static str,
    breaks: &'static str,
    keeps: &'static str,
}

/// The constraint that a statement runs into. Changes nothing.
pub async fn violated(connection: &mut AsyncPgConnection, sql: &str) -> Option<String> {
    connection.batch_execute("BEGIN").await.unwrap();
    let done = connection.batch_execute(sql).await;
    connection.batch_execute("ROLLBACK").await.unwrap();
    match done {
        Ok(()) => None,
        Err(DieselError::DatabaseError(_, information))
            if information.constraint_name().is_some() =>
        {
            information.constraint_name().map(str::to_owned)
        }
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// All of them, by table.
const CASES: [&[Case]; 8] = [
    index::INDEX,
    directory::DIRECTORY,
    clients::CLIENTS,
    usage::USAGE,
    accounts::ACCOUNTS,
    imports::IMPORTS,
    events::EVENTS,
    requests::REQUESTS,
];

#[tokio::test]
async fn each_refuses_what_breaks_it_and_nothing_else() {
    let url = world().await;
    let mut connection = postgres::connect(&url).await;
    for Case {
        constraint,
        breaks,
        keeps,
    } in CASES.iter().copied().flatten()
    {
        let refused = violated(&mut connection, breaks).await;
        assert_eq!(refused.as_deref(), Some(*constraint), "{breaks}");
        let refused = violated(&mut connection, keeps).await;
        assert_eq!(refused, None, "{constraint}: {keeps}");
    }
}

/// Rows that must have a value have one; Postgres names the column, not a
/// constraint.
#[tokio::test]
async fn the_table_covers_every_constraint() {
    let url = postgres::migrated_database().await;
    let mut connection = postgres::connect(&url).await;
    let named = "SELECT conname::text AS text FROM pg_constraint \
                 WHERE connamespace = 'public'::regnamespace AND contype <> 'n' \
                   AND conrelid <> '__diesel_schema_migrations'::regclass \
                 UNION SELECT pg_class.relname::text FROM pg_index \
                 JOIN pg_class ON pg_class.oid = indexrelid \
                 WHERE indisunique AND relnamespace = 'public'::regnamespace \
                   AND indrelid <> '__diesel_schema_migrations'::regclass";
    let named: BTreeSet<_> = texts(&mut connection, named).await.into_iter().collect();
    let cases = CASES.iter().copied().flatten();
    let covered: BTreeSet<_> = cases.map(|case| case.constraint.to_owned()).collect();
    let untested: Vec<_> = named.difference(&covered).collect();
    assert_eq!(
        untested,
        Vec::<&String>::new(),
        "constraints without a test"
    );
    let gone: Vec<_> = covered.difference(&named).collect();
    assert_eq!(gone, Vec::<&String>::new(), "tests without a constraint");
}

/// A name that Postgres made up changes with the statement that it was made
/// for, and an error is recognised by name.
#[tokio::test]
async fn no_check_has_a_name_that_postgres_made_up() {
    let url = postgres::migrated_database().await;
    let mut connection = postgres::connect(&url).await;
    let made_up = "SELECT conname::text AS text FROM pg_constraint \
                   WHERE connamespace = 'public'::regnamespace AND contype = 'c' \
                     AND conname ~ '_check[0-9]+$'";
    assert_eq!(texts(&mut connection, made_up).await, Vec::<String>::new());
}
