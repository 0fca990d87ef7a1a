//! Uses that replicas count: they are stored once, whatever happens on the way.

use std::time::Duration;

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{
        self, CreateApiClientResponse, SiteRole,
        replication_service_client::ReplicationServiceClient,
    },
};
use tonic::{Request, Status};

use super::spoken::REPLICA;
use crate::{
    cluster::{Cluster, Said},
    fixtures::*,
    follower::{Follower, Settings},
    gateway::Gateway,
    harness::{self, told, violations},
    waiting::{until, wanted},
};

/// The uses of a client on all days.
async fn uses(cluster: &Cluster, id: &str) -> i64 {
    cluster
        .number(&format!(
            "SELECT coalesce(sum(count), 0) FROM api_client_usage_days \
             WHERE client_id = '{id}' AND outcome = 'USED'"
        ))
        .await
}

async fn until_uses(cluster: &Cluster, id: &str, expected: i64) {
    until("the uses are stored", async || {
        let stored = uses(cluster, id).await;
        assert!(stored <= expected, "{stored} uses of {expected}");
        if stored == expected {
            Ok(())
        } else {
            Err(stored)
        }
    })
    .await;
}

fn quick() -> Settings {
    let mut settings = Settings::patient();
    settings.options.index.usage.flush_interval = Duration::from_millis(10);
    settings
}

async fn create(cluster: &Cluster) -> (CreateApiClientResponse, String) {
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    let made = cluster.replicas[0].dashboard.create(request).await.unwrap();
    let id = made.api_client.as_ref().unwrap().id.clone();
    (made, id)
}

#[tokio::test]
async fn uses_flow_back_through_a_chain() {
    let cluster = Cluster::start(1).await;
    let (made, id) = create(&cluster).await;
    let to_server = Gateway::to(&cluster.replicas[0].connections);
    let first = Follower::start(&cluster, &[&to_server], quick()).await;
    let to_first = Gateway::to(&first.connections);
    let second = Follower::start(&cluster, &[&to_first], quick()).await;
    for _ in 0..3 {
        assert_eq!(second.says(&made.token).await, Said::Active);
    }
    until_uses(&cluster, &id, 3).await;
    assert_eq!(first.says(&made.token).await, Said::Active);
    until_uses(&cluster, &id, 4).await;
    // And when it was last used.
    let used = format!(
        "SELECT count(*) FROM api_client_usage WHERE client_id = '{id}' AND last_used_time IS NOT NULL"
    );
    assert_eq!(cluster.number(&used).await, 1);
    // What is counted between the last report and the end is reported too.
    let mut settings = Settings::patient();
    settings.options.index.usage.flush_interval = Duration::from_hours(1);
    let third = Follower::start(&cluster, &[&to_first], settings).await;
    assert_eq!(third.says(&made.token).await, Said::Active);
    third.stop.send(()).await.unwrap();
    third.server.await.unwrap();
    until_uses(&cluster, &id, 5).await;
}

