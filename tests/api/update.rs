//! `UpdateApiClient`: only what the mask names, and only what the actor could
//! delegate at this moment.

use chrono::TimeDelta;
use hitkeep_auth::pb::{self, ApiClientState, InactiveReason, InstanceRole, SiteRole};

use crate::{
    fixtures::*,
    harness::{TestApp, told, violations},
};

const EXCEEDS: &str = "PermissionDenied DELEGATION_EXCEEDS_ACTOR";
const ALL: [&str; 1] = ["*"];

#[tokio::test]
async fn only_what_the_mask_names_is_changed() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let expiry = in_seconds(&app, 60);
    let made = personal(VERA)
        .granted(SITE, SiteRole::Viewer)
        .expiring(expiry);
    let made = dashboard.created(made).await;
    app.clock.advance(TimeDelta::seconds(1));
    let other = pb::ApiClient {
        id: made.id.clone(),
        name: " another name ".to_owned(),
        description: "described".to_owned(),
        ..pb::ApiClient::default()
    };
    let changed = dashboard
        .update(update(VERA, other, &["name"]))
        .await
        .unwrap();
    let client = changed.api_client.unwrap();
    let expected = pb::ApiClient {
        name: "another name".to_owned(),
        update_time: Some(in_seconds(&app, 0)),
        etag: client.etag.clone(),
        ..made.client.clone()
    };
    assert_eq!(client, expected);
    assert_ne!(client.etag, made.client.etag);
    assert_eq!(changed.revision, made.revision + 1);
    assert_eq!(
        dashboard.get(get(VERA, &made.id)).await.unwrap().api_client,
        Some(client)
    );
}

#[tokio::test]
async fn a_star_stands_for_every_field_and_clears_what_is_left_out() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = personal(ALICE)
        .granted(SITE, SiteRole::Viewer)
        .with_role(InstanceRole::Admin)
        .expiring(in_seconds(&app, 60));
    let id = dashboard.created(made).await.id;
    let bare = pb::ApiClient {
        id,
        name: "bare".to_owned(),
        ..pb::ApiClient::default()
    };
    let cleared = dashboard
        .update(update(ALICE, bare.clone(), &ALL))
        .await
        .unwrap();
    let cleared = cleared.api_client.unwrap();
    assert_eq!(cleared.name, "bare");
    assert_eq!(cleared.instance_role(), InstanceRole::User);
    assert!(cleared.site_grants.is_empty());
    assert_eq!(cleared.expire_time, None);
    // A name cannot be cleared.
    let nameless = pb::ApiClient {
        name: String::new(),
        ..bare
    };
    let refused = dashboard.update(update(ALICE, nameless, &ALL)).await;
    assert_eq!(violations(&refused), ["api_client.name"]);
}

#[tokio::test]
async fn what_is_widened_must_be_the_actors_to_give() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let granting = |grants: &[pb::SiteGrant]| pb::ApiClient {
        id: made.id.clone(),
        site_grants: grants.to_vec(),
        ..pb::ApiClient::default()
    };
    let role = |role: InstanceRole| pb::ApiClient {
        instance_role: Some(role.into()),
        ..granting(&[])
    };
    let viewer = grant(SITE, SiteRole::Viewer);
    let before = app.everything().await;
    for (client, mask, expected) in [
        (
            granting(&[grant(SITE, SiteRole::Admin)]),
            "site_grants",
            EXCEEDS,
        ),
        (
            granting(&[viewer.clone(), grant(SECOND_SITE, SiteRole::Editor)]),
            "site_grants",
            EXCEEDS,
        ),
        (
            granting(&[viewer.clone(), grant(OTHER_SITE, SiteRole::Viewer)]),
            "site_grants",
            EXCEEDS,
        ),
        (
            granting(&[viewer.clone(), grant(NOBODY, SiteRole::Viewer)]),
            "site_grants",
            "PermissionDenied SITE_NOT_DELEGABLE",
        ),
        (role(InstanceRole::Admin), "instance_role", EXCEEDS),
    ] {
        let refused = dashboard.update(update(VERA, client, &[mask])).await;
        assert_eq!(told(&refused), expected);
        assert_eq!(app.everything().await, before);
    }
    let raised = granting(&[grant(SITE, SiteRole::Editor)]);
    dashboard
        .update(update(VERA, raised, &["site_grants"]))
        .await
        .unwrap();
}

