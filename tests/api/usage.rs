//! `GetApiClientUsage` and `last_used_time`: what was noted is seen once it was
//! flushed, by those who may see the client, and changes nothing else.

use std::time::Duration;

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        Timestamp,
        access::Decision,
        clock::Clock,
        id::ClientId,
        introspection::InactiveReason,
        ledger::UsageSlot,
        usage::{Outcome, RefusalReason},
    },
    live_index::usage::{Flusher, UsageOptions},
    pb::{self, InstanceRole, TeamRole, UsageRefusalReason},
    server, store,
    telemetry::metrics::Metrics,
};
use tokio::sync::oneshot;

mod answered;
mod broken;

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, told, violations},
    support::{
        postgres,
        proxy::Proxy,
        waiting::{until, wanted},
    },
};

const DAY: i64 = 24 * 60 * 60;
/// Longer than any test.
const NEVER: UsageOptions = UsageOptions {
    flush_interval: Duration::from_hours(1),
};

fn id(text: &str) -> ClientId {
    text.parse().unwrap()
}

fn pb_time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap(),
    }
}

fn time(text: &str) -> prost_types::Timestamp {
    pb_time(text.parse().unwrap())
}

/// A day as it is returned: its beginning, uses and refusals.
type Told = (prost_types::Timestamp, u64, Vec<(UsageRefusalReason, u64)>);

async fn days(dashboard: &Caller, request: pb::GetApiClientUsageRequest) -> Vec<Told> {
    let usage = dashboard.usage(request).await.expect("the client is seen");
    let day = |day: pb::ApiClientUsageDay| {
        let refusals = day.refusals.iter();
        let refusals = refusals.map(|refused| (refused.reason(), refused.count));
        (day.day.expect("a day"), day.uses, refusals.collect())
    };
    usage.days.into_iter().map(day).collect()
}

async fn last_used(dashboard: &Caller, user: &str, id: &str) -> Option<prost_types::Timestamp> {
    let seen = dashboard.get(get(user, id)).await.expect("it is seen");
    seen.api_client.expect("a client").last_used_time
}

/// Waits until it is seen that a client was used then.
async fn until_used(dashboard: &Caller, id: &str, then: Timestamp) {
    until("its use is seen", async || {
        let last = last_used(dashboard, VERA, id).await;
        wanted(last == Some(pb_time(then)))
    })
    .await;
}

async fn flush(app: &TestApp, flusher: &mut Flusher) {
    flusher.flush(&app.store).await.expect("it is written");
    assert_eq!(flusher.pending(), 0);
}

#[tokio::test]
async fn what_was_noted_is_seen_once_it_was_flushed() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let (ledger, mut flusher) = Flusher::with_ledger();
    let slot = UsageSlot::default();
    let client = id(&made.id);
    let answers = [
        (None, None),
        (None, Some(Decision::Allowed)),
        (None, Some(Decision::NoSiteGrant)),
        (None, Some(Decision::RoleTooLow)),
        (None, Some(Decision::RoleTooLow)),
        (Some(InactiveReason::TokenRotated), None),
        (Some(InactiveReason::Revoked), Some(Decision::Inactive)),
        (Some(InactiveReason::Expired), None),
        (Some(InactiveReason::OwnerInactive), None),
    ];
    let first_day = app.clock.now();
    for day in 0..2 {
        for (inactive, decision) in answers {
            let outcome = Outcome::of(inactive, decision).expect("it counts");
            for _ in 0..=day {
                ledger.record(client, &slot, outcome, app.clock.now());
            }
        }
        app.clock.advance(TimeDelta::days(1));
    }
    assert_eq!(days(&dashboard, usage(VERA, &made.id)).await, []);
    assert_eq!(last_used(&dashboard, VERA, &made.id).await, None);

    flush(&app, &mut flusher).await;
    let expected = |times: u64| {
        vec![
            (UsageRefusalReason::TokenRotated, times),
            (UsageRefusalReason::Revoked, times),
            (UsageRefusalReason::Expired, times),
            (UsageRefusalReason::OwnerInactive, times),
            (UsageRefusalReason::NoSiteGrant, times),
            (UsageRefusalReason::RoleTooLow, 2 * times),
        ]
    };
    let expected = [
        (time("2026-01-01T00:00:00Z"), 2, expected(1)),
        (time("2026-01-02T00:00:00Z"), 4, expected(2)),
    ];
    assert_eq!(days(&dashboard, usage(VERA, &made.id)).await, expected);
    let second_day = first_day + TimeDelta::days(1);
    let last = last_used(&dashboard, VERA, &made.id).await;
    assert_eq!(last, Some(pb_time(second_day)));
    let listed = dashboard.list(list(VERA, of_user(VERA))).await.unwrap();
    assert_eq!(listed.api_clients[0].last_used_time, last);

    // A token that does not work was not used, however often it is presented.
    let revoked = Outcome::Refused(RefusalReason::Revoked);
    ledger.record(client, &slot, revoked, app.clock.now());
    flush(&app, &mut flusher).await;
    assert_eq!(last_used(&dashboard, VERA, &made.id).await, last);
    let today = (
        time("2026-01-03T00:00:00Z"),
        0,
        vec![(UsageRefusalReason::Revoked, 1)],
    );
    assert_eq!(days(&dashboard, usage(VERA, &made.id)).await[2..], [today]);
}

