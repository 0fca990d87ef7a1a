//! What breaks between a replica and the servers that it follows.

use std::{sync::Arc, time::Duration};

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{
        CreateApiClientResponse,
        InactiveReason::{Revoked, UnknownToken},
        SiteRole,
    },
};

use crate::{
    cluster::{Cluster, Said},
    fixtures::*,
    follower::{Follower, Settings},
    gateway::Gateway,
    harness::{self, Caller},
    restored::Backup,
    support::doubles::TestClock,
    waiting::{until, wanted},
};

async fn create(dashboard: &Caller) -> CreateApiClientResponse {
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    dashboard.create(request).await.unwrap()
}

fn id_of(made: &CreateApiClientResponse) -> &str {
    &made.api_client.as_ref().unwrap().id
}

/// Another process on the same database is the same to it: it has the position.
#[tokio::test]
async fn a_server_that_is_started_again_is_followed_without_a_snapshot() {
    let mut cluster = Cluster::start(1).await;
    let first = create(&cluster.replicas[0].dashboard).await;
    let gateway = Gateway::to(&cluster.replicas[0].connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::patient()).await;
    follower.until_says(&first.token, Said::Active).await;
    gateway.cut();
    cluster.add(None).await;
    gateway.lead_to(&cluster.replicas[1].connections);
    let made = gateway.made();
    gateway.mend();
    let second = create(&cluster.replicas[1].dashboard).await;
    follower.until_says(&second.token, Said::Active).await;
    assert!(gateway.made() > made);
    assert_eq!(follower.snapshots(), 1);
}

#[tokio::test]
async fn connections_that_break_again_and_again_lose_nothing() {
    let cluster = Cluster::start(1).await;
    let dashboard = &cluster.replicas[0].dashboard;
    let gateway = Gateway::to(&cluster.replicas[0].connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::patient()).await;
    for number in 0..15 {
        let made = create(dashboard).await;
        if number % 2 == 0 {
            gateway.sever();
        }
        follower.until_says(&made.token, Said::Active).await;
        gateway.sever();
        dashboard.revoke(revoke(VERA, id_of(&made))).await.unwrap();
        follower
            .until_says(&made.token, Said::Inactive(Revoked))
            .await;
    }
    assert_eq!(follower.snapshots(), 1);
}

/// Wherever a snapshot breaks off, the old index goes on answering, and no part of the new
/// one is seen.
#[tokio::test]
async fn a_snapshot_that_breaks_off_changes_nothing() {
    let mut cluster = Cluster::start(1).await;
    let mut made = Vec::new();
    for _ in 0..40 {
        made.push(create(&cluster.replicas[0].dashboard).await);
    }
    let gateway = Gateway::to(&cluster.replicas[0].connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::patient()).await;
    for bytes in [1, 100, 400, 1000, 2500, 4000] {
        // The next server does not know the way from what the replica has: the log has forgotten
        // it.
        gateway.cut();
        let lost = made.pop().unwrap();
        let dashboard = &cluster.replicas.last().unwrap().dashboard;
        let revoked = dashboard.revoke(revoke(VERA, id_of(&lost))).await.unwrap();
        cluster.psql("DELETE FROM index_changes").await;
        cluster.add(None).await;
        let server = cluster.replicas.last().unwrap();
        server.says_at(&lost.token, revoked.revision).await;
        gateway.lead_to(&server.connections);
        let before = follower.snapshots();
        gateway.open_for(bytes);
        until("it is cut", async || wanted(gateway.is_cut())).await;
        assert_eq!(follower.says(&lost.token).await, Said::Active, "{bytes}");
        assert_eq!(follower.says(&made[0].token).await, Said::Active, "{bytes}");
        assert_eq!(follower.snapshots(), before, "{bytes}");
        gateway.mend();
        follower
            .until_says(&lost.token, Said::Inactive(Revoked))
            .await;
        assert_eq!(follower.says(&made[0].token).await, Said::Active, "{bytes}");
        assert_eq!(follower.snapshots(), before + 1, "{bytes}");
    }
}

/// Nothing is closed, and nothing arrives: the age counts from the last question that was
/// answered, by a clock that only the test moves.
#[tokio::test]
async fn silence_makes_it_old_and_never_wrong() {
    let cluster = Cluster::start(1).await;
    let made = create(&cluster.replicas[0].dashboard).await;
    let gateway = Gateway::to(&cluster.replicas[0].connections);
    let clock = Arc::new(TestClock::default());
    let settings = Settings {
        clock: Arc::clone(&clock) as _,
        ..Settings::default()
    };
    let follower = Follower::start(&cluster, &[&gateway], settings).await;
    follower.until_says(&made.token, Said::Active).await;
    gateway.stall();
    let bound = Duration::from_secs(2);
    clock.grow_old(bound + Duration::from_millis(1));
    let answer = follower.sidecar.introspect(introspect(&made.token)).await;
    assert_eq!(harness::told(&answer), "Unavailable STALE_INDEX");
    // What it does not know, it cannot tell either.
    let unknown = follower
        .says(&create(&cluster.replicas[0].dashboard).await.token)
        .await;
    assert_eq!(unknown, Said::Nothing);
    gateway.mend();
    follower.until_says(&made.token, Said::Active).await;
}