/// Where a replica found a token in its overlap active, the servers write the event.
#[tokio::test]
async fn a_replaced_token_that_is_used_at_a_replica_is_reported() {
    let cluster = Cluster::start(1).await;
    let (made, id) = create(&cluster).await;
    let deliver = "UPDATE event_delivery \
                   SET active_since = now(), active_until = now() + interval '1 day'";
    cluster.psql(deliver).await;
    let to_server = Gateway::to(&cluster.replicas[0].connections);
    let first = Follower::start(&cluster, &[&to_server], quick()).await;
    let to_first = Gateway::to(&first.connections);
    let second = Follower::start(&cluster, &[&to_first], quick()).await;
    let dashboard = &cluster.replicas[0].dashboard;
    let rotate = rotate_with_overlap(VERA, &id, 3600);
    let rotated = dashboard.rotate(rotate).await.unwrap();
    until("the replica has the new token", async || {
        match second.says(&rotated.token).await {
            Said::Active => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(second.says(&made.token).await, Said::Active);
    let reported = "SELECT count(*) FROM event_outbox \
                    WHERE event_type = 'com.hitkeep.auth.api_client.replaced_token_used' \
                        AND data->>'token_worked' = 'true'";
    until("it is reported", async || {
        match cluster.number(reported).await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// The report arrives, and its reply does not.
#[tokio::test]
async fn a_report_whose_reply_is_lost_is_counted_once() {
    let cluster = Cluster::start(1).await;
    let (made, id) = create(&cluster).await;
    let gateway = Gateway::to(&cluster.replicas[0].connections);
    let follower = Follower::start(&cluster, &[&gateway], quick()).await;
    for round in 1..=3 {
        gateway.deafen();
        assert_eq!(follower.says(&made.token).await, Said::Active);
        until_uses(&cluster, &id, 2 * round - 1).await;
        // The connection breaks with the reply in it.
        gateway.sever();
        gateway.mend();
        assert_eq!(follower.says(&made.token).await, Said::Active);
        until_uses(&cluster, &id, 2 * round).await;
        // Stored is not acknowledged: this reply must not be lost as well.
        let acknowledged = "hitkeep_auth_usage_flush_duration_seconds_count{outcome=\"done\"}";
        until("both are acknowledged", async || {
            let reports = follower.number(acknowledged);
            wanted(i64::try_from(reports).unwrap() == 2 * round)
        })
        .await;
    }
    let reports = cluster.number("SELECT max(batch) FROM replica_usage").await;
    assert_eq!(reports, 6, "none was given another number");
}

async fn report(
    cluster: &Cluster,
    token: &str,
    request: pb::ReportUsageRequest,
) -> Result<pb::ReportUsageResponse, Status> {
    let channel = harness::channel(&cluster.replicas[0].connections).await;
    let mut request = Request::new(request);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let mut client = ReplicationServiceClient::new(channel);
    client
        .report_usage(request)
        .await
        .map(tonic::Response::into_inner)
}

fn batch_of(replica: &str, number: u64, id: &str, count: u64) -> pb::ReportUsageRequest {
    let id: uuid::Uuid = id.parse().unwrap();
    pb::ReportUsageRequest {
        replica_id: replica.to_owned(),
        number,
        clients: vec![pb::ReplicatedUsage {
            client_id: id.as_bytes().to_vec(),
            last_used_time: Some(prost_types::Timestamp {
                seconds: 1_767_225_600,
                nanos: 0,
            }),
            counts: vec![pb::ReplicatedCount {
                day: 20_454,
                outcome: pb::UsageOutcome::Used.into(),
                count,
            }],
            replaced_token_used_time: None,
        }],
    }
}

#[tokio::test]
async fn a_number_is_counted_once_for_each_replica() {
    const OTHER: &str = "0190163d-8694-739b-aea5-966c26f8ad92";
    let cluster = Cluster::start(1).await;
    let (_, id) = create(&cluster).await;
    let token = cluster.token(CallerPermission::Replicate);
    for (replica, number, expected) in [
        (REPLICA, 1, 5),
        (REPLICA, 1, 5),
        (REPLICA, 2, 10),
        (REPLICA, 1, 10),
        (OTHER, 1, 15),
        (REPLICA, 7, 20),
        (REPLICA, 3, 20),
    ] {
        report(&cluster, token, batch_of(replica, number, &id, 5))
            .await
            .unwrap();
        assert_eq!(uses(&cluster, &id).await, expected, "{replica} {number}");
    }
    // Many at once are one.
    let same = (0..8).map(|_| report(&cluster, token, batch_of(OTHER, 2, &id, 5)));
    for reported in futures_util::future::join_all(same).await {
        reported.unwrap();
    }
    assert_eq!(uses(&cluster, &id).await, 25);
    // A client that is gone is no reason to lose the others.
    let mut two = batch_of(OTHER, 3, &id, 5);
    let gone = batch_of(OTHER, 3, NOBODY, 5);
    two.clients.extend(gone.clients);
    report(&cluster, token, two).await.unwrap();
    assert_eq!(uses(&cluster, &id).await, 30);
}

#[tokio::test]
async fn a_report_needs_the_permission_and_its_fields() {
    let cluster = Cluster::start(1).await;
    let (_, id) = create(&cluster).await;
    let request = || batch_of(REPLICA, 1, &id, 1);
    let introspect = cluster.token(CallerPermission::Introspect);
    let refused = report(&cluster, introspect, request()).await;
    assert_eq!(told(&refused), "PermissionDenied CALLER_NOT_PERMITTED");
    let token = cluster.token(CallerPermission::Replicate);
    let mut bad = request();
    bad.number = 0;
    bad.clients[0].counts[0].count = 0;
    let refused = report(&cluster, token, bad).await;
    assert_eq!(
        violations(&refused),
        ["number", "clients[0].counts[0].count"]
    );
    // Before 1970; the last one is before every day that Postgres knows.
    for day in [-1, -2_500_000] {
        let mut bad = request();
        bad.clients[0].counts[0].day = day;
        let refused = report(&cluster, token, bad).await;
        assert_eq!(violations(&refused), ["clients[0].counts[0].day"], "{day}");
    }
    // More than anything can count, which would fill the stored count.
    let bad = batch_of(REPLICA, 1, &id, u64::MAX);
    let refused = report(&cluster, token, bad).await;
    assert_eq!(violations(&refused), ["clients[0].counts[0].count"]);
    assert_eq!(uses(&cluster, &id).await, 0);
}