#[tokio::test]
async fn using_a_token_changes_nothing_else() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let other = dashboard.created(personal(VERA).named("other")).await;
    app.clock.advance(TimeDelta::hours(1));
    let before = app.everything().await;
    let (ledger, mut flusher) = Flusher::with_ledger();
    let slot = UsageSlot::default();
    ledger.record(id(&made.id), &slot, Outcome::Used, app.clock.now());
    flush(&app, &mut flusher).await;
    // Neither the revision nor the audit trail.
    assert_eq!(app.everything().await, before);
    let used = pb::ApiClient {
        last_used_time: Some(pb_time(app.clock.now())),
        ..made.client.clone()
    };
    let seen = dashboard.get(get(VERA, &made.id)).await.unwrap();
    assert_eq!(seen.api_client, Some(used), "also its etag and update_time");
    let seen = dashboard.get(get(VERA, &other.id)).await.unwrap();
    assert_eq!(seen.api_client, Some(other.client));

    // The etag from before the use is still good, and what changes the client
    // shows its last use as well.
    let renamed = pb::ApiClient {
        name: "renamed".to_owned(),
        ..made.client
    };
    let changed = dashboard.update(update(VERA, renamed, &["name"])).await;
    let last = Some(pb_time(app.clock.now()));
    let changed = changed.unwrap().api_client.unwrap();
    assert_eq!(changed.last_used_time, last);
    let rotated = dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
    assert_eq!(rotated.api_client.unwrap().last_used_time, last);
    let revoked = dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    assert_eq!(revoked.api_client.unwrap().last_used_time, last);
}

#[tokio::test]
async fn usage_is_for_those_who_may_see_the_client() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let teams = dashboard.created(team_client(ADAM)).await.id;
    let veras = dashboard.created(personal(VERA)).await.id;
    let (ledger, mut flusher) = Flusher::with_ledger();
    for client in [&teams, &veras] {
        let slot = UsageSlot::default();
        ledger.record(id(client), &slot, Outcome::Used, app.clock.now());
    }
    flush(&app, &mut flusher).await;
    let agree = async || {
        let mut seeing = 0;
        for person in [ROOT, ALICE, ADAM, VERA, EVE, NOBODY] {
            for client in [&teams, &veras] {
                let seen = dashboard.get(get(person, client)).await;
                let told_of = dashboard.usage(usage(person, client)).await;
                match seen {
                    Ok(_) => {
                        seeing += 1;
                        assert_eq!(told_of.unwrap().days.len(), 1, "{person}");
                    }
                    Err(_) => assert_eq!(told(&told_of), told(&seen), "{person}"),
                }
            }
        }
        seeing
    };
    assert_eq!(agree().await, 5);
    app.change([
        put_team_member(TEAM, ADAM, TeamRole::Member),
        put_user(VERA, InstanceRole::User, true),
    ])
    .await;
    assert_eq!(agree().await, 3);
    app.change([put_team(TEAM, true)]).await;
    assert_eq!(agree().await, 2);
    let nobodys = dashboard.usage(usage(ROOT, NOBODY)).await;
    assert_eq!(told(&nobodys), "NotFound API_CLIENT_NOT_FOUND");

    // What was counted goes with the client.
    dashboard.delete(delete(ROOT, &teams)).await.unwrap();
    let gone = dashboard.usage(usage(ROOT, &teams)).await;
    assert_eq!(told(&gone), "NotFound API_CLIENT_NOT_FOUND");
    let left = "SELECT count(*) FROM api_client_usage_days";
    assert_eq!(app.number(left).await, 1);
}

