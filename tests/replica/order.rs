//! The order of things: changes that begin in one order and commit in the other,
//! and a reply that arrives after what has overtaken it.

use std::time::Duration;

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use hitkeep_auth::pb::{
    InactiveReason::{OwnerInactive, Revoked, UnknownToken},
    SiteRole,
};

use crate::{
    cluster::{Cluster, Said, said},
    fixtures::*,
    harness::Caller,
    waiting::{until, wanted, within},
};

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";

async fn run(connection: &mut AsyncPgConnection, sql: &str) {
    let done = within(sql, connection.batch_execute(sql)).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn disable(user: &str) -> String {
    format!("UPDATE users SET disabled = true WHERE id = '{user}'")
}

fn archive(team: &str) -> String {
    format!("UPDATE teams SET archived = true WHERE id = '{team}'")
}

/// Every revision from one to the other is in the log, where there is one.
async fn assert_no_gap(cluster: &Cluster, before: u64, changes: u64) {
    if !cluster.has_index().await {
        return;
    }
    let after = cluster.revision().await;
    assert_eq!(after, before + changes, "one revision for each change");
    let logged =
        format!("SELECT count(DISTINCT revision) FROM index_changes WHERE revision > {before}");
    assert_eq!(
        cluster.number(&logged).await,
        i64::try_from(changes).unwrap()
    );
}

#[tokio::test]
async fn begun_in_one_order_and_committed_in_the_other() {
    let cluster = Cluster::start(3).await;
    let dashboard = &cluster.replicas[1].dashboard;
    let mine = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let ours = dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Viewer))
        .await;
    let third = dashboard.created(personal(EVE)).await;
    let before = cluster.revision().await;
    let (mut first, mut second) = (cluster.database().await, cluster.database().await);
    // They have their ids in this order, and with them whatever is ordered by id.
    run(&mut first, "BEGIN; SELECT txid_current()").await;
    run(&mut second, "BEGIN; SELECT txid_current()").await;
    run(&mut second, &archive(TEAM)).await;
    run(&mut second, "COMMIT").await;
    let revoked = dashboard.revoke(revoke(EVE, &third.id)).await.unwrap();
    for replica in &cluster.replicas {
        let said = replica.says_at(&ours.token, revoked.revision).await;
        assert_eq!(said, Said::Inactive(OwnerInactive));
        // The first has not changed anything yet.
        replica.accepts_at(&mine.token, revoked.revision).await;
    }
    run(&mut first, &disable(VERA)).await;
    run(&mut first, "COMMIT").await;
    let newest = cluster.revision().await;
    for replica in &cluster.replicas {
        replica
            .until_says(&mine.token, Said::Inactive(OwnerInactive))
            .await;
        let said = replica.says_at(&third.token, newest).await;
        assert_eq!(said, Said::Inactive(Revoked));
    }
    cluster
        .agree(&[&mine.token, &ours.token, &third.token])
        .await;
    assert_no_gap(&cluster, before, 3).await;
}

#[tokio::test]
async fn one_waits_for_the_other_or_goes_first() {
    let cluster = Cluster::start(3).await;
    let dashboard = cluster.replicas[1].dashboard.clone();
    let mine = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let ours = dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Viewer))
        .await;
    let third = dashboard.created(personal(EVE)).await;
    let before = cluster.revision().await;
    let (mut first, mut second) = (cluster.database().await, cluster.database().await);
    run(&mut first, &format!("BEGIN; {}", disable(VERA))).await;
    let second = tokio::spawn(async move {
        let change = archive(TEAM);
        run(&mut second, &format!("BEGIN; {change}; COMMIT")).await;
    });
    let revoking = tokio::spawn(async move { dashboard.revoke(revoke(EVE, &third.id)).await });
    until("both are done, or wait for the first", async || {
        let done = [second.is_finished(), revoking.is_finished()];
        let done = done.iter().filter(|done| **done).count();
        wanted(cluster.number(WAITING).await == 2 - i64::try_from(done).unwrap())
    })
    .await;
    for replica in &cluster.replicas {
        // Nothing is committed.
        replica.accepts(&mine.token).await;
    }
    run(&mut first, "COMMIT").await;
    within("the second ends", second).await.unwrap();
    let revoked = within("the call ends", revoking).await.unwrap().unwrap();
    for replica in &cluster.replicas {
        let said = replica.says_at(&third.token, revoked.revision).await;
        assert_eq!(said, Said::Inactive(Revoked));
    }
    cluster
        .agree(&[&mine.token, &ours.token, &third.token])
        .await;
    assert_no_gap(&cluster, before, 3).await;
}

