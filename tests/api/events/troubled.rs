//! Receivers that fail, stall, end or are gone, and what becomes of their events.

use super::*;

#[tokio::test]
async fn what_fails_is_tried_again_and_holds_up_its_client_alone() {
    let (app, mut receiver, delivery) = world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let first = receiver.next().await;
    let id = first.header("webhook-id").to_owned();
    let body = first.body.clone();
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    first.answer_with(503, &[("retry-after", "120")]);
    until_tried(&app, 1).await;
    let other = dashboard.created(personal(ADAM)).await;
    assert_eq!(receiver.accept().await["subject"], other.id);

    // As late as it was asked for, and with it what follows.
    let waiting = "SELECT count(*) FROM event_outbox \
                   WHERE next_attempt_time = '2026-01-01T12:02:00Z' AND last_error IN ('', 'status 503')";
    assert_eq!(app.number(waiting).await, 2);
    for (attempts, later, status) in [(2, 120, 500), (3, 4, 302), (4, 8, 404)] {
        app.clock.advance(TimeDelta::seconds(later));
        let again = receiver.next().await;
        assert_eq!(again.header("webhook-id"), id);
        assert_eq!(again.body, body, "the same bytes");
        assert_ne!(again.header("webhook-timestamp"), "1767268800");
        assert!(again.is_signed_with(SECRET));
        again.answer_with(status, &[("location", "https://example.com/")]);
        until_tried(&app, attempts).await;
    }
    // From 8 to 16 seconds after four failures.
    let next = "SELECT extract(epoch FROM next_attempt_time - '2026-01-01T12:02:12Z') * 1000 \
                FROM event_outbox ORDER BY sequence LIMIT 1";
    let delay = app.number(next).await;
    assert!((8_000..=16_000).contains(&delay), "{delay}");
    app.clock.advance(TimeDelta::seconds(16));
    assert_eq!(receiver.accept().await["id"], id);
    assert_eq!(kind(&receiver.accept().await), "revoked");
    until_empty(&app).await;
    delivery
        .until_measured(r#"hitkeep_auth_events_attempts_total{outcome="delivered"} 3"#)
        .await;
    delivery
        .until_measured(r#"hitkeep_auth_events_attempts_total{outcome="failed"} 4"#)
        .await;
    delivery.end().await;
}

#[tokio::test]
async fn a_receiver_that_stalls_or_ends_is_tried_again() {
    let app = TestApp::with_world().await;
    let mut receiver = Receiver::start().await;
    let options = events::DeliveryOptions {
        request_timeout: Duration::from_secs(2),
        ..OPTIONS
    };
    let delivery = Delivery::with(&app, &receiver, options);
    delivery
        .until_measured("hitkeep_auth_events_delivering 1")
        .await;
    app.dashboard().await.created(personal(VERA)).await;
    let stalled = receiver.next().await;
    let id = stalled.header("webhook-id").to_owned();
    until_tried(&app, 1).await;
    // Too late: it is sent again.
    stalled.answer(200);
    app.clock.advance(TimeDelta::seconds(2));
    let dropped = receiver.next().await;
    assert_eq!(dropped.header("webhook-id"), id);
    drop(dropped);
    until_tried(&app, 2).await;
    let error = "SELECT count(*) FROM event_outbox WHERE last_error LIKE 'no response: %'";
    assert_eq!(app.number(error).await, 1);

    let address = receiver.address;
    receiver.end().await;
    app.clock.advance(TimeDelta::seconds(4));
    until_tried(&app, 3).await;
    let error = "SELECT count(*) FROM event_outbox WHERE last_error LIKE 'no connection: %'";
    assert_eq!(app.number(error).await, 1);
    let mut receiver = Receiver::at(address).await;
    app.clock.advance(TimeDelta::seconds(8));
    assert_eq!(receiver.accept().await["id"], id);
    until_empty(&app).await;
    delivery.end().await;
}

#[tokio::test]
async fn after_three_days_an_event_is_dead_and_the_next_one_is_sent() {
    let (app, mut receiver, delivery) = world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let first = receiver.next().await;
    first.answer(500);
    until_tried(&app, 1).await;
    app.clock
        .advance(TimeDelta::days(3) - TimeDelta::microseconds(1));
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    let again = receiver.next().await;
    assert_eq!(kind(&again.event()), "created");
    let id = again.header("webhook-id").to_owned();
    again.answer(500);
    until_tried(&app, 2).await;
    // The last attempt is at its end.
    app.clock.advance(TimeDelta::microseconds(1));
    receiver.next().await.answer(500);
    assert_eq!(kind(&receiver.accept().await), "revoked");
    until("it is dead", async || {
        let dead = "SELECT count(*) FROM event_outbox \
                    WHERE attempts = 3 AND dead_time IS NOT NULL AND last_error = 'status 500'";
        wanted(app.number(dead).await == 1 && outbox(&app).await == 1)
    })
    .await;
    delivery
        .until_measured(r#"hitkeep_auth_events_attempts_total{outcome="dead"} 1"#)
        .await;
    let told = status(&app).await;
    assert_eq!((told.pending, told.dead), (0, 1));
    let dead = &told.latest_dead_events[0];
    assert_eq!(dead.id, id);
    assert_eq!(dead.r#type, "com.hitkeep.auth.api_client.created");
    assert_eq!(dead.client_id, made.id);
    assert_eq!((dead.attempts, &*dead.last_error), (3, "status 500"));
    assert!(dead.create_time.is_some() && dead.dead_time.is_some());
    delivery.end().await;
}

/// What `docs/OPERATIONS.md` says, but for the clock.
#[tokio::test]
async fn a_dead_event_that_is_sent_again_is_the_same() {
    let (app, mut receiver, _delivery) = world().await;
    let dashboard = app.dashboard().await;
    dashboard.created(personal(VERA)).await;
    let first = receiver.next().await;
    let event = first.event();
    first.answer(500);
    until_tried(&app, 1).await;
    app.clock.advance(TimeDelta::days(3));
    receiver.next().await.answer(500);
    until("it is dead", async || {
        let dead = "SELECT count(*) FROM event_outbox WHERE dead_time IS NOT NULL";
        wanted(app.number(dead).await == 1)
    })
    .await;
    app.psql(
        "UPDATE event_outbox SET dead_time = NULL, next_attempt_time = create_time, \
             try_until = create_time + interval '6 days' WHERE dead_time IS NOT NULL",
    )
    .await;
    // It is tried for three more days.
    receiver.next().await.answer(500);
    until_tried(&app, 3).await;
    app.store.trim_events().await.unwrap();
    app.clock.advance(TimeDelta::hours(1));
    assert_eq!(receiver.accept().await, event);
    until_empty(&app).await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_gets_nothing_more_until_a_restart() {
    let (app, mut receiver, delivery) = world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let gone = receiver.next().await;
    let id = gone.header("webhook-id").to_owned();
    gone.answer(410);
    until("it is stopped", async || {
        let sql = "SELECT count(*) FROM event_delivery WHERE stop_time IS NOT NULL";
        wanted(app.number(sql).await == 1)
    })
    .await;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    dashboard.created(personal(ADAM)).await;
    // It ends its work before it ends itself.
    delivery.end().await;
    assert!(receiver.arrived().is_none());
    assert_eq!(outbox(&app).await, 3);

    let delivery = Delivery::start(&app, &receiver).await;
    let (first, second) = (receiver.accept().await, receiver.accept().await);
    let third = receiver.accept().await;
    let of_vera = [first, second, third].into_iter();
    let of_vera: Vec<Value> = of_vera
        .filter(|event| event["subject"] == made.id)
        .collect();
    assert_eq!(of_vera[0]["id"], id);
    assert_eq!(kind(&of_vera[1]), "revoked");
    until_empty(&app).await;
    delivery.end().await;
}

/// However many are rejected, others are sent beside each other and without a pause.
#[tokio::test]
async fn events_that_are_rejected_do_not_slow_the_others_down() {
    let (app, mut receiver, delivery) = world().await;
    let dashboard = app.dashboard().await;
    for status in [400, 401, 403, 404, 405, 409, 413, 415, 422, 451] {
        dashboard.created(personal(VERA)).await;
        receiver.next().await.answer(status);
    }
    until("all are recorded", async || {
        let sql = "SELECT count(*) FROM event_outbox WHERE attempts = 1";
        wanted(app.number(sql).await == 10)
    })
    .await;
    let mut in_flight = Vec::new();
    for _ in 0..8 {
        dashboard.created(personal(ADAM)).await;
        in_flight.push(receiver.next().await);
    }
    for received in in_flight {
        received.answer(200);
    }
    until("the others are delivered", async || {
        wanted(outbox(&app).await == 10)
    })
    .await;
    delivery.end().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_stops_no_server_that_has_another_one() {
    let (app, mut gone, stopped) = world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let mut receiver = Receiver::start().await;
    let other = Delivery::with(&app, &receiver, OPTIONS);
    other
        .until_measured("hitkeep_auth_events_delivering 0")
        .await;
    gone.next().await.answer(410);
    assert_eq!(receiver.accept().await["subject"], made.id);
    until_empty(&app).await;
    assert!(!status(&app).await.stopped);
    // The one that is stopped never takes the delivery again, not even if there is no other.
    other.end().await;
    dashboard.created(personal(ADAM)).await;
    app.clock.advance(TimeDelta::minutes(1));
    stopped.end().await;
    assert!(gone.arrived().is_none());
    assert_eq!(outbox(&app).await, 1);
}

#[tokio::test]
async fn a_receiver_whose_certificate_is_not_trusted_gets_nothing() {
    let app = TestApp::with_world().await;
    let folder = Folder::new();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let mut receiver = Receiver::encrypted(&ours.sign(&["127.0.0.1"])).await;
    let file = folder.write("other.pem", &other.pem());
    let delivery = Delivery::trusting(Some(file), &app, &receiver, OPTIONS);
    delivery
        .until_measured("hitkeep_auth_events_delivering 1")
        .await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    until_tried(&app, 1).await;
    let error = "SELECT count(*) FROM event_outbox \
                 WHERE last_error LIKE 'no connection: %certificate%'";
    assert_eq!(app.number(error).await, 1);
    assert!(receiver.arrived().is_none());
    delivery.end().await;

    let file = folder.write("ours.pem", &ours.pem());
    let delivery = Delivery::trusting(Some(file), &app, &receiver, OPTIONS);
    app.clock.advance(TimeDelta::seconds(2));
    assert_eq!(receiver.accept().await["subject"], made.id);
    until_empty(&app).await;
    delivery.end().await;
}
