//! A database that gets its rows through a subscription (logical replication): what is
//! changed at the publisher is in its change log, whether that is published too or not, so
//! that a server goes on from there once the subscription is dropped. Before, none does.

use std::sync::Arc;

use hitkeep_auth::{
    pb::InactiveReason::{self, OwnerInactive, Revoked},
    server,
    store::{self, Standbys, Store, error::causes, migrations},
};

use crate::{
    cluster::{Cluster, Said},
    fixtures::*,
    harness::{Caller, TestApp, told},
    index::options,
    nodes::{self, Node},
    primary::known,
    support::{folder::Folder, postgres, proxy::Proxy},
    waiting::{until, wanted},
};

/// What there is one row of from the first migration on, which the copy would bring again.
const SINGLE_ROWS: &str =
    "directory_state, directory_order, import_state, event_delivery, event_numbers";

/// The subscribers, by what is published to them.
const NAMES: [&str; 2] = ["with_log", "without_log"];

/// A token's verdict arrives: active, or inactive for that reason.
async fn arrives(sidecar: &Caller, token: &str, reason: Option<InactiveReason>) {
    let asked = async || {
        let answer = sidecar.introspect(introspect(token)).await;
        let answer = answer.map_err(|status| status.to_string())?;
        let found = (!answer.active).then(|| answer.inactive_reason());
        wanted(found == reason).map_err(|why| format!("{why}: {found:?} instead of {reason:?}"))
    };
    until("the publisher's change arrives", asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_changes_is_logged_at_a_subscriber_which_may_take_over() {
    let own = Node::start(Folder::new()).await;
    for sql in [
        "ALTER SYSTEM SET wal_level = logical",
        "ALTER SYSTEM SET wal_retrieve_retry_interval = '50ms'",
        "ALTER SYSTEM SET max_logical_replication_workers = 16",
        "ALTER SYSTEM SET max_worker_processes = 24",
    ] {
        own.admin(sql).await;
    }
    own.kill_and_restart().await;
    let publisher = own.url("publisher");
    for name in ["publisher"].into_iter().chain(NAMES) {
        own.admin(&format!("CREATE DATABASE {name}")).await;
        migrations::apply(&own.url(name)).await.unwrap();
    }
    let mut app = TestApp::on(
        &publisher,
        &store::StoreOptions::new(&publisher),
        server::Options::default(),
    )
    .await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let before = dashboard.created(personal(VERA)).await;
    let revoked_before = dashboard.created(personal(VERA)).await;
    dashboard
        .revoke(revoke(VERA, &revoked_before.id))
        .await
        .unwrap();

    // Everything, and everything but the change log.
    let tables = "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class \
                  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
                  AND relname NOT LIKE 'index\\_%' AND relname NOT LIKE '\\_\\_%'";
    postgres::execute(
        &publisher,
        &format!(
            "CREATE PUBLICATION with_log FOR ALL TABLES; \
             DO $$ BEGIN EXECUTE 'CREATE PUBLICATION without_log FOR TABLE ' || ({tables}); END $$"
        ),
    )
    .await;
    for (name, single_rows) in [
        (
            "with_log",
            format!("{SINGLE_ROWS}, index_state, index_revisions, __diesel_schema_migrations"),
        ),
        ("without_log", SINGLE_ROWS.to_owned()),
    ] {
        // Beside each other in one Postgres: the slot is to be made first.
        let slot = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        postgres::execute(&publisher, &slot).await;
        let there = own.url(name);
        postgres::execute(&there, &format!("TRUNCATE {single_rows}")).await;
        let subscribe = format!(
            "CREATE SUBSCRIPTION {name} CONNECTION \
             'host=''{}'' user=postgres dbname=publisher' \
             PUBLICATION {name} WITH (create_slot = false)",
            own.sockets().display()
        );
        postgres::execute(&there, &subscribe).await;
    }
    for name in NAMES {
        let there = own.url(name);
        let copied = async || {
            let sql = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
            wanted(postgres::number(&there, sql).await == 0)
        };
        until("all tables are copied", copied).await;
        // How far it is behind cannot be told, so nobody goes by it.
        let (clock, entropy) = (Arc::clone(&app.clock), Arc::clone(&app.entropy));
        let store = Store::new(&store::StoreOptions::new(&there), clock as _, entropy as _);
        let refused = store
            .connect_feed()
            .await
            .err()
            .expect("it is a subscriber");
        let causes = causes(&refused);
        assert!(
            causes.contains("a subscriber of logical replication"),
            "{causes}"
        );
    }

    let made = dashboard.created(personal(ALICE)).await;
    dashboard.revoke(revoke(VERA, &before.id)).await.unwrap();
    app.change([put_user(ALICE, hitkeep_auth::pb::InstanceRole::User, true)])
        .await;
    // Each change is in the log there as well, whoever wrote it.
    for name in NAMES {
        let there = own.url(name);
        for id in [&made.id, &before.id] {
            let logged = format!("SELECT count(*) FROM index_changes WHERE client_id = '{id}'");
            let arrived = async || wanted(postgres::number(&there, &logged).await >= 2);
            until("the log has it", arrived).await;
        }
        let disabled = "SELECT count(*) FROM users WHERE disabled AND EXISTS \
             (SELECT FROM api_clients WHERE revoke_time IS NOT NULL)";
        until("the rows arrive", async || {
            wanted(postgres::number(&there, disabled).await > 0)
        })
        .await;
    }
    let revision = "SELECT revision FROM index_state";
    let published = postgres::number(&publisher, revision).await;
    let same = async || wanted(postgres::number(&own.url("with_log"), revision).await == published);
    until("the revision is the publisher's", same).await;

    // The subscriber takes over.
    let mut there = Vec::new();
    for name in NAMES {
        for sql in ["DISABLE", "SET (slot_name = NONE)"] {
            let sql = format!("ALTER SUBSCRIPTION {name} {sql}");
            postgres::execute(&own.url(name), &sql).await;
        }
        postgres::execute(&own.url(name), &format!("DROP SUBSCRIPTION {name}")).await;
        app.database_url = own.url(name);
        there.push(app.beside(server::Options::default()).await);
    }
    app.database_url.clone_from(&publisher);
    let mut sidecars = Vec::new();
    for server in &there {
        sidecars.push(server.sidecar().await);
    }
    for sidecar in &sidecars {
        arrives(sidecar, &revoked_before.token, Some(Revoked)).await;
        arrives(sidecar, &before.token, Some(Revoked)).await;
        arrives(sidecar, &made.token, Some(OwnerInactive)).await;
    }
    // Somebody changes rows by hand, there and in the way of a restore.
    let by_hand = format!(
        "SET session_replication_role = replica; UPDATE users SET disabled = false; \
         UPDATE api_clients SET revoke_time = NULL WHERE id = '{}'",
        before.id
    );
    for (server, sidecar) in there.iter().zip(&sidecars) {
        server.psql(&by_hand).await;
        arrives(sidecar, &made.token, None).await;
        arrives(sidecar, &before.token, None).await;
    }
    for server in there {
        server.stop.send(()).await.unwrap();
        server.server.await.unwrap();
    }
    app.stop.send(()).await.unwrap();
    app.server.await.unwrap();
}

/// A publisher, and a subscriber of all that is in the service's database.
async fn publisher_and_subscriber() -> [Node; 2] {
    let [publisher, subscriber] = nodes::twins().await;
    publisher
        .admin("ALTER SYSTEM SET wal_level = logical")
        .await;
    let publisher = Node::start(publisher.rest()).await;
    subscriber.set("wal_retrieve_retry_interval = '50ms'").await;
    let single_rows =
        format!("{SINGLE_ROWS}, index_state, index_revisions, __diesel_schema_migrations");
    let host = publisher.sockets();
    let subscribe = format!(
        "CREATE SUBSCRIPTION everything CONNECTION 'host=''{}'' user=postgres dbname={}' \
         PUBLICATION everything",
        host.display(),
        nodes::DATABASE
    );
    for (node, sql) in [
        (&publisher, "CREATE PUBLICATION everything FOR ALL TABLES"),
        (&subscriber, &format!("TRUNCATE {single_rows}")),
        (&subscriber, &subscribe),
    ] {
        postgres::execute(&node.database(), sql).await;
    }
    [publisher, subscriber]
}

/// It has the publisher's rows and revisions, so nothing but its subscription shows that it
/// may lag behind.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_re_pointed_to_a_subscriber_proves_nothing() {
    let [publisher, subscriber] = publisher_and_subscriber().await;
    let mut cluster = Cluster::on_hosts(publisher.database(), None, 1, options()).await;
    let (proxy, url) = Proxy::start(&publisher.database());
    let allowing = cluster.start_through(proxy, &url, Standbys::Allowed).await;
    cluster.replicas.push(allowing);
    let [kept, doomed] = known(&cluster).await;
    // Before the row is copied, there is none.
    let revision = "SELECT coalesce(max(revision), 0) FROM index_state";
    let published = postgres::number(&publisher.database(), revision).await;
    until("the subscriber has it all", async || {
        let sql = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
        let is_copied = postgres::number(&subscriber.database(), sql).await == 0;
        wanted(is_copied && postgres::number(&subscriber.database(), revision).await >= published)
    })
    .await;

    for replica in &cluster.replicas {
        replica.proxy.repoint(&subscriber.database());
    }
    for replica in &cluster.replicas {
        replica.until_stale(&kept.token).await;
        // Nor through connections that are new.
        replica.proxy.sever();
        let created = replica
            .dashboard
            .create(personal(VERA).named("astray"))
            .await;
        let said = told(&created);
        assert!(said.starts_with("Unavailable "), "{said}");
        let said = told(&replica.sidecar.introspect(introspect(&kept.token)).await);
        assert_eq!(said, "Unavailable STALE_INDEX");
    }
    let astray = "SELECT count(*) FROM api_clients WHERE name = 'astray'";
    assert_eq!(postgres::number(&subscriber.database(), astray).await, 0);

    // It takes over.
    for sql in ["DISABLE", "SET (slot_name = NONE)"] {
        let sql = format!("ALTER SUBSCRIPTION everything {sql}");
        postgres::execute(&subscriber.database(), &sql).await;
    }
    postgres::execute(&subscriber.database(), "DROP SUBSCRIPTION everything").await;
    for replica in &cluster.replicas {
        for client in [&kept, &doomed] {
            replica.until_says(&client.token, Said::Active).await;
        }
    }
}