/// A change that is rolled back never was one.
#[tokio::test]
async fn what_is_rolled_back_leaves_nothing() {
    let cluster = Cluster::start(2).await;
    let dashboard = &cluster.replicas[1].dashboard;
    let mine = dashboard.created(personal(VERA)).await;
    let before = cluster.revision().await;
    let mut connection = cluster.database().await;
    let change = disable(VERA);
    run(&mut connection, &format!("BEGIN; {change}; ROLLBACK")).await;
    run(
        &mut connection,
        &format!("BEGIN; SAVEPOINT s; {change}; ROLLBACK TO s; COMMIT"),
    )
    .await;
    assert_eq!(cluster.revision().await, before);
    let renamed = dashboard.rotate(rotate(VERA, &mine.id)).await.unwrap();
    assert_eq!(renamed.revision, before + 1);
    cluster.agree(&[&mine.token, &renamed.token]).await;
}

/// What makes a token inactive.
#[derive(Clone, Copy, Debug)]
enum End {
    Revoked,
    Deleted,
    OwnerDisabledByHand,
}

/// The stale fill: what a replica read of a new client arrives only after the
/// client's end is known there.
#[tokio::test]
async fn a_reply_that_was_overtaken_brings_nothing_back() {
    let cluster = Cluster::start(2).await;
    for end in [End::Revoked, End::Deleted, End::OwnerDisabledByHand] {
        // Whether the look-up or the news comes first is decided by chance.
        until("a look-up is overtaken", async || {
            wanted(overtaken(&cluster, end).await)
        })
        .await;
    }
}

/// Whether there was a look-up to be overtaken.
async fn overtaken(cluster: &Cluster, end: End) -> bool {
    let [slow, other] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    slow.proxy.stall();
    let made = other.dashboard.created(personal(VERA)).await;
    slow.proxy
        .hold_replies_to(uuid::Uuid::parse_str(&made.id).unwrap().as_bytes());
    let asking = tokio::spawn({
        let sidecar: Caller = slow.sidecar.clone();
        let request = introspect(&made.token);
        async move { sidecar.introspect(request).await }
    });
    // It may be that it cannot ask before the connections are whole again.
    let caught = tokio::time::timeout(Duration::from_millis(200), slow.proxy.caught());
    let caught = caught.await.is_ok();
    slow.proxy.mend();
    if !caught {
        until("it is looked up, or known", async || {
            wanted(asking.is_finished() || slow.proxy.has_caught())
        })
        .await;
    }
    let caught = slow.proxy.has_caught();
    let expected = match end {
        End::Revoked => {
            other
                .dashboard
                .revoke(revoke(VERA, &made.id))
                .await
                .unwrap();
            Revoked
        }
        End::Deleted => {
            other
                .dashboard
                .delete(delete(VERA, &made.id))
                .await
                .unwrap();
            UnknownToken
        }
        End::OwnerDisabledByHand => {
            cluster.psql(&disable(VERA)).await;
            OwnerInactive
        }
    };
    let expected = Said::Inactive(expected);
    slow.until_says(&made.token, expected).await;
    slow.proxy.release();
    // True of the moment at which it was looked up; or too late for its caller.
    let overtaken = within("the first answer comes", asking).await.unwrap();
    let overtaken = said(&overtaken);
    let right = [Said::Active, Said::Nothing, expected];
    assert!(right.contains(&overtaken), "{overtaken:?}");
    let newest = cluster.revision().await;
    for _ in 0..20 {
        assert_eq!(slow.says(&made.token).await, expected);
    }
    assert_eq!(slow.says_at(&made.token, newest).await, expected);
    cluster.psql("UPDATE users SET disabled = false").await;
    caught
}
