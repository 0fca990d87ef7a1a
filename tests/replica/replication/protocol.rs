//! What a server sends to whoever replicates it.

use std::time::Duration;

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{self, SiteRole, replicate_request::Message as Asked},
    server,
};
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt;

use super::spoken::{Copy, REPLICA, Spoken, asked, open, start};
use crate::{
    cluster::Cluster,
    fixtures::*,
    harness::{self, told},
    index,
    support::postgres,
    waiting::until,
};

struct Upstream {
    cluster: Cluster,
    channel: Channel,
    token: String,
}

impl Upstream {
    async fn start() -> Self {
        Self::with(index::options()).await
    }

    async fn with(options: server::Options) -> Self {
        let cluster = Cluster::on(postgres::migrated_database().await, 1, options).await;
        let channel = harness::channel(&cluster.replicas[0].connections).await;
        let token = cluster.token(CallerPermission::Replicate).to_owned();
        Self {
            cluster,
            channel,
            token,
        }
    }

    async fn speak(&self) -> Spoken {
        let begun = Spoken::begin(&self.channel, &self.token, start(None)).await;
        begun.unwrap()
    }

    async fn resume(&self, copy: &Copy) -> Spoken {
        let resumed = Spoken::resume(&self.channel, &self.token, copy.clone()).await;
        resumed.unwrap()
    }

    async fn create(&self) -> pb::CreateApiClientResponse {
        let request = personal(VERA).granted(SITE, SiteRole::Viewer);
        let dashboard = &self.cluster.replicas[0].dashboard;
        dashboard.create(request).await.unwrap()
    }
}

fn id_of(made: &pb::CreateApiClientResponse) -> &str {
    &made.api_client.as_ref().unwrap().id
}

#[tokio::test]
async fn a_snapshot_and_then_each_change_arrive() {
    let upstream = Upstream::start().await;
    let dashboard = &upstream.cluster.replicas[0].dashboard;
    let [first, second] = [upstream.create().await, upstream.create().await];
    let mut spoken = upstream.speak().await;
    let answer = spoken.refresh().await.unwrap();
    assert_eq!(spoken.snapshots, 1);
    assert_eq!(spoken.copy.clients.len(), 2);
    // Those that may call a replica.
    assert_eq!(spoken.copy.accounts, ["introspect", "replicate"]);
    let staleness = Duration::try_from(answer.staleness.unwrap()).unwrap();
    assert!(staleness < Duration::from_secs(2));
    assert!(answer.now.is_some());
    let client = spoken.copy.client(id_of(&first)).unwrap();
    assert_eq!(client.state(), pb::ReplicatedState::Active);
    assert_eq!(client.site_grants.len(), 1);
    assert!(!client.name.is_empty());
    // No hash that is sent is a token, and none is short.
    for client in spoken.copy.clients.values() {
        assert!(client.tokens.iter().all(|token| token.hash.len() == 32));
        assert_eq!(client.tokens[0].scheme(), pb::TokenScheme::Blake3);
    }

    dashboard.revoke(revoke(VERA, id_of(&first))).await.unwrap();
    dashboard
        .delete(delete(VERA, id_of(&second)))
        .await
        .unwrap();
    let third = upstream.create().await;
    let rotated = dashboard
        .rotate(rotate_with_overlap(VERA, id_of(&third), 60))
        .await
        .unwrap();
    let answer = spoken.refresh().await.unwrap();
    assert_eq!(answer.position.unwrap().revision, rotated.revision);
    assert_eq!(spoken.snapshots, 1);
    assert_eq!(spoken.copy.clients.len(), 2);
    let state = |id| spoken.copy.client(id).map(pb::SettledClient::state);
    assert_eq!(state(id_of(&first)), Some(pb::ReplicatedState::Revoked));
    assert_eq!(state(id_of(&second)), None);
    assert_eq!(state(id_of(&third)), Some(pb::ReplicatedState::Active));
    let third: uuid::Uuid = id_of(&third).parse().unwrap();
    let tokens = &spoken.copy.clients[&third.as_bytes()[..]].tokens;
    let ends: Vec<_> = tokens
        .iter()
        .map(|token| token.end_time.is_some())
        .collect();
    assert_eq!(ends, [false, true]);

    // And it is the same for whoever comes now.
    let mut late = upstream.speak().await;
    late.refresh().await.unwrap();
    assert_eq!(late.copy, spoken.copy);
}

