//! Events that no call causes: expiries, and uses of tokens that were replaced.

use hitkeep_auth::replica::usage::UsageOptions;

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
    let app = TestApp::with_world().await;
    let dashboard = app.dashboard().await;
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
    options.replica.usage = UsageOptions {
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

fn world_of_changes() -> Vec<pb::directory_change::Change> {
    crate::fixtures::world()
}
