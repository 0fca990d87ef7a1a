//! `RotateApiClient`: a new token, and how long the old one lives.

use chrono::TimeDelta;
use hitkeep_auth::{
    pb::{self, ApiClientState, InactiveReason, SiteRole},
    store::clients::MAX_REPLACED_TOKENS,
};

use crate::{
    fixtures::*,
    harness::{TestApp, told},
};

const ROTATED: Option<InactiveReason> = Some(InactiveReason::TokenRotated);

#[tokio::test]
async fn without_an_overlap_the_old_token_ends_at_once() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let request = personal(VERA)
        .granted(SITE, SiteRole::Viewer)
        .expiring(in_seconds(&app, 60));
    let made = dashboard.created(request).await;
    let mut tokens = vec![made.token.clone()];
    // Twice, and once more: the second rotation is where chains fork.
    for turn in 1..=3 {
        app.clock.advance(TimeDelta::seconds(1));
        let rotated = dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
        let client = rotated.api_client.unwrap();
        assert_eq!(rotated.revision, made.revision + turn);
        let expected = pb::ApiClient {
            update_time: Some(in_seconds(&app, 0)),
            token_hint: format!("hkp_...{}", &rotated.token[49..]),
            etag: client.etag.clone(),
            ..made.client.clone()
        };
        assert_eq!(client, expected, "id, grants and expiry stay");
        for old in &tokens {
            assert_eq!(sidecar.inactive_reason(old).await, ROTATED);
        }
        assert_eq!(sidecar.inactive_reason(&rotated.token).await, None);
        assert!(!tokens.contains(&rotated.token));
        tokens.push(rotated.token);
    }
}

#[tokio::test]
async fn with_an_overlap_both_work_until_it_ends() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let second = dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 10))
        .await
        .unwrap()
        .token;
    app.clock.advance(TimeDelta::milliseconds(9_999));
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    assert_eq!(sidecar.inactive_reason(&second).await, None);
    app.clock.advance(TimeDelta::milliseconds(1));
    assert_eq!(sidecar.inactive_reason(&made.token).await, ROTATED);
    assert_eq!(sidecar.inactive_reason(&second).await, None);
}

#[tokio::test]
async fn at_most_two_tokens_work_at_a_time() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let week = 7 * 24 * 3600;
    let second = dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, week))
        .await
        .unwrap()
        .token;
    let third = dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, week))
        .await
        .unwrap()
        .token;
    assert_eq!(
        sidecar.inactive_reason(&made.token).await,
        ROTATED,
        "its overlap was ended"
    );
    assert_eq!(sidecar.inactive_reason(&second).await, None);
    assert_eq!(sidecar.inactive_reason(&third).await, None);
    // Without an overlap the running one is ended as well.
    let fourth = dashboard
        .rotate(rotate(VERA, &made.id))
        .await
        .unwrap()
        .token;
    for old in [&made.token, &second, &third] {
        assert_eq!(sidecar.inactive_reason(old).await, ROTATED);
    }
    assert_eq!(sidecar.inactive_reason(&fourth).await, None);
}

#[tokio::test]
async fn a_rotation_that_names_a_stale_etag_ends_no_token() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let naming = |etag: &str| pb::RotateApiClientRequest {
        etag: etag.to_owned(),
        ..rotate_with_overlap(VERA, &made.id, 3600)
    };
    let first = dashboard.rotate(naming(&made.client.etag)).await.unwrap();
    app.clock.advance(TimeDelta::seconds(1));
    // The reply was lost, and the same is sent again.
    let before = app.everything().await;
    for stale in [made.client.etag.as_str(), "x"] {
        let refused = dashboard.rotate(naming(stale)).await;
        assert_eq!(told(&refused), "Aborted ETAG_MISMATCH");
    }
    assert_eq!(app.everything().await, before);
    for token in [&made.token, &first.token] {
        assert_eq!(sidecar.inactive_reason(token).await, None);
    }
    // With the etag of the client as it is now, the overlap that was running ends.
    let current = first.api_client.unwrap().etag;
    let second = dashboard.rotate(naming(&current)).await.unwrap();
    assert_eq!(sidecar.inactive_reason(&made.token).await, ROTATED);
    for token in [&first.token, &second.token] {
        assert_eq!(sidecar.inactive_reason(token).await, None);
    }
    // Left out, or empty, nothing is compared.
    dashboard.rotate(naming("")).await.unwrap();
    // An actor who may not see the client learns nothing of its etag.
    let stranger = pb::RotateApiClientRequest {
        actor: actor(EVE),
        ..naming("x")
    };
    let refused = dashboard.rotate(stranger).await;
    assert_eq!(told(&refused), "NotFound API_CLIENT_NOT_FOUND");
}

