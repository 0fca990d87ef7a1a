//! Legacy tokens, which HitKeep issued and an import brought: they work like any other
//! until they are rotated, or no longer accepted; and what looks like one and is none costs
//! nothing. The rows are written by hand here, as an import writes them.

use std::time::Duration;

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        Timestamp,
        caller::CallerPermission::Introspect,
        client::Expiry,
        clock::Clock,
        token::{LegacyToken, Token},
    },
    grpc,
    live_index::{IndexOptions, usage::UsageOptions},
    pb::{
        self, ApiClientState,
        InactiveReason::{Expired, OwnerInactive, Revoked, TokenRotated, UnknownToken},
        InstanceRole, SiteRole, TokenScheme, UsageRefusalReason,
    },
    server,
};

mod unknown;

use crate::{
    fixtures::*,
    harness::{TestApp, told},
    http::client::{form, get as get_over_http},
    support::waiting::until,
};

/// A text with the form of a legacy token, which no client has.
fn invented(number: u32) -> String {
    format!("{number:064x}")
}

/// Options with that end of legacy tokens.
fn accepting_until(end: Expiry) -> server::Options {
    server::Options {
        grpc: grpc::ServiceOptions {
            legacy_tokens_until: end,
            ..grpc::ServiceOptions::default()
        },
        ..server::Options::default()
    }
}

/// A number of the page for Prometheus.
async fn metric(app: &TestApp, name: &str) -> u64 {
    let page = app.ask(get_over_http("/metrics"), "").await.body;
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in {page}"));
    value.trim().parse().unwrap()
}

#[tokio::test]
async fn a_legacy_token_is_answered_like_any_other() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let request = personal(VERA)
        .granted(SITE, SiteRole::Editor)
        .expiring(in_seconds(&app, 3600));
    let made = dashboard.created(request).await;
    let before = sidecar.introspect(check(&made.token, SITE, "site.view"));
    let before = before.await.unwrap();
    assert!(before.active && before.decision.unwrap().allowed);
    let legacy = app.legacy(&made.token).await;
    // The token that it was before is none any more.
    assert_eq!(
        sidecar.inactive_reason(&made.token).await,
        Some(UnknownToken)
    );
    let mut stream = sidecar.stream().await;
    for answer in [
        sidecar.introspect(check(&legacy, SITE, "site.view")).await,
        stream.ask(check(&legacy, SITE, "site.view")).await,
    ] {
        let answer = answer.unwrap();
        assert!(answer.revision > before.revision);
        let expected = pb::IntrospectResponse {
            revision: answer.revision,
            ..before.clone()
        };
        assert_eq!(answer, expected);
    }
    // Whatever ends a client ends it too, and what is undone brings it back.
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    assert_eq!(sidecar.inactive_reason(&legacy).await, Some(Revoked));
    dashboard
        .reactivate(reactivate(VERA, &made.id))
        .await
        .unwrap();
    assert_eq!(sidecar.inactive_reason(&legacy).await, None);
    app.change([put_user(VERA, InstanceRole::User, true)]).await;
    assert_eq!(sidecar.inactive_reason(&legacy).await, Some(OwnerInactive));
    app.clock.advance(TimeDelta::hours(1));
    assert_eq!(sidecar.inactive_reason(&legacy).await, Some(Expired));
    dashboard.delete(delete(ROOT, &made.id)).await.unwrap();
    assert_eq!(sidecar.inactive_reason(&legacy).await, Some(UnknownToken));
}

/// Nothing but exactly 64 lower-case digits is one, as with HitKeep, and none is a caller's.
#[tokio::test]
async fn nothing_but_the_exact_text_works() {
    let app = TestApp::with_world().await;
    let sidecar = app.sidecar().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let legacy = app.legacy(&made.token).await;
    assert_eq!(sidecar.inactive_reason(&legacy).await, None);
    for other in [
        legacy.to_uppercase(),
        format!("{legacy} "),
        format!("{legacy}0"),
        legacy[1..].to_owned(),
        format!("hkp_{legacy}"),
    ] {
        assert_eq!(sidecar.inactive_reason(&other).await, Some(UnknownToken));
    }
    let refused = app.caller(&legacy).await.introspect(introspect("x")).await;
    assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
}

