//! Up, down and up again; twice; and by several at once.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use hitkeep_auth::store::migrations;
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

/// The token of another scheme is not taken for one of ours when the column comes back.
#[tokio::test(flavor = "multi_thread")]
async fn legacy_tokens_outlive_a_down_and_an_up() {
    let url = crate::database::world().await;
    let legacy = "
        UPDATE api_client_tokens SET scheme = 'hitkeep_sha256',
            hint = 'sha256_' || left(encode(hash, 'hex'), 6) WHERE hash = hash(2);
        INSERT INTO api_client_usage_days VALUES (id(31), '2026-03-01', 'LEGACY_TOKEN', 7)";
    postgres::execute(&url, legacy).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    for file in ["down.sql", "up.sql"] {
        let path = folder.join("2026-11-29-000013_token_schemes").join(file);
        postgres::execute(&url, &std::fs::read_to_string(path).unwrap()).await;
    }
    let mut connection = postgres::connect(&url).await;
    let sql = "SELECT format('%s %s', scheme, hint) AS text FROM api_client_tokens ORDER BY hint";
    assert_eq!(
        texts(&mut connection, sql).await,
        [
            "blake3 hkp_...0001",
            "blake3 hkt_...0003",
            "hitkeep_sha256 sha256_d4735e",
        ]
    );
    let sql = "SELECT format('%s %s', outcome, count) AS text FROM api_client_usage_days";
    let mut left = texts(&mut connection, sql).await;
    left.sort();
    assert_eq!(left, ["REVOKED 1", "USED 7"]);
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
