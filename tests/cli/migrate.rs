//! `migrate`.

use serde_json::json;

use crate::{empty::empty_database, postgres::migrated_database, run::run_on};

#[tokio::test]
async fn it_names_what_it_applies_and_then_has_nothing_to_do() {
    let url = empty_database().await;
    let given = run_on(&url, &["migrate"]).await.given();
    assert!(given.starts_with("Applied "), "{given}");
    for migration in std::fs::read_dir("migrations").unwrap() {
        let name = migration.unwrap().file_name().into_string().unwrap();
        assert!(given.contains(&name), "{name} in {given}");
    }
    let given = run_on(&url, &["migrate"]).await.given();
    assert_eq!(given, "The database is up to date.\n");
}

#[tokio::test]
async fn programs_get_json() {
    let url = empty_database().await;
    let given = run_on(&url, &["migrate", "--json"]).await.given_json();
    let applied = given["applied"].as_array().unwrap();
    assert_eq!(applied[0], "2026-11-30-000000_index_state");
    let given = run_on(&url, &["migrate", "--json"]).await.given_json();
    assert_eq!(given, json!({ "applied": [] }));
}

#[tokio::test]
async fn several_at_once_do_it_once() {
    let url = empty_database().await;
    let arguments = ["migrate", "--json"];
    let (a, b, c, d) = tokio::join!(
        run_on(&url, &arguments),
        run_on(&url, &arguments),
        run_on(&url, &arguments),
        run_on(&url, &arguments),
    );
    let mut counts =
        [a, b, c, d].map(|ended| ended.given_json()["applied"].as_array().unwrap().len());
    counts.sort_unstable();
    assert_eq!(counts[..3], [0, 0, 0]);
    assert!(counts[3] > 0);
}

/// Whether the shapes differ is for the migrations to say, not for a guess.
#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let url = migrated_database().await;
    let newer = "INSERT INTO __diesel_schema_migrations VALUES ('99990101000000', now())";
    crate::postgres::execute(&url, newer).await;
    let given = run_on(&url, &["migrate"]).await.given();
    assert_eq!(given, "The database is up to date.\n");
}

/// Which went another way to where it is. It is refused even if all tables are there.
#[tokio::test]
async fn a_database_of_a_build_from_before_a_release_is_refused() {
    let url = migrated_database().await;
    let unreleased = "INSERT INTO __diesel_schema_migrations VALUES ('20260101000000', now())";
    crate::postgres::execute(&url, unreleased).await;
    let said = run_on(&url, &["migrate"]).await.refused(1);
    assert!(said.contains("a build from before a release"), "{said}");
    assert!(said.contains("20260101000000"), "{said}");
    assert!(said.contains("create it again"), "{said}");
}