/// The text whose SHA-256 is the stored BLAKE3 hash of a token would be as good as that
/// token, and so would be the other way round.
#[tokio::test]
async fn a_hash_of_one_scheme_is_of_no_use_with_the_other() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let hex = |hash: [u8; 32]| hash.map(|byte| format!("{byte:02x}")).concat();
    let legacy = legacy_for("a text");
    let legacy_hash = hex(LegacyToken::parse(&legacy).unwrap().hash().0);
    let made = dashboard.created(personal(VERA)).await;
    app.psql(&format!(
        "UPDATE api_client_tokens SET hash = '\\x{legacy_hash}'"
    ))
    .await;
    let other = dashboard.created(personal(VERA)).await;
    let hash = hex(Token::parse(&other.token).unwrap().hash().0);
    app.psql(&format!(
        "UPDATE api_client_tokens SET scheme = 'hitkeep_sha256', \
         hint = 'sha256_' || left('{hash}', 6) WHERE hash = '\\x{hash}'"
    ))
    .await;
    app.settle().await;
    for token in [&legacy, &made.token, &other.token] {
        assert_eq!(sidecar.inactive_reason(token).await, Some(UnknownToken));
    }
    // Both are there, and each with its own scheme is found.
    app.psql(
        "UPDATE api_client_tokens SET \
             scheme = CASE scheme WHEN 'blake3' THEN 'hitkeep_sha256' ELSE 'blake3' END, \
             hint = CASE scheme WHEN 'blake3' \
                 THEN 'sha256_' || left(encode(hash, 'hex'), 6) ELSE '' END",
    )
    .await;
    app.settle().await;
    for token in [&legacy, &other.token] {
        assert_eq!(sidecar.inactive_reason(token).await, None);
    }
}

#[tokio::test]
async fn rotation_gives_a_token_of_this_service_and_ends_the_legacy_one() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    for (made, prefix, user) in [
        (dashboard.created(personal(VERA)).await, "hkp_", VERA),
        (dashboard.created(team_client(ALICE)).await, "hkt_", ALICE),
    ] {
        let legacy = app.legacy(&made.token).await;
        let hint = LegacyToken::parse(&legacy).unwrap().hash().hint().0;
        let seen = dashboard.get(get(user, &made.id)).await.unwrap();
        let seen = seen.api_client.unwrap();
        assert_eq!(seen.token_scheme(), TokenScheme::HitkeepSha256);
        assert_eq!(seen.token_hint, hint);
        assert_ne!(seen.etag, made.client.etag);

        let overlapping = rotate_with_overlap(user, &made.id, 60);
        let rotated = dashboard.rotate(overlapping).await.unwrap();
        let client = rotated.api_client.unwrap();
        assert!(rotated.token.starts_with(prefix), "another kind of token");
        assert_eq!(client.token_scheme(), TokenScheme::Blake3);
        let query = pb::ListAuditEventsRequest {
            client_id: made.id.clone(),
            ..pb::ListAuditEventsRequest::default()
        };
        let mut events = app.auditor().await.events(query).await.unwrap().events;
        let newest = events.remove(0);
        let change = newest
            .changes
            .iter()
            .find(|change| change.field == "token_hint");
        let change = change.unwrap();
        assert_eq!((&change.before, &change.after), (&hint, &client.token_hint));

        let answer = sidecar.introspect(introspect(&legacy)).await.unwrap();
        assert!(answer.active);
        app.clock.advance(TimeDelta::seconds(60));
        assert_eq!(sidecar.inactive_reason(&legacy).await, Some(TokenRotated));
        // Without an overlap, and a second time.
        let again = dashboard.rotate(rotate(user, &made.id)).await.unwrap();
        assert_eq!(
            sidecar.inactive_reason(&rotated.token).await,
            Some(TokenRotated)
        );
        assert_eq!(sidecar.inactive_reason(&legacy).await, Some(TokenRotated));
        assert_eq!(sidecar.inactive_reason(&again.token).await, None);
    }
    let made = dashboard.created(personal(VERA)).await;
    let legacy = app.legacy(&made.token).await;
    dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
    assert_eq!(sidecar.inactive_reason(&legacy).await, Some(TokenRotated));
}