#[tokio::test]
async fn changes_come_by_themselves_and_accounts_too() {
    let upstream = Upstream::start().await;
    let mut spoken = upstream.speak().await;
    spoken.refresh().await.unwrap();
    let made = upstream.create().await;
    let sent = spoken.next().await.unwrap();
    let Some(pb::replicate_response::Message::Changes(changes)) = sent else {
        panic!("{sent:?}");
    };
    assert_eq!(changes.put.len(), 1);
    assert_eq!(changes.accounts, None, "they did not change");
    assert_eq!(changes.position.unwrap().revision, made.revision);
    harness::make_account(
        &upstream.cluster.store,
        "another",
        &[CallerPermission::Introspect, CallerPermission::Manage],
    )
    .await;
    let sent = spoken.next().await.unwrap();
    let Some(pb::replicate_response::Message::Changes(changes)) = sent else {
        panic!("{sent:?}");
    };
    let accounts = changes.accounts.unwrap().accounts;
    let another = accounts.iter().find(|account| account.name == "another");
    assert_eq!(another.unwrap().permissions, ["introspect"]);
    assert_eq!(accounts.len(), 3);
}

#[tokio::test]
async fn whoever_was_away_gets_what_changed_meanwhile() {
    let upstream = Upstream::start().await;
    let dashboard = &upstream.cluster.replicas[0].dashboard;
    let [first, second] = [upstream.create().await, upstream.create().await];
    let mut spoken = upstream.speak().await;
    spoken.refresh().await.unwrap();
    let copy = spoken.copy.clone();
    drop(spoken);
    let mut resumed = upstream.resume(&copy).await;
    resumed.refresh().await.unwrap();
    assert_eq!((resumed.snapshots, resumed.parts), (0, 1), "the accounts");
    assert_eq!(resumed.copy, copy);
    drop(resumed);

    dashboard.revoke(revoke(VERA, id_of(&first))).await.unwrap();
    dashboard
        .delete(delete(VERA, id_of(&second)))
        .await
        .unwrap();
    upstream.create().await;
    let mut resumed = upstream.resume(&copy).await;
    resumed.refresh().await.unwrap();
    assert_eq!(resumed.snapshots, 0);
    let mut whole = upstream.speak().await;
    whole.refresh().await.unwrap();
    assert_eq!(resumed.copy, whole.copy);

    // Of another history, the same revision is another one.
    let mut foreign = copy.clone();
    foreign.position.as_mut().unwrap().nonce = vec![7; 16];
    let mut resumed = upstream.resume(&foreign).await;
    resumed.refresh().await.unwrap();
    assert_eq!(resumed.snapshots, 1);
    assert_eq!(resumed.copy, whole.copy);
}

/// A replica that goes from one server to another may be at any revision: the other one may
/// have passed it without stopping there.
#[tokio::test]
async fn a_position_that_was_passed_is_known() {
    let upstream = Upstream::start().await;
    let first = upstream.create().await;
    let mut spoken = upstream.speak().await;
    spoken.refresh().await.unwrap();
    // One transaction for each, and one step of the index for all: it hears of the last alone.
    let proxy = &upstream.cluster.replicas[0].proxy;
    proxy.stall();
    let mut copies = Vec::new();
    for number in 0..3 {
        let sql = format!(
            "UPDATE api_clients SET name = 'number {number}' WHERE id = '{}'",
            id_of(&first)
        );
        upstream.cluster.psql(&sql).await;
        let mut copy = spoken.copy.clone();
        copy.position = Some(position(&upstream.cluster).await);
        copies.push(copy);
    }
    proxy.mend();
    until("the changes are there", async || {
        let mut late = upstream.speak().await;
        late.refresh().await?;
        if late.copy.position == copies[2].position {
            Ok(())
        } else {
            Err(tonic::Status::ok("not yet"))
        }
    })
    .await;
    for copy in copies {
        let mut resumed = upstream.resume(&copy).await;
        resumed.refresh().await.unwrap();
        assert_eq!(resumed.snapshots, 0, "{:?}", copy.position);
    }
}

