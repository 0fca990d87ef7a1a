//! The caller hangs up: all or nothing, and the pool whole.

use std::time::Duration;

use hitkeep_auth::{live_index, pb::SiteRole, server};

use crate::{
    fixtures::*,
    harness::TestApp,
    http::client::get as get_http,
    support::{
        proxy::{Direction, Limit, Then},
        waiting::{until, wanted},
    },
};

/// More than the pool has connections.
const HANG_UPS: usize = 20;
/// A part of what is said to the database for one write: most of its messages are longer.
const STEP: u64 = 64;
const CLIENTS: &str = "SELECT count(*) FROM api_clients";
/// How far apart those are that there must be one of for each client.
const TORN: &str = "SELECT \
    abs((SELECT count(*) FROM api_clients) - (SELECT count(*) FROM api_client_grants)) \
    + abs((SELECT count(*) FROM api_clients) - (SELECT count(*) FROM api_client_tokens)) \
    + abs((SELECT count(*) FROM api_clients) \
          - (SELECT count(*) FROM audit_events WHERE action = 'api_client.created'))";

/// Asks the database for nothing by itself while a test runs.
fn quiet() -> server::Options {
    let index = live_index::IndexOptions {
        max_staleness: Duration::from_hours(4),
        poll_interval: Duration::from_hours(1),
        ..live_index::IndexOptions::default()
    };
    server::Options {
        index,
        ..server::Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_is_given_up_while_it_waits_leaves_nothing() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let before = app.everything().await;
    let blocker = app.hold_write_lock().await;
    for _ in 0..HANG_UPS {
        let dashboard = dashboard.clone();
        let call = tokio::spawn(async move { dashboard.create(personal(VERA)).await });
        app.until_waiting(1).await;
        call.abort();
        // Its statement does not go on without it, although the lock is held.
        app.until_waiting(0).await;
    }
    blocker.release().await;
    assert_eq!(app.everything().await, before);
    dashboard.created(personal(VERA)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_that_is_given_up_does_not_hold_up_the_next() {
    let (app, dashboard, made) = TestApp::with_client().await;
    // On a slow machine it is acknowledged before the index has it, and then the index would
    // be what waits for the table.
    app.settle().await;
    let blocker = app
        .hold("LOCK TABLE api_clients IN ACCESS EXCLUSIVE MODE")
        .await;
    for _ in 0..HANG_UPS {
        let (dashboard, id) = (dashboard.clone(), made.id.clone());
        let call = tokio::spawn(async move { dashboard.get(get(VERA, &id)).await });
        app.until_waiting(1).await;
        call.abort();
        app.until_waiting(0).await;
    }
    // The table is still locked, and calls that do not need it are served.
    app.pusher()
        .await
        .directory_status(pb_status())
        .await
        .expect("the pool is whole");
    blocker.release().await;
    dashboard
        .get(get(VERA, &made.id))
        .await
        .expect("the pool is whole");
}

/// Given up after every number of bytes that go to the database, or come from it: one
/// statement after the other was sent, and then was run.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_is_given_up_anywhere_is_whole_or_absent() {
    let (app, proxy) = TestApp::behind_proxy(quiet()).await;
    let dashboard = app.dashboard().await;
    let request = || personal(VERA).granted(SITE, SiteRole::Viewer);
    let mut clients = 0;
    for direction in [Direction::ToServer, Direction::ToClient] {
        let (mut whole, mut absent) = (0, 0);
        for turn in 0.. {
            assert!(turn < 1000, "a write comes to its end");
            // So that nothing but the call comes through until it is committed.
            app.settle().await;
            let limit = Limit {
                direction,
                bytes: turn * STEP,
                then: Then::Stall,
            };
            proxy.limit(limit);
            let dashboard = dashboard.clone();
            let call = tokio::spawn(async move { dashboard.create(request()).await });
            // What was left of the call before may come to the point first, so that the server
            // has yet to hear of this one.
            until("it comes to that point, or to its end", async || {
                let is_there = proxy.is_stalled() && writes_in_flight(&app).await == 1;
                wanted(is_there || call.is_finished())
            })
            .await;
            call.abort();
            until("the server has given it up, or was done", async || {
                wanted(writes_in_flight(&app).await == 0)
            })
            .await;
            let is_through = proxy.is_limited();
            // What comes to its point after that would stall what is mended.
            until("it stalls", async || {
                wanted(is_through || proxy.is_stalled())
            })
            .await;
            proxy.mend();
            // What was said of it until then may still be done, or undone, before this.
            drop(app.hold_write_lock().await);
            assert_eq!(app.number(TORN).await, 0, "{limit:?}");
            let before = std::mem::replace(&mut clients, app.number(CLIENTS).await);
            match clients - before {
                0 => absent += 1,
                1 => whole += 1,
                more => panic!("{more} of one: {limit:?}"),
            }
            if is_through {
                break;
            }
        }
        // Both ends were seen, and what is between.
        assert!(absent > 10 && whole > 0, "{direction:?}: {absent} {whole}");
    }
    // The pool is whole, too.
    dashboard.created(request()).await;
    assert_eq!(app.number(TORN).await, 0);
}

/// How many writes the server works on.
async fn writes_in_flight(app: &TestApp) -> u64 {
    let page = app.ask(get_http("/metrics"), "").await.body;
    let name = "hitkeep_auth_calls_in_flight{kind=\"write\"} ";
    let count = page.lines().find_map(|line| line.strip_prefix(name));
    count.expect("it is exported").parse().unwrap()
}

fn pb_status() -> hitkeep_auth::pb::GetDirectoryStatusRequest {
    hitkeep_auth::pb::GetDirectoryStatusRequest {}
}
