//! What diesel knows of the tables is what the migrations make. Read as text,
//! since the module is the store's own.

use hitkeep_auth::store::examination::TABLES;

use crate::{database::texts, postgres};

const SCHEMA: &str = include_str!("../../src/store/schema.rs");
/// Postgres' names of what diesel calls otherwise.
const TYPES: [(&str, &str); 9] = [
    ("Array<Text>", "_text"),
    ("Bool", "bool"),
    ("Bytea", "bytea"),
    ("Date", "date"),
    ("Int8", "int8"),
    ("Jsonb", "jsonb"),
    ("Text", "text"),
    ("Timestamptz", "timestamptz"),
    ("Uuid", "uuid"),
];

/// `table(key columns)` for each table, and `table.column type nullable` for each
/// of its columns, in their order.
fn declared() -> Vec<String> {
    let mut lines = Vec::new();
    for table in SCHEMA.split("diesel::table! {").skip(1) {
        let (head, rest) = table.split_once('{').expect("a table's columns");
        let (columns, _) = rest.split_once('}').expect("their end");
        let (name, key) = head.trim().split_once(' ').expect("a name and a key");
        lines.push(format!("{name} {}", key.trim()));
        for column in columns.split(",\n").map(str::trim) {
            if column.is_empty() {
                continue;
            }
            let (column, declared) = column.split_once(" -> ").expect(column);
            let inner = declared
                .strip_prefix("Nullable<")
                .and_then(|inner| inner.strip_suffix('>'));
            let nullable = if inner.is_some() { "YES" } else { "NO" };
            let inner = inner.unwrap_or(declared);
            let (_, of_postgres) = TYPES
                .iter()
                .find(|(of_diesel, _)| *of_diesel == inner)
                .unwrap_or_else(|| panic!("{name}.{column}: add {inner} to the types"));
            lines.push(format!("{name}.{column} {of_postgres} {nullable}"));
        }
    }
    lines
}

async fn made() -> Vec<String> {
    let url = postgres::migrated_database().await;
    let mut connection = postgres::connect(&url).await;
    let keys = "SELECT format('%s (%s)', indrelid::regclass, \
                       (SELECT string_agg(attname, ', ' ORDER BY place) \
                        FROM unnest(indkey) WITH ORDINALITY AS key (number, place) \
                        JOIN pg_attribute ON attrelid = indrelid AND attnum = number)) AS text \
                FROM pg_index JOIN pg_class ON pg_class.oid = indrelid \
                WHERE indisprimary AND relnamespace = 'public'::regnamespace";
    let columns = "SELECT format('%s.%s %s %s', table_name, column_name, udt_name, is_nullable) \
                       AS text \
                   FROM information_schema.columns WHERE table_schema = 'public' \
                   ORDER BY table_name, ordinal_position";
    let mut lines = texts(&mut connection, keys).await;
    lines.extend(texts(&mut connection, columns).await);
    lines.retain(|line| !line.starts_with("__diesel_schema_migrations"));
    lines
}

/// Sorted by table; stable, so that the columns keep their order, which is the
/// order in which rows are read.
fn by_table(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_by_key(|line| {
        let table: String = line
            .chars()
            .take_while(|c| !matches!(c, '.' | ' '))
            .collect();
        table
    });
    lines
}

#[tokio::test]
async fn the_tables_are_those_of_the_database() {
    assert_eq!(by_table(declared()), by_table(made().await));
}

#[tokio::test]
async fn what_can_be_joined_is_what_refers_to_each_other() {
    let url = postgres::migrated_database().await;
    let mut connection = postgres::connect(&url).await;
    let references = "SELECT format('%s -> %s (%s)', conrelid::regclass, confrelid::regclass, \
                             attname) AS text \
                      FROM pg_constraint JOIN pg_attribute \
                          ON attrelid = conrelid AND ARRAY[attnum] = conkey \
                      WHERE contype = 'f'";
    let references = texts(&mut connection, references).await;
    let joinable = SCHEMA.split("diesel::joinable!(").skip(1);
    for joinable in joinable.map(|rest| rest.split_once(");").expect("its end").0) {
        assert!(
            references.iter().any(|reference| reference == joinable),
            "{joinable} is no foreign key"
        );
    }
}

/// `doctor` asks for the rights on every table.
#[tokio::test]
async fn the_examination_knows_every_table() {
    let url = postgres::migrated_database().await;
    let sql = "SELECT relname::text AS text FROM pg_class \
               WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace \
               AND relname <> '__diesel_schema_migrations' ORDER BY relname::text COLLATE \"C\"";
    let mut connection = postgres::connect(&url).await;
    let made = texts(&mut connection, sql).await;
    let known: Vec<_> = TABLES.iter().map(|(name, _)| *name).collect();
    assert_eq!(made, known);
}