/// The position of the database.
async fn position(cluster: &Cluster) -> pb::Position {
    let texts = cluster
        .texts("SELECT database_id || ' ' || revision || ' ' || nonce AS text FROM index_state")
        .await;
    let parts: Vec<_> = texts[0].split(' ').collect();
    let bytes = |text: &str| text.parse::<uuid::Uuid>().unwrap().as_bytes().to_vec();
    pb::Position {
        database_id: bytes(parts[0]),
        revision: parts[1].parse().unwrap(),
        nonce: bytes(parts[2]),
    }
}

/// It has heard from another server what this one has not: it is not set back.
#[tokio::test]
async fn a_server_that_is_behind_asks_its_database_first() {
    let upstream = Upstream::start().await;
    let mut spoken = upstream.speak().await;
    spoken.refresh().await.unwrap();
    // No notification, and no poll.
    let proxy = &upstream.cluster.replicas[0].proxy;
    proxy.stall();
    upstream.cluster.psql("SELECT index_stamp()").await;
    let mut ahead = spoken.copy.clone();
    ahead.position = Some(position(&upstream.cluster).await);
    let resumed = async {
        let mut resumed = upstream.resume(&ahead).await;
        resumed.refresh().await.map(|_| resumed)
    };
    let (resumed, ()) = tokio::join!(resumed, async { proxy.mend() });
    match resumed {
        Ok(resumed) => {
            assert_eq!(resumed.snapshots, 0);
            assert_eq!(resumed.copy.position, ahead.position);
        }
        // Its connection was stalled for too long.
        Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
    }
}

#[tokio::test]
async fn names_are_sent_to_those_who_want_them() {
    let upstream = Upstream::start().await;
    let made = upstream.create().await;
    let start = pb::ReplicationStart {
        without_names: true,
        ..start(None)
    };
    let mut spoken = Spoken::begin(&upstream.channel, &upstream.token, start)
        .await
        .unwrap();
    spoken.refresh().await.unwrap();
    assert_eq!(spoken.copy.client(id_of(&made)).unwrap().name, "");
}

#[tokio::test]
async fn a_stream_begins_with_a_start_and_goes_on_with_questions() {
    let upstream = Upstream::start().await;
    let question = || Asked::Question(pb::ReplicationQuestion::default());
    let bad_start = |change: fn(&mut pb::ReplicationStart)| {
        let mut start = start(None);
        change(&mut start);
        vec![Asked::Start(start)]
    };
    let position = |bytes| {
        Some(pb::Position {
            database_id: vec![0; bytes],
            revision: 1,
            nonce: vec![0; 16],
        })
    };
    for (requests, fields) in [
        (vec![question()], vec!["start"]),
        (
            bad_start(|start| start.replica_id = String::new()),
            vec!["start.replica_id"],
        ),
        (
            bad_start(|start| start.replica_id = "x".to_owned()),
            vec!["start.replica_id"],
        ),
        (
            bad_start(|start| {
                start.features = vec![0];
                start.position = Some(pb::Position::default());
                start.replica_id = REPLICA.to_uppercase();
            }),
            vec!["start.replica_id", "start.position", "start.features"],
        ),
        (
            vec![Asked::Start(start(position(15)))],
            vec!["start.position"],
        ),
        (
            vec![Asked::Start(start(None)), Asked::Start(start(None))],
            vec!["start"],
        ),
    ] {
        let what = format!("{requests:?}");
        let requests: Vec<_> = requests.into_iter().map(asked).collect();
        let sent = tokio_stream::iter(requests);
        // Not the end of the requests, which ends the stream in order.
        let sent = tokio_stream::StreamExt::chain(sent, tokio_stream::pending());
        let mut responses = open(&upstream.channel, &upstream.token, sent)
            .await
            .unwrap();
        let ended = loop {
            match responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{what}"),
                Err(status) => break Err::<(), _>(status),
            }
        };
        assert_eq!(harness::violations(&ended), fields, "{what}");
    }
    // Nothing, and the end.
    let nothing = tokio_stream::iter(Vec::new());
    let mut responses = open(&upstream.channel, &upstream.token, nothing)
        .await
        .unwrap();
    assert!(responses.message().await.unwrap().is_none());
    // A feature that this version does not know yet is no mistake.
    let mut start = start(None);
    start.features = vec![1, 2, 3, 40];
    let mut spoken = Spoken::begin(&upstream.channel, &upstream.token, start)
        .await
        .unwrap();
    spoken.refresh().await.unwrap();
}

