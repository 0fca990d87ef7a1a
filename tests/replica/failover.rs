//! A primary that dies, and a standby that takes its place: whoever was told of both
//! finds the new one without help.

use std::{sync::Arc, time::Duration};

use hitkeep_auth::{
    domain::{
        Revision,
        caller::{CallerName, CallerPermission::Introspect, ServiceAccount},
    },
    pb, server,
    store::{self, callers::InsertAccountError, error::StoreError, feed::Position},
    system::{SystemClock, SystemEntropy},
};

use crate::{
    fixtures::*,
    harness::TestApp,
    nodes::{self, Node},
    primary::two_on,
    race::Race,
    support::{postgres, proxy::Proxy},
    waiting::{until, wanted},
};

/// How long a survey may take.
const LIMIT: Duration = Duration::from_secs(20);
/// The revision of the second one of two that take writes, and not of the first.
const NEWER: Revision = Revision(7);

fn store_at(url: &str) -> store::Store {
    store::Store::new(
        &store::StoreOptions::new(url),
        Arc::new(SystemClock::default()),
        Arc::new(SystemEntropy),
    )
}

/// Has both take writes.
async fn split(first: &Node, second: &Node) {
    first.acknowledge_alone().await;
    second.promote().await;
    let change = format!("UPDATE index_state SET revision = {}", NEWER.0);
    postgres::execute(&second.database(), &change).await;
}

/// The revision of the server that a survey chooses.
async fn chosen_revision(store: &store::Store) -> Revision {
    let primary = store.connect_primary(LIMIT).await.unwrap();
    let state = primary.state(Position::UNKNOWN).await.unwrap();
    state.position.revision
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_primary_is_found() {
    let [primary, standby] = nodes::pair().await;
    // The standby comes first, and does not take writes.
    let hosts = format!("{},{}", standby.host(), primary.host());
    let url = format!("postgres://postgres@{hosts}/app");
    let (direct, after) = (primary.database(), standby.database());
    let app = TestApp::on(
        &direct,
        &store::StoreOptions::new(&url),
        server::Options::default(),
    )
    .await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let before = dashboard.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    assert_eq!(sidecar.inactive_reason(&before.token).await, None);

    primary.kill().await;
    // What is in memory is answered meanwhile.
    assert_eq!(sidecar.inactive_reason(&before.token).await, None);
    standby.promote().await;
    let revoked = until("the new primary takes a change", async || {
        dashboard.revoke(revoke(VERA, &before.id)).await
    })
    .await;
    let request = pb::IntrospectRequest {
        at_least_revision: Some(revoked.revision),
        ..introspect(&before.token)
    };
    assert!(!sidecar.introspect(request).await.unwrap().active);
    let made = dashboard.created(personal(VERA)).await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    // It is the promoted one that has all of it.
    postgres::execute(&after, "SELECT 1 / (count(*) - 1) FROM api_clients").await;
    app.stop.send(()).await.unwrap();
    app.server.await.unwrap();
}

/// Connections from before a survey are not used again if it finds another primary. The one that
/// it finds is not among them.
#[tokio::test(flavor = "multi_thread")]
async fn the_reader_that_a_survey_finds_on_a_new_primary_is_used() {
    let [primary, standby] = nodes::pair().await;
    let hosts = format!("{},{}", standby.host(), primary.host());
    let url = format!("postgres://postgres@{hosts}/app?connect_timeout=20");
    let store = store_at(&url);
    let before = store.connect_feed().await.unwrap();
    assert!(!before.is_closed());
    primary.demote().await;
    standby.promote().await;
    let after = store.connect_feed().await.unwrap();
    assert!(before.is_closed() && !after.is_closed());
}

/// Of two that take writes, the newer one is waited for, however slow it has become.
#[tokio::test(flavor = "multi_thread")]
async fn a_split_brain_that_is_known_is_not_forgotten_because_a_server_is_slow() {
    let pair = nodes::pair().await;
    let race = Race::start(&pair);
    let hosts = format!("{},{}", race.host(0), race.host(1));
    let url = format!("postgres://postgres@{hosts}/app?connect_timeout=20");
    let store = store_at(&url);
    let [first, second] = &pair;
    split(first, second).await;
    let chooses_second = async || wanted(chosen_revision(&store).await == NEWER);
    race.answers_last(1);
    until("both are found", chooses_second).await;
    race.is_far(1, Duration::from_millis(700));
    for _ in 0..3 {
        chooses_second()
            .await
            .expect("the other one was not waited for");
    }
    // The older one lacks what was acknowledged since, whatever has become of the newer one.
    second.kill().await;
    let refused = store.connect_feed().await.err().expect("it went back");
    let refused = format!("{refused:?}");
    assert!(refused.contains("Overtaken"), "{refused}");
    // A server that was started since knows nothing of it.
    let other = store_at(&url);
    assert_ne!(chosen_revision(&other).await, NEWER);
}

/// The pool connects to the old primary while the new one does not answer, and does not stay
/// there: otherwise every change would be made where no survey finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_another_server_than_the_chosen_one_is_not_kept() {
    let pair = nodes::pair().await;
    let [first, second] = &pair;
    let (proxy, through) = Proxy::start(&second.database());
    let (through, _) = through.rsplit_once('/').unwrap();
    let (_, other) = through.rsplit_once('@').unwrap();
    let url = format!(
        "postgres://postgres@{},{other}/app?connect_timeout=20",
        first.host()
    );
    let store = store_at(&url);
    split(first, second).await;
    let chooses_second = async || wanted(chosen_revision(&store).await == NEWER);
    let reads_second = async || {
        let read = async |snapshot: &mut store::Snapshot| Ok(snapshot.revision == NEWER);
        store.read::<_, StoreError, _>(read).await.unwrap()
    };
    until("both are found", chooses_second).await;
    proxy.repoint("postgres://postgres@%2Fnowhere/nothing");
    assert!(!reads_second().await);
    proxy.repoint(&second.database());
    until("the second one answers again", chooses_second).await;
    assert!(reads_second().await, "it reads from the first one");
}

