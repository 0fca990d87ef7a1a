//! Up, down and up again; twice; and by several at once.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use hitkeep_auth::store::migrations::{self, FOLDED, MigrationError};
use tokio::sync::Barrier;

use crate::{
    database::{store, texts},
    empty::empty_database,
    postgres,
};

/// The names of the migrations, in their order.
fn all() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let names: BTreeSet<String> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.into_iter().collect()
}

/// The version in a name, as the database has it.
fn version(name: &str) -> String {
    let (version, _) = name.split_once('_').unwrap();
    version.replace('-', "")
}

/// Everything that a schema can have in it, as text.
async fn shape(url: &str) -> Vec<String> {
    let mut connection = postgres::connect(url).await;
    let sql = "
        SELECT format('relation %s %s', relkind, relname) AS text
            FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT format('column %s.%s %s %s %s %s', attrelid::regclass, attnum, attname,
                      format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid))
            FROM pg_attribute
            JOIN pg_class ON pg_class.oid = attrelid AND relkind = 'r'
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE relnamespace = 'public'::regnamespace AND attnum > 0
        UNION ALL
        SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL
        SELECT format('index %s', indexdef) FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL
        SELECT format('function %s', pg_get_functiondef(oid))
            FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL
        SELECT format('trigger %s %s', tgenabled, pg_get_triggerdef(oid))
            FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL
        SELECT format('type %s', oid::regtype) FROM pg_type
            WHERE typnamespace = 'public'::regnamespace AND typtype <> 'c' AND typelem = 0
        ORDER BY text";
    texts(&mut connection, sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn up_down_and_up_again() {
    let url = empty_database().await;
    assert_eq!(migrations::apply(&url).await.unwrap(), all());
    let first = shape(&url).await;
    assert!(first.iter().any(|line| line == "relation r api_clients"));

    let mut reverted = migrations::revert_all(&url).await.unwrap();
    reverted.reverse();
    assert_eq!(reverted, all());
    let left: Vec<_> = shape(&url).await;
    let foreign: Vec<_> = left
        .iter()
        .filter(|line| !line.contains("__diesel_schema_migrations"))
        .collect();
    assert_eq!(
        foreign,
        Vec::<&String>::new(),
        "a down.sql leaves something behind"
    );

    assert_eq!(migrations::apply(&url).await.unwrap(), all());
    assert_eq!(shape(&url).await, first);
}

/// Also where it writes something over that an earlier one made.
#[tokio::test]
async fn each_down_gives_back_what_was_there() {
    let url = empty_database().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let shape = async || {
        let mut lines = shape(&url).await;
        // A column that is dropped leaves a hole in its table.
        lines.retain(|line| !line.contains("pg.dropped"));
        lines
    };
    for name in all() {
        let run = async |file: &str| {
            let sql = std::fs::read_to_string(folder.join(&name).join(file)).unwrap();
            postgres::execute(&url, &sql).await;
        };
        let before = shape().await;
        run("up.sql").await;
        assert_ne!(shape().await, before, "{name}");
        run("down.sql").await;
        assert_eq!(shape().await, before, "{name}");
        run("up.sql").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn down_works_with_data_in_it_too() {
    let url = crate::database::world().await;
    assert_eq!(
        migrations::revert_all(&url).await.unwrap().len(),
        all().len()
    );
    assert_eq!(migrations::apply(&url).await.unwrap(), all());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_time_there_is_nothing_to_apply() {
    let url = empty_database().await;
    assert_eq!(migrations::apply(&url).await.unwrap(), all());
    assert_eq!(migrations::apply(&url).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn of_several_at_once_one_applies_and_the_others_find_nothing() {
    let url = empty_database().await;
    let start = Arc::new(Barrier::new(4));
    let migrate = |_| {
        let (url, start) = (url.clone(), Arc::clone(&start));
        tokio::spawn(async move {
            start.wait().await;
            migrations::apply(&url).await
        })
    };
    let mut applied = Vec::new();
    for task in (0..4).map(migrate).collect::<Vec<_>>() {
        applied.push(task.await.unwrap().expect("nobody fails"));
    }
    applied.sort();
    let nothing = Vec::<String>::new;
    assert_eq!(applied, [nothing(), nothing(), nothing(), all()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_named_and_nothing_is_changed() {
    let url = empty_database().await;
    let store = store(&url);
    assert_eq!(store.pending_migrations().await.unwrap(), all());
    assert_eq!(shape(&url).await, Vec::<String>::new());
    migrations::apply(&url).await.unwrap();
    assert_eq!(
        store.pending_migrations().await.unwrap(),
        Vec::<String>::new()
    );
    let last = "DELETE FROM __diesel_schema_migrations \
                WHERE version = (SELECT max(version) FROM __diesel_schema_migrations)";
    postgres::execute(&url, last).await;
    assert_eq!(
        store.pending_migrations().await.unwrap(),
        all()[all().len() - 1..]
    );
}

/// One that is further along than a release is as foreign to it as one that is behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_build_from_before_a_release_is_left_alone() {
    let url = empty_database().await;
    migrations::apply(&url).await.unwrap();
    let first = &version(&all()[0]);
    let between = (first.parse::<u64>().unwrap() - 1).to_string();
    let older = format!(
        "UPDATE __diesel_schema_migrations SET version = '{between}' WHERE version = '{first}'"
    );
    postgres::execute(&url, &older).await;
    let before = shape(&url).await;
    let refused = migrations::apply(&url).await.unwrap_err();
    let MigrationError::Unreleased(versions) = refused else {
        panic!("{refused}");
    };
    assert_eq!(versions, [between]);
    assert_eq!(shape(&url).await, before);
}

/// Whose schema is that of today, by migrations that were folded since.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_all_that_was_folded_is_taken_over() {
    let url = empty_database().await;
    migrations::apply(&url).await.unwrap();
    let before = shape(&url).await;
    let applied = async |versions: &[&str]| {
        let sql = format!(
            "DELETE FROM __diesel_schema_migrations; \
             INSERT INTO __diesel_schema_migrations (version) SELECT unnest(ARRAY['{}'])",
            versions.join("', '")
        );
        postgres::execute(&url, &sql).await;
        migrations::apply(&url).await
    };
    // One was not applied yet.
    let refused = applied(&FOLDED[1..]).await.unwrap_err();
    assert!(
        matches!(refused, MigrationError::Unreleased(_)),
        "{refused}"
    );
    assert_eq!(applied(&FOLDED).await.unwrap(), Vec::<String>::new());
    let mut connection = postgres::connect(&url).await;
    let sql = "SELECT version::text AS text FROM __diesel_schema_migrations ORDER BY version";
    let versions: Vec<String> = all().iter().map(|name| version(name)).collect();
    assert_eq!(texts(&mut connection, sql).await, versions);
    assert_eq!(shape(&url).await, before);
}