/// Vera made a client as an editor, and was demoted since.
async fn outgrown(app: &TestApp) -> (crate::harness::Caller, Created) {
    let dashboard = app.dashboard().await;
    let request = personal(VERA)
        .granted(SITE, SiteRole::Editor)
        .granted(SECOND_SITE, SiteRole::Viewer)
        .expiring(in_seconds(app, 60));
    let made = dashboard.created(request).await;
    app.change([put_site_member(SITE, VERA, SiteRole::Viewer)])
        .await;
    (dashboard, made)
}

#[tokio::test]
async fn what_is_not_widened_needs_no_delegation() {
    let app = TestApp::with_world().await;
    let (dashboard, made) = outgrown(&app).await;
    let bare = pb::ApiClient {
        id: made.id.clone(),
        ..pb::ApiClient::default()
    };
    let renamed = pb::ApiClient {
        name: "renamed".to_owned(),
        ..bare.clone()
    };
    let same_grants = pb::ApiClient {
        site_grants: made.client.site_grants.clone(),
        ..renamed.clone()
    };
    let narrowed = pb::ApiClient {
        site_grants: vec![grant(SITE, SiteRole::Viewer)],
        ..bare
    };
    let sooner = pb::ApiClient {
        expire_time: Some(in_seconds(&app, 30)),
        ..narrowed.clone()
    };
    for (client, mask) in [
        (renamed, vec!["name", "description"]),
        (same_grants, vec!["name", "site_grants"]),
        (narrowed, vec!["site_grants"]),
        (sooner, vec!["expire_time"]),
    ] {
        dashboard
            .update(update(VERA, client, &mask))
            .await
            .expect("it only takes away");
    }
}

#[tokio::test]
async fn a_later_expiry_widens_everything_that_the_client_carries() {
    let app = TestApp::with_world().await;
    let (dashboard, made) = outgrown(&app).await;
    let later = |expire_time| pb::ApiClient {
        id: made.id.clone(),
        expire_time,
        site_grants: vec![grant(SITE, SiteRole::Viewer)],
        ..pb::ApiClient::default()
    };
    for expire_time in [Some(in_seconds(&app, 61)), None] {
        let refused = dashboard
            .update(update(VERA, later(expire_time), &["expire_time"]))
            .await;
        assert_eq!(told(&refused), EXCEEDS);
        // Together with what takes the excess away it is allowed.
        let both = update(VERA, later(expire_time), &["expire_time", "site_grants"]);
        dashboard
            .update(both)
            .await
            .expect("what is left is Vera's to give");
        // And back to where the test began.
        app.change([put_site_member(SITE, VERA, SiteRole::Editor)])
            .await;
        let whole = pb::ApiClient {
            site_grants: made.client.site_grants.clone(),
            expire_time: made.client.expire_time,
            ..later(None)
        };
        let back = update(VERA, whole, &["expire_time", "site_grants"]);
        dashboard.update(back).await.unwrap();
        app.change([put_site_member(SITE, VERA, SiteRole::Viewer)])
            .await;
    }
}

#[tokio::test]
async fn a_dormant_grant_stands_in_the_way_of_a_later_expiry_only() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let request = team_client(ALICE)
        .granted(SITE, SiteRole::Viewer)
        .expiring(in_seconds(&app, 60));
    let made = dashboard.created(request).await;
    app.change([put_site(SITE, OTHER_TEAM)]).await;
    let client = pb::ApiClient {
        name: "renamed".to_owned(),
        expire_time: None,
        ..made.client
    };
    let refused = dashboard
        .update(update(ALICE, client.clone(), &["expire_time"]))
        .await;
    // The etag is of the client as it was made, and still fits.
    assert_eq!(told(&refused), "PermissionDenied SITE_NOT_DELEGABLE");
    dashboard
        .update(update(ALICE, client, &["name"]))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_expired_client_is_revived_by_whoever_could_make_it() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 60)))
        .await;
    app.clock.advance(TimeDelta::seconds(60));
    assert_eq!(
        sidecar.inactive_reason(&made.token).await,
        Some(InactiveReason::Expired)
    );
    let later = pb::ApiClient {
        id: made.id,
        expire_time: Some(in_seconds(&app, 60)),
        ..pb::ApiClient::default()
    };
    let revived = dashboard
        .update(update(VERA, later, &["expire_time"]))
        .await
        .unwrap();
    assert_eq!(revived.api_client.unwrap().state(), ApiClientState::Active);
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
}

