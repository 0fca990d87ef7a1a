//! `Introspect`: is this token good, and for what?

use hitkeep_auth::{
    domain::caller::CallerPermission::Introspect,
    pb::{self, DecisionReason, InactiveReason, InstanceRole, SiteRole, TeamRole},
};

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, told, violations},
    layers::{framed, raw_as},
};

/// The roles that a token has right now, as `site=role`.
async fn sites(sidecar: &Caller, token: &str) -> Vec<String> {
    let answer = sidecar.introspect(introspect(token)).await.unwrap();
    assert!(answer.active, "{answer:?}");
    let named = |grant: &pb::SiteGrant| format!("{}={:?}", grant.site_id, grant.role());
    answer.site_grants.iter().map(named).collect()
}

#[tokio::test]
async fn a_good_token_is_answered_in_full() {
    let app = TestApp::with_world().await;
    let expiring = personal(VERA)
        .granted(SITE, SiteRole::Viewer)
        .expiring(in_seconds(&app, 60));
    let made = app.dashboard().await.created(expiring).await;
    let answer = app
        .sidecar()
        .await
        .introspect(check(&made.token, SITE, "site.view"))
        .await;
    insta::assert_debug_snapshot!(answer.unwrap());
}

#[tokio::test]
async fn a_dead_token_is_answered_with_the_reason_and_nothing_else() {
    let app = TestApp::with_world().await;
    let made = app
        .dashboard()
        .await
        .created(personal(VERA).expiring(in_seconds(&app, 60)))
        .await;
    app.clock.advance(chrono::TimeDelta::seconds(60));
    let answer = app
        .sidecar()
        .await
        .introspect(check(&made.token, SITE, "site.view"))
        .await;
    let expected = pb::IntrospectResponse {
        inactive_reason: InactiveReason::Expired.into(),
        revision: 2,
        decision: Some(pb::Decision {
            allowed: false,
            reason: DecisionReason::Inactive.into(),
        }),
        ..pb::IntrospectResponse::default()
    };
    assert_eq!(answer.unwrap(), expected);
}

#[tokio::test]
async fn whatever_is_no_token_is_unknown_and_no_error() {
    let app = TestApp::with_world().await;
    let sidecar = app.sidecar().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let typo = format!(
        "{}{}",
        &made.token[..52],
        if made.token.ends_with('x') { 'y' } else { 'x' }
    );
    let long = "x".repeat(10_000);
    let caller = app.token(Introspect);
    // Well-formed, and of no client: worked out apart from this code.
    let nobodys = "hkp_00000000000000000000000000000000000000000004Rx6xu";
    for token in ["", "x", &typo, &long, caller, nobodys, "é", "\0"] {
        let reason = sidecar.inactive_reason(token).await;
        assert_eq!(reason, Some(InactiveReason::UnknownToken), "{token}");
    }
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
}

#[tokio::test]
async fn the_first_reason_in_the_contracts_order_is_given() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 60)))
        .await;
    let newer = dashboard
        .rotate(rotate(VERA, &made.id))
        .await
        .unwrap()
        .token;
    let reasons = async || {
        (
            sidecar.inactive_reason(&made.token).await,
            sidecar.inactive_reason(&newer).await,
        )
    };
    use InactiveReason::{Expired, OwnerInactive, Revoked, TokenRotated, UnknownToken};
    assert_eq!(reasons().await, (Some(TokenRotated), None));
    app.change([put_user(VERA, InstanceRole::User, true)]).await;
    assert_eq!(reasons().await, (Some(TokenRotated), Some(OwnerInactive)));
    app.clock.advance(chrono::TimeDelta::seconds(60));
    assert_eq!(reasons().await, (Some(TokenRotated), Some(Expired)));
    dashboard.revoke(revoke(ROOT, &made.id)).await.unwrap();
    assert_eq!(reasons().await, (Some(TokenRotated), Some(Revoked)));
    dashboard.delete(delete(ROOT, &made.id)).await.unwrap();
    assert_eq!(reasons().await, (Some(UnknownToken), Some(UnknownToken)));
}

