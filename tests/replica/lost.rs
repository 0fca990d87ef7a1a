//! Notifications only wake: whatever becomes of them, and of those who listen,
//! each replica comes to know of every change, and no writer waits for it.

use std::time::{Duration, Instant};

use hitkeep_auth::pb::{
    InactiveReason::{self, OwnerInactive, Revoked},
    SiteRole,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::{
    cluster::{Cluster, Replica, Said},
    fixtures::*,
    index::CHANNELS,
    support::{paths::decoded, proxy::Listeners},
    waiting::{until, wanted, within},
};

/// When the end of a token has to be known: the bound, and time for a busy machine to find it.
const KNOWN_AFTER: Duration = Duration::from_secs(4);

/// Waits until the replicas that have an index listen.
async fn until_listening(cluster: &Cluster) {
    if cluster.has_index().await {
        let all = || {
            cluster
                .replicas
                .iter()
                .all(|replica| replica.proxy.listening() > 0)
        };
        until("all replicas listen", async || wanted(all())).await;
    }
}

/// Waits until a replica says of a token that was ended a moment ago that it is, for that
/// reason: at the latest when it is asked after that time.
async fn ends_in_time(replica: &Replica, token: &str, reason: InactiveReason) {
    let ended = Instant::now();
    until("the end is known", async || {
        let is_late = ended.elapsed() >= KNOWN_AFTER;
        let said = replica.says(token).await;
        if said == Said::Inactive(reason) {
            return Ok(());
        }
        // It may not know either, after a query that broke off.
        assert!(!is_late || said == Said::Nothing, "{said:?} too late");
        Err(said)
    })
    .await;
}

/// Changes of every kind, through the second replica or by hand: the first one
/// learns of each, for those who ask for it and for those who do not.
async fn is_told(cluster: &Cluster) {
    let [first, second] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    let made = second
        .dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let token = made.token.as_str();
    first.accepts(token).await;
    first.accepts_at(token, made.revision).await;
    let revoked = second
        .dashboard
        .revoke(revoke(VERA, &made.id))
        .await
        .unwrap();
    ends_in_time(first, token, Revoked).await;
    let back = second
        .dashboard
        .reactivate(reactivate(VERA, &made.id))
        .await
        .unwrap();
    assert_eq!(back.revision, revoked.revision + 1);
    first.accepts_at(token, back.revision).await;
    cluster
        .psql(&format!(
            "UPDATE users SET disabled = true WHERE id = '{VERA}'"
        ))
        .await;
    ends_in_time(first, token, OwnerInactive).await;
    cluster
        .psql(&format!(
            "UPDATE users SET disabled = false WHERE id = '{VERA}'"
        ))
        .await;
    cluster.agree(&[token]).await;
}

#[tokio::test]
async fn notifications_that_are_lost_are_made_up_for() {
    let cluster = Cluster::start(2).await;
    until_listening(&cluster).await;
    let proxy = &cluster.replicas[0].proxy;
    for listeners in [Listeners::Mute, Listeners::Stalled, Listeners::Refused] {
        proxy.listeners(listeners);
        is_told(&cluster).await;
        proxy.listeners(Listeners::Heard);
        until_listening(&cluster).await;
        is_told(&cluster).await;
    }
}

#[tokio::test]
async fn listeners_that_postgres_ends_listen_again() {
    let cluster = Cluster::start(2).await;
    let end = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let end_listeners = format!("{end} AND query ILIKE 'LISTEN %'");
    for _ in 0..3 {
        until_listening(&cluster).await;
        let mut ended = 0;
        // One may have been asked for, and not have begun.
        until("both listeners are ended", async || {
            ended += cluster.number(&end_listeners).await;
            wanted(ended >= 2 || !cluster.has_index().await)
        })
        .await;
        is_told(&cluster).await;
        until_listening(&cluster).await;
        assert!(cluster.number(end).await > 0);
        is_told(&cluster).await;
    }
}

/// A connection that listens to everything there is, and never reads again.
async fn deaf_listener(cluster: &Cluster) -> UnixStream {
    let rest = cluster.direct.strip_prefix("postgres://postgres@").unwrap();
    let (folder, database) = rest.split_once('/').unwrap();
    let socket = decoded(folder).join(".s.PGSQL.5432");
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let parameters = format!("user\0postgres\0database\0{database}\0\0");
    let mut startup = u32::try_from(parameters.len() + 8)
        .unwrap()
        .to_be_bytes()
        .to_vec();
    // Version 3.0 of the protocol.
    startup.extend(0x0003_0000_u32.to_be_bytes());
    startup.extend(parameters.as_bytes());
    stream.write_all(&startup).await.unwrap();
    until_ready(&mut stream).await;
    for channel in channels(cluster).await {
        let statement = format!("LISTEN {channel}\0");
        let mut query = vec![b'Q'];
        query.extend(u32::try_from(statement.len() + 4).unwrap().to_be_bytes());
        query.extend(statement.as_bytes());
        stream.write_all(&query).await.unwrap();
        until_ready(&mut stream).await;
    }
    stream
}

/// Reads messages up to the one that says that the next query may come.
async fn until_ready(stream: &mut UnixStream) {
    loop {
        let kind = stream.read_u8().await.unwrap();
        let length = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
        let mut body = vec![0; length - 4];
        stream.read_exact(&mut body).await.unwrap();
        assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&body));
        if kind == b'Z' {
            return;
        }
    }
}

