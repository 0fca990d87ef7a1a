//! What a replica reads is worth what its server is worth: a server that no longer takes
//! the writes proves nothing, however willingly it answers.

use std::time::{Duration, Instant};

use hitkeep_auth::{
    domain::token::{Token, TokenKind},
    pb::InactiveReason::{Revoked, UnknownToken},
    store::Standbys,
    system::SystemEntropy,
};

use crate::{
    backup::receive_log,
    cluster::{Cluster, IMPATIENCE, Replica, Said},
    fixtures::*,
    harness::{Caller, told},
    index::{BOUND, options},
    nodes::{self, Node},
    race::Race,
    support::proxy::Proxy,
    waiting::until,
};

/// How much longer the answers of a server take that is far away: more than a survey waits for
/// others after the first one.
const DISTANCE: Duration = Duration::from_millis(300);

/// A client that works, as soon as the service is able to make one.
pub async fn created(dashboard: &Caller) -> Created {
    let made = until("a client is created", async || {
        dashboard.create(personal(VERA)).await
    })
    .await;
    Created::of(made)
}

/// Revokes a client as soon as the service is able to, and says when that was
/// acknowledged.
pub async fn revoked(dashboard: &Caller, id: &str) -> Instant {
    until("a client is revoked", async || {
        dashboard.revoke(revoke(VERA, id)).await
    })
    .await;
    Instant::now()
}

/// Asks until the bound is over: from then on, and where it was acknowledged at once, the
/// token is not accepted.
async fn is_refused_in_time(replica: &Replica, token: &str, acknowledged: Instant) {
    until("the bound is over", async || {
        // When it is asked counts: the answer may take its time to get here.
        let early = acknowledged.elapsed() < BOUND;
        let said = replica.says_within(token, IMPATIENCE).await;
        assert!(early || said != Said::Active, "accepted after its bound");
        if early { Err(said) } else { Ok(()) }
    })
    .await;
}

/// One replica changes things, and the other one looks: what was acknowledged holds, on
/// the first at once and on the other within its bound.
pub async fn changes_hold(cluster: &Cluster, doomed: &Created) -> Created {
    let [changing, other] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    let acknowledged = revoked(&changing.dashboard, &doomed.id).await;
    let said = changing.says(&doomed.token).await;
    assert!(
        [Said::Inactive(Revoked), Said::Nothing].contains(&said),
        "{said:?}"
    );
    let young = created(&changing.dashboard).await;
    let said = changing.says(&young.token).await;
    assert!([Said::Active, Said::Nothing].contains(&said), "{said:?}");
    is_refused_in_time(other, &doomed.token, acknowledged).await;
    for replica in [changing, other] {
        replica
            .until_says(&doomed.token, Said::Inactive(Revoked))
            .await;
        replica.until_says(&young.token, Said::Active).await;
    }
    young
}

/// Two replicas that know both servers of a pair, or only the way to the first.
pub async fn two_on(pair: &[Node; 2], knows_both: bool) -> (Cluster, Created, Created) {
    let [first, second] = pair;
    let other = knows_both.then(|| second.host().to_owned());
    let cluster = Cluster::on_hosts(first.database(), other, 2, options()).await;
    let [kept, doomed] = known(&cluster).await;
    (cluster, kept, doomed)
}

