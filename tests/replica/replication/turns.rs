//! Many replicas at once, and slow ones.

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{self, SiteRole, replicate_response::Message as Sent},
};
use hyper_util::rt::TokioIo;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use super::spoken::{Spoken, start};
use crate::{
    cluster::Cluster,
    fixtures::*,
    harness::{self, Connections, told},
    waiting::until,
};

/// A connection on which the server may send little that was not read.
const WINDOW: u32 = 4096;
/// How many replicas come at once.
const MANY: usize = 50;

pub async fn narrow(connections: &Connections) -> Channel {
    let connections = connections.clone();
    let connect = tower::service_fn(move |_: http::Uri| {
        let (ours, theirs) = tokio::io::duplex(1024);
        let sent = connections.send(Ok(theirs));
        async move {
            let gone = || std::io::Error::other("the server is gone");
            sent.ok().ok_or_else(gone)?;
            Ok::<_, std::io::Error>(TokioIo::new(ours))
        }
    });
    Endpoint::from_static("http://test.invalid")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(65_535)
        .connect_with_connector(connect)
        .await
        .unwrap()
}

/// A database with clients that are more than a window holds.
async fn with_clients(number: usize) -> (Cluster, Vec<String>) {
    let cluster = Cluster::start(1).await;
    let dashboard = &cluster.replicas[0].dashboard;
    let mut ids = Vec::new();
    for _ in 0..number {
        let request = personal(VERA).granted(SITE, SiteRole::Viewer);
        let made = dashboard.create(request).await.unwrap();
        ids.push(made.api_client.unwrap().id);
    }
    (cluster, ids)
}

#[tokio::test]
async fn a_replica_that_reads_slowly_gets_the_latest_state() {
    const CHANGES: usize = 400;
    let (cluster, ids) = with_clients(2).await;
    let channel = narrow(&cluster.replicas[0].connections).await;
    let token = cluster.token(CallerPermission::Replicate);
    let mut spoken = Spoken::begin(&channel, token, start(None)).await.unwrap();
    spoken.refresh().await.unwrap();
    let before = spoken.parts;
    // It reads nothing meanwhile.
    let long = "x".repeat(100);
    for number in 0..CHANGES {
        let sql = format!(
            "UPDATE api_clients SET name = '{number} {long}' WHERE id = '{}'",
            ids[number % 2]
        );
        cluster.psql(&sql).await;
    }
    let revision = cluster.revision().await;
    let answer = spoken.refresh().await.unwrap();
    assert!(answer.position.unwrap().revision >= revision);
    let name = &spoken.copy.client(&ids[(CHANGES - 1) % 2]).unwrap().name;
    assert_eq!(*name, format!("{} {long}", CHANGES - 1));
    // What fits into the windows and buffers in between, and no more: a change has 200 bytes.
    let parts = spoken.parts - before;
    assert!(parts < CHANGES / 2, "{parts} parts");
    assert_eq!(spoken.snapshots, 1);
}

/// A database with more than is sent to one that does not read.
async fn with_many_clients() -> Cluster {
    let (cluster, _) = with_clients(0).await;
    cluster
        .psql(&format!(
            "INSERT INTO api_clients (id, owner_user_id, name, description, instance_role, \
                 created_by_user_id, create_time, update_time) \
             SELECT gen_random_uuid(), '{VERA}', repeat('x', 120), '', 'user', '{VERA}', now(), \
                 now() FROM generate_series(1, 2000)"
        ))
        .await;
    let revision = cluster.revision().await;
    cluster.replicas[0].says_at("x", revision).await;
    cluster
}

/// However long its snapshot takes to be read.
#[tokio::test]
async fn a_revoked_account_gets_no_more_of_its_snapshot() {
    let cluster = with_many_clients().await;
    let allow = [CallerPermission::Replicate];
    let token = harness::make_account(&cluster.store, "edge", &allow).await;
    let connections = &cluster.replicas[0].connections;
    let mut spoken = narrow_snapshot(connections, &token).await;
    spoken.next().await.unwrap().unwrap();
    cluster
        .psql("UPDATE service_accounts SET revoke_time = now() WHERE name = 'edge'")
        .await;
    let other = harness::channel(connections).await;
    until("the server knows", async || {
        match Spoken::begin(&other, &token, start(None)).await {
            Err(refused) => Ok(refused),
            Ok(_) => Err("it is accepted"),
        }
    })
    .await;
    let ended = loop {
        match spoken.next().await {
            Ok(Some(Sent::SnapshotEnd(_)) | None) => panic!("it got everything"),
            Ok(Some(_)) => {}
            Err(status) => break Err::<(), _>(status),
        }
    };
    assert_eq!(told(&ended), "Unauthenticated CALLER_UNKNOWN");
}

#[tokio::test]
async fn snapshots_are_sent_to_a_few_at_a_time() {
    let cluster = with_many_clients().await;
    let token = cluster.token(CallerPermission::Replicate);
    let connections = &cluster.replicas[0].connections;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let channel = narrow(connections).await;
        let mut spoken = Spoken::begin(&channel, token, start(None)).await.unwrap();
        // It has begun.
        spoken.next().await.unwrap().unwrap();
        slow.push(spoken);
    }
    let channel = harness::channel(connections).await;
    let refused = async || {
        let mut spoken = Spoken::begin(&channel, token, start(None)).await?;
        spoken.refresh().await.map(|_| spoken)
    };
    let status = refused().await.map(|_| ()).unwrap_err();
    assert!(
        status
            .get_details_retry_info()
            .unwrap()
            .retry_delay
            .is_some()
    );
    assert_eq!(told(&Err::<(), _>(status)), "Unavailable OVERLOADED");
    // One that needs no snapshot is not refused.
    drop(slow.pop());
    let spoken = until("there is a turn", refused).await;
    let mut third = narrow_snapshot(connections, token).await;
    third.next().await.unwrap().unwrap();
    let mut resumed = Spoken::resume(&channel, token, spoken.copy.clone())
        .await
        .unwrap();
    resumed.refresh().await.unwrap();
    assert_eq!((resumed.snapshots, &resumed.copy), (0, &spoken.copy));
}

async fn narrow_snapshot(connections: &Connections, token: &str) -> Spoken {
    let channel = narrow(connections).await;
    Spoken::begin(&channel, token, start(None)).await.unwrap()
}

#[tokio::test]
async fn all_of_many_that_come_at_once_get_their_snapshot() {
    let (cluster, ids) = with_clients(20).await;
    let token = cluster.token(CallerPermission::Replicate);
    let connections = &cluster.replicas[0].connections;
    let copies = (0..MANY).map(async |_| {
        let channel = harness::channel(connections).await;
        until("a snapshot", async || {
            let taken: Result<Spoken, Status> = async {
                let mut spoken = Spoken::begin(&channel, token, start(None)).await?;
                spoken.refresh().await?;
                Ok(spoken)
            }
            .await;
            taken.map_err(|status| {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                let reason = status.get_details_error_info().unwrap().reason;
                assert_eq!(reason, pb::ErrorReason::Overloaded.as_str_name()[13..]);
                status
            })
        })
        .await
        .copy
    });
    for copy in futures_util::future::join_all(copies).await {
        assert_eq!(copy.clients.len(), ids.len());
    }
}
