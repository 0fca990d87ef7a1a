//! Writes that are sent again with their request id: the first reply, and nothing done.

use chrono::TimeDelta;
use futures_util::future::join_all;
use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{self, InactiveReason, InstanceRole, SiteRole, TeamRole},
    server,
};
use tonic::Status;

use crate::{
    fixtures::*,
    harness::{TestApp, make_account, told, violations},
};

mod lost;
mod sealed;

/// Ids that a caller made for its requests.
const ID: &str = "7a1c3f0e-9b2d-4e5f-8a6b-1c2d3e4f5a6b";
const OTHER_ID: &str = "b3d94c1a-52f7-4c0e-9d18-66aa0f2e7c31";
const REQUESTS: &str = "SELECT count(*) FROM api_client_requests";
const REPLIES: &str = "SELECT count(*) FROM api_client_replies";
const CLIENTS: &str = "SELECT count(*) FROM api_clients";
const GONE: &str = "FailedPrecondition REPLY_GONE";

/// The same request with that id.
trait Identified {
    fn with_id(self, id: &str) -> Self;
}

impl Identified for pb::CreateApiClientRequest {
    fn with_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.request_id);
        self
    }
}

impl Identified for pb::RotateApiClientRequest {
    fn with_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.request_id);
        self
    }
}

/// An id like no other in the test.
fn id(number: u32) -> String {
    format!("{number:08x}-9b2d-4e5f-8a6b-1c2d3e4f5a6b")
}

fn is_refused_for_its_id<T: std::fmt::Debug>(refused: &Result<T, Status>) {
    assert_eq!(violations(refused), ["request_id"]);
}

#[tokio::test]
async fn a_creation_that_is_sent_again_gets_its_first_reply() {
    let mut options = server::Options::default();
    options.grpc.max_clients_per_owner = 1;
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let request = personal(VERA)
        .granted(SITE, SiteRole::Viewer)
        .granted(SECOND_SITE, SiteRole::Viewer)
        .with_id(ID);
    let first = dashboard.create(request.clone()).await.unwrap();
    app.clock.advance(TimeDelta::seconds(1));
    let before = app.everything().await;
    let again = dashboard.create(request.clone()).await.unwrap();
    assert_eq!(again, first);
    // In another order, with blanks around the name, from another address.
    let mut alike = request.clone();
    let client = alike.api_client.as_mut().unwrap();
    client.site_grants.reverse();
    client.name = format!(" {} ", client.name);
    client.instance_role = Some(InstanceRole::User.into());
    client.etag = "ignored".to_owned();
    let actor = alike.actor.as_mut().unwrap();
    actor.ip_address = "192.0.2.7".to_owned();
    actor.user_agent = "another one".to_owned();
    assert_eq!(dashboard.create(alike).await.unwrap(), first);
    assert_eq!(app.everything().await, before, "nothing is done");
    assert_eq!(sidecar.inactive_reason(&first.token).await, None);
    // The quota is for what is made.
    let more = dashboard.create(request.clone().with_id(OTHER_ID)).await;
    assert_eq!(told(&more), "ResourceExhausted API_CLIENT_QUOTA");
    // It is the reply of that moment, whatever became of the client.
    let renamed = pb::ApiClient {
        id: first.api_client.as_ref().unwrap().id.clone(),
        name: "renamed".to_owned(),
        ..pb::ApiClient::default()
    };
    dashboard
        .update(update(VERA, renamed, &["name"]))
        .await
        .unwrap();
    assert_eq!(dashboard.create(request).await.unwrap(), first);
}

#[tokio::test]
async fn a_rotation_that_is_sent_again_ends_no_token() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let request = pb::RotateApiClientRequest {
        etag: made.client.etag.clone(),
        ..rotate_with_overlap(VERA, &made.id, 3600).with_id(ID)
    };
    let first = dashboard.rotate(request.clone()).await.unwrap();
    app.clock.advance(TimeDelta::seconds(3599));
    let before = app.everything().await;
    // The etag is no longer the client's, since the first one was made.
    let again = dashboard.rotate(request.clone()).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(app.everything().await, before, "nothing is done");
    for token in [&made.token, &first.token] {
        assert_eq!(sidecar.inactive_reason(token).await, None);
    }
    app.clock.advance(TimeDelta::seconds(1));
    assert_eq!(dashboard.rotate(request).await.unwrap(), first);
    let rotated = Some(InactiveReason::TokenRotated);
    assert_eq!(sidecar.inactive_reason(&made.token).await, rotated);
    assert_eq!(sidecar.inactive_reason(&first.token).await, None);
}

