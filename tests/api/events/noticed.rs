//! Events that no call causes: expiries, and uses of tokens that were replaced.

use hitkeep_auth::{
    domain::{
        clock::Clock,
        ledger::{Ledger, UsageSlot},
        usage::{Outcome, RefusalReason},
    },
    live_index::usage::{Flusher, UsageOptions},
};

use super::*;
use crate::harness::Caller;

const DAY: i64 = 24 * 3600;

/// A client that expires after that many seconds.
async fn expiring(app: &TestApp, dashboard: &Caller, seconds: i64) -> Created {
    let request = personal(VERA).expiring(in_seconds(app, seconds));
    dashboard.created(request).await
}

/// What was written about a client and not delivered: nothing is looked at in vain.
async fn settled(app: &TestApp) {
    app.store.send_expiries().await.unwrap();
    until_empty(app).await;
}

#[tokio::test]
async fn each_expiry_is_reported_once_by_several_processes() {
    let (app, mut receiver, first) = world().await;
    let second = Delivery::start(&app, &receiver).await;
    let dashboard = app.dashboard().await;
    let made = expiring(&app, &dashboard, 8 * DAY).await;
    assert_eq!(kind(&receiver.accept().await), "created");
    settled(&app).await;
    assert!(receiver.arrived().is_none());

    app.clock
        .advance(TimeDelta::days(1) - TimeDelta::microseconds(1));
    settled(&app).await;
    assert!(receiver.arrived().is_none());
    app.clock.advance(TimeDelta::microseconds(1));
    let event = receiver.accept().await;
    assert_eq!(kind(&event), "expiring");
    let data = json!({
        "client_id": made.id,
        "client_name": "a client",
        "owner": {"user_id": VERA},
        "expire_time": "2026-01-09T12:00:00.000000Z",
    });
    assert_eq!(event["data"], data);
    // All at once.
    let again = (0..8).map(|_| {
        let store = app.store.clone();
        tokio::spawn(async move { store.send_expiries().await.unwrap() })
    });
    for again in again.collect::<Vec<_>>() {
        assert_eq!(again.await.unwrap(), 0);
    }
    first.end().await;
    second.end().await;
    // After a restart too.
    for _ in 0..3 {
        let delivery = Delivery::start(&app, &receiver).await;
        settled(&app).await;
        delivery.end().await;
        assert!(receiver.arrived().is_none());
        app.clock.advance(TimeDelta::days(2));
    }
    let delivery = Delivery::start(&app, &receiver).await;
    app.clock.advance(TimeDelta::days(1));
    let event = receiver.accept().await;
    assert_eq!(
        (kind(&event), event["data"].clone()),
        ("expired".to_owned(), data)
    );
    settled(&app).await;
    assert!(receiver.arrived().is_none());
    delivery.end().await;
}

#[tokio::test]
async fn another_expiry_is_reported_again() {
    let (app, mut receiver, _delivery) = world().await;
    let dashboard = app.dashboard().await;
    let mut made = expiring(&app, &dashboard, 2 * DAY).await;
    for expected in ["created", "expiring"] {
        assert_eq!(kind(&receiver.accept().await), expected);
    }
    for (days, kinds) in [(9, &[][..]), (3, &["expiring"]), (2, &[])] {
        made.client.expire_time = Some(in_seconds(&app, days * DAY));
        made.client.etag.clear();
        let update = update(VERA, made.client.clone(), &["expire_time"]);
        dashboard.update(update).await.unwrap();
        settled_with(&app, &mut receiver, kinds).await;
    }
    // A client that was revoked meanwhile does not expire.
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    assert_eq!(kind(&receiver.accept().await), "revoked");
    app.clock.advance(TimeDelta::days(2));
    settled_with(&app, &mut receiver, &[]).await;
}

/// Exactly these are written.
async fn settled_with(app: &TestApp, receiver: &mut Receiver, kinds: &[&str]) {
    app.store.send_expiries().await.unwrap();
    for expected in kinds {
        assert_eq!(kind(&receiver.accept().await), *expected);
    }
    settled(app).await;
    assert!(receiver.arrived().is_none());
}