/// Two clients that work, and that all replicas know.
pub async fn known(cluster: &Cluster) -> [Created; 2] {
    let dashboard = &cluster.replicas[0].dashboard;
    let clients = [created(dashboard).await, created(dashboard).await];
    for replica in &cluster.replicas {
        for client in &clients {
            replica.until_says(&client.token, Said::Active).await;
        }
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_demoted_while_it_runs_is_left() {
    let pair = nodes::pair().await;
    let (mut cluster, kept, doomed) = two_on(&pair, true).await;
    let [first, second] = &pair;
    // It waits for no standby, so nothing but its being read-only tells. Once the other one
    // is promoted, that one's timeline would tell as well.
    first.acknowledge_alone().await;
    first.demote().await;
    for replica in &cluster.replicas {
        replica.until_stale(&kept.token).await;
    }
    second.promote().await;
    let young = changes_hold(&cluster, &doomed).await;
    cluster.believe(second.database());
    cluster
        .agree(&[&kept.token, &doomed.token, &young.token])
        .await;
}

/// It follows the other one from then on, and is up to date; but it takes no writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_restarted_as_a_standby_is_left() {
    let pair = nodes::pair().await;
    let (mut cluster, kept, doomed) = two_on(&pair, true).await;
    let [first, second] = pair;
    // Its URL leads to the first one alone.
    let (proxy, url) = Proxy::start(&first.database());
    let lone = cluster.start_through(proxy, &url, Standbys::Refused).await;
    lone.until_says(&kept.token, Said::Active).await;
    let folder = first.rest();
    nodes::follow(&folder, &second);
    let first = Node::start(folder).await;
    first.set("wal_retrieve_retry_interval = '50ms'").await;
    // Neither of them takes writes.
    for replica in cluster.replicas.iter().chain([&lone]) {
        replica.until_stale(&kept.token).await;
    }
    second.promote().await;
    let young = changes_hold(&cluster, &doomed).await;
    let is_there = format!(
        "SELECT 1 / count(*) FROM api_clients WHERE id = '{}'",
        young.id
    );
    until("it follows the other one", async || {
        first.holds(&is_there).await
    })
    .await;
    let younger = changes_hold(&cluster, &young).await;
    let said = told(&lone.sidecar.introspect(introspect(&kept.token)).await);
    assert_eq!(said, "Unavailable STALE_INDEX");
    cluster.believe(second.database());
    cluster
        .agree(&[&kept.token, &doomed.token, &young.token, &younger.token])
        .await;
}

/// The one that is left goes on taking writes: what is acknowledged is none the less on
/// the one that the address leads to.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_re_pointed_is_followed() {
    let pair = nodes::pair().await;
    let (mut cluster, kept, doomed) = two_on(&pair, false).await;
    let [first, second] = &pair;
    second.promote().await;
    first.acknowledge_alone().await;
    for replica in &cluster.replicas {
        replica.proxy.repoint(&second.database());
    }
    let young = changes_hold(&cluster, &doomed).await;
    cluster.believe(second.database());
    cluster
        .agree(&[&kept.token, &doomed.token, &young.token])
        .await;
}

/// Waits until what is created is on that server. A search may have begun before it was to
/// be found.
pub async fn newest_takes_changes(cluster: &Cluster, newest: &Node) {
    until("the newest one takes the changes", async || {
        let made = created(&cluster.replicas[0].dashboard).await;
        let is_there = format!(
            "SELECT 1 / count(*) FROM api_clients WHERE id = '{}'",
            made.id
        );
        let found = newest.holds(&is_there).await;
        if found.is_err() {
            // An owner may have so many, and it may take a while.
            drop(
                cluster.replicas[0]
                    .dashboard
                    .delete(delete(VERA, &made.id))
                    .await,
            );
        }
        found
    })
    .await;
}

/// Which of a pair is which, once the second one was promoted beside the first.
const OLDER: usize = 0;
const NEWER: usize = 1;

/// A pair of which both take writes, and two replicas that know both and have to connect again
/// once the relay in between is set.
async fn split(pair: &[Node; 2], set: impl FnOnce(&Race)) -> (Race, Cluster, [Created; 2]) {
    let [first, second] = pair;
    let race = Race::start(pair);
    let other = Some(race.host(NEWER));
    let cluster = Cluster::on_hosts(first.database(), other, 2, options()).await;
    for replica in &cluster.replicas {
        replica.proxy.repoint(&race.database(OLDER));
    }
    let clients = known(&cluster).await;
    first.acknowledge_alone().await;
    second.promote().await;
    set(&race);
    // What is open leads past that.
    for replica in &cluster.replicas {
        replica.proxy.sever();
    }
    (race, cluster, clients)
}

/// Both take writes: the newest timeline is the one that somebody promoted on purpose,
/// whichever of them is found first.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_take_writes_the_newest_timeline_counts() {
    let pair = nodes::pair().await;
    let (race, mut cluster, [kept, doomed]) = split(&pair, |race| race.answers_last(NEWER)).await;
    let [_, second] = &pair;
    newest_takes_changes(&cluster, second).await;
    let young = changes_hold(&cluster, &doomed).await;
    race.answers_last(OLDER);
    newest_takes_changes(&cluster, second).await;
    let youngest = changes_hold(&cluster, &young).await;
    cluster.believe(second.database());
    cluster
        .agree(&[&kept.token, &young.token, &youngest.token])
        .await;
}

/// The newer one answers later than surveys wait for a server that was never slow: the first
/// survey takes the older one, and learns how long the newer one takes.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_take_writes_the_newest_timeline_counts_though_it_is_far() {
    let pair = nodes::pair().await;
    let slow = |race: &Race| race.is_far(NEWER, DISTANCE);
    let (_race, mut cluster, [kept, doomed]) = split(&pair, slow).await;
    let [_, second] = &pair;
    newest_takes_changes(&cluster, second).await;
    let young = changes_hold(&cluster, &doomed).await;
    cluster.believe(second.database());
    cluster.agree(&[&kept.token, &young.token]).await;
}