/// A description is in no index, so the change has no revision of its own: by that alone, the
/// new primary might have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_a_revision_is_on_the_server_that_counts() {
    let pair = nodes::pair().await;
    let (cluster, kept, _) = two_on(&pair, false).await;
    let [first, second] = &pair;
    second.promote().await;
    first.acknowledge_alone().await;
    // Open connections stay where they are.
    cluster.replicas[0].proxy.repoint(&second.database());
    let dashboard = &cluster.replicas[0].dashboard;
    let is_there = format!(
        "SELECT 1 / count(*) FROM api_clients WHERE id = '{}' AND description = 'new'",
        kept.id
    );
    until("the change is acknowledged", async || {
        let described = pb::ApiClient {
            id: kept.id.clone(),
            description: "new".to_owned(),
            ..pb::ApiClient::default()
        };
        let changed = dashboard
            .update(update(VERA, described, &["description"]))
            .await;
        if changed.is_ok() {
            second.holds(&is_there).await.expect("it was acknowledged");
        }
        wanted(changed.is_ok())
    })
    .await;
}

/// A command has no index that would prove its change. It finds the server that counts by itself,
/// though another one that takes writes comes first in the URL.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_changes_is_on_the_server_that_counts() {
    let pair = nodes::pair().await;
    let race = Race::start(&pair);
    let hosts = format!("{},{}", race.host(0), race.host(1));
    let url = format!("postgres://postgres@{hosts}/app?connect_timeout=20");
    let [first, second] = &pair;
    split(first, second).await;
    race.answers_last(0);
    let body = async |tx: &mut store::Transaction| {
        let name = CallerName::parse("command").expect("a name");
        let made = ServiceAccount::create(name, &[Introspect], tx.now, &*tx.entropy());
        tx.insert_account(&made.account, &made.token.hash()).await
    };
    let (store, provenance) = (store_at(&url), Arc::default());
    let made: Result<_, InsertAccountError> = store.proven_transaction(&provenance, body).await;
    assert!(made.is_ok(), "{made:?}");
    let count = "SELECT count(*) FROM service_accounts WHERE name = 'command'";
    for (node, expected) in [(first, 0), (second, 1)] {
        assert_eq!(postgres::number(&node.database(), count).await, expected);
    }
}