#[tokio::test]
async fn an_id_is_refused_with_another_request() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let request = || {
        let sites = personal(VERA).granted(SITE, SiteRole::Viewer);
        sites.expiring(in_seconds(&app, 60)).with_id(ID)
    };
    let first = dashboard.create(request()).await.unwrap();
    let client = first.api_client.as_ref().unwrap().id.clone();
    let rotation = || rotate_with_overlap(VERA, &client, 60).with_id(OTHER_ID);
    dashboard.rotate(rotation()).await.unwrap();
    let before = app.everything().await;
    let changed = |change: &dyn Fn(&mut pb::ApiClient)| {
        let mut other = request();
        change(other.api_client.as_mut().unwrap());
        other
    };
    for other in [
        request().named("another"),
        request().with_role(InstanceRole::Admin),
        request().granted(SECOND_SITE, SiteRole::Viewer),
        request().expiring(in_seconds(&app, 61)),
        changed(&|client| client.expire_time = None),
        changed(&|client| client.description = "described".to_owned()),
        changed(&|client| client.site_grants[0].role = SiteRole::Editor.into()),
        changed(&|client| client.site_grants.clear()),
        changed(&|client| client.owner = of_team(TEAM)),
        changed(&|client| client.owner = of_user(ALICE)),
        pb::CreateApiClientRequest {
            actor: actor(ALICE),
            ..request()
        },
        request().with_id(OTHER_ID),
    ] {
        is_refused_for_its_id(&dashboard.create(other).await);
    }
    let other_client = dashboard.created(personal(VERA)).await.id;
    let before_rotations = app.everything().await;
    for other in [
        rotate_with_overlap(VERA, &client, 61).with_id(OTHER_ID),
        rotate(VERA, &client).with_id(OTHER_ID),
        rotate_with_overlap(ALICE, &client, 60).with_id(OTHER_ID),
        rotate_with_overlap(VERA, &other_client, 60).with_id(OTHER_ID),
        rotation().with_id(ID),
        pb::RotateApiClientRequest {
            etag: "x".to_owned(),
            ..rotation()
        },
    ] {
        is_refused_for_its_id(&dashboard.rotate(other).await);
    }
    assert_eq!(app.everything().await, before_rotations);
    assert_ne!(before, before_rotations);
    dashboard.rotate(rotation()).await.expect("the same");
}

#[tokio::test]
async fn ids_that_are_none_are_refused_with_all_else_that_is_wrong() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let before = app.everything().await;
    for bad in [
        "x",
        " ",
        "00000000-0000-0000-0000-000000000000",
        &ID.to_uppercase(),
        &ID.replace('-', ""),
        &format!("{{{ID}}}"),
        &format!("{ID} "),
        &made.token,
    ] {
        let refused = dashboard.create(personal(VERA).with_id(bad)).await;
        is_refused_for_its_id(&refused);
        let refused = dashboard.rotate(rotate(VERA, &made.id).with_id(bad)).await;
        is_refused_for_its_id(&refused);
    }
    let refused = dashboard.create(personal("x").named("").with_id("x")).await;
    assert_eq!(
        violations(&refused),
        [
            "actor.user_id",
            "api_client.owner.user_id",
            "api_client.name",
            "request_id"
        ]
    );
    let refused = dashboard.rotate(rotate("x", "x").with_id("x")).await;
    assert_eq!(violations(&refused), ["actor.user_id", "id", "request_id"]);
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn another_account_has_ids_of_its_own() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let token = make_account(&app.store, "other", &[CallerPermission::Manage]).await;
    let other = app.caller(&token).await;
    let request = personal(VERA).with_id(ID);
    let hers = dashboard.create(request.clone()).await.unwrap();
    let theirs = other.create(request.clone()).await.unwrap();
    assert_ne!(theirs.token, hers.token);
    assert_eq!(app.number(CLIENTS).await, 2);
    assert_eq!(dashboard.create(request.clone()).await.unwrap(), hers);
    assert_eq!(other.create(request.clone()).await.unwrap(), theirs);
    // With its account, all that it could have asked for again is gone.
    app.psql("UPDATE service_accounts SET revoke_time = now() WHERE name = 'other'")
        .await;
    app.settle().await;
    let refused = other.create(request.clone()).await;
    assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
    assert_eq!(
        (app.number(REQUESTS).await, app.number(REPLIES).await),
        (1, 1)
    );
    assert_eq!(dashboard.create(request).await.unwrap(), hers);
}

#[tokio::test]
async fn an_id_is_remembered_for_24_hours() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let request = personal(VERA).with_id(ID);
    let first = dashboard.create(request.clone()).await.unwrap();
    app.clock
        .advance(TimeDelta::hours(24) - TimeDelta::microseconds(1));
    assert_eq!(dashboard.create(request.clone()).await.unwrap(), first);
    app.clock.advance(TimeDelta::microseconds(1));
    let second = dashboard.create(request.clone()).await.unwrap();
    assert_ne!(second.token, first.token);
    assert_eq!(dashboard.create(request).await.unwrap(), second);
    assert_eq!(app.number(CLIENTS).await, 2);
    assert_eq!(
        (app.number(REQUESTS).await, app.number(REPLIES).await),
        (1, 1)
    );
    // Another request may use an id of long ago.
    app.clock.advance(TimeDelta::hours(24));
    let made = second.api_client.unwrap().id;
    let request = rotate(VERA, &made).with_id(ID);
    let rotated = dashboard.rotate(request.clone()).await.unwrap();
    assert_eq!(dashboard.rotate(request).await.unwrap(), rotated);
}