#[tokio::test]
async fn a_list_shows_which_clients_have_legacy_tokens() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(dashboard.created(personal(VERA)).await);
    }
    app.legacy(&made[1].token).await;
    app.psql(&format!(
        "DELETE FROM api_client_tokens WHERE client_id = '{}'",
        made[2].id
    ))
    .await;
    let listed = dashboard.list(list(VERA, of_user(VERA))).await.unwrap();
    let scheme = |id: &str| {
        let mut clients = listed.api_clients.iter();
        clients
            .find(|client| client.id == id)
            .unwrap()
            .token_scheme()
    };
    assert_eq!(scheme(&made[0].id), TokenScheme::Blake3);
    assert_eq!(scheme(&made[1].id), TokenScheme::HitkeepSha256);
    assert_eq!(scheme(&made[2].id), TokenScheme::Unspecified);
    // As the operator's page finds them.
    let page = include_str!("../../docs/OPERATIONS.md").split("```");
    let query = page.filter_map(|block| block.strip_prefix("sql\n"));
    let mut query = query.filter(|sql| sql.contains("hitkeep_sha256"));
    let query = query.next().unwrap().trim_end().trim_end_matches(';');
    let found = format!(
        "SELECT count(*) FROM ({query}) AS found WHERE id = '{}'",
        made[1].id
    );
    assert_eq!(app.number(&found).await, 1);
    let others = format!(
        "SELECT count(*) FROM ({query}) AS found WHERE id <> '{}'",
        made[1].id
    );
    assert_eq!(app.number(&others).await, 0);
    // It is shown, and accepted from no caller.
    let mut renamed = made[0].client.clone();
    renamed.set_token_scheme(TokenScheme::HitkeepSha256);
    "renamed".clone_into(&mut renamed.name);
    let updated = dashboard.update(update(VERA, renamed, &["*"])).await;
    let updated = updated.unwrap().api_client.unwrap();
    assert_eq!(updated.token_scheme(), TokenScheme::Blake3);
}