#[tokio::test]
async fn an_overlap_does_not_come_back_with_a_later_expiry() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 1000)))
        .await;
    dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 500))
        .await
        .unwrap();
    let expiring = |seconds| pb::ApiClient {
        id: made.id.clone(),
        expire_time: Some(in_seconds(&app, seconds)),
        ..pb::ApiClient::default()
    };
    dashboard
        .update(update(VERA, expiring(10), &["expire_time"]))
        .await
        .unwrap();
    dashboard
        .update(update(VERA, expiring(1000), &["expire_time"]))
        .await
        .unwrap();
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    app.clock.advance(TimeDelta::seconds(10));
    assert_eq!(
        sidecar.inactive_reason(&made.token).await,
        Some(InactiveReason::TokenRotated)
    );
}

#[tokio::test]
async fn an_etag_must_match_where_one_is_sent() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let named = |name: &str, etag: &str| pb::ApiClient {
        id: made.id.clone(),
        name: name.to_owned(),
        etag: etag.to_owned(),
        ..pb::ApiClient::default()
    };
    let first = dashboard
        .update(update(VERA, named("first", &made.client.etag), &["name"]))
        .await;
    let etag = first.unwrap().api_client.unwrap().etag;
    let before = app.everything().await;
    for stale in [made.client.etag.as_str(), "x"] {
        let refused = dashboard
            .update(update(VERA, named("second", stale), &["name"]))
            .await;
        assert_eq!(told(&refused), "Aborted ETAG_MISMATCH");
    }
    assert_eq!(app.everything().await, before);
    // Rotating, revoking and reactivating change it as well; introspecting does not.
    dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
    let refused = dashboard
        .update(update(VERA, named("third", &etag), &["name"]))
        .await;
    assert_eq!(told(&refused), "Aborted ETAG_MISMATCH");
    dashboard
        .update(update(VERA, named("fourth", ""), &["name"]))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_update_that_changes_nothing_leaves_no_trace() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    app.clock.advance(TimeDelta::seconds(1));
    let before = app.everything().await;
    let same = dashboard
        .update(update(VERA, made.client.clone(), &ALL))
        .await
        .unwrap();
    assert_eq!(same.api_client, Some(made.client));
    assert_eq!(same.revision, made.revision);
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn a_new_description_alone_makes_no_revision() {
    let (_app, dashboard, made) = TestApp::with_client().await;
    let described = pb::ApiClient {
        description: "new".to_owned(),
        ..made.client.clone()
    };
    let changed = dashboard
        .update(update(VERA, described, &["description"]))
        .await
        .unwrap();
    // No answer of Introspect is another, but the client is.
    assert_eq!(changed.revision, made.revision);
    let client = changed.api_client.unwrap();
    assert_eq!(client.description, "new");
    assert_ne!(client.etag, made.client.etag);
    let renamed = pb::ApiClient {
        name: "new".to_owned(),
        etag: String::new(),
        ..client
    };
    let changed = dashboard
        .update(update(VERA, renamed, &["name"]))
        .await
        .unwrap();
    assert_eq!(changed.revision, made.revision + 1);
}

#[tokio::test]
async fn only_whoever_manages_the_owner_updates() {
    let (_app, dashboard) = TestApp::with_dashboard().await;
    let hers = dashboard.created(personal(VERA)).await.id;
    let teams = dashboard.created(team_client(ALICE)).await.id;
    let renamed = |id: &str| pb::ApiClient {
        id: id.to_owned(),
        name: "renamed".to_owned(),
        ..pb::ApiClient::default()
    };
    let not_found = "NotFound API_CLIENT_NOT_FOUND";
    let not_managed = "PermissionDenied OWNER_NOT_MANAGED";
    for (user, id, expected) in [
        (ALICE, &hers, not_found),
        (NOBODY, &hers, not_found),
        (VERA, &teams, not_found),
        (EVE, &teams, not_found),
        // Sees everything, to answer an incident, and changes nothing.
        (ROOT, &hers, not_managed),
        (ROOT, &teams, not_managed),
    ] {
        let refused = dashboard.update(update(user, renamed(id), &["name"])).await;
        assert_eq!(told(&refused), expected, "{user}");
    }
    dashboard
        .update(update(ADAM, renamed(&teams), &["name"]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_team_client_never_gets_an_instance_role() {
    let (_app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard.created(team_client(ALICE)).await;
    let admin = pb::ApiClient {
        instance_role: Some(InstanceRole::Admin.into()),
        ..made.client.clone()
    };
    let refused = dashboard
        .update(update(ALICE, admin, &["instance_role"]))
        .await;
    assert_eq!(violations(&refused), ["api_client.instance_role"]);
    let cleared = pb::ApiClient {
        instance_role: None,
        ..made.client
    };
    dashboard
        .update(update(ALICE, cleared, &["instance_role"]))
        .await
        .unwrap();
}