#[tokio::test]
async fn a_reply_goes_with_its_token_and_the_write_is_not_made_twice() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let creation = |number| personal(VERA).with_id(&id(number));
    let made = async |number| {
        let made = dashboard.create(creation(number)).await.unwrap();
        made.api_client.unwrap().id
    };
    let gone = async |number| {
        let before = app.everything().await;
        let refused = dashboard.create(creation(number)).await;
        assert_eq!(told(&refused), GONE);
        assert_eq!(app.everything().await, before);
    };

    let rotated = made(1).await;
    dashboard.rotate(rotate(VERA, &rotated)).await.unwrap();
    gone(1).await;
    let revoked = made(2).await;
    dashboard.revoke(revoke(VERA, &revoked)).await.unwrap();
    gone(2).await;
    dashboard
        .reactivate(reactivate(VERA, &revoked))
        .await
        .unwrap();
    gone(2).await;
    let deleted = made(3).await;
    dashboard.delete(delete(VERA, &deleted)).await.unwrap();
    gone(3).await;
    let by_hand = made(4).await;
    app.psql(&format!(
        "UPDATE api_clients SET revoke_time = now() WHERE id = '{by_hand}'; \
         UPDATE api_clients SET revoke_time = NULL WHERE id = '{by_hand}'"
    ))
    .await;
    gone(4).await;
    assert_eq!(app.number(REPLIES).await, 0);

    // Of rotations: the one before the last, and all of a client that was revoked.
    let first = rotate_with_overlap(VERA, &rotated, 60).with_id(&id(10));
    let second = rotate_with_overlap(VERA, &rotated, 60).with_id(&id(11));
    let first_token = dashboard.rotate(first.clone()).await.unwrap().token;
    let newest = dashboard.rotate(second.clone()).await.unwrap();
    assert_eq!(app.number(REPLIES).await, 1);
    assert_eq!(told(&dashboard.rotate(first).await), GONE);
    for token in [&first_token, &newest.token] {
        assert_eq!(sidecar.inactive_reason(token).await, None);
    }
    assert_eq!(dashboard.rotate(second.clone()).await.unwrap(), newest);
    // Its token's overlap is another matter than the newest token.
    let sooner = pb::ApiClient {
        id: rotated.clone(),
        expire_time: Some(in_seconds(&app, 30)),
        ..pb::ApiClient::default()
    };
    dashboard
        .update(update(VERA, sooner, &["expire_time"]))
        .await
        .unwrap();
    assert_eq!(dashboard.rotate(second.clone()).await.unwrap(), newest);
    dashboard.revoke(revoke(VERA, &rotated)).await.unwrap();
    let inactive = dashboard.rotate(second.clone()).await;
    assert_eq!(told(&inactive), "FailedPrecondition API_CLIENT_INACTIVE");
    dashboard
        .reactivate(reactivate(VERA, &rotated))
        .await
        .unwrap();
    assert_eq!(told(&dashboard.rotate(second.clone()).await), GONE);
    dashboard.delete(delete(VERA, &rotated)).await.unwrap();
    let absent = dashboard.rotate(second).await;
    assert_eq!(told(&absent), "NotFound API_CLIENT_NOT_FOUND");

    // A client that dies with its owner.
    made(5).await;
    assert_eq!(app.number(REPLIES).await, 1);
    app.change([delete_user(VERA)]).await;
    assert_eq!(app.number(REPLIES).await, 0);
    let refused = dashboard.create(creation(5)).await;
    assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
}

