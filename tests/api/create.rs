//! `CreateApiClient`: what is made, and what no actor may hand out.

use hitkeep_auth::{
    domain::caller::CallerPermission::Manage,
    pb::{self, ApiClientState, InstanceRole, SiteRole, TeamRole},
};
use http_body_util::BodyExt;
use prost::Message;
use tonic::{Code, Status};

use crate::{
    fixtures::*,
    harness::{TestApp, told, violations},
    layers::framed,
    raw::{ask_on, bearer, data},
};

#[tokio::test]
async fn a_personal_client_is_made_as_asked() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let request = personal(VERA)
        .granted(SECOND_SITE, SiteRole::Viewer)
        .granted(SITE, SiteRole::Editor)
        .named("  weekly report ")
        .expiring(in_seconds(&app, 60));
    let made = dashboard.created(request).await;
    assert_eq!(made.revision, 2, "one for the world, one for the client");
    insta::assert_debug_snapshot!(made.client);
    assert!(made.token.starts_with("hkp_"));
    assert_eq!(
        made.client.token_hint,
        format!("hkp_...{}", &made.token[49..])
    );
    let seen = dashboard.get(get(VERA, &made.id)).await.unwrap().api_client;
    assert_eq!(seen, Some(made.client));
}

#[tokio::test]
async fn a_team_client_is_made_by_whoever_manages_the_team() {
    let (_app, dashboard) = TestApp::with_dashboard().await;
    for manager in [ALICE, ADAM] {
        let made = dashboard
            .created(team_client(manager).granted(SITE, SiteRole::Admin))
            .await;
        assert_eq!(made.client.state(), ApiClientState::Active);
        assert_eq!(made.client.instance_role(), InstanceRole::User);
        assert_eq!(made.client.created_by_user_id, manager);
        assert!(made.token.starts_with("hkt_"));
    }
    for stranger in [VERA, EVE, ROOT, NOBODY] {
        let refused = dashboard.create(team_client(stranger)).await;
        assert_eq!(
            told(&refused),
            "PermissionDenied OWNER_NOT_MANAGED",
            "{stranger}"
        );
    }
}

#[tokio::test]
async fn nobody_makes_a_client_for_another_user() {
    let (_app, dashboard) = TestApp::with_dashboard().await;
    for actor_id in [ROOT, ALICE, EVE, NOBODY] {
        let request = pb::CreateApiClientRequest {
            actor: actor(actor_id),
            ..personal(VERA)
        };
        let refused = dashboard.create(request).await;
        assert_eq!(
            told(&refused),
            "PermissionDenied OWNER_NOT_MANAGED",
            "{actor_id}"
        );
    }
}

#[tokio::test]
async fn a_disabled_or_unknown_actor_makes_nothing() {
    let app = TestApp::with_world().await;
    app.change([put_user(ALICE, InstanceRole::Admin, true)])
        .await;
    let dashboard = app.dashboard().await;
    for request in [personal(ALICE), team_client(ALICE), personal(NOBODY)] {
        let refused = dashboard.create(request).await;
        assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
    }
}

#[tokio::test]
async fn an_archived_team_gets_no_client() {
    let app = TestApp::with_world().await;
    app.change([put_team(TEAM, true)]).await;
    let refused = app.dashboard().await.create(team_client(ALICE)).await;
    assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
}

#[tokio::test]
async fn nobody_delegates_more_than_they_hold() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let exceeds = "PermissionDenied DELEGATION_EXCEEDS_ACTOR";
    let outside = "PermissionDenied SITE_NOT_DELEGABLE";
    let unknown = "00000000-0000-7000-8000-00000000bbff";
    for (request, expected) in [
        // Vera is editor of the first site and viewer of the second.
        (personal(VERA).granted(SITE, SiteRole::Admin), exceeds),
        (
            personal(VERA).granted(SECOND_SITE, SiteRole::Editor),
            exceeds,
        ),
        (personal(VERA).with_role(InstanceRole::Admin), exceeds),
        (
            personal(VERA).granted(OTHER_SITE, SiteRole::Viewer),
            exceeds,
        ),
        (personal(VERA).granted(unknown, SiteRole::Viewer), outside),
        // Alice is an instance admin, and site owner of the team's sites.
        (personal(ALICE).with_role(InstanceRole::Owner), exceeds),
        (
            personal(ALICE).granted(OTHER_SITE, SiteRole::Viewer),
            exceeds,
        ),
        // Adam is a team admin, and so site admin, not owner.
        (team_client(ADAM).granted(SITE, SiteRole::Owner), exceeds),
        (
            team_client(ADAM).granted(OTHER_SITE, SiteRole::Viewer),
            outside,
        ),
        (
            team_client(ADAM).granted(unknown, SiteRole::Viewer),
            outside,
        ),
    ] {
        let before = app.everything().await;
        let refused = dashboard.create(request.clone()).await;
        assert_eq!(told(&refused), expected, "{request:?}");
        assert_eq!(app.everything().await, before);
    }
    // At the edge of each of these it is allowed.
    dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Editor))
        .await;
    dashboard
        .created(personal(ALICE).with_role(InstanceRole::Admin))
        .await;
    dashboard
        .created(personal(ALICE).granted(SITE, SiteRole::Owner))
        .await;
    dashboard
        .created(team_client(ADAM).granted(SITE, SiteRole::Admin))
        .await;
    dashboard
        .created(personal(ROOT).granted(OTHER_SITE, SiteRole::Owner))
        .await;
}