/// Whoever turns events on does not get the past.
#[tokio::test]
async fn what_expired_before_is_not_reported() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    expiring(&app, &dashboard, 60).await;
    let soon = expiring(&app, &dashboard, 3 * DAY).await;
    app.clock.advance(TimeDelta::seconds(60));
    let mut receiver = Receiver::start().await;
    let delivery = Delivery::start(&app, &receiver).await;
    let event = receiver.accept().await;
    assert_eq!(
        (kind(&event), &event["subject"]),
        ("expiring".to_owned(), &json!(soon.id))
    );
    settled(&app).await;
    assert!(receiver.arrived().is_none());

    // While nothing delivers for two days, an expiry is not missed.
    delivery.end().await;
    app.clock
        .advance(TimeDelta::days(3) - TimeDelta::seconds(70));
    let delivery = Delivery::start(&app, &receiver).await;
    delivery.end().await;
    app.clock.advance(TimeDelta::days(2));
    let _delivery = Delivery::start(&app, &receiver).await;
    let event = receiver.accept().await;
    assert_eq!(
        (kind(&event), &event["subject"]),
        ("expired".to_owned(), &json!(soon.id))
    );
    settled(&app).await;
    assert!(receiver.arrived().is_none());
}

/// Waits until all uses so far are in the database.
async fn until_used(app: &TestApp, outcome: &str, count: i64) {
    until("the uses are written", async || {
        let sql = format!(
            "SELECT coalesce(sum(count), 0) FROM api_client_usage_days WHERE outcome = '{outcome}'"
        );
        wanted(app.number(&sql).await == count)
    })
    .await;
}

#[tokio::test]
async fn a_use_of_a_replaced_token_is_reported_once_for_each_rotation() {
    let mut options = server::Options::default();
    options.index.usage = UsageOptions {
        flush_interval: Duration::from_millis(5),
    };
    let app = TestApp::with(options).await;
    app.change(world_of_changes()).await;
    let mut receiver = Receiver::start().await;
    let delivery = Delivery::start(&app, &receiver).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    app.clock.advance(TimeDelta::seconds(1));
    let rotation = rotate_with_overlap(VERA, &made.id, 60);
    let second = dashboard.rotate(rotation.clone()).await.unwrap().token;
    assert_eq!(kind(&receiver.accept().await), "created");
    assert_eq!(kind(&receiver.accept().await), "rotated");
    // The new one is what is to be used.
    assert_eq!(sidecar.inactive_reason(&second).await, None);
    until_used(&app, "USED", 1).await;
    until_empty(&app).await;
    assert!(receiver.arrived().is_none());

    for uses in 2..=3 {
        assert_eq!(sidecar.inactive_reason(&made.token).await, None);
        until_used(&app, "USED", uses).await;
    }
    let event = receiver.accept().await;
    assert_eq!(kind(&event), "replaced_token_used");
    let data = json!({
        "client_id": made.id,
        "client_name": "a client",
        "owner": {"user_id": VERA},
        "rotate_time": "2026-01-01T12:00:01.000000Z",
        "token_worked": true,
    });
    assert_eq!(event["data"], data);
    app.clock.advance(TimeDelta::seconds(60));
    assert!(sidecar.inactive_reason(&made.token).await.is_some());
    until_used(&app, "TOKEN_ROTATED", 1).await;
    until_empty(&app).await;
    assert!(receiver.arrived().is_none());

    // Once more after another rotation, here of a token whose overlap is over.
    dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
    assert_eq!(kind(&receiver.accept().await), "rotated");
    for uses in 2..=3 {
        assert!(sidecar.inactive_reason(&second).await.is_some());
        until_used(&app, "TOKEN_ROTATED", uses).await;
    }
    let event = receiver.accept().await;
    assert_eq!(kind(&event), "replaced_token_used");
    assert_eq!(event["data"]["rotate_time"], "2026-01-01T12:01:01.000000Z");
    assert_eq!(event["data"]["token_worked"], false);
    until_empty(&app).await;
    assert!(receiver.arrived().is_none());
    let notes = "SELECT count(*) FROM event_notices";
    assert_eq!(app.number(notes).await, 1);
    delivery.end().await;
}

/// A client, and the recorder of what is presented for it.
struct Presented {
    id: String,
    ledger: Ledger,
    slot: UsageSlot,
    flusher: Flusher,
}

impl Presented {
    fn of(made: &Created) -> Self {
        let (ledger, flusher) = Flusher::with_ledger();
        Self {
            id: made.id.clone(),
            ledger,
            slot: UsageSlot::default(),
            flusher,
        }
    }

    /// A replaced token that works now, or is refused.
    fn present(&self, app: &TestApp, works: bool) {
        let (client, now) = (self.id.parse().unwrap(), app.clock.now());
        if works {
            self.ledger.record(client, &self.slot, Outcome::Used, now);
            self.ledger.record_replaced(client, &self.slot, now);
        } else {
            let refused = Outcome::Refused(RefusalReason::TokenRotated);
            self.ledger.record(client, &self.slot, refused, now);
        }
        app.clock.advance(TimeDelta::seconds(1));
    }

