//! Processes that deliver beside each other, are killed, or end.

use super::*;

#[tokio::test]
async fn of_two_processes_one_delivers_and_each_event_once() {
    let (app, mut receiver, first) = world().await;
    let second = Delivery::start(&app, &receiver).await;
    let dashboard = app.dashboard().await;
    let mut expected = Vec::new();
    for number in 0..20 {
        let request = personal(VERA).named(&format!("client {number}"));
        expected.push(dashboard.created(request).await.id);
    }
    let mut seen = Vec::new();
    for _ in &expected {
        seen.push(
            receiver.accept().await["subject"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    until_empty(&app).await;
    // It takes over as soon as the other one gives it back.
    first.end().await;
    let made = dashboard.created(personal(ADAM)).await;
    assert_eq!(receiver.accept().await["subject"], made.id);
    until_empty(&app).await;
    second.end().await;
    assert!(receiver.arrived().is_none());
}

#[tokio::test]
async fn what_a_process_had_in_flight_when_it_was_killed_is_sent_again_in_order() {
    let (app, mut receiver, first) = world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let in_flight = receiver.next().await;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    first.kill().await;
    let second = Delivery::with(&app, &receiver, OPTIONS);
    second.until_measured("hitkeep_auth_events_pending 2").await;
    second
        .until_measured("hitkeep_auth_events_delivering 0")
        .await;
    // The lease runs out.
    app.clock.advance(TimeDelta::seconds(10));
    let again = receiver.next().await;
    assert_eq!(again.body, in_flight.body);
    again.answer(200);
    assert_eq!(kind(&receiver.accept().await), "revoked");
    until_empty(&app).await;
    second.end().await;
}

/// Makes events until one of them is not sent: a process that is stopping starts nothing more.
async fn until_stopping(app: &TestApp, receiver: &mut Receiver) {
    let dashboard = app.dashboard().await;
    until("it is stopping", async || {
        dashboard.created(personal(ADAM)).await;
        let two = outbox(app).await >= 3;
        wanted(two || receiver.arrived().map(|more| more.answer(500)).is_none())
    })
    .await;
}

#[tokio::test]
async fn an_attempt_in_flight_is_finished_at_the_end() {
    let (app, mut receiver, delivery) = world().await;
    let dashboard = app.dashboard().await;
    dashboard.created(personal(VERA)).await;
    let in_flight = receiver.next().await;
    let end = tokio::spawn(delivery.end());
    until_stopping(&app, &mut receiver).await;
    in_flight.answer(200);
    within("its end", end).await.unwrap();
    let left = "SELECT count(*) FROM event_outbox WHERE data->'owner'->>'user_id' = \
                '00000000-0000-7000-8000-000000000004'";
    assert_eq!(app.number(left).await, 0);
    let held = "SELECT count(*) FROM event_delivery WHERE holder IS NOT NULL";
    assert_eq!(app.number(held).await, 0);
}

#[tokio::test]
async fn the_lease_is_kept_until_the_last_attempt_is_finished() {
    let (app, mut receiver, first) = world().await;
    app.dashboard().await.created(personal(VERA)).await;
    let in_flight = receiver.next().await;
    let end = tokio::spawn(first.end());
    until_stopping(&app, &mut receiver).await;
    let second = Delivery::with(&app, &receiver, OPTIONS);
    second
        .until_measured("hitkeep_auth_events_delivering 0")
        .await;
    let holder = async || {
        let holder = "SELECT hashtext(holder::text)::bigint FROM event_delivery";
        app.number(holder).await
    };
    let held_until = async || {
        let until = "SELECT extract(epoch FROM held_until)::bigint FROM event_delivery";
        app.number(until).await
    };
    let (held_by, before) = (holder().await, held_until().await);
    // The lease is nearly over.
    app.clock.advance(TimeDelta::seconds(9));
    until("the lease is renewed", async || {
        wanted(held_until().await > before)
    })
    .await;
    assert_eq!(holder().await, held_by, "the other one has to wait");
    assert!(receiver.arrived().is_none(), "the other one sends nothing");
    in_flight.answer(200);
    within("its end", end).await.unwrap();
    assert_eq!(kind(&receiver.accept().await), "created");
    assert_ne!(holder().await, held_by, "the other one sent what was left");
    second.kill().await;
}
