//! What a replica answers: the same as the server that it follows, on every door.

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{
        self,
        InactiveReason::{Revoked, TokenRotated, UnknownToken},
        SiteRole,
    },
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    checker::bare,
    cluster::{Cluster, Said, at_least},
    fixtures::*,
    follower::{Follower, Settings},
    gateway::Gateway,
    harness::{self, Caller, told},
    waiting::until,
};

/// Waits until a replica says in full what a server says of these tokens.
async fn agree(server: &Caller, follower: &Follower, tokens: &[&str]) {
    for token in tokens {
        for (site, permission) in [(SITE, "site.view"), (SECOND_SITE, "site.manage_data")] {
            let request = check(token, site, permission);
            until("they say the same", async || {
                let expected = server.introspect(request.clone()).await;
                let answer = follower.sidecar.introspect(request.clone()).await;
                match (answer, expected) {
                    (Ok(answer), Ok(expected)) if bare(&answer) == bare(&expected) => Ok(()),
                    other => Err(other),
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn it_answers_as_the_server_does() {
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let dashboard = &server.dashboard;
    let create = async || {
        let request = personal(VERA)
            .granted(SITE, SiteRole::Editor)
            .granted(SECOND_SITE, SiteRole::Viewer);
        dashboard.create(request).await.unwrap()
    };
    let before = create().await;
    let gateway = Gateway::to(&server.connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::patient()).await;
    let mut tokens = vec![before.token.clone()];
    let id = before.api_client.unwrap().id;
    agree(&server.sidecar, &follower, &[&tokens[0]]).await;

    // Known at once, since the server is asked.
    for _ in 0..20 {
        let made = create().await;
        assert_eq!(follower.says(&made.token).await, Said::Active);
        tokens.push(made.token);
    }
    let rotated = dashboard
        .rotate(rotate_with_overlap(VERA, &id, 3600))
        .await
        .unwrap();
    assert_eq!(follower.says(&rotated.token).await, Said::Active);
    assert_eq!(follower.says(&before.token).await, Said::Active);
    let again = dashboard.rotate(rotate(VERA, &id)).await.unwrap();
    for old in [&before.token, &rotated.token] {
        follower.until_says(old, Said::Inactive(TokenRotated)).await;
    }
    tokens.extend([rotated.token, again.token.clone()]);
    server
        .pusher
        .apply(batch([put_site_member(SITE, VERA, SiteRole::Viewer)]))
        .await
        .unwrap();
    let tokens: Vec<_> = tokens.iter().map(AsRef::as_ref).collect();
    agree(&server.sidecar, &follower, &tokens).await;

    let revoked = dashboard.revoke(revoke(VERA, &id)).await.unwrap();
    let request = at_least(&again.token, revoked.revision);
    let answer = follower.sidecar.introspect(request).await.unwrap();
    assert_eq!(answer.inactive_reason(), Revoked);
    assert!(answer.revision >= revoked.revision);
    agree(&server.sidecar, &follower, &tokens).await;
    dashboard.delete(delete(VERA, &id)).await.unwrap();
    follower
        .until_says(&again.token, Said::Inactive(UnknownToken))
        .await;
    agree(&server.sidecar, &follower, &tokens).await;
    assert_eq!(follower.snapshots(), 1);
}

#[tokio::test]
async fn its_status_and_health_are_those_of_its_index() {
    let cluster = Cluster::start(1).await;
    let gateway = Gateway::to(&cluster.replicas[0].connections);
    gateway.cut();
    let follower = Follower::begin(&cluster, &[&gateway], Settings::default()).await;
    let mut health = HealthClient::new(harness::channel(&follower.connections).await);
    let status = async |health: &mut HealthClient<_>, service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await;
        answer.map(|answer| answer.into_inner().status())
    };
    let serving = status(&mut health, "").await.unwrap();
    assert_eq!(serving, ServingStatus::NotServing);
    assert_eq!(follower.says("x").await, Said::Nothing);
    gateway.mend();
    until("it serves", async || {
        match status(&mut health, "hitkeep.auth.v1.IntrospectionService").await {
            Ok(ServingStatus::Serving) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let management = status(&mut health, "hitkeep.auth.v1.ApiClientService").await;
    assert_eq!(management.unwrap_err().code(), tonic::Code::NotFound);
    let status = until("its server answered", async || {
        let request = pb::GetIndexStatusRequest {};
        let status = follower.sidecar.index_status(request).await.unwrap();
        if status.database_reachable && status.listening {
            Ok(status)
        } else {
            Err(status)
        }
    })
    .await;
    assert_eq!(status.revision, cluster.revision().await);
    assert!(status.failures > 0, "it was cut off at first");
}

#[tokio::test]
async fn it_manages_nothing() {
    let cluster = Cluster::start(1).await;
    let gateway = Gateway::to(&cluster.replicas[0].connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::default()).await;
    for permission in [CallerPermission::Manage, CallerPermission::Introspect] {
        let caller = Caller {
            channel: follower.sidecar.channel.clone(),
            metadata: vec![(
                "authorization",
                format!("Bearer {}", cluster.token(permission)),
            )],
            timeout: None,
        };
        let unknown = "Unimplemented METHOD_UNKNOWN";
        assert_eq!(told(&caller.create(personal(VERA)).await), unknown);
        assert_eq!(told(&caller.apply(batch(world())).await), unknown);
        assert_eq!(told(&caller.replace(Vec::new()).await), unknown);
        assert_eq!(
            told(&caller.events(pb::ListAuditEventsRequest::default()).await),
            unknown
        );
    }
    // It knows only those who may call it.
    let caller = Caller {
        metadata: vec![("authorization", "Bearer hks_x".to_owned())],
        ..follower.sidecar.clone()
    };
    let answer = caller.introspect(introspect("x")).await;
    assert_eq!(told(&answer), "Unauthenticated CALLER_UNKNOWN");
}

#[tokio::test]
async fn names_stay_where_they_are_if_that_is_wanted() {
    let cluster = Cluster::start(1).await;
    let made = cluster.replicas[0]
        .dashboard
        .create(personal(VERA))
        .await
        .unwrap();
    let gateway = Gateway::to(&cluster.replicas[0].connections);
    let settings = Settings {
        without_names: true,
        ..Settings::patient()
    };
    let follower = Follower::start(&cluster, &[&gateway], settings).await;
    let answer = follower
        .sidecar
        .introspect(introspect(&made.token))
        .await
        .unwrap();
    assert!(answer.active);
    assert_eq!(answer.client_name, "");
}

#[tokio::test]
async fn a_replica_of_a_replica_is_one() {
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let to_server = Gateway::to(&server.connections);
    let first = Follower::start(&cluster, &[&to_server], Settings::patient()).await;
    let to_first = Gateway::to(&first.connections);
    let second = Follower::start(&cluster, &[&to_first], Settings::patient()).await;
    for _ in 0..5 {
        let made = server.dashboard.create(personal(VERA)).await.unwrap();
        assert_eq!(second.says(&made.token).await, Said::Active);
        let id = made.api_client.unwrap().id;
        let revoked = server.dashboard.revoke(revoke(VERA, &id)).await.unwrap();
        let request = at_least(&made.token, revoked.revision);
        let answer = second.sidecar.introspect(request).await.unwrap();
        assert_eq!(answer.inactive_reason(), Revoked);
    }
}

/// What the first does not hear makes the second old as well, although the first answers it.
#[tokio::test]
async fn a_chain_is_as_old_as_all_of_its_parts() {
    let cluster = Cluster::start(1).await;
    let server = &cluster.replicas[0];
    let to_server = Gateway::to(&server.connections);
    let first = Follower::start(&cluster, &[&to_server], Settings::patient()).await;
    let to_first = Gateway::to(&first.connections);
    let second = Follower::start(&cluster, &[&to_first], Settings::default()).await;
    let made = server.dashboard.create(personal(VERA)).await.unwrap();
    second.until_says(&made.token, Said::Active).await;
    to_server.stall();
    second.until_stale(&made.token, Said::Active).await;
    // Its own bound is another one.
    assert_eq!(first.says(&made.token).await, Said::Active);
    to_server.mend();
    second.until_says(&made.token, Said::Active).await;
}