/// A change that is committed, while no new connection shows where the primary is, may be lost
/// already.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_no_survey_finds_is_not_acknowledged() {
    let cluster = Cluster::start(1).await;
    let replica = &cluster.replicas[0];
    let doomed = created(&replica.dashboard).await;
    replica.until_says(&doomed.token, Said::Active).await;
    // Open connections stay where they are.
    replica
        .proxy
        .repoint("postgres://postgres@%2Fnowhere/nothing");
    let hasty = replica.dashboard.clone().within(Duration::from_secs(8));
    let answer = hasty.revoke(revoke(VERA, &doomed.id)).await;
    assert!(answer.is_err(), "acknowledged: {answer:?}");
    let is_revoked = format!(
        "SELECT count(*) FROM api_clients WHERE id = '{}' AND revoke_time IS NOT NULL",
        doomed.id
    );
    assert_eq!(cluster.number(&is_revoked).await, 1, "it is committed");
    replica.proxy.repoint(&cluster.direct);
    revoked(&replica.dashboard, &doomed.id).await;
    replica
        .until_says(&doomed.token, Said::Inactive(Revoked))
        .await;
}

/// Neither is newer than the other, so neither is believed.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_are_alike_neither_counts() {
    let pair = nodes::twins().await;
    let [first, second] = pair;
    // Known are both, and at first there is only one.
    let other = second.host().to_owned();
    let folder = second.rest();
    let cluster = Cluster::on_hosts(first.database(), Some(other), 2, options()).await;
    let kept = created(&cluster.replicas[0].dashboard).await;
    for replica in &cluster.replicas {
        replica.until_says(&kept.token, Said::Active).await;
    }
    let second = Node::start(folder).await;
    for replica in &cluster.replicas {
        replica.until_stale(&kept.token).await;
        // The other server may know it.
        let strange = Token::mint(TokenKind::Personal, &SystemEntropy).reveal();
        let sidecar = replica.sidecar.clone();
        let said = told(&sidecar.introspect(introspect(&strange)).await);
        // STALE_INDEX, or that the database did not answer in time.
        assert!(said.starts_with("Unavailable "), "{said}");
    }
    drop(second);
    for replica in &cluster.replicas {
        replica.until_says(&kept.token, Said::Active).await;
    }
}