    async fn flush(&mut self, app: &TestApp) {
        self.flusher.flush(&app.store).await.unwrap();
        assert_eq!(self.flusher.pending(), 0);
        self.flusher.report_replaced(&app.store).await.unwrap();
    }
}

/// Rotates, and returns when.
async fn rotated(app: &TestApp, dashboard: &Caller, receiver: &mut Receiver, id: &str) -> String {
    let rotation = rotate_with_overlap(VERA, id, 3600);
    dashboard.rotate(rotation).await.unwrap();
    assert_eq!(kind(&receiver.accept().await), "rotated");
    let time = app.clock.now();
    app.clock.advance(TimeDelta::seconds(1));
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// Whoever has the write lock for long, such as an import, delays the event and no count.
#[tokio::test]
async fn uses_of_replaced_tokens_are_counted_under_somebody_elses_write_lock() {
    let (app, mut receiver, _delivery) = world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    assert_eq!(kind(&receiver.accept().await), "created");
    app.clock.advance(TimeDelta::seconds(1));
    let rotation = rotated(&app, &dashboard, &mut receiver, &made.id).await;
    let mut presented = Presented::of(&made);
    presented.present(&app, true);
    let blocker = app.hold_write_lock().await;
    presented.flusher.flush(&app.store).await.unwrap();
    assert_eq!(presented.flusher.pending(), 0);
    let counted = "SELECT sum(count) FROM api_client_usage_days";
    assert_eq!(app.number(counted).await, 1);
    // The event waits, and whoever gives up on it loses nothing.
    tokio::select! {
        done = presented.flusher.report_replaced(&app.store) => panic!("{done:?}"),
        () = app.until_waiting(1) => {}
    }
    blocker.release().await;
    for _ in 0..2 {
        presented.flush(&app).await;
    }
    let event = receiver.accept().await;
    assert_eq!(kind(&event), "replaced_token_used");
    assert_eq!(event["data"]["rotate_time"], rotation);
    settled(&app).await;
    assert!(receiver.arrived().is_none());
}

/// A presentation is written some time after it, and there may have been another rotation.
#[tokio::test]
async fn a_presentation_belongs_to_the_rotation_before_it() {
    for works in [true, false] {
        let (app, mut receiver, _delivery) = world().await;
        let dashboard = app.dashboard().await;
        let made = dashboard.created(personal(VERA)).await;
        assert_eq!(kind(&receiver.accept().await), "created");
        app.clock.advance(TimeDelta::seconds(1));
        let mut presented = Presented::of(&made);
        let first = rotated(&app, &dashboard, &mut receiver, &made.id).await;
        presented.present(&app, works);
        let second = rotated(&app, &dashboard, &mut receiver, &made.id).await;
        presented.flush(&app).await;
        let event = receiver.accept().await;
        assert_eq!(kind(&event), "replaced_token_used");
        assert_eq!(event["data"]["rotate_time"], first);
        assert_eq!(event["data"]["token_worked"], works);
        // Nor does it hide what comes after the second one.
        presented.present(&app, works);
        presented.flush(&app).await;
        let event = receiver.accept().await;
        assert_eq!(event["data"]["rotate_time"], second);
        assert_eq!(event["data"]["token_worked"], works);
        settled(&app).await;
        assert!(receiver.arrived().is_none());
    }
}

/// Calls wait for the write lock meanwhile.
#[tokio::test]
async fn only_so_many_expiries_are_reported_at_once() {
    let (app, _receiver, delivery) = world().await;
    delivery.end().await;
    let clients = format!(
        "INSERT INTO api_clients (id, owner_user_id, name, description, instance_role, \
             created_by_user_id, create_time, update_time, expire_time) \
         SELECT gen_random_uuid(), '{VERA}', 'client', '', 'user', '{VERA}', now(), now(), \
             '2026-01-02T00:00:00Z' FROM generate_series(1, 501)"
    );
    app.psql(&clients).await;
    for expected in [500, 1, 0] {
        assert_eq!(app.store.send_expiries().await.unwrap(), expected);
    }
    let reported = "SELECT count(DISTINCT client_id) FROM event_outbox";
    assert_eq!(app.number(reported).await, 501);
}

fn world_of_changes() -> Vec<pb::directory_change::Change> {
    crate::fixtures::world()
}