#[tokio::test]
async fn the_time_asked_for_takes_whole_days() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let (ledger, mut flusher) = Flusher::with_ledger();
    let slot = UsageSlot::default();
    // It is noon of 2026-01-01. Once a day, up to this moment.
    for day in 0..=60 {
        let then = app.clock.now() - TimeDelta::days(day);
        ledger.record(id(&made.id), &slot, Outcome::Used, then);
    }
    flush(&app, &mut flusher).await;
    let within = async |from: Option<&str>, to: Option<&str>| {
        let request = pb::GetApiClientUsageRequest {
            from: from.map(time),
            to: to.map(time),
            ..usage(VERA, &made.id)
        };
        let days = days(&dashboard, request).await;
        assert!(
            days.is_sorted_by_key(|(day, ..)| day.seconds),
            "oldest first"
        );
        assert!(days.iter().all(|(_, uses, _)| *uses == 1));
        let edge = |day: Option<&Told>| day.map_or(0, |(day, ..)| day.seconds / DAY);
        let new_year = 1_767_225_600 / DAY;
        let first = edge(days.first()) - new_year;
        (days.len(), if days.is_empty() { 0 } else { first })
    };
    // 30 days before now began in the middle of a day, which counts whole.
    assert_eq!(within(None, None).await, (31, -30));
    let from = "2025-12-31T23:59:59.999999Z";
    assert_eq!(within(Some(from), None).await, (2, -1));
    let midnight = "2026-01-01T00:00:00Z";
    assert_eq!(within(Some(midnight), None).await, (1, 0));
    // The end is no part of it, but for the nanosecond after.
    assert_eq!(within(Some(from), Some(midnight)).await, (1, -1));
    let after = "2026-01-01T00:00:00.000000001Z";
    assert_eq!(within(Some(from), Some(after)).await, (2, -1));
    assert_eq!(within(None, Some(midnight)).await, (30, -30));
    assert_eq!(within(Some(midnight), Some(midnight)).await, (0, 0));
    let whole = "2024-11-27T12:00:00Z";
    assert_eq!(within(Some(whole), None).await, (61, -60));
    let future = "2027-01-01T00:00:00Z";
    assert_eq!(within(Some(midnight), Some(future)).await, (1, 0));
    let edge = (Some("0001-01-01T00:00:00Z"), Some("0001-01-02T00:00:00Z"));
    assert_eq!(within(edge.0, edge.1).await, (0, 0));
    let edge = "9999-12-31T23:59:59.999999999Z";
    assert_eq!(within(None, Some(edge)).await, (0, 0));
}

#[tokio::test]
async fn a_time_that_is_none_is_refused() {
    let (_app, dashboard, made) = TestApp::with_client().await;
    let refused = async |from: Option<&str>, to: Option<&str>| {
        let request = pb::GetApiClientUsageRequest {
            from: from.map(time),
            to: to.map(time),
            ..usage(VERA, &made.id)
        };
        violations(&dashboard.usage(request).await)
    };
    let noon = Some("2026-01-01T12:00:00Z");
    assert_eq!(refused(noon, Some("2026-01-01T11:59:59Z")).await, ["to"]);
    let nanos = (
        Some("2026-01-01T12:00:00.000000002Z"),
        Some("2026-01-01T12:00:00.000000001Z"),
    );
    assert_eq!(refused(nanos.0, nanos.1).await, ["to"]);
    // It is noon by the clock.
    let later = Some("2026-01-01T12:00:00.000001Z");
    assert_eq!(refused(later, None).await, ["from"]);
    // 400 days before are good, and no moment more.
    let early = Some("2024-11-27T11:59:59.999999Z");
    assert_eq!(refused(early, noon).await, ["to"]);
    assert_eq!(refused(early, None).await, ["from"]);

    let bad = prost_types::Timestamp {
        seconds: i64::MAX,
        nanos: -1,
    };
    let all_wrong = pb::GetApiClientUsageRequest {
        actor: None,
        id: "x".to_owned(),
        from: Some(bad),
        to: Some(bad),
    };
    let refused = dashboard.usage(all_wrong).await;
    assert_eq!(violations(&refused), ["actor", "id", "from", "to"]);
}

/// An outage loses nothing, and its end counts nothing twice.
#[tokio::test]
async fn what_cannot_be_written_is_kept() {
    let direct = postgres::migrated_database().await;
    let (proxy, url) = Proxy::start(&direct);
    let options = store::StoreOptions::new(url);
    let app = TestApp::on(&direct, &options, server::Options::default()).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let (ledger, mut flusher) = Flusher::with_ledger();
    let slot = UsageSlot::default();
    proxy.cut();
    for tries in 1..=3 {
        ledger.record(id(&made.id), &slot, Outcome::Used, app.clock.now());
        let failed = flusher.flush(&app.store).await;
        assert!(failed.is_err(), "try {tries}");
        assert_eq!(flusher.pending(), 1);
    }
    proxy.mend();
    ledger.record(id(&made.id), &slot, Outcome::Used, app.clock.now());
    flush(&app, &mut flusher).await;
    let expected = (time("2026-01-01T00:00:00Z"), 4, Vec::new());
    assert_eq!(days(&dashboard, usage(VERA, &made.id)).await, [expected]);
}

