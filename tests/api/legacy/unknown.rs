//! Legacy tokens that the index does not know: what they cost, and what is answered while it is
//! too old to say so.

use std::time::Duration;

use hitkeep_auth::{
    domain::caller::CallerPermission::Introspect,
    live_index::{IndexOptions, usage::UsageOptions},
    pb::InactiveReason::{Revoked, UnknownToken},
    server,
};

use super::invented;
use crate::{
    fixtures::*,
    harness::{Caller, TestApp, told},
    http::client::{form, get as get_over_http},
    sidecars::{
        envoy::{CANNOT_TELL, Sending, asking, refusal},
        table::{Asker, Case, Said},
    },
    support::{
        proxy::{Listeners, Proxy},
        waiting::until,
    },
};

/// A server that hears of nothing by itself, and never asks by itself either.
async fn deaf() -> (TestApp, Proxy) {
    const NEVER: Duration = Duration::from_hours(1);
    let options = server::Options {
        index: IndexOptions {
            max_staleness: 4 * NEVER,
            poll_interval: NEVER,
            refresh_timeout: NEVER,
            usage: UsageOptions {
                flush_interval: NEVER,
            },
            ..IndexOptions::default()
        },
        ..server::Options::default()
    };
    let (app, proxy) = TestApp::behind_proxy(options).await;
    proxy.listeners(Listeners::Mute);
    (app, proxy)
}

/// A request with that token, which needs nothing in particular.
fn case(token: &str) -> Case {
    Case {
        what: token.to_owned(),
        token: Some(token.to_owned()),
        settings: Vec::new(),
        path: "/".to_owned(),
        permission: None,
        site: None,
        human_only: false,
    }
}

/// Asks about a token in every way that there is, and each says that it does not work.
async fn refused_everywhere(app: &TestApp, sidecar: &Caller, token: &str) {
    let case = case(token);
    for asker in [Asker::Introspect].into_iter().chain(Asker::OTHERS) {
        assert_eq!(asker.ask(sidecar, &case).await, Said::Inactive, "{asker:?}");
    }
    let mut stream = sidecar.stream().await;
    let answer = stream.ask(introspect(token)).await.unwrap();
    assert_eq!(answer.inactive_reason(), UnknownToken);
    let caller = app.token(Introspect);
    let request = form("/oauth2/introspect").header("authorization", format!("Bearer {caller}"));
    let said = app.ask(request, format!("token={token}")).await;
    assert_eq!(said.json(), serde_json::json!({ "active": false }));
    let request = get_over_http("/forward-auth")
        .header("x-hitkeep-caller", caller)
        .header("x-original-uri", "/")
        .header("authorization", format!("Bearer {token}"));
    assert_eq!(app.ask(request, "").await.told(), "401 invalid_token");
}

#[tokio::test]
async fn invented_legacy_tokens_cost_the_database_nothing() {
    let (app, proxy) = deaf().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let other = dashboard.created(personal(VERA)).await;
    let mut asked = 0;
    // Without any legacy token, and with one.
    for with_one in [false, true] {
        if with_one {
            app.psql(&becoming_legacy(&made.token)).await;
            // A write of its own is what this server hears of.
            dashboard.rotate(rotate(VERA, &other.id)).await.unwrap();
            assert_eq!(
                sidecar.inactive_reason(&legacy_for(&made.token)).await,
                None
            );
        }
        let before = proxy.statements();
        for _ in 0..20 {
            asked += 1;
            refused_everywhere(&app, &sidecar, &invented(asked)).await;
        }
        assert_eq!(proxy.statements(), before);
    }
}

#[tokio::test]
async fn an_index_that_is_too_old_does_not_say_that_a_legacy_token_is_unknown() {
    let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let gone = dashboard.created(personal(VERA)).await;
    for with_one in [false, true] {
        let known = with_one.then(|| (legacy_for(&made.token), legacy_for(&gone.token)));
        if with_one {
            app.psql(&becoming_legacy(&made.token)).await;
            app.psql(&becoming_legacy(&gone.token)).await;
            dashboard.revoke(revoke(VERA, &gone.id)).await.unwrap();
        }
        assert_eq!(
            sidecar.inactive_reason(&invented(1)).await,
            Some(UnknownToken)
        );
        app.settle().await;
        proxy.cut();
        // As long as it is fresh, its word stands.
        assert_eq!(
            sidecar.inactive_reason(&invented(2)).await,
            Some(UnknownToken)
        );
        app.clock.grow_old(Duration::from_secs(11));
        let refused = sidecar.introspect(introspect(&invented(3))).await;
        assert_eq!(told(&refused), "Unavailable STALE_INDEX");
        let request = asking(&[], "/").bearing(&invented(4));
        assert_eq!(refusal(&sidecar.check(request).await.unwrap()), CANNOT_TELL);
        if let Some((works, revoked)) = known {
            let refused = sidecar.introspect(introspect(&works)).await;
            assert_eq!(told(&refused), "Unavailable STALE_INDEX");
            assert_eq!(sidecar.inactive_reason(&revoked).await, Some(Revoked));
        }
        proxy.mend();
        until("it has caught up", async || {
            let answer = sidecar.introspect(introspect(&invented(5))).await;
            if answer.is_ok() {
                Ok(())
            } else {
                Err(told(&answer))
            }
        })
        .await;
    }
}