#[tokio::test]
async fn it_needs_the_permission_and_ends_with_it() {
    let upstream = Upstream::start().await;
    let other = upstream.cluster.token(CallerPermission::Introspect);
    let refused = Spoken::begin(&upstream.channel, other, start(None))
        .await
        .map(|_| ());
    assert_eq!(told(&refused), "PermissionDenied CALLER_NOT_PERMITTED");
    let refused = Spoken::begin(&upstream.channel, "hks_x", start(None))
        .await
        .map(|_| ());
    assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
    for (sql, expected) in [
        (
            "UPDATE service_accounts SET permissions = '{audit}' WHERE name = 'first'",
            "PermissionDenied CALLER_NOT_PERMITTED",
        ),
        (
            "UPDATE service_accounts SET revoke_time = now() WHERE name = 'second'",
            "Unauthenticated CALLER_UNKNOWN",
        ),
    ] {
        let name = if sql.contains("first") {
            "first"
        } else {
            "second"
        };
        let store = &upstream.cluster.store;
        let token = harness::make_account(store, name, &[CallerPermission::Replicate]).await;
        let mut spoken = Spoken::begin(&upstream.channel, &token, start(None))
            .await
            .unwrap();
        spoken.refresh().await.unwrap();
        upstream.cluster.psql(sql).await;
        let ended = loop {
            match spoken.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended in order"),
                Err(status) => break Err::<(), _>(status),
            }
        };
        assert_eq!(told(&ended), expected);
    }
}

#[tokio::test]
async fn a_server_that_ends_says_so() {
    let upstream = Upstream::start().await;
    let mut spoken = upstream.speak().await;
    spoken.refresh().await.unwrap();
    upstream.cluster.replicas[0].stop.send(()).await.unwrap();
    let ended = loop {
        match spoken.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended in order"),
            Err(status) => break status,
        }
    };
    assert_eq!(told(&Err::<(), _>(ended)), "Unavailable SHUTTING_DOWN");
}

/// A server that lost its database answers at once how stale it is, and only those who want
/// it to be asked wait.
#[tokio::test]
async fn without_its_database_a_server_says_how_stale_it_is() {
    let upstream = Upstream::start().await;
    let mut spoken = upstream.speak().await;
    spoken.refresh().await.unwrap();
    upstream.cluster.replicas[0].proxy.cut();
    until("it does not reach its database", async || {
        let answer = spoken.refresh().await.unwrap();
        match answer.error {
            Some(error) => {
                assert_eq!(error.reason(), pb::ErrorReason::DatabaseUnavailable);
                Ok(())
            }
            None => Err("it answered"),
        }
    })
    .await;
    let mut last = Duration::ZERO;
    for _ in 0..3 {
        let (refresh, number) = (spoken.ask(true), spoken.ask(false));
        let answer = spoken.until_answered(number).await.unwrap();
        let staleness = Duration::try_from(answer.staleness.unwrap()).unwrap();
        assert!(staleness > last, "{staleness:?}");
        last = staleness;
        // The other one is answered in its turn.
        let number = spoken.ask(true);
        let answer = spoken.until_answered(number).await.unwrap();
        assert!(answer.error.is_some() && refresh < number);
    }
}

/// Where too many calls wait for the database already, others go by the index as it is. An
/// answer to such a question would say that the database was asked.
#[tokio::test]
async fn a_question_that_cannot_reach_the_database_has_no_answer() {
    let mut options = index::options();
    options.index.max_waiting = 0;
    let upstream = Upstream::with(options).await;
    let mut spoken = upstream.speak().await;
    let answer = spoken.refresh().await.unwrap();
    let reason = answer.error.unwrap().reason();
    assert_eq!(reason, pb::ErrorReason::DatabaseUnavailable);
    assert_eq!(answer.position, None);
    // The stream goes on, and other questions are answered.
    let number = spoken.ask(false);
    let answer = spoken.until_answered(number).await.unwrap();
    assert!(answer.error.is_none() && answer.position.is_some());
}

#[tokio::test]
async fn an_overloaded_server_says_when_to_come_back() {
    let status = tonic::Status::from(hitkeep_auth::grpc::error::ApiError::SnapshotsBusy);
    let retry = status.get_details_retry_info().unwrap();
    assert!(retry.retry_delay.unwrap() >= Duration::from_millis(100));
    assert_eq!(told(&Err::<(), _>(status)), "Unavailable OVERLOADED");
}