#[tokio::test]
async fn a_personal_client_never_does_more_than_its_owner() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Editor))
        .await;
    let held = async || sites(&sidecar, &made.token).await;
    let none: [&str; 0] = [];
    assert_eq!(held().await, [format!("{SITE}=Editor")]);
    app.change([put_site_member(SITE, VERA, SiteRole::Owner)])
        .await;
    assert_eq!(
        held().await,
        [format!("{SITE}=Editor")],
        "more than granted is not given"
    );
    app.change([put_site_member(SITE, VERA, SiteRole::Viewer)])
        .await;
    assert_eq!(held().await, [format!("{SITE}=Viewer")]);
    app.change([delete_team_member(TEAM, VERA)]).await;
    assert_eq!(
        held().await,
        none,
        "the site membership alone gives nothing"
    );
    app.change([put_team_member(TEAM, VERA, TeamRole::Member)])
        .await;
    assert_eq!(held().await, [format!("{SITE}=Viewer")]);
    app.change([delete_site_member(SITE, VERA)]).await;
    assert_eq!(held().await, none);
    app.change([put_team_member(TEAM, VERA, TeamRole::Admin)])
        .await;
    assert_eq!(held().await, [format!("{SITE}=Editor")]);
    app.change([put_team(TEAM, true)]).await;
    assert_eq!(held().await, none);
    app.change([put_user(VERA, InstanceRole::Owner, false)])
        .await;
    assert_eq!(held().await, none, "an archived team's site is nobody's");
    app.change([put_team(TEAM, false), delete_team_member(TEAM, VERA)])
        .await;
    assert_eq!(
        held().await,
        [format!("{SITE}=Editor")],
        "instance owners own every site"
    );
}

#[tokio::test]
async fn an_owner_with_two_roles_on_a_site_holds_the_weaker() {
    use SiteRole::{Admin, Editor, Owner, Viewer};
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(ALICE).granted(SITE, Owner))
        .await;
    for (team_role, on_site, expected) in [
        (TeamRole::Owner, Owner, Owner),
        (TeamRole::Owner, Admin, Admin),
        (TeamRole::Owner, Viewer, Viewer),
        (TeamRole::Admin, Owner, Admin),
        (TeamRole::Admin, Admin, Admin),
        (TeamRole::Admin, Editor, Editor),
        (TeamRole::Member, Owner, Owner),
        (TeamRole::Member, Viewer, Viewer),
    ] {
        app.change([
            put_team_member(TEAM, ALICE, team_role),
            put_site_member(SITE, ALICE, on_site),
        ])
        .await;
        let held = sites(&sidecar, &made.token).await;
        let case = format!("{team_role:?} of the team, {on_site:?} of the site");
        assert_eq!(held, [format!("{SITE}={expected:?}")], "{case}");
        // Each permission of that role, and none of a stronger one.
        for (permission, needed) in [
            ("site.view", Viewer),
            ("site.manage_annotations", Editor),
            ("site.manage_webhooks", Admin),
            ("site.delete", Owner),
        ] {
            let asked = check(&made.token, SITE, permission);
            let decision = sidecar.introspect(asked).await.unwrap().decision.unwrap();
            assert_eq!(decision.allowed, expected >= needed, "{case}: {permission}");
        }
    }
}

#[tokio::test]
async fn an_admin_carries_the_activation_and_the_webhooks() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let admin = personal(ALICE).with_role(InstanceRole::Admin);
    let (admin, user) = (
        dashboard.created(admin).await,
        dashboard.created(personal(ALICE)).await,
    );
    for permission in ["instance.view_activation", "instance.manage_webhooks"] {
        for (made, expected) in [(&admin, true), (&user, false)] {
            let asked = check(&made.token, "", permission);
            let decision = sidecar.introspect(asked).await.unwrap().decision.unwrap();
            assert_eq!(decision.allowed, expected, "{permission}");
        }
    }
}

#[tokio::test]
async fn a_team_clients_grants_follow_its_sites() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Owner))
        .await;
    let held = async || sites(&sidecar, &made.token).await;
    assert_eq!(held().await, [format!("{SITE}=Owner")]);
    // The user who made it may leave.
    app.change([delete_team_member(TEAM, ALICE), delete_user(ALICE)])
        .await;
    assert_eq!(held().await, [format!("{SITE}=Owner")]);
    app.change([put_site(SITE, OTHER_TEAM)]).await;
    assert!(held().await.is_empty(), "dormant");
    app.change([put_site(SITE, TEAM)]).await;
    assert_eq!(held().await, [format!("{SITE}=Owner")]);
    app.change([put_team(TEAM, true)]).await;
    let reason = sidecar.inactive_reason(&made.token).await;
    assert_eq!(reason, Some(InactiveReason::OwnerInactive));
    app.change([
        put_team(TEAM, false),
        delete_site(SITE),
        put_site(SITE, TEAM),
    ])
    .await;
    assert!(held().await.is_empty(), "the grant went with the site");
    app.change([delete_team(TEAM)]).await;
    let reason = sidecar.inactive_reason(&made.token).await;
    assert_eq!(reason, Some(InactiveReason::UnknownToken));
}

