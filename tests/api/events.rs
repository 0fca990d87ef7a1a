//! Events about API clients: what leaves the service, signed and in order, what is tried
//! again, and what ends that.

use std::{path::PathBuf, sync::Arc, time::Duration};

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        audit::{Action, Event, Provenance},
        token::Token,
    },
    events::{self, Deliverer, Endpoint, PlainHttp, SecretSource, SigningKeys, Webhook},
    pb::{self, report_leak_request::Leaked},
    server,
    store::{Transaction, error::StoreError},
    telemetry::metrics::Metrics,
};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};
use uuid::Uuid;

mod noticed;
mod processes;
mod troubled;

use crate::{
    fixtures::*,
    harness::TestApp,
    support::{
        certificates::Authority,
        folder::Folder,
        waiting::{until, wanted, within},
        webhook::{Receiver, kind},
    },
};

const SECRET: &str = "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_SECRET: &str = "whsec_AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
/// Often enough that no test waits, and with room for an answer on any machine.
const OPTIONS: events::DeliveryOptions = events::DeliveryOptions {
    poll_interval: Duration::from_millis(5),
    lease: Duration::from_secs(10),
    expiry_interval: Duration::from_millis(5),
    request_timeout: Duration::from_mins(2),
    concurrency: 8,
    drain_timeout: Duration::from_mins(2),
};

/// A process that delivers.
struct Delivery {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    metrics: Metrics,
}

impl Delivery {
    async fn start(app: &TestApp, receiver: &Receiver) -> Self {
        let delivery = Self::with(app, receiver, OPTIONS);
        until("somebody delivers", async || {
            let sql = "SELECT count(*) FROM event_delivery WHERE holder IS NOT NULL";
            wanted(app.number(sql).await == 1)
        })
        .await;
        delivery
    }

    fn with(app: &TestApp, receiver: &Receiver, options: events::DeliveryOptions) -> Self {
        Self::trusting(None, app, receiver, options)
    }

    /// One that trusts the authorities of that file.
    fn trusting(
        authorities: Option<PathBuf>,
        app: &TestApp,
        receiver: &Receiver,
        options: events::DeliveryOptions,
    ) -> Self {
        let secrets = format!("{SECRET} {OTHER_SECRET}");
        let webhook = Webhook {
            endpoint: Endpoint::parse(&receiver.url(), PlainHttp::Loopback).unwrap(),
            secrets: SecretSource::new(move || Ok(SigningKeys::parse(&secrets).unwrap())),
            authorities,
        };
        let metrics = Metrics::default();
        let deliverer = Deliverer::new(webhook, options, app.store.clone(), &metrics).unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let task = tokio::spawn(deliverer.run(stopped));
        Self {
            stop,
            task,
            metrics,
        }
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        within("its end", self.task).await.unwrap();
    }

    /// Ends it without notice.
    async fn kill(self) {
        self.task.abort();
        self.task.await.unwrap_err();
    }

    /// Waits for a line of the metrics.
    async fn until_measured(&self, line: &str) {
        until(line, async || {
            let page = self.metrics.page().unwrap();
            wanted(page.lines().any(|there| there == line))
        })
        .await;
    }
}

/// A world with a process that delivers, and the receiver.
async fn world() -> (TestApp, Receiver, Delivery) {
    let app = TestApp::with_world().await;
    let receiver = Receiver::start().await;
    let delivery = Delivery::start(&app, &receiver).await;
    (app, receiver, delivery)
}

/// What an operator is told.
async fn status(app: &TestApp) -> pb::GetEventDeliveryStatusResponse {
    let request = pb::GetEventDeliveryStatusRequest {};
    let auditor = app.auditor().await;
    auditor.event_delivery(request).await.unwrap()
}

async fn outbox(app: &TestApp) -> i64 {
    app.number("SELECT count(*) FROM event_outbox").await
}

