//! Clients that work from some addresses alone, or from some time on, at replicas.

use std::time::Duration;

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{
        self,
        InactiveReason::{NotYetActive, SourceNotAllowed},
        ReplicationFeature, SiteRole,
        replicated_client::Content,
    },
};
use prost_types::Timestamp;

use super::spoken::{Spoken, start};
use crate::{
    cluster::{Cluster, Said},
    fixtures::*,
    follower::{Follower, Settings},
    gateway::Gateway,
    harness::{self, told},
    waiting::until,
};

/// A time that no test sees.
const FAR: Timestamp = Timestamp {
    seconds: 32_503_680_000,
    nanos: 0,
};

fn restricted(ranges: &[&str], start: Option<Timestamp>) -> pb::CreateApiClientRequest {
    let mut request = personal(VERA).granted(SITE, SiteRole::Viewer);
    let client = request.api_client.as_mut().unwrap();
    client.allowed_cidrs = ranges.iter().map(|range| (*range).to_owned()).collect();
    client.not_before_time = start;
    request
}

fn from(token: &str, source: &str) -> pb::IntrospectRequest {
    pb::IntrospectRequest {
        source_ip: source.to_owned(),
        ..introspect(token)
    }
}

#[tokio::test]
async fn a_chain_of_replicas_enforces_them() {
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let ranges = ["192.0.2.0/24", "2001:db8::/32"];
    let created = async |request| server.dashboard.create(request).await.unwrap();
    let somewhere = created(restricted(&ranges, None)).await;
    let later = created(restricted(&[], Some(FAR))).await;
    let to_server = Gateway::to(&server.connections);
    let first = Follower::start(&cluster, &[&to_server], Settings::patient()).await;
    let to_first = Gateway::to(&first.connections);
    let second = Follower::start(&cluster, &[&to_first], Settings::patient()).await;
    for (token, source, reason) in [
        (&somewhere.token, "192.0.2.1", None),
        (&somewhere.token, "2001:db8::1", None),
        (&somewhere.token, "198.51.100.1", Some(SourceNotAllowed)),
        (&somewhere.token, "", Some(SourceNotAllowed)),
        (&later.token, "192.0.2.1", Some(NotYetActive)),
    ] {
        for follower in [&first, &second] {
            let answer = follower.sidecar.introspect(from(token, source)).await;
            let answer = answer.unwrap();
            assert_eq!(answer.active, reason.is_none(), "{source}");
            assert_eq!(answer.inactive_reason(), reason.unwrap_or_default());
        }
    }
    // A change goes down the chain.
    let free = pb::ApiClient {
        id: later.api_client.unwrap().id,
        ..pb::ApiClient::default()
    };
    let update = update(VERA, free, &["not_before_time"]);
    server.dashboard.update(update).await.unwrap();
    second.until_says(&later.token, Said::Active).await;
    assert_eq!(second.snapshots(), 1);
}

/// A replica that does not know of a restriction is not to judge by what it has.
#[tokio::test]
async fn a_replica_without_the_feature_cannot_tell() {
    let cluster = Cluster::start(1).await;
    let dashboard = &cluster.replicas[0].dashboard;
    let channel = harness::channel(&cluster.replicas[0].connections).await;
    let token = cluster.token(CallerPermission::Replicate);
    let created = async |request| {
        let made = dashboard.create(request).await.unwrap();
        let id: uuid::Uuid = made.api_client.unwrap().id.parse().unwrap();
        id.as_bytes().to_vec()
    };
    let free = created(restricted(&[], None)).await;
    let somewhere = created(restricted(&["192.0.2.0/24"], None)).await;
    let later = created(restricted(&[], Some(FAR))).await;
    let both = created(restricted(&["192.0.2.0/24"], Some(FAR))).await;
    let (cidrs, time) = (
        ReplicationFeature::AllowedCidrs as i32,
        ReplicationFeature::NotBeforeTime as i32,
    );
    for features in [vec![], vec![cidrs], vec![time], vec![cidrs, time]] {
        let mut begin = start(None);
        begin.features.clone_from(&features);
        let mut spoken = Spoken::begin(&channel, token, begin).await.unwrap();
        spoken.refresh().await.unwrap();
        for (id, needs) in [
            (&free, vec![]),
            (&somewhere, vec![cidrs]),
            (&later, vec![time]),
            (&both, vec![cidrs, time]),
        ] {
            let client = &spoken.copy.clients[id];
            assert_eq!(client.needs, needs);
            let is_readable = needs.iter().all(|need| features.contains(need));
            match client.content.as_ref().unwrap() {
                Content::Settled(settled) => {
                    assert!(is_readable);
                    let ranges = usize::from(needs.contains(&cidrs));
                    assert_eq!(settled.allowed_cidrs.len(), ranges);
                    let starts = settled.not_before_time.is_some();
                    assert_eq!(starts, needs.contains(&time));
                }
                Content::Unreadable(unreadable) => assert!(*unreadable && !is_readable),
            }
        }
    }
}

/// What a replica refuses for these reasons is counted with everything else.
#[tokio::test]
async fn refusals_flow_back() {
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let dashboard = &server.dashboard;
    let somewhere = restricted(&["192.0.2.0/24"], None);
    let somewhere = dashboard.create(somewhere).await.unwrap();
    let later = dashboard.create(restricted(&[], Some(FAR))).await.unwrap();
    let gateway = Gateway::to(&server.connections);
    let mut settings = Settings::patient();
    settings.options.index.usage.flush_interval = Duration::from_millis(20);
    let follower = Follower::start(&cluster, &[&gateway], settings).await;
    for token in [&somewhere.token, &later.token] {
        let answer = follower.sidecar.introspect(introspect(token)).await;
        assert!(!answer.unwrap().active);
    }
    for (made, reason) in [
        (&somewhere, pb::UsageRefusalReason::SourceNotAllowed),
        (&later, pb::UsageRefusalReason::NotYetActive),
    ] {
        let id = &made.api_client.as_ref().unwrap().id;
        until("the refusal is counted", async || {
            let days = dashboard.usage(usage(VERA, id)).await.unwrap().days;
            let refusals = days.iter().flat_map(|day| &day.refusals);
            let refusals: Vec<_> = refusals.map(|one| (one.reason(), one.count)).collect();
            if refusals == [(reason, 1)] {
                Ok(())
            } else {
                Err(refusals)
            }
        })
        .await;
    }
}

/// Another server may understand it; that of this one is no defect of the client's.
#[tokio::test]
async fn of_what_it_does_not_understand_a_replica_cannot_tell() {
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let made = server.dashboard.create(personal(VERA)).await.unwrap();
    let id = made.api_client.unwrap().id;
    let gateway = Gateway::to(&server.connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::patient()).await;
    assert_eq!(follower.says(&made.token).await, Said::Active);
    // No version writes such a row, and servers pass it on as one that they cannot read.
    let spoil = format!(
        "ALTER TABLE api_clients DROP CONSTRAINT api_clients_instance_role_check;
         UPDATE api_clients SET instance_role = 'god' WHERE id = '{id}'"
    );
    cluster.psql(&spoil).await;
    until("the replica cannot tell", async || {
        let answer = follower.sidecar.introspect(introspect(&made.token)).await;
        match told(&answer).as_str() {
            "Unavailable STALE_INDEX" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
}
