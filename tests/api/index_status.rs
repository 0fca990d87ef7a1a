//! `GetIndexStatus`: how far a server has followed the database, and how fresh what it
//! answers from is.

use std::time::Duration;

use hitkeep_auth::{live_index, pb, server, store};
use tokio::time::Instant;

use crate::{
    fixtures::*,
    harness::{Caller, TestApp},
    support::{
        self,
        postgres::migrated_database,
        proxy::{Listeners, Proxy},
        waiting::wanted,
    },
};

/// Well-formed, and of no client: worked out apart from this code.
const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";
const SECOND: prost_types::Duration = prost_types::Duration {
    seconds: 1,
    nanos: 0,
};

async fn status(sidecar: &Caller) -> pb::GetIndexStatusResponse {
    let request = pb::GetIndexStatusRequest {};
    sidecar.index_status(request).await.expect("there is one")
}

/// Comes back when the database is asked no more, unless a call gives it a reason to.
async fn nothing_is_under_way(sidecar: &Caller) {
    // An unknown token asks. Where there was another reason at the same
    // moment, the first one may leave a question behind, which the second one takes.
    for _ in 0..2 {
        sidecar.introspect(introspect(NOBODYS)).await.unwrap();
    }
}

/// Asks until it says so.
async fn until(sidecar: &Caller, wanted: impl Fn(&pb::GetIndexStatusResponse) -> bool) {
    let begun = Instant::now();
    loop {
        let status = status(sidecar).await;
        if wanted(&status) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{status:?}");
    }
}

/// A server that asks the database for nothing by itself for that long.
async fn polling_every(poll_interval: Duration) -> (TestApp, Proxy) {
    TestApp::behind_proxy(options_of(poll_interval)).await
}

fn options_of(poll_interval: Duration) -> server::Options {
    let index = live_index::IndexOptions {
        max_staleness: 4 * poll_interval,
        poll_interval,
        ..live_index::IndexOptions::default()
    };
    server::Options {
        index,
        ..server::Options::default()
    }
}

#[tokio::test]
async fn it_says_what_the_index_holds() {
    let (app, proxy) = polling_every(Duration::from_hours(1)).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    until(&sidecar, |status| status.listening).await;
    let empty = status(&sidecar).await;
    let expected = pb::GetIndexStatusResponse {
        revision: 1,
        staleness: Some(prost_types::Duration::default()),
        max_staleness: Some(prost_types::Duration {
            seconds: 4 * 60 * 60,
            nanos: 0,
        }),
        api_clients: 0,
        database_reachable: true,
        listening: true,
        failures: 0,
    };
    assert_eq!(empty, expected);
    proxy.listeners(Listeners::Mute);
    let made = dashboard.created(personal(VERA)).await;
    dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
    let second = dashboard.created(team_client(ALICE)).await;
    let status_now = status(&sidecar).await;
    assert_eq!(status_now.revision, second.revision);
    assert_eq!(status_now.api_clients, 2, "clients, and not their tokens");
    // Of what it has not heard it says nothing.
    nothing_is_under_way(&sidecar).await;
    app.psql("DELETE FROM api_clients").await;
    assert_eq!(status(&sidecar).await, status_now);
    sidecar.introspect(introspect(NOBODYS)).await.unwrap();
    let heard = status(&sidecar).await;
    assert_eq!(
        (heard.revision, heard.api_clients),
        (second.revision + 1, 0)
    );
}

#[tokio::test]
async fn staleness_is_the_time_since_the_server_was_last_shown_to_take_the_writes() {
    let (app, proxy) = polling_every(Duration::from_hours(1)).await;
    let sidecar = app.sidecar().await;
    until(&sidecar, |status| status.listening).await;
    proxy.listeners(Listeners::Mute);
    nothing_is_under_way(&sidecar).await;
    app.clock.grow_old(Duration::from_secs(1));
    let mut seconds = status(&sidecar).await.staleness;
    assert_eq!(seconds, Some(SECOND));
    app.clock.grow_old(Duration::from_millis(2500));
    seconds = status(&sidecar).await.staleness;
    let expected = prost_types::Duration {
        seconds: 3,
        nanos: 500_000_000,
    };
    assert_eq!(seconds, Some(expected));
    // An unknown token asks; but through an old connection, which does not show
    // that the writes still go where it leads.
    sidecar.introspect(introspect(NOBODYS)).await.unwrap();
    assert_eq!(status(&sidecar).await.staleness, Some(expected));
    // A quarter of the bound later, a question has that looked at as well.
    app.clock.grow_old(Duration::from_hours(1));
    sidecar.introspect(introspect(NOBODYS)).await.unwrap();
    let fresh = Some(prost_types::Duration::default());
    until(&sidecar, |status| status.staleness == fresh).await;
}

#[tokio::test]
async fn an_outage_is_told_and_so_is_its_end() {
    let (app, proxy) = polling_every(Duration::from_millis(20)).await;
    let sidecar = app.sidecar().await;
    until(&sidecar, |status| status.listening).await;
    let before = status(&sidecar).await;
    assert!(before.database_reachable);
    assert_eq!(before.failures, 0);
    for outages in 1..3 {
        let failures = status(&sidecar).await.failures;
        proxy.cut();
        until(&sidecar, |status| {
            !status.database_reachable && !status.listening && status.failures > failures
        })
        .await;
        // What was known still is.
        app.clock.grow_old(Duration::from_secs(1));
        let during = status(&sidecar).await;
        assert_eq!(during.revision, before.revision);
        assert!(during.staleness.unwrap().seconds >= 1, "{outages}");
        proxy.mend();
        until(&sidecar, |status| {
            status.database_reachable && status.listening
        })
        .await;
        let after = status(&sidecar).await;
        assert!(
            after.failures > failures,
            "they are counted since the start"
        );
        assert_eq!(after.staleness, Some(prost_types::Duration::default()));
    }
}

#[tokio::test]
async fn without_notifications_it_says_so_and_goes_on() {
    let (app, proxy) = polling_every(Duration::from_millis(20)).await;
    let sidecar = app.sidecar().await;
    until(&sidecar, |status| status.listening).await;
    proxy.listeners(Listeners::Refused);
    until(&sidecar, |status| !status.listening).await;
    let revision = status(&sidecar).await.revision;
    app.psql("SELECT index_stamp()").await;
    until(&sidecar, |status| status.revision == revision + 1).await;
    let status = status(&sidecar).await;
    assert!(status.database_reachable && !status.listening);
    assert_eq!(status.failures, 0, "nothing failed but that");
}

/// As through a pooler that gives each transaction another connection.
#[tokio::test]
async fn it_does_not_listen_where_notifications_are_lost() {
    let direct = migrated_database().await;
    let (proxy, url) = Proxy::start(&direct);
    proxy.listeners(Listeners::Mute);
    let options = options_of(Duration::from_millis(20));
    let app = TestApp::on(&direct, &store::StoreOptions::new(url), options).await;
    let sidecar = app.sidecar().await;
    // Each of these revisions is found by a poll of its own, so the probe was sent by then.
    for _ in 0..3 {
        let revision = status(&sidecar).await.revision;
        support::waiting::until("it said LISTEN", async || wanted(proxy.listening() == 1)).await;
        app.psql("SELECT index_stamp()").await;
        until(&sidecar, |status| status.revision == revision + 1).await;
    }
    let deaf = status(&sidecar).await;
    assert!(deaf.database_reachable && !deaf.listening, "{deaf:?}");
    // Once they arrive, and it connects again, it does.
    proxy.listeners(Listeners::Heard);
    proxy.sever();
    until(&sidecar, |status| status.listening).await;
}