/// A primary that waits for its standby acknowledges nothing; the standby may be the
/// primary by now.
async fn proves_nothing(pair: &[Node; 2]) {
    let (cluster, kept, doomed) = two_on(pair, false).await;
    let [first, second] = pair;
    let [changing, other] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    second.promote().await;
    changing.proxy.repoint(&second.database());
    changing.proxy.sever();
    let acknowledged = revoked(&changing.dashboard, &doomed.id).await;
    // The other one does not find it, and must not say that there is no such token.
    let young = created(&changing.dashboard).await;
    let said = other.says(&young.token).await;
    assert_eq!(said, Said::Nothing);
    is_refused_in_time(other, &doomed.token, acknowledged).await;
    for token in [&kept.token, &doomed.token, &young.token] {
        let said = other.says_within(token, IMPATIENCE).await;
        assert_eq!(said, Said::Nothing);
    }
    // It may be the right one all the same, as soon as it acknowledges again.
    first.acknowledge_alone().await;
    other.until_says(&kept.token, Said::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_acknowledges_nothing_proves_nothing() {
    proves_nothing(&nodes::pair().await).await;
}

/// What else receives the primary's log acknowledges no commit.
#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_that_a_backup_is_made_of() {
    let pair = nodes::pair().await;
    let _backup = receive_log(&pair[0]).await;
    proves_nothing(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_does_not_serve_until_it_is_promoted() {
    let pair = nodes::pair().await;
    let (cluster, kept, _) = two_on(&pair, false).await;
    let [first, second] = &pair;
    let (proxy, url) = Proxy::start(&second.database());
    let replica = cluster.start_through(proxy, &url, Standbys::Refused).await;
    for _ in 0..3 {
        let said = replica.says_within(&kept.token, IMPATIENCE).await;
        assert_eq!(said, Said::Nothing);
    }
    first.demote().await;
    second.promote().await;
    replica.until_says(&kept.token, Said::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_of_a_standby_that_serves_is_staleness() {
    let pair = nodes::pair().await;
    let (cluster, kept, doomed) = two_on(&pair, false).await;
    let [first, second] = &pair;
    let dashboard = &cluster.replicas[0].dashboard;
    let (proxy, url) = Proxy::start(&second.database());
    let replica = cluster.start_through(proxy, &url, Standbys::Allowed).await;
    // Although nothing is changed for longer than the bound.
    replica.until_says(&kept.token, Said::Active).await;
    is_refused_in_time(&replica, "x", Instant::now()).await;
    replica.until_says(&kept.token, Said::Active).await;

    first.acknowledge_alone().await;
    second.admin("SELECT pg_wal_replay_pause()").await;
    let acknowledged = revoked(dashboard, &doomed.id).await;
    is_refused_in_time(&replica, &doomed.token, acknowledged).await;
    let said = replica.says_within(&kept.token, IMPATIENCE).await;
    assert_eq!(said, Said::Nothing, "it lags behind");
    second.admin("SELECT pg_wal_replay_resume()").await;
    replica.until_says(&kept.token, Said::Active).await;
    replica
        .until_says(&doomed.token, Said::Inactive(Revoked))
        .await;
}

/// A server does not go back to a standby that has yet to replay what it has acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lacks_what_the_index_has_is_not_followed() {
    let pair = nodes::pair().await;
    let (cluster, kept, doomed) = two_on(&pair, false).await;
    let [first, second] = &pair;
    let (proxy, through) = Proxy::start(&first.database());
    let (own, database) = through.rsplit_once('/').unwrap();
    let url = format!("{own},{}/{database}", second.host());
    let replica = cluster.start_through(proxy, &url, Standbys::Allowed).await;
    replica.until_says(&doomed.token, Said::Active).await;
    first.acknowledge_alone().await;
    second.admin("SELECT pg_wal_replay_pause()").await;
    revoked(&replica.dashboard, &doomed.id).await;
    let is_revoked = Said::Inactive(Revoked);
    replica.until_says(&doomed.token, is_revoked).await;
    replica.proxy.cut();
    until("the index is beyond its bound", async || {
        let said = replica.says(&doomed.token).await;
        assert_eq!(said, Said::Inactive(Revoked));
        match replica.says(&kept.token).await {
            Said::Nothing => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let said = replica.says(&doomed.token).await;
    assert_eq!(said, Said::Inactive(Revoked), "it stays known");
    second.admin("SELECT pg_wal_replay_resume()").await;
    replica.until_says(&kept.token, Said::Active).await;
    let said = replica.says(&doomed.token).await;
    assert_eq!(said, Said::Inactive(Revoked));
}

/// Replication was asynchronous, so what was acknowledged is gone: what the new primary
/// says is what there is.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_a_new_primary_lacks_are_gone() {
    let pair = nodes::pair().await;
    let (mut cluster, kept, doomed) = two_on(&pair, true).await;
    let [first, second] = pair;
    first.acknowledge_alone().await;
    second.set("primary_conninfo = ''").await;
    until("the standby is cut off", async || {
        second
            .holds("SELECT 1 / (count(*) = 0)::int FROM pg_stat_wal_receiver")
            .await
    })
    .await;
    revoked(&cluster.replicas[0].dashboard, &doomed.id).await;
    let young = created(&cluster.replicas[0].dashboard).await;
    cluster.replicas[1]
        .until_says(&young.token, Said::Active)
        .await;
    first.kill().await;
    second.promote().await;
    for replica in &cluster.replicas {
        replica
            .until_says(&young.token, Said::Inactive(UnknownToken))
            .await;
        replica.until_says(&doomed.token, Said::Active).await;
    }
    cluster.believe(second.database());
    cluster
        .agree(&[&kept.token, &doomed.token, &young.token])
        .await;
    // And it goes on from there.
    changes_hold(&cluster, &doomed).await;
}

/// The index of the replica that made a change does not get it in time: then it says
/// nothing, neither that the token works nor that it does not.
#[tokio::test]
async fn a_replica_that_lacks_its_own_change_says_nothing() {
    let cluster = Cluster::start(2).await;
    let [replica, other] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    let dashboard = &replica.dashboard;
    let (kept, doomed) = (created(dashboard).await, created(dashboard).await);
    let dead = created(dashboard).await;
    revoked(dashboard, &dead.id).await;
    other.until_says(&doomed.token, Said::Active).await;
    let is_revoked = Said::Inactive(Revoked);
    // A look at the log that is under way could find the next change as well.
    replica.until_says(&dead.token, is_revoked).await;
    // What the feed begins its next one with.
    replica.proxy.hold_replies_to(b"SET LOCAL enable_mergejoin");
    revoked(dashboard, &doomed.id).await;
    for client in [&kept, &doomed, &dead] {
        let said = cluster.refusal_in_time(replica, &client.token).await;
        assert_eq!(said, "Unavailable STALE_INDEX");
    }
    other.until_says(&doomed.token, is_revoked).await;
    replica.proxy.release();
    replica.until_says(&doomed.token, is_revoked).await;
    replica.until_says(&kept.token, Said::Active).await;
    replica.until_says(&dead.token, is_revoked).await;
}
