//! `RevokeApiClient`, `ReactivateApiClient` and `DeleteApiClient`.

use chrono::TimeDelta;
use hitkeep_auth::pb::{ApiClientState, InactiveReason, SiteRole};

use crate::{
    fixtures::*,
    harness::{TestApp, told},
};

const NOT_FOUND: &str = "NotFound API_CLIENT_NOT_FOUND";

#[tokio::test]
async fn revoking_again_keeps_the_first_time() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    app.clock.advance(TimeDelta::seconds(1));
    let first = dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    let client = first.api_client.clone().unwrap();
    assert_eq!(client.state(), ApiClientState::Revoked);
    assert_eq!(client.revoke_time, Some(in_seconds(&app, 0)));
    assert_eq!(first.revision, made.revision + 1);
    assert_eq!(
        sidecar.inactive_reason(&made.token).await,
        Some(InactiveReason::Revoked)
    );
    app.clock.advance(TimeDelta::seconds(1));
    let before = app.everything().await;
    let second = dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    assert_eq!(second, first);
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn a_reactivated_client_works_again() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Editor))
        .await;
    for _ in 0..2 {
        dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
        let back = dashboard
            .reactivate(reactivate(VERA, &made.id))
            .await
            .unwrap();
        let client = back.api_client.unwrap();
        assert_eq!(client.state(), ApiClientState::Active);
        assert_eq!(client.revoke_time, None);
        assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    }
    // A client that is not revoked is already what was asked for.
    let before = app.everything().await;
    dashboard
        .reactivate(reactivate(VERA, &made.id))
        .await
        .unwrap();
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn reactivating_hands_out_everything_again() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Editor))
        .await;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    app.change([put_site_member(SITE, VERA, SiteRole::Viewer)])
        .await;
    let refused = dashboard.reactivate(reactivate(VERA, &made.id)).await;
    assert_eq!(told(&refused), "PermissionDenied DELEGATION_EXCEEDS_ACTOR");
    assert_eq!(
        sidecar.inactive_reason(&made.token).await,
        Some(InactiveReason::Revoked)
    );
}

#[tokio::test]
async fn nothing_reactivates_an_expired_client() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 1)))
        .await;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    app.clock.advance(TimeDelta::seconds(1));
    let refused = dashboard.reactivate(reactivate(VERA, &made.id)).await;
    assert_eq!(told(&refused), "FailedPrecondition API_CLIENT_INACTIVE");
}

#[tokio::test]
async fn revoking_and_deleting_need_no_delegation() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Editor))
        .await;
    let teams = dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Owner))
        .await;
    app.change([delete_team_member(TEAM, VERA)]).await;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    dashboard.delete(delete(VERA, &made.id)).await.unwrap();
    dashboard.revoke(revoke(ADAM, &teams.id)).await.unwrap();
    dashboard.delete(delete(ADAM, &teams.id)).await.unwrap();
}

#[tokio::test]
async fn a_deleted_client_is_gone() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Editor))
        .await;
    dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 60))
        .await
        .unwrap();
    let gone = dashboard.delete(delete(VERA, &made.id)).await.unwrap();
    assert_eq!(gone.revision, made.revision + 2);
    let reason = sidecar.inactive_reason(&made.token).await;
    assert_eq!(reason, Some(InactiveReason::UnknownToken));
    assert_eq!(told(&dashboard.get(get(VERA, &made.id)).await), NOT_FOUND);
    assert_eq!(
        told(&dashboard.delete(delete(VERA, &made.id)).await),
        NOT_FOUND
    );
    assert_eq!(
        told(&dashboard.revoke(revoke(VERA, &made.id)).await),
        NOT_FOUND
    );
    assert_eq!(
        app.number("SELECT count(*) FROM api_client_tokens").await,
        0
    );
    assert_eq!(
        app.number("SELECT count(*) FROM api_client_grants").await,
        0
    );
}

#[tokio::test]
async fn an_instance_owner_answers_an_incident() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    for request in [personal(VERA), team_client(ALICE)] {
        let made = dashboard.created(request).await;
        dashboard.revoke(revoke(ROOT, &made.id)).await.unwrap();
        let reason = sidecar.inactive_reason(&made.token).await;
        assert_eq!(reason, Some(InactiveReason::Revoked));
        let refused = dashboard.reactivate(reactivate(ROOT, &made.id)).await;
        assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
        dashboard.delete(delete(ROOT, &made.id)).await.unwrap();
    }
}

#[tokio::test]
async fn nobody_else_revokes_or_deletes() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let hers = dashboard.created(personal(VERA)).await.id;
    let teams = dashboard.created(team_client(ALICE)).await.id;
    for (user, id) in [
        (ALICE, &hers),
        (EVE, &hers),
        (NOBODY, &hers),
        (VERA, &teams),
        (EVE, &teams),
    ] {
        assert_eq!(told(&dashboard.revoke(revoke(user, id)).await), NOT_FOUND);
        assert_eq!(
            told(&dashboard.reactivate(reactivate(user, id)).await),
            NOT_FOUND
        );
        assert_eq!(told(&dashboard.delete(delete(user, id)).await), NOT_FOUND);
    }
    assert_eq!(
        app.number("SELECT count(*) FROM api_clients WHERE revoke_time IS NULL")
            .await,
        2
    );
}

/// The row of the newest token was removed by hand. The one before it works on, so
/// its client must not be out of everybody's reach.
#[tokio::test]
async fn a_client_without_its_newest_token_can_be_ended_and_mended() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let (mut made, mut lost) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let client = dashboard.created(personal(VERA)).await;
        let overlapping = rotate_with_overlap(VERA, &client.id, 60);
        lost.push(dashboard.rotate(overlapping).await.unwrap().token);
        made.push(client);
    }
    app.psql("DELETE FROM api_client_tokens WHERE end_time IS NULL")
        .await;
    app.settle().await;

    let seen = dashboard.get(get(VERA, &made[0].id)).await.unwrap();
    assert_eq!(seen.api_client.unwrap().token_hint, "");
    let listed = dashboard.list(list(VERA, of_user(VERA))).await.unwrap();
    assert_eq!(listed.api_clients.len(), 3);
    for client in &made {
        assert_eq!(sidecar.inactive_reason(&client.token).await, None);
    }
    let unknown = Some(InactiveReason::UnknownToken);
    for token in &lost {
        assert_eq!(sidecar.inactive_reason(token).await, unknown);
    }

    dashboard.revoke(revoke(VERA, &made[0].id)).await.unwrap();
    dashboard.delete(delete(VERA, &made[1].id)).await.unwrap();
    let rotated = dashboard.rotate(rotate(VERA, &made[2].id)).await.unwrap();
    let reasons = [
        InactiveReason::Revoked,
        InactiveReason::UnknownToken,
        InactiveReason::TokenRotated,
    ];
    for (client, reason) in made.iter().zip(reasons) {
        assert_eq!(sidecar.inactive_reason(&client.token).await, Some(reason));
    }
    assert_eq!(sidecar.inactive_reason(&rotated.token).await, None);
    // Once more, as any other.
    dashboard.rotate(rotate(VERA, &made[2].id)).await.unwrap();
}