#[tokio::test]
async fn nothing_to_write_asks_nothing_of_postgres() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let (ledger, mut flusher) = Flusher::with_ledger();
    let nowhere = store::StoreOptions::new("postgres://nobody@127.0.0.1:1/nowhere");
    let nowhere = store::Store::new(
        &nowhere,
        std::sync::Arc::clone(&app.clock) as _,
        std::sync::Arc::clone(&app.entropy) as _,
    );
    flusher.flush(&nowhere).await.expect("nothing is asked");
    let slot = UsageSlot::default();
    ledger.record(id(&made.id), &slot, Outcome::Used, app.clock.now());
    assert!(flusher.flush(&nowhere).await.is_err());
}

#[tokio::test]
async fn what_was_noted_before_the_end_is_written_at_the_end() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let (ledger, flusher) = Flusher::with_ledger();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let running = tokio::spawn(flusher.run(app.store.clone(), NEVER, Metrics::default(), stopped));
    let slot = UsageSlot::default();
    ledger.record(id(&made.id), &slot, Outcome::Used, app.clock.now());
    stop.send(()).unwrap();
    running.await.unwrap();
    let last = last_used(&dashboard, VERA, &made.id).await;
    assert_eq!(last, Some(pb_time(app.clock.now())));
}

/// Also where it cannot be written just then, because the client is being deleted
/// and then does not.
#[tokio::test]
async fn the_last_flush_is_tried_again() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let (ledger, flusher) = Flusher::with_ledger();
    let mut deletion = app.database().await;
    let delete = "BEGIN; DELETE FROM api_clients";
    diesel_async::SimpleAsyncConnection::batch_execute(&mut deletion, delete)
        .await
        .unwrap();
    let slot = UsageSlot::default();
    ledger.record(id(&made.id), &slot, Outcome::Used, app.clock.now());
    let running = tokio::spawn(flusher.run(app.store.clone(), NEVER, Metrics::default(), async {}));
    // Once the turn is taken, it was tried.
    let tried = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND state = 'idle' AND query LIKE '%pg_advisory_xact_lock%' \
                 AND pid <> pg_backend_pid()";
    until("it is tried", async || wanted(app.number(tried).await > 0)).await;
    drop(deletion);
    running.await.unwrap();
    let last = last_used(&dashboard, VERA, &made.id).await;
    assert_eq!(last, Some(pb_time(app.clock.now())));
}

#[tokio::test]
async fn it_is_seen_within_the_interval() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let (ledger, flusher) = Flusher::with_ledger();
    let options = UsageOptions {
        flush_interval: Duration::from_millis(1),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let running =
        tokio::spawn(flusher.run(app.store.clone(), options, Metrics::default(), stopped));
    let slot = UsageSlot::default();
    for _ in 0..3 {
        app.clock.advance(TimeDelta::seconds(1));
        let now = app.clock.now();
        ledger.record(id(&made.id), &slot, Outcome::Used, now);
        until_used(&dashboard, &made.id, now).await;
    }
    stop.send(()).unwrap();
    running.await.unwrap();
    let expected = (time("2026-01-01T00:00:00Z"), 3, Vec::new());
    assert_eq!(days(&dashboard, usage(VERA, &made.id)).await, [expected]);
}

#[tokio::test]
async fn days_of_long_ago_are_removed() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let slot = UsageSlot::default();
    let (ledger, mut flusher) = Flusher::with_ledger();
    for day in [0, 399, 400, 401, 500, 5000] {
        let then = app.clock.now() - TimeDelta::days(day);
        ledger.record(id(&made.id), &slot, Outcome::Used, then);
    }
    let left = "SELECT count(*) FROM api_client_usage_days";
    // What cannot be removed keeps nothing from being written.
    app.psql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ \
         BEGIN RAISE 'not now'; END $$; \
         CREATE TRIGGER refuse BEFORE DELETE ON api_client_usage_days EXECUTE FUNCTION refuse()",
    )
    .await;
    flush(&app, &mut flusher).await;
    assert!(flusher.trim(&app.store).await.is_err());
    assert_eq!(app.number(left).await, 6);
    app.psql("DROP TRIGGER refuse ON api_client_usage_days")
        .await;
    flusher.trim(&app.store).await.unwrap();
    assert_eq!(app.number(left).await, 3);
    let oldest = "SELECT extract(epoch FROM min(day)) / 86400 FROM api_client_usage_days";
    assert_eq!(app.number(oldest).await, 1_767_225_600 / DAY - 400);
    let last = last_used(&dashboard, VERA, &made.id).await;
    assert_eq!(last, Some(pb_time(app.clock.now())));
}