async fn until_empty(app: &TestApp) {
    until("the outbox is empty", async || {
        wanted(outbox(app).await == 0)
    })
    .await;
}

/// Waits until the oldest event was tried that often.
async fn until_tried(app: &TestApp, times: i64) {
    until("it was tried", async || {
        let sql = "SELECT attempts FROM event_outbox ORDER BY sequence LIMIT 1";
        wanted(app.number(sql).await == times)
    })
    .await;
}

#[tokio::test]
async fn each_change_arrives_signed_and_in_order() {
    let (app, mut receiver, delivery) = world().await;
    let dashboard = app.dashboard().await;
    let week = in_seconds(&app, 30 * 24 * 3600);
    let made = dashboard.created(personal(VERA).expiring(week)).await;
    let mut tokens = vec![made.token.clone()];
    let rotated = dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 60))
        .await;
    tokens.push(rotated.unwrap().token);
    dashboard.revoke(revoke(ROOT, &made.id)).await.unwrap();
    // Nothing changes.
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    dashboard
        .reactivate(reactivate(VERA, &made.id))
        .await
        .unwrap();
    dashboard.delete(delete(VERA, &made.id)).await.unwrap();
    let expected = [
        (
            "created",
            VERA,
            json!({"expire_time": "2026-01-31T12:00:00.000000Z"}),
        ),
        (
            "rotated",
            VERA,
            json!({"overlap_end_time": "2026-01-01T12:01:00.000000Z"}),
        ),
        ("revoked", ROOT, json!({})),
        ("reactivated", VERA, json!({})),
        ("deleted", VERA, json!({})),
    ];
    let mut last = String::new();
    for (kind, actor, details) in expected {
        let received = receiver.next().await;
        assert!(received.is_signed_with(SECRET) && received.is_signed_with(OTHER_SECRET));
        assert!(!received.is_signed_with("whsec_AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="));
        // By the database's clock.
        assert_eq!(received.header("webhook-timestamp"), "1767268800");
        let mut event = received.event();
        let text = String::from_utf8(received.body.clone()).unwrap();
        for token in &tokens {
            let hash = Token::parse(token).unwrap().hash().0;
            let hex: String = hash.map(|byte| format!("{byte:02x}")).concat();
            for secret in [&**token, &token[45..], &hex, &hex[..12]] {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
        received.answer(204);
        let mut data = json!({
            "client_id": made.id,
            "client_name": "a client",
            "owner": {"user_id": VERA},
            "actor_user_id": actor,
            "caller": "manage",
        });
        let data_map = data.as_object_mut().unwrap();
        data_map.extend(details.as_object().unwrap().clone());
        let sequence = event["sequence"].take();
        let sequence = sequence.as_str().unwrap().to_owned();
        assert!(last < sequence && sequence.len() == 20, "{last} {sequence}");
        last = sequence;
        let id = event["id"].take();
        let audited = format!(
            "SELECT count(*) FROM audit_events WHERE id = '{}' AND action = 'api_client.{kind}'",
            id.as_str().unwrap()
        );
        assert_eq!(app.number(&audited).await, 1);
        let expected = json!({
            "specversion": "1.0",
            "id": null,
            "source": "/hitkeep-auth",
            "type": format!("com.hitkeep.auth.api_client.{kind}"),
            "subject": made.id,
            "time": "2026-01-01T12:00:00.000000Z",
            "datacontenttype": "application/json",
            "sequence": null,
            "data": data,
        });
        assert_eq!(event, expected);
    }
    until_empty(&app).await;
    delivery.end().await;
}

#[tokio::test]
async fn clients_that_end_with_their_owner_are_told_of() {
    let (app, mut receiver, _delivery) = world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(team_client(ADAM)).await;
    assert_eq!(kind(&receiver.accept().await), "created");
    app.change([delete_team(TEAM)]).await;
    let event = receiver.accept().await;
    assert_eq!(
        (kind(&event), &event["subject"]),
        ("deleted".to_owned(), &json!(made.id))
    );
    assert_eq!(event["data"]["owner"], json!({"team_id": TEAM}));
    assert_eq!(event["data"].get("actor_user_id"), None);
}

#[tokio::test]
async fn a_leak_is_reported_before_the_revocation_that_it_causes() {
    let (app, mut receiver, _delivery) = world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let request = pb::ReportLeakRequest {
        leaked: Some(Leaked::Token(made.token)),
        ..pb::ReportLeakRequest::default()
    };
    dashboard.report_leak(request).await.unwrap();
    for expected in ["created", "leaked", "revoked"] {
        let event = receiver.accept().await;
        assert_eq!(
            (kind(&event), &event["subject"]),
            (expected.to_owned(), &json!(made.id))
        );
    }
}

/// Such a name is refused now, but an import can have brought it.
#[tokio::test]
async fn a_name_with_a_token_in_it_stays_here() {
    let (app, mut receiver, _delivery) = world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    receiver.accept().await;
    app.psql(&format!(
        "UPDATE api_clients SET name = 'was {}' WHERE id = '{}'",
        made.token, made.id
    ))
    .await;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    assert_eq!(receiver.accept().await["data"]["client_name"], "");
}

#[tokio::test]
async fn nothing_is_written_while_nothing_is_delivered() {
    let (app, dashboard, made) = TestApp::with_client().await;
    assert_eq!(outbox(&app).await, 0);

    let mut receiver = Receiver::start().await;
    let delivery = Delivery::start(&app, &receiver).await;
    dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
    assert_eq!(kind(&receiver.accept().await), "rotated");
    until_empty(&app).await;
    delivery.end().await;

    // For three days after it, in case that it comes back; then no longer.
    app.clock
        .advance(TimeDelta::days(3) - TimeDelta::microseconds(1));
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    assert_eq!(outbox(&app).await, 1);
    app.clock.advance(TimeDelta::microseconds(1));
    dashboard
        .reactivate(reactivate(VERA, &made.id))
        .await
        .unwrap();
    assert_eq!(outbox(&app).await, 1);

    // Nobody delivers what is there; it dies, and is removed in the end.
    app.clock.advance(TimeDelta::days(3));
    app.store.trim_events().await.unwrap();
    let dead = "SELECT count(*) FROM event_outbox WHERE dead_time IS NOT NULL";
    assert_eq!(app.number(dead).await, 1);
    app.clock.advance(TimeDelta::days(30));
    app.store.trim_events().await.unwrap();
    assert_eq!(outbox(&app).await, 0);
}

#[tokio::test]
async fn a_change_that_is_rolled_back_leaves_no_event() {
    let (app, mut receiver, _delivery) = world().await;
    let event = Event {
        action: Action::ClientRevoked,
        subject: Uuid::from_u128(7),
        subject_name: "a client".to_owned(),
        owner: Some(hitkeep_auth::domain::access::Owner::User(
            VERA.parse().unwrap(),
        )),
        changes: Vec::new(),
    };
    let nobody = Arc::new(Provenance::default());
    let failing = async |tx: &mut Transaction| {
        tx.record(event.clone()).await?;
        Err::<(), _>(StoreError::Inconsistent("by hand".to_owned()))
    };
    app.store.transaction(&nobody, failing).await.unwrap_err();
    assert_eq!(outbox(&app).await, 0);
    let body = async |tx: &mut Transaction| tx.record(event.clone()).await;
    app.store.transaction(&nobody, body).await.unwrap();
    assert_eq!(
        receiver.accept().await["subject"],
        Uuid::from_u128(7).to_string()
    );
    until_empty(&app).await;
    assert!(receiver.arrived().is_none());
}

/// Ten are enough to see what is wrong, the latest ones.
#[tokio::test]
async fn an_operator_is_told_what_waits_and_what_is_dead() {
    let app = TestApp::with_world().await;
    assert_eq!(
        status(&app).await,
        pb::GetEventDeliveryStatusResponse::default()
    );
    // Nothing is sent while the test looks.
    let active = "UPDATE event_delivery SET active_since = now(), active_until = '2100-01-01'";
    app.psql(active).await;
    let dashboard = app.dashboard().await;
    for number in 0..12 {
        let name = format!("client {number}");
        dashboard.created(personal(VERA).named(&name)).await;
    }
    app.clock.advance(TimeDelta::seconds(90));
    let told = status(&app).await;
    assert_eq!((told.pending, told.dead), (12, 0));
    assert!(told.writing && !told.delivering && !told.stopped);
    let held = "UPDATE event_delivery SET holder = gen_random_uuid(), held_until = '2100-01-01'";
    app.psql(held).await;
    assert!(status(&app).await.delivering);
    app.psql("UPDATE event_delivery SET stop_time = now()")
        .await;
    let told = status(&app).await;
    assert!(told.stopped && !told.delivering);
    let age = told.oldest_pending_age.unwrap();
    assert_eq!((age.seconds, age.nanos), (90, 0));
    app.psql("UPDATE event_outbox SET dead_time = create_time + sequence * interval '1 second'")
        .await;
    let told = status(&app).await;
    assert_eq!((told.pending, told.dead), (0, 12));
    assert_eq!(told.oldest_pending_age, None);
    assert_eq!(told.latest_dead_events.len(), 10);
    let times = told.latest_dead_events.iter();
    let times = times.map(|event| event.dead_time.unwrap().seconds);
    assert!(times.is_sorted_by(|one, next| one > next));
    let sidecar = app.sidecar().await;
    let refused = sidecar.event_delivery(pb::GetEventDeliveryStatusRequest {});
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}

/// As after a restore of another day, or of some of the tables: no call fails, and numbers only
/// go up.
#[tokio::test]
async fn numbers_go_on_above_the_events_that_are_there() {
    for damage in [
        "UPDATE event_numbers SET last_sequence = 7",
        "DELETE FROM event_numbers",
    ] {
        let (app, mut receiver, _delivery) = world().await;
        let dashboard = app.dashboard().await;
        let made = dashboard.created(personal(VERA)).await;
        let created = receiver.accept().await;
        assert_eq!(created["sequence"], "00000000000000000001");
        app.psql(&format!(
            "INSERT INTO event_outbox (sequence, id, client_id, event_type, data, create_time, \
                 next_attempt_time, try_until, dead_time) \
             VALUES (50, gen_random_uuid(), gen_random_uuid(), 'created', '{{}}', now(), now(), \
                 now(), now()); {damage}"
        ))
        .await;
        for expected in ["00000000000000000051", "00000000000000000052"] {
            dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
            assert_eq!(receiver.accept().await["sequence"], expected, "{damage}");
        }
    }
}

/// A copy may leave the row out.
#[tokio::test]
async fn events_are_delivered_without_the_row_of_the_delivery() {
    let app = TestApp::with_world().await;
    app.psql("DELETE FROM event_delivery").await;
    assert!(!app.store.event_backlog().await.unwrap().is_stopped);
    let mut receiver = Receiver::start().await;
    let delivery = Delivery::start(&app, &receiver).await;
    let dashboard = app.dashboard().await;
    dashboard.created(personal(VERA)).await;
    assert_eq!(kind(&receiver.accept().await), "created");
    delivery.end().await;
}

/// A database that is away is no reason to send everything again and again.
#[tokio::test]
async fn events_wait_for_a_database_that_is_away() {
    let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
    let mut receiver = Receiver::start().await;
    let delivery = Delivery::start(&app, &receiver).await;
    app.dashboard().await.created(personal(VERA)).await;
    let received = receiver.next().await;
    proxy.cut();
    received.answer(200);
    proxy.mend();
    until_empty(&app).await;
    assert!(receiver.arrived().is_none());
    delivery.end().await;
}