#[tokio::test]
async fn a_site_membership_narrows_what_the_team_role_gives() {
    let app = TestApp::with_world().await;
    app.change([put_site_member(SITE, ALICE, SiteRole::Viewer)])
        .await;
    let dashboard = app.dashboard().await;
    let refused = dashboard
        .create(team_client(ALICE).granted(SITE, SiteRole::Editor))
        .await;
    assert_eq!(told(&refused), "PermissionDenied DELEGATION_EXCEEDS_ACTOR");
    dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Viewer))
        .await;
}

#[tokio::test]
async fn a_site_membership_never_lifts_a_team_admin() {
    let app = TestApp::with_world().await;
    app.change([put_site_member(SITE, ADAM, SiteRole::Owner)])
        .await;
    let dashboard = app.dashboard().await;
    for owner_role in [personal(ADAM), team_client(ADAM)] {
        let refused = dashboard
            .create(owner_role.granted(SITE, SiteRole::Owner))
            .await;
        assert_eq!(told(&refused), "PermissionDenied DELEGATION_EXCEEDS_ACTOR");
    }
    dashboard
        .created(personal(ADAM).granted(SITE, SiteRole::Admin))
        .await;
    app.change([put_team_member(TEAM, ADAM, TeamRole::Owner)])
        .await;
    dashboard
        .created(personal(ADAM).granted(SITE, SiteRole::Owner))
        .await;
}

#[tokio::test]
async fn a_team_client_has_no_instance_role() {
    let (_app, dashboard) = TestApp::with_dashboard().await;
    let refused = dashboard
        .create(team_client(ALICE).with_role(InstanceRole::Admin))
        .await;
    assert_eq!(violations(&refused), ["api_client.instance_role"]);
    dashboard
        .created(team_client(ALICE).with_role(InstanceRole::User))
        .await;
}

#[tokio::test]
async fn the_expiry_must_be_in_the_future() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    for seconds in [-1, 0] {
        let refused = dashboard
            .create(personal(VERA).expiring(in_seconds(&app, seconds)))
            .await;
        assert_eq!(violations(&refused), ["api_client.expire_time"]);
    }
    dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 1)))
        .await;
}

#[tokio::test]
async fn an_owner_has_a_hundred_clients_at_most() {
    let (_app, dashboard) = TestApp::with_dashboard().await;
    let mut last = None;
    for _ in 0..100 {
        last = Some(dashboard.created(personal(VERA)).await);
    }
    let refused = dashboard.create(personal(VERA)).await;
    assert_eq!(told(&refused), "ResourceExhausted API_CLIENT_QUOTA");
    // Other owners have their own hundred.
    dashboard.created(personal(ALICE)).await;
    // A revoked client counts, since it can be reactivated; a deleted one does not.
    let last = last.unwrap().id;
    dashboard.revoke(revoke(VERA, &last)).await.unwrap();
    assert_eq!(
        told(&dashboard.create(personal(VERA)).await),
        "ResourceExhausted API_CLIENT_QUOTA"
    );
    dashboard.delete(delete(VERA, &last)).await.unwrap();
    dashboard.created(personal(VERA)).await;
}

/// The token is revealed once: who made it must not lose it to a wait for the index.
#[tokio::test]
async fn what_was_committed_is_told_in_time_though_the_index_does_not_have_it() {
    let app = TestApp::with_world().await;
    // The feed reads it, and the creation of a client without grants does not.
    let blocker = app
        .hold("LOCK TABLE site_members IN ACCESS EXCLUSIVE MODE")
        .await;
    // Time enough to commit. A client of tonic's would give up by itself in the end, however
    // soon the server's word comes.
    let (io, theirs) = tokio::io::duplex(64 * 1024);
    app.connect(theirs);
    let bearer = bearer(app.token(Manage));
    let headers = [("authorization", &*bearer), ("grpc-timeout", "3S")];
    let path = "/hitkeep.auth.v1.ApiClientService/CreateApiClient";
    let message = tokio_stream::once(data(&framed(&personal(VERA))));
    let call = ask_on(io, &headers, path, message, 65_535).await;
    let answer = call.answers.into_body().collect().await.unwrap();
    let trailers = answer.trailers().cloned().unwrap();
    assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Ok);
    let made = pb::CreateApiClientResponse::decode(&answer.to_bytes()[5..]).unwrap();
    blocker.release().await;
    let sidecar = app.sidecar().await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
}
