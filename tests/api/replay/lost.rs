//! Replies that are lost on their way: from the server to its caller, and from Postgres
//! to the server.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use hitkeep_auth::{live_index, server};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::Notify,
};
use tonic::{Code, transport::Endpoint};

use super::{CLIENTS, ID, Identified, OTHER_ID, REQUESTS};
use crate::{
    fixtures::*,
    harness::{Caller, TestApp, told},
    support::{
        proxy::Listeners,
        waiting::{until, wanted},
    },
};

/// How much a memory connection holds before its writer waits.
const DUPLEX_BYTES: usize = 64 * 1024;

/// A caller's only connection, on which replies can be lost.
struct Lossy {
    caller: Caller,
    fate: Arc<Fate>,
}

/// What becomes of the connection.
#[derive(Default)]
struct Fate {
    /// Whether what the server sends is lost.
    loses: AtomicBool,
    ends: Notify,
}

impl Fate {
    fn lose_replies(&self) {
        self.loses.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        self.ends.notify_one();
    }
}

impl Lossy {
    async fn dashboard(app: &TestApp) -> Self {
        let (ours, ours_relayed) = tokio::io::duplex(DUPLEX_BYTES);
        let (theirs_relayed, theirs) = tokio::io::duplex(DUPLEX_BYTES);
        app.connect(theirs);
        let fate = Arc::new(Fate::default());
        tokio::spawn(relay(ours_relayed, theirs_relayed, Arc::clone(&fate)));
        let only = Arc::new(Mutex::new(Some(TokioIo::new(ours))));
        let connect = tower::service_fn(move |_| {
            let only = only.lock().unwrap().take();
            async move { only.ok_or_else(|| std::io::Error::other("there is no other connection")) }
        });
        let endpoint = Endpoint::from_static("http://test.invalid");
        let channel = endpoint.connect_with_connector(connect).await;
        Self {
            caller: Caller {
                channel: channel.expect("the server accepts connections"),
                ..app.dashboard().await
            },
            fate,
        }
    }
}

/// Passes bytes on, both ways.
async fn relay(mut client: DuplexStream, mut server: DuplexStream, fate: Arc<Fate>) {
    let (mut asked, mut answered) = ([0; 4096], [0; 4096]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(length @ 1..) => server.write_all(&asked[..length]).await.unwrap(),
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(1..) if fate.loses.load(Ordering::Relaxed) => {}
                Ok(length @ 1..) => client.write_all(&answered[..length]).await.unwrap(),
                _ => return,
            },
            () = fate.ends.notified() => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_caller_that_lost_the_reply_gets_it_by_asking_again() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);

    let lossy = Lossy::dashboard(&app).await;
    lossy.fate.lose_replies();
    let creation = personal(VERA).with_id(ID);
    let lost = {
        let (caller, creation) = (lossy.caller.clone(), creation.clone());
        tokio::spawn(async move { caller.create(creation).await })
    };
    until("it is made", async || {
        wanted(app.number(REQUESTS).await == 1)
    })
    .await;
    lossy.fate.end();
    let lost = lost.await.unwrap().expect_err("the reply is lost");
    assert!(
        matches!(lost.code(), Code::Unavailable | Code::Unknown),
        "{lost:?}"
    );
    let made = dashboard.create(creation).await.unwrap();
    assert_eq!(app.number(CLIENTS).await, 1);
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);

    let lossy = Lossy::dashboard(&app).await;
    lossy.fate.lose_replies();
    let id = made.api_client.unwrap().id;
    let rotation = rotate_with_overlap(VERA, &id, 3600).with_id(OTHER_ID);
    let lost = {
        let (caller, rotation) = (lossy.caller.clone(), rotation.clone());
        tokio::spawn(async move { caller.rotate(rotation).await })
    };
    until("it is made", async || {
        wanted(app.number(REQUESTS).await == 2)
    })
    .await;
    // This time the caller hangs up.
    lost.abort();
    drop(lossy);
    let rotated = dashboard.rotate(rotation).await.unwrap();
    for token in [&made.token, &rotated.token] {
        assert_eq!(sidecar.inactive_reason(token).await, None);
    }
}

/// The commit goes through, and the server does not hear of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_nobody_heard_of_is_found_again() {
    let index = live_index::IndexOptions {
        // No poll and no survey, and no notification below: the COMMIT of what they read is
        // not the one that is meant.
        max_staleness: std::time::Duration::from_hours(4),
        poll_interval: std::time::Duration::from_hours(1),
        ..live_index::IndexOptions::default()
    };
    let options = server::Options {
        index,
        ..server::Options::default()
    };
    let (app, proxy) = TestApp::behind_proxy(options).await;
    proxy.listeners(Listeners::Mute);
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let creation = personal(VERA).with_id(ID);
    app.settle().await;
    proxy.hold_replies_to(b"COMMIT\0");
    let unheard = {
        let (caller, creation) = (dashboard.clone(), creation.clone());
        tokio::spawn(async move { caller.create(creation).await })
    };
    proxy.caught().await;
    until("it is made", async || {
        wanted(app.number(CLIENTS).await == 1)
    })
    .await;
    proxy.sever();
    let unheard = unheard.await.unwrap();
    assert_eq!(told(&unheard), "Unavailable DATABASE_UNAVAILABLE");
    proxy.release();
    let made = dashboard.create(creation).await.unwrap();
    assert_eq!(app.number(CLIENTS).await, 1);
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
}