#[tokio::test]
async fn whoever_could_not_make_the_call_now_gets_no_reply() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let creation = personal(VERA).granted(SITE, SiteRole::Editor).with_id(ID);
    let made = dashboard.create(creation.clone()).await.unwrap();
    let exceeds = "PermissionDenied DELEGATION_EXCEEDS_ACTOR";
    app.change([put_site_member(SITE, VERA, SiteRole::Viewer)])
        .await;
    assert_eq!(told(&dashboard.create(creation.clone()).await), exceeds);
    app.change([put_site_member(SITE, VERA, SiteRole::Editor)])
        .await;
    assert_eq!(dashboard.create(creation.clone()).await.unwrap(), made);
    app.change([put_user(VERA, InstanceRole::User, true)]).await;
    let refused = dashboard.create(creation.clone()).await;
    assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
    app.change([put_user(VERA, InstanceRole::User, false)])
        .await;

    let id = made.api_client.unwrap().id;
    let rotation = rotate(VERA, &id).with_id(OTHER_ID);
    let rotated = dashboard.rotate(rotation.clone()).await.unwrap();
    app.change([put_site_member(SITE, VERA, SiteRole::Viewer)])
        .await;
    assert_eq!(told(&dashboard.rotate(rotation.clone()).await), exceeds);
    app.change([put_user(VERA, InstanceRole::User, true)]).await;
    let refused = dashboard.rotate(rotation.clone()).await;
    assert_eq!(told(&refused), "NotFound API_CLIENT_NOT_FOUND");
    app.change([
        put_user(VERA, InstanceRole::User, false),
        put_site_member(SITE, VERA, SiteRole::Editor),
    ])
    .await;
    assert_eq!(dashboard.rotate(rotation).await.unwrap(), rotated);

    let expiring = personal(VERA).expiring(in_seconds(&app, 60));
    let expiring = expiring.with_id(&crate::replay::id(1));
    dashboard.create(expiring.clone()).await.unwrap();
    app.clock.advance(TimeDelta::seconds(60));
    let refused = dashboard.create(expiring).await;
    assert_eq!(violations(&refused), ["api_client.expire_time"]);
}

/// A reply hands out all that the client carries now, not what it was made with.
#[tokio::test]
async fn what_was_widened_meanwhile_is_not_handed_out() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let creation = team_client(ADAM)
        .granted(SITE, SiteRole::Viewer)
        .with_id(ID);
    let made = dashboard.create(creation.clone()).await.unwrap();
    let id = made.api_client.as_ref().unwrap().id.clone();
    let granting = async |role| {
        let client = pb::ApiClient {
            id: id.clone(),
            site_grants: vec![grant(SITE, role)],
            ..pb::ApiClient::default()
        };
        dashboard
            .update(update(ALICE, client, &["site_grants"]))
            .await
            .unwrap();
    };
    granting(SiteRole::Owner).await;
    let exceeds = "PermissionDenied DELEGATION_EXCEEDS_ACTOR";
    assert_eq!(told(&dashboard.create(creation.clone()).await), exceeds);
    granting(SiteRole::Admin).await;
    assert_eq!(dashboard.create(creation.clone()).await.unwrap(), made);
    let rotation = rotate(ADAM, &id).with_id(OTHER_ID);
    let rotated = dashboard.rotate(rotation.clone()).await.unwrap();
    granting(SiteRole::Owner).await;
    assert_eq!(told(&dashboard.rotate(rotation.clone()).await), exceeds);
    granting(SiteRole::Viewer).await;
    assert_eq!(dashboard.rotate(rotation.clone()).await.unwrap(), rotated);
    // Nor does an actor get it who left the team's management.
    app.change([put_team_member(TEAM, ADAM, TeamRole::Member)])
        .await;
    let refused = dashboard.rotate(rotation).await;
    assert_eq!(told(&refused), "NotFound API_CLIENT_NOT_FOUND");
    let refused = dashboard.create(creation).await;
    assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_that_come_at_the_same_moment_get_the_same_reply() {
    let app = TestApp::with_world().await;
    let (one, other) = (app.dashboard().await, app.dashboard().await);
    let callers = || [&one, &other].into_iter().cycle().take(24);
    let creation = personal(VERA).with_id(ID);
    let all = join_all(callers().map(|caller| caller.create(creation.clone()))).await;
    let first = all[0].as_ref().unwrap().clone();
    for made in all {
        assert_eq!(made.unwrap(), first);
    }
    assert_eq!(app.number(CLIENTS).await, 1);
    let id = first.api_client.unwrap().id;
    let rotation = rotate_with_overlap(VERA, &id, 60).with_id(OTHER_ID);
    let all = join_all(callers().map(|caller| caller.rotate(rotation.clone()))).await;
    let second = all[0].as_ref().unwrap().clone();
    for rotated in all {
        assert_eq!(rotated.unwrap(), second);
    }
    let tokens = "SELECT count(*) FROM api_client_tokens";
    assert_eq!(app.number(tokens).await, 2);
    let sidecar = app.sidecar().await;
    for token in [&first.token, &second.token] {
        assert_eq!(sidecar.inactive_reason(token).await, None);
    }
}

#[tokio::test]
async fn a_caller_that_rotates_in_a_loop_has_one_reply() {
    let (app, dashboard, made) = TestApp::with_client().await;
    for number in 1..=20 {
        let rotation = rotate_with_overlap(VERA, &made.id, 60).with_id(&id(number));
        dashboard.rotate(rotation).await.unwrap();
    }
    assert_eq!(
        (app.number(REQUESTS).await, app.number(REPLIES).await),
        (20, 1)
    );
}
