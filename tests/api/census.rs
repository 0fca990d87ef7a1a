//! The gauges of the API clients that an operator should look after: those that expire soon,
//! and those that nothing uses.

use chrono::{SecondsFormat, TimeDelta};
use hitkeep_auth::{domain::clock::Clock, server};

use crate::{
    fixtures::*,
    harness::TestApp,
    http::client::get,
    support::waiting::{until, wanted},
};

/// The gauges of a server that is started now: it counts at its start.
async fn counted(app: &TestApp) -> [String; 2] {
    let another = app.beside(server::Options::default()).await;
    until("both are counted", async || {
        let page = another.ask(get("/metrics"), "").await.body;
        let value = |gauge: &str| {
            let line = |line: &str| {
                line.strip_prefix(gauge)?
                    .strip_prefix(' ')
                    .map(str::to_owned)
            };
            page.lines().find_map(line)
        };
        let expiring = value("hitkeep_auth_clients_expiring");
        let unused = value("hitkeep_auth_clients_unused");
        wanted(expiring.is_some() && unused.is_some())?;
        Ok::<_, &str>([expiring.unwrap(), unused.unwrap()])
    })
    .await
}

/// Each case changes the one client that there is, in the order of the table.
#[tokio::test]
async fn what_expires_soon_and_what_is_not_used_is_counted() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let now = app.clock.now();
    let at = |time: TimeDelta| (now + time).to_rfc3339_opts(SecondsFormat::Micros, true);
    let (day, second) = (TimeDelta::days(1), TimeDelta::seconds(1));
    let client =
        |change: &str, time: TimeDelta| format!("UPDATE api_clients SET {change} = '{}'", at(time));
    let used = |time: TimeDelta| {
        format!(
            "INSERT INTO api_client_usage VALUES ('{}', '{}') ON CONFLICT (client_id) \
             DO UPDATE SET last_used_time = excluded.last_used_time",
            made.id,
            at(time)
        )
    };
    for (change, expiring, unused) in [
        (client("create_time", day * -90), "0", "0"),
        (client("create_time", day * -90 - second), "0", "1"),
        (used(day * -90), "0", "0"),
        (used(day * -90 - second), "0", "1"),
        (client("expire_time", day * 7 + second), "0", "1"),
        (client("expire_time", day * 7), "1", "1"),
        (client("expire_time", second), "1", "1"),
        (client("expire_time", TimeDelta::zero()), "0", "0"),
        (client("expire_time", day), "1", "1"),
        (client("revoke_time", TimeDelta::zero()), "0", "0"),
    ] {
        app.psql(&change).await;
        assert_eq!(counted(&app).await, [expiring, unused], "{change}");
    }
}