#[tokio::test]
async fn the_instance_role_is_the_weaker_of_both() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(ALICE).with_role(InstanceRole::Admin))
        .await;
    let role = async || {
        let answer = sidecar.introspect(introspect(&made.token)).await.unwrap();
        answer.instance_role()
    };
    assert_eq!(role().await, InstanceRole::Admin);
    app.change([put_user(ALICE, InstanceRole::Owner, false)])
        .await;
    assert_eq!(role().await, InstanceRole::Admin);
    app.change([put_user(ALICE, InstanceRole::User, false)])
        .await;
    assert_eq!(role().await, InstanceRole::User);
}

#[tokio::test]
async fn a_check_is_decided_by_the_grant_and_by_nothing_else() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let request = personal(ROOT)
        .with_role(InstanceRole::Owner)
        .granted(SITE, SiteRole::Viewer);
    let made = dashboard.created(request).await;
    use DecisionReason::{Allowed, NoSiteGrant, RoleTooLow};
    for (site, permission, expected) in [
        (SITE, "site.view", Allowed),
        // HitKeep's own code lets the instance role through here.
        (SITE, "site.delete", RoleTooLow),
        (SITE, "site.manage_goals", RoleTooLow),
        (SECOND_SITE, "site.view", NoSiteGrant),
        (NOBODY, "site.view", NoSiteGrant),
        ("", "instance.manage_users", Allowed),
        ("", "instance.view_all_sites", Allowed),
    ] {
        let answer = sidecar
            .introspect(check(&made.token, site, permission))
            .await
            .unwrap();
        let decision = answer.decision.expect("it was asked for");
        assert_eq!(decision.reason(), expected, "{permission} on {site}");
        assert_eq!(decision.allowed, expected == Allowed);
    }
}

#[tokio::test]
async fn a_check_must_make_sense() {
    let app = TestApp::with_world().await;
    let sidecar = app.sidecar().await;
    for (site, permission, expected) in [
        ("", "site.view", vec!["check.site_id"]),
        (SITE, "instance.view_audit", vec!["check.site_id"]),
        (SITE, "", vec!["check.permission"]),
        ("", "", vec!["check.permission"]),
        (SITE, "site.fly", vec!["check.permission"]),
        ("x", "site.fly", vec!["check.permission", "check.site_id"]),
        ("x", "site.view", vec!["check.site_id"]),
    ] {
        // Also where the token is none.
        let refused = sidecar.introspect(check("x", site, permission)).await;
        assert_eq!(violations(&refused), expected, "{permission:?} on {site:?}");
    }
}

#[tokio::test]
async fn an_answer_is_kept_no_longer_than_it_can_be_true() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let seconds = async |token: &str| {
        let answer = sidecar.introspect(introspect(token)).await.unwrap();
        answer.max_cache_age.map(|age| (age.seconds, age.nanos))
    };
    let lasting = dashboard.created(personal(VERA)).await;
    assert_eq!(seconds(&lasting.token).await, Some((5, 0)));
    let short = dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 3)))
        .await;
    assert_eq!(seconds(&short.token).await, Some((3, 0)));
    dashboard
        .rotate(rotate_with_overlap(VERA, &lasting.id, 2))
        .await
        .unwrap();
    assert_eq!(seconds(&lasting.token).await, Some((2, 0)));
    app.clock.advance(chrono::TimeDelta::seconds(2));
    assert_eq!(seconds(&lasting.token).await, None);
}

#[tokio::test]
async fn an_answer_waits_for_the_revision_it_must_be_based_on() {
    let app = TestApp::with_world().await;
    let sidecar = app.sidecar().await;
    let at_least = |revision| pb::IntrospectRequest {
        at_least_revision: Some(revision),
        ..introspect("x")
    };
    let reached = sidecar.introspect(at_least(1)).await.unwrap();
    assert_eq!(reached.revision, 1);
    // A client of tonic's would give up by itself, however soon the server's word comes.
    let path = "/hitkeep.auth.v1.IntrospectionService/Introspect";
    for unreached in [2, u64::MAX] {
        let request = framed(&at_least(unreached));
        let headers = [("grpc-timeout", "200m")];
        let refused = raw_as(&app, Introspect, path, &headers, &request).await;
        let refused: Result<(), _> = Err(refused);
        assert_eq!(told(&refused), "Unavailable REVISION_NOT_REACHED");
    }
    // It is reached while a call waits for it.
    let dashboard = app.dashboard().await;
    let (waited, made) = tokio::join!(
        sidecar.introspect(at_least(2)),
        dashboard.created(personal(VERA))
    );
    assert_eq!(made.revision, 2);
    assert_eq!(waited.unwrap().revision, 2);
}