/// The channels that the database notifies; any one where it notifies none.
async fn channels(cluster: &Cluster) -> Vec<String> {
    let mut channels = cluster.texts(CHANNELS).await;
    assert!(
        !channels.is_empty() || !cluster.has_index().await,
        "no channel is found"
    );
    if channels.is_empty() {
        channels.push("told".to_owned());
    }
    channels
}

#[tokio::test]
async fn a_listener_that_reads_no_more_holds_nobody_up() {
    let cluster = Cluster::start(2).await;
    until_listening(&cluster).await;
    let deaf = within("it listens", deaf_listener(&cluster)).await;
    // A replica that does not read either, though it is there.
    cluster.replicas[0].proxy.listeners(Listeners::Stalled);
    // More than the connections between can hold. To the replicas it is noise.
    for channel in channels(&cluster).await {
        let noise = format!(
            "SELECT pg_notify('{channel}', n || repeat('x', 7900)) FROM generate_series(1, 200) AS n"
        );
        cluster.psql(&noise).await;
    }
    for _ in 0..10 {
        within("the changes are made", is_told(&cluster)).await;
    }
    drop(deaf);
}

/// What a replica has missed is not always there to be read.
#[tokio::test]
async fn a_replica_that_fell_behind_the_log_catches_up() {
    let cluster = Cluster::start(2).await;
    let [behind, other] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(other.dashboard.created(personal(VERA)).await);
    }
    for client in &made {
        behind.accepts(&client.token).await;
    }
    for keep_last in [true, false] {
        behind.proxy.cut();
        let [first, second, third] = &made[..] else {
            panic!("three clients");
        };
        let changed = if keep_last { first } else { second };
        other
            .dashboard
            .revoke(revoke(VERA, &changed.id))
            .await
            .unwrap();
        let last = other
            .dashboard
            .rotate(rotate(VERA, &third.id))
            .await
            .unwrap();
        if cluster.has_index().await {
            let trimmed = if keep_last { "<" } else { "<=" };
            let revision = last.revision;
            let trim = format!("DELETE FROM index_changes WHERE revision {trimmed} {revision}");
            cluster.psql(&trim).await;
        }
        behind.proxy.mend();
        let tokens: Vec<_> = made.iter().map(|client| client.token.as_str()).collect();
        cluster.agree(&tokens).await;
        cluster.agree(&[&last.token]).await;
    }
}