#[tokio::test]
async fn from_the_end_of_their_time_on_legacy_tokens_are_expired() {
    const SECOND: i64 = 1_000_000_000;
    let start = TestApp::start().await.clock.now();
    let end = start + TimeDelta::seconds(10);
    let app = TestApp::with(accepting_until(Expiry::At(end))).await;
    app.change(world()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let brief = dashboard.created(personal(VERA).expiring(in_seconds(&app, 5)));
    let brief = brief.await;
    let revoked = dashboard.created(personal(VERA)).await;
    let current = dashboard.created(personal(VERA)).await;
    let over_http = || {
        let bearer = format!("Bearer {}", app.token(Introspect));
        form("/oauth2/introspect").header("authorization", bearer)
    };
    let [legacy, brief_legacy, revoked_legacy] = [
        app.legacy(&made.token).await,
        app.legacy(&brief.token).await,
        app.legacy(&revoked.token).await,
    ];
    dashboard.revoke(revoke(VERA, &revoked.id)).await.unwrap();
    // When the token ends, as RFC 7662 tells it, and for how many nanoseconds the answer of
    // Introspect may be kept.
    let told = async |token: &str| {
        let answer = sidecar.introspect(introspect(token)).await.unwrap();
        assert!(answer.active);
        let age = answer.max_cache_age.unwrap();
        let said = app.ask(over_http(), format!("token={token}")).await.json();
        let exp = said["exp"].as_i64();
        (exp, age.seconds * SECOND + i64::from(age.nanos))
    };
    let exp = Some(end.timestamp());
    assert_eq!(told(&legacy).await, (exp, 5 * SECOND));
    assert_eq!(told(&current.token).await, (None, 5 * SECOND));
    app.clock.advance(TimeDelta::seconds(2));
    let earlier = Some(end.timestamp() - 5);
    assert_eq!(told(&brief_legacy).await, (earlier, 3 * SECOND));
    app.clock.advance(TimeDelta::milliseconds(7_750));
    // No answer may be kept past the end.
    assert_eq!(told(&legacy).await, (exp, SECOND / 4));
    assert_eq!(told(&current.token).await, (None, 5 * SECOND));
    assert_eq!(metric(&app, "hitkeep_auth_index_legacy_tokens").await, 1);

    app.clock.advance(TimeDelta::milliseconds(250));
    for (token, reason) in [
        (&legacy, Some(Expired)),
        (&brief_legacy, Some(Expired)),
        (&revoked_legacy, Some(Revoked)),
        (&current.token, None),
        (&invented(7), Some(UnknownToken)),
    ] {
        assert_eq!(sidecar.inactive_reason(token).await, reason);
    }
    let said = app.ask(over_http(), format!("token={legacy}")).await;
    assert_eq!(said.json(), serde_json::json!({ "active": false }));
    assert_eq!(metric(&app, "hitkeep_auth_index_legacy_tokens").await, 0);
    // The client is as it was: it gets another token, and goes on.
    let seen = dashboard.get(get(VERA, &made.id)).await.unwrap();
    let seen = seen.api_client.unwrap();
    assert_eq!(seen.state(), ApiClientState::Active);
    assert_eq!(seen.token_scheme(), TokenScheme::HitkeepSha256);
    let overlapping = rotate_with_overlap(VERA, &made.id, 60);
    let rotated = dashboard.rotate(overlapping).await.unwrap();
    assert_eq!(sidecar.inactive_reason(&rotated.token).await, None);
    // The overlap is no way around the end.
    assert_eq!(sidecar.inactive_reason(&legacy).await, Some(Expired));
}

/// What an import writes reaches every server like any other change.
#[tokio::test]
async fn an_imported_token_works_on_every_server() {
    let app = TestApp::with_world().await;
    let other = app.beside(server::Options::default()).await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    app.psql(&becoming_legacy(&made.token)).await;
    let legacy = legacy_for(&made.token);
    for sidecar in [app.sidecar().await, other.sidecar().await] {
        until("it works", async || {
            match sidecar.inactive_reason(&legacy).await {
                None => Ok(()),
                reason => Err(reason),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn legacy_tokens_are_counted_apart() {
    let options = server::Options {
        index: IndexOptions {
            usage: UsageOptions {
                flush_interval: Duration::from_millis(20),
            },
            ..IndexOptions::default()
        },
        ..server::Options::default()
    };
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    assert_eq!(metric(&app, "hitkeep_auth_index_legacy_tokens").await, 0);
    let legacy = app.legacy(&made.token).await;
    assert_eq!(metric(&app, "hitkeep_auth_index_legacy_tokens").await, 1);
    let overlapping = rotate_with_overlap(VERA, &made.id, 60);
    let rotated = dashboard.rotate(overlapping).await.unwrap();
    for token in [&legacy, &rotated.token] {
        sidecar.introspect(introspect(token)).await.unwrap();
        sidecar
            .introspect(check(token, SITE, "site.view"))
            .await
            .unwrap();
    }
    let last_used = app.clock.now();
    // As long as the overlap lasts, it is one that works.
    assert_eq!(metric(&app, "hitkeep_auth_index_legacy_tokens").await, 1);
    app.clock.advance(TimeDelta::seconds(60));
    assert_eq!(metric(&app, "hitkeep_auth_index_legacy_tokens").await, 0);
    for token in [&legacy, &invented(1)] {
        sidecar.introspect(introspect(token)).await.unwrap();
    }
    for (reason, all, of_legacy) in [
        ("ACTIVE", 2, 1),
        ("NO_SITE_GRANT", 2, 1),
        ("TOKEN_ROTATED", 1, 1),
    ] {
        let of = |name: &str| format!("{name}_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&app, &of("hitkeep_auth_verdicts")).await, all);
        let legacy_verdicts = of("hitkeep_auth_legacy_verdicts");
        assert_eq!(metric(&app, &legacy_verdicts).await, of_legacy);
    }
    until("all of it is written", async || {
        let days = dashboard.usage(usage(VERA, &made.id)).await.unwrap().days;
        let told: Vec<_> = days
            .iter()
            .map(|day| {
                let refusals = day.refusals.iter();
                let refusals = refusals.map(|refusal| (refusal.reason(), refusal.count));
                (day.uses, refusals.collect::<Vec<_>>(), day.legacy_tokens)
            })
            .collect();
        let refusals = vec![
            (UsageRefusalReason::TokenRotated, 1),
            (UsageRefusalReason::NoSiteGrant, 2),
        ];
        if told == [(2, refusals, 3)] {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    let seen = dashboard.get(get(VERA, &made.id)).await.unwrap();
    let told = seen.api_client.unwrap().last_used_time.unwrap();
    let nanos = u32::try_from(told.nanos).unwrap();
    let told = Timestamp::from_timestamp(told.seconds, nanos);
    assert_eq!(told, Some(last_used));
}