#[tokio::test]
async fn an_overlap_ends_with_the_client() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 5)))
        .await;
    dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 3600))
        .await
        .unwrap();
    // Put off by its owner, the expiry does not take the old token along.
    let never = pb::ApiClient {
        id: made.id.clone(),
        ..pb::ApiClient::default()
    };
    dashboard
        .update(update(VERA, never, &["expire_time"]))
        .await
        .unwrap();
    app.clock.advance(TimeDelta::seconds(5));
    assert_eq!(sidecar.inactive_reason(&made.token).await, ROTATED);
}

#[tokio::test]
async fn a_revocation_ends_both_tokens() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let second = dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 60))
        .await
        .unwrap()
        .token;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    for token in [&made.token, &second] {
        assert_eq!(
            sidecar.inactive_reason(token).await,
            Some(InactiveReason::Revoked)
        );
    }
}

#[tokio::test]
async fn only_an_active_client_is_rotated() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let revoked = dashboard.created(personal(VERA)).await.id;
    dashboard.revoke(revoke(VERA, &revoked)).await.unwrap();
    let expired = dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 1)))
        .await
        .id;
    app.clock.advance(TimeDelta::seconds(1));
    for id in [revoked, expired] {
        let before = app.everything().await;
        let refused = dashboard.rotate(rotate(VERA, &id)).await;
        assert_eq!(told(&refused), "FailedPrecondition API_CLIENT_INACTIVE");
        assert_eq!(app.everything().await, before);
    }
}

#[tokio::test]
async fn rotating_hands_out_everything_again() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Editor))
        .await;
    app.change([put_site_member(SITE, VERA, SiteRole::Viewer)])
        .await;
    let refused = dashboard.rotate(rotate(VERA, &made.id)).await;
    assert_eq!(told(&refused), "PermissionDenied DELEGATION_EXCEEDS_ACTOR");
    // Of the team's managers, the one who could make it can rotate it.
    let made = dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Owner))
        .await;
    let refused = dashboard.rotate(rotate(ADAM, &made.id)).await;
    assert_eq!(told(&refused), "PermissionDenied DELEGATION_EXCEEDS_ACTOR");
    dashboard.rotate(rotate(ALICE, &made.id)).await.unwrap();
}

#[tokio::test]
async fn only_whoever_manages_the_owner_rotates() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let hers = dashboard.created(personal(VERA)).await;
    let not_found = "NotFound API_CLIENT_NOT_FOUND";
    for (user, expected) in [
        (ALICE, not_found),
        (EVE, not_found),
        (NOBODY, not_found),
        (ROOT, "PermissionDenied OWNER_NOT_MANAGED"),
    ] {
        let refused = dashboard.rotate(rotate(user, &hers.id)).await;
        assert_eq!(told(&refused), expected, "{user}");
    }
    assert_eq!(app.sidecar().await.inactive_reason(&hers.token).await, None);
    let seen = dashboard
        .get(get(ROOT, &hers.id))
        .await
        .unwrap()
        .api_client
        .unwrap();
    assert_eq!(seen.state(), ApiClientState::Active);
    assert_eq!(seen.etag, hers.client.etag);
}

#[tokio::test]
async fn the_last_thousand_that_were_replaced_are_known() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let tokens = async |client: &str| {
        let sql = format!("SELECT count(*) FROM api_client_tokens WHERE client_id = '{client}'");
        app.number(&sql).await
    };
    let other = dashboard.created(personal(VERA)).await;
    dashboard.rotate(rotate(VERA, &other.id)).await.unwrap();
    let made = dashboard.created(personal(VERA)).await;
    let oldest = made.token;
    let mut newest = dashboard
        .rotate(rotate(VERA, &made.id))
        .await
        .unwrap()
        .token;
    // As if it had been rotated so often since.
    app.psql(&format!(
        "INSERT INTO api_client_tokens \
         SELECT sha256(n::text::bytea), client_id, hint, create_time, \
                end_time + interval '1 microsecond' \
         FROM api_client_tokens, generate_series(1, {MAX_REPLACED_TOKENS} - 2) AS n \
         WHERE client_id = '{}' AND end_time IS NOT NULL",
        made.id
    ))
    .await;
    app.settle().await;
    app.clock.advance(TimeDelta::seconds(1));
    let mut rotate_once = async || {
        let request = rotate_with_overlap(VERA, &made.id, 60);
        let replaced = newest.clone();
        newest = dashboard.rotate(request).await.unwrap().token;
        assert_eq!(sidecar.inactive_reason(&replaced).await, None);
        assert_eq!(sidecar.inactive_reason(&newest).await, None);
    };
    let all = i64::from(MAX_REPLACED_TOKENS) + 1;
    rotate_once().await;
    assert_eq!(tokens(&made.id).await, all);
    assert_eq!(sidecar.inactive_reason(&oldest).await, ROTATED);
    for _ in 0..2 {
        rotate_once().await;
        assert_eq!(tokens(&made.id).await, all);
        let unknown = Some(InactiveReason::UnknownToken);
        assert_eq!(sidecar.inactive_reason(&oldest).await, unknown);
    }
    assert_eq!(tokens(&other.id).await, 2, "another client's stay");
}
