//! Postgres has no connection left, for longer than the greatest staleness: a search for
//! the server that takes the writes needs one, and gets one that is given up for it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use hitkeep_auth::{
    pb::InactiveReason::{Revoked, UnknownToken},
    store,
};

use crate::{
    cluster::{Cluster, IMPATIENCE, Replica, Said},
    fixtures::*,
    index::BOUND,
    support::proxy::Proxy,
    waiting::{until, wanted},
};

/// The connections that a replica keeps for itself: one reads, and one listens.
const OWN: i64 = 2;

/// A replica whose role may be left with few connections.
async fn replica_of_its_role(cluster: &Cluster) -> (Replica, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let role = format!("few_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    cluster
        .psql(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
        ))
        .await;
    let (proxy, url) = Proxy::start(&cluster.direct);
    let url = url.replacen("postgres://postgres@", &format!("postgres://{role}@"), 1);
    let replica = cluster
        .start_with(proxy, store::StoreOptions::new(url))
        .await;
    replica.until_answers().await;
    until("it listens", async || {
        wanted(replica.proxy.listening() == 1)
    })
    .await;
    (replica, role)
}

async fn limit(cluster: &Cluster, role: &str, connections: i64) {
    let sql = format!("ALTER ROLE {role} CONNECTION LIMIT {connections}");
    cluster.psql(&sql).await;
}

async fn connections(cluster: &Cluster, role: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
    cluster.number(&sql).await
}

/// What is left is what the replica has: for a search it gives up what it needs least, so
/// it goes on for as long as that lasts, and is told of every change.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_gets_a_connection_that_is_given_up_for_it() {
    let cluster = Cluster::start(1).await;
    let other = &cluster.replicas[0];
    let (replica, role) = replica_of_its_role(&cluster).await;
    let (kept, doomed) = (
        other.dashboard.created(personal(VERA)).await,
        other.dashboard.created(personal(VERA)).await,
    );
    // Of its pool, too, one connection is open and idle.
    let own = replica.dashboard.created(personal(VERA)).await;
    for token in [&kept.token, &doomed.token, &own.token] {
        replica.until_says(token, Said::Active).await;
    }
    let all = connections(&cluster, &role).await;
    assert!(all > OWN, "{all}");
    for left in [all, OWN] {
        limit(&cluster, &role, left).await;
        let begun = Instant::now();
        // The pool's is given up first, and the listener's afterwards each time. What is
        // accepted after the bound was shown by a search that got one. Only a machine that is
        // short of time may have to be asked again: its index may be stale for a moment.
        until("it is over", async || {
            let is_over = begun.elapsed() > 2 * BOUND;
            let said = replica.says(&kept.token).await;
            assert!(matches!(said, Said::Active | Said::Nothing), "{said:?}");
            let used = connections(&cluster, &role).await;
            wanted(is_over && said == Said::Active && used <= left)
        })
        .await;
    }
    let revoked = other.dashboard.revoke(revoke(VERA, &doomed.id)).await;
    let (revoked, acknowledged) = (revoked.unwrap(), Instant::now());
    until("the change arrives", async || {
        // When it is asked counts: the answer may take its time to get here.
        let early = acknowledged.elapsed() < BOUND;
        let said = replica.says(&doomed.token).await;
        assert!(early || said != Said::Active, "accepted after its bound");
        wanted(said == Said::Inactive(Revoked))
    })
    .await;
    replica.accepts_at(&kept.token, revoked.revision).await;
    limit(&cluster, &role, -1).await;
    replica.dashboard.created(personal(VERA)).await;
    until("it listens again", async || {
        wanted(replica.proxy.listening() == 1)
    })
    .await;
}

/// Not even what is given up is enough: somebody else has it. Then nothing is shown, and
/// nothing is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_gets_no_connection_proves_nothing() {
    let cluster = Cluster::start(1).await;
    let other = &cluster.replicas[0];
    let (replica, role) = replica_of_its_role(&cluster).await;
    let kept = other.dashboard.created(personal(VERA)).await;
    replica.until_says(&kept.token, Said::Active).await;
    // Those that are open stay open.
    limit(&cluster, &role, 0).await;
    let begun = Instant::now();
    until("the bound is over", async || {
        let early = begun.elapsed() < BOUND;
        let said = replica.says_within(&kept.token, IMPATIENCE).await;
        assert!(early || said == Said::Nothing, "accepted after the bound");
        wanted(!early)
    })
    .await;
    // What cannot do harm is answered: the reader goes on.
    assert_eq!(replica.says("x").await, Said::Inactive(UnknownToken));
    limit(&cluster, &role, -1).await;
    replica.until_says(&kept.token, Said::Active).await;
}