#[tokio::test]
async fn every_kind_of_outage_ends_in_the_right_answer() {
    type Outage = fn(&Gateway);
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let gateway = Gateway::to(&server.connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::default()).await;
    let outages: [(&str, Outage); 3] = [
        ("cut", Gateway::cut),
        ("stalled", Gateway::stall),
        ("deaf", Gateway::deafen),
    ];
    for (what, break_it) in outages {
        let [kept, revoked] = [
            create(&server.dashboard).await,
            create(&server.dashboard).await,
        ];
        follower.until_says(&revoked.token, Said::Active).await;
        follower.until_says(&kept.token, Said::Active).await;
        break_it(&gateway);
        server
            .dashboard
            .revoke(revoke(VERA, id_of(&revoked)))
            .await
            .unwrap();
        follower.until_stale(&kept.token, Said::Active).await;
        assert_eq!(follower.says(&revoked.token).await, Said::Nothing, "{what}");
        gateway.mend();
        follower.until_says(&kept.token, Said::Active).await;
        follower
            .until_says(&revoked.token, Said::Inactive(Revoked))
            .await;
    }
    assert_eq!(follower.snapshots(), 1);
}

/// The server answers all questions, and says itself how old it is.
#[tokio::test]
async fn a_server_without_its_database_makes_its_replicas_old() {
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let made = create(&server.dashboard).await;
    let gateway = Gateway::to(&server.connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::default()).await;
    follower.until_says(&made.token, Said::Active).await;
    server.proxy.cut();
    follower.until_stale(&made.token, Said::Active).await;
    server.proxy.mend();
    follower.until_says(&made.token, Said::Active).await;
}

#[tokio::test]
async fn another_server_is_followed_if_one_fails() {
    let cluster = Cluster::start(2).await;
    let made = create(&cluster.replicas[0].dashboard).await;
    let [first, second] = [0, 1].map(|at: usize| Gateway::to(&cluster.replicas[at].connections));
    let mut settings = Settings::default();
    // A busy machine is no failure.
    settings.options.index.max_staleness = Duration::from_secs(20);
    let follower = Follower::start(&cluster, &[&first, &second], settings).await;
    follower.until_says(&made.token, Said::Active).await;
    assert_eq!((first.made(), second.made()), (1, 0));
    let changed = async |dashboard: &Caller| {
        let made = create(dashboard).await;
        follower.until_says(&made.token, Said::Active).await;
        dashboard.revoke(revoke(VERA, id_of(&made))).await.unwrap();
        follower
            .until_says(&made.token, Said::Inactive(Revoked))
            .await;
    };
    first.cut();
    changed(&cluster.replicas[1].dashboard).await;
    assert!(second.made() >= 1);
    // It stays there, until that fails.
    first.mend();
    let made = (first.made(), second.made());
    changed(&cluster.replicas[0].dashboard).await;
    assert_eq!((first.made(), second.made()), made);
    second.stall();
    changed(&cluster.replicas[0].dashboard).await;
    // One that is there, and has lost its database, is no better than one that is not.
    second.mend();
    cluster.replicas[0].proxy.cut();
    changed(&cluster.replicas[1].dashboard).await;
    assert_eq!(follower.snapshots(), 1);
}

/// There is one address, and a load balancer behind it: a new connection may lead to a server
/// that has its database, and continues there.
#[tokio::test]
async fn a_server_that_lost_its_database_is_left_for_one_behind_the_same_address() {
    let cluster = Cluster::start(2).await;
    let made = create(&cluster.replicas[0].dashboard).await;
    let gateway = Gateway::over_tcp(&cluster.replicas[0].connections).await;
    let follower = Follower::start(&cluster, &[&gateway], Settings::default()).await;
    follower.until_says(&made.token, Said::Active).await;
    gateway.lead_to(&cluster.replicas[1].connections);
    cluster.replicas[0].proxy.cut();
    let made = create(&cluster.replicas[1].dashboard).await;
    follower.until_says(&made.token, Said::Active).await;
    assert_eq!(follower.snapshots(), 1);
}

#[tokio::test]
async fn a_revoked_account_makes_its_replica_old() {
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let made = create(&server.dashboard).await;
    let gateway = Gateway::to(&server.connections);
    let allow = [CallerPermission::Replicate];
    let token = harness::make_account(&cluster.store, "edge", &allow).await;
    let settings = Settings::default();
    let follower = Follower::with_token(&cluster, &[&gateway], settings, token).await;
    follower.until_says(&made.token, Said::Active).await;
    cluster
        .psql("UPDATE service_accounts SET revoke_time = now() WHERE name = 'edge'")
        .await;
    follower.until_stale(&made.token, Said::Active).await;
}

/// The same revisions, of another history, and then another database.
#[tokio::test]
async fn a_restored_database_is_copied_anew() {
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let kept = create(&server.dashboard).await;
    let revoked_later = create(&server.dashboard).await;
    let gateway = Gateway::to(&server.connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::default()).await;
    let backup = Backup::make(&cluster).await;
    let revoked = until("it is revoked", async || {
        server
            .dashboard
            .revoke(revoke(VERA, id_of(&revoked_later)))
            .await
    })
    .await;
    assert!(revoked.revision > kept.revision);
    let young = create(&server.dashboard).await;
    follower
        .until_says(&revoked_later.token, Said::Inactive(Revoked))
        .await;
    follower.until_says(&young.token, Said::Active).await;
    backup.restore().await;
    for (token, now) in [
        (&kept.token, Said::Active),
        (&revoked_later.token, Said::Active),
        (&young.token, Said::Inactive(UnknownToken)),
    ] {
        follower.until_says(token, now).await;
    }
    // And it goes on from there.
    let made = until("a client is created", async || {
        server.dashboard.create(personal(VERA)).await
    })
    .await;
    follower.until_says(&made.token, Said::Active).await;
}
