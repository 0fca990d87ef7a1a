//! `RevokeApiClients`: all clients of an owner, of a site or of a creator at once.

use super::*;

#[tokio::test]
async fn all_clients_of_an_owner_are_revoked_by_who_may_revoke_each() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let mut teams = vec![
        dashboard.created(team_client(ALICE)).await,
        dashboard.created(team_client(ADAM)).await,
    ];
    let before_it = dashboard.created(team_client(ADAM)).await;
    dashboard.revoke(revoke(ADAM, &before_it.id)).await.unwrap();
    let veras = dashboard.created(personal(VERA)).await;
    let before = app.everything().await;
    for user in [VERA, EVE, NOBODY] {
        let refused = dashboard.revoke_all(all_of(user, of_team(TEAM))).await;
        assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
    }
    for owner in [of_team(NOBODY), of_user(NOBODY)] {
        let refused = dashboard.revoke_all(all_of(ROOT, owner)).await;
        assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
    }
    let tried = pb::RevokeApiClientsRequest {
        validate_only: true,
        ..all_of(ADAM, of_team(TEAM))
    };
    let tried = dashboard.revoke_all(tried).await.unwrap();
    assert_eq!(app.everything().await, before);

    let revoked = dashboard.revoke_all(all_of(ADAM, of_team(TEAM))).await;
    let revoked = revoked.unwrap();
    teams.sort_by(|one, other| one.id.cmp(&other.id));
    let ids: Vec<_> = teams.iter().map(|made| made.id.clone()).collect();
    assert_eq!((revoked.revoked_count, &revoked.ids), (2, &ids));
    assert_eq!((tried.revoked_count, &tried.ids), (2, &ids));
    assert_eq!(revoked.revision, tried.revision + 1);
    for made in &teams {
        assert_eq!(
            sidecar.inactive_reason(&made.token).await,
            Some(InactiveReason::Revoked)
        );
        let events = recorded(&app, &made.id).await;
        assert_eq!(
            actions(&events),
            ["api_client.revoked", "api_client.created"]
        );
        assert_eq!(events[0].1[0].0, "revoke_time");
    }
    assert_eq!(sidecar.inactive_reason(&veras.token).await, None);
    let events = recorded(&app, &before_it.id).await;
    assert_eq!(events.len(), 2, "revoked once");

    // Again: there is nothing left to do.
    let before = app.everything().await;
    let again = dashboard.revoke_all(all_of(ROOT, of_team(TEAM))).await;
    assert_eq!(again.unwrap().revoked_count, 0);
    assert_eq!(app.everything().await, before);
    // A user's own.
    let own = dashboard.revoke_all(all_of(VERA, of_user(VERA))).await;
    assert_eq!(own.unwrap().ids, [veras.id]);
    // An archived team's belong to nobody but an owner of the instance.
    app.change([put_team(TEAM, true)]).await;
    let refused = dashboard.revoke_all(all_of(ADAM, of_team(TEAM))).await;
    assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
}

#[tokio::test]
async fn by_site_and_by_creator_only_for_an_owner_of_the_instance() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let editor = |request: pb::CreateApiClientRequest| request.granted(SITE, SiteRole::Viewer);
    let on_site = dashboard.created(editor(team_client(ALICE))).await;
    let veras = dashboard.created(editor(personal(VERA))).await;
    let off_site = dashboard.created(team_client(ALICE)).await;
    let adams = dashboard.created(editor(team_client(ADAM))).await;
    let by_site = |user: &str| pb::RevokeApiClientsRequest {
        site_id: SITE.to_owned(),
        ..all_of(user, None)
    };
    let by_creator = |user: &str| pb::RevokeApiClientsRequest {
        created_by_user_id: ALICE.to_owned(),
        ..all_of(user, None)
    };
    let before = app.everything().await;
    // Nobody gets a part of them without being told: an admin of the instance, the team's
    // owner and the creator are refused.
    for user in [ALICE, ADAM, VERA, NOBODY] {
        for request in [by_site(user), by_creator(user)] {
            let refused = dashboard.revoke_all(request).await;
            assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
        }
    }
    assert_eq!(app.everything().await, before);
    // All of them have to apply.
    let both = pb::RevokeApiClientsRequest {
        created_by_user_id: ALICE.to_owned(),
        ..by_site(ROOT)
    };
    let revoked = dashboard.revoke_all(both).await.unwrap();
    assert_eq!(revoked.ids, [on_site.id]);
    let of_the_team = pb::RevokeApiClientsRequest {
        owner: of_team(TEAM),
        ..by_site(ADAM)
    };
    let revoked = dashboard.revoke_all(of_the_team).await.unwrap();
    assert_eq!(revoked.ids, [adams.id]);
    let revoked = dashboard.revoke_all(by_site(ROOT)).await.unwrap();
    assert_eq!(revoked.ids, [veras.id]);
    let revoked = dashboard.revoke_all(by_creator(ROOT)).await.unwrap();
    assert_eq!(revoked.ids, [off_site.id]);
    for token in [&on_site.token, &veras.token, &off_site.token, &adams.token] {
        assert!(sidecar.inactive_reason(token).await.is_some());
    }
    let nothing = pb::RevokeApiClientsRequest {
        site_id: NOBODY.to_owned(),
        ..all_of(ROOT, None)
    };
    assert_eq!(dashboard.revoke_all(nothing).await.unwrap().ids, [""; 0]);
}

#[tokio::test]
async fn without_a_filter_nothing_is_revoked() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    dashboard.created(personal(VERA)).await;
    let before = app.everything().await;
    let none = dashboard.revoke_all(all_of(ROOT, None)).await;
    assert_eq!(
        explained(&none),
        ["owner is required, or a site_id, or a created_by_user_id"]
    );
    let nobody = Some(pb::Owner { owner: None });
    let nobody = dashboard.revoke_all(all_of(ROOT, nobody)).await;
    assert_eq!(
        explained(&nobody),
        ["owner is required: a user_id or a team_id"]
    );
    let all_wrong = pb::RevokeApiClientsRequest {
        actor: None,
        owner: of_user("x"),
        site_id: "x".to_owned(),
        created_by_user_id: "x".to_owned(),
        validate_only: true,
    };
    let refused = dashboard.revoke_all(all_wrong).await;
    assert_eq!(violations(&refused).len(), 4);
    assert_eq!(app.everything().await, before);
}

/// Clients of the world's first team, with a grant on its first site and a token each.
fn many(count: u32) -> String {
    format!(
        "INSERT INTO api_clients \
             SELECT gen_random_uuid(), NULL, '{TEAM}', 'one of many', '', 'user', NULL, NULL, \
                    '{ALICE}', now(), now() FROM generate_series(1, {count}); \
         INSERT INTO api_client_grants SELECT id, '{SITE}', 'viewer' FROM api_clients; \
         INSERT INTO api_client_tokens \
             SELECT sha256(id::text::bytea), id, 'hint', now(), NULL FROM api_clients"
    )
}

#[tokio::test]
async fn too_many_are_refused_and_the_most_are_revoked_at_once() {
    // However slow the machine, the answer waits for the index of this server.
    let app = TestApp::with(server::Options {
        request_timeout: Duration::from_mins(5),
        ..server::Options::default()
    })
    .await;
    app.change(world()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    app.psql(&many(10_001)).await;
    app.settle().await;
    let by_site = pb::RevokeApiClientsRequest {
        site_id: SITE.to_owned(),
        ..all_of(ROOT, None)
    };
    let refused = dashboard.revoke_all(by_site.clone()).await;
    assert_eq!(told(&refused), "FailedPrecondition SELECTION_TOO_LARGE");
    let working = "SELECT count(*) FROM api_clients WHERE revoke_time IS NULL";
    assert_eq!(app.number(working).await, 10_001);

    app.psql("DELETE FROM api_clients WHERE id = (SELECT max(id::text)::uuid FROM api_clients)")
        .await;
    app.psql("UPDATE event_delivery SET active_since = now(), active_until = '2100-01-01'")
        .await;
    app.settle().await;
    let status = sidecar
        .index_status(pb::GetIndexStatusRequest::default())
        .await
        .unwrap();
    let revoked = dashboard.revoke_all(by_site).await.unwrap();
    assert_eq!(revoked.revoked_count, 10_000);
    assert_eq!(revoked.ids.len(), 10_000);
    assert!(revoked.ids.is_sorted());
    assert_eq!(revoked.revision, status.revision + 1, "one transaction");
    assert_eq!(app.number(working).await, 0);
    let events = "SELECT count(DISTINCT client_id) FROM audit_events \
                  WHERE action = 'api_client.revoked'";
    assert_eq!(app.number(events).await, 10_000);
    // What is sent is the same, in the same order.
    let sent = "SELECT count(*) FROM (
            SELECT client_id, lag(client_id) OVER (ORDER BY sequence) AS before, id
            FROM event_outbox WHERE event_type LIKE '%.revoked') AS event
        JOIN audit_events AS audited ON audited.id = event.id
            AND audited.client_id = event.client_id AND caller = 'manage'
        WHERE before IS NULL OR before < event.client_id";
    assert_eq!(app.number(sent).await, 10_000);
    // The index of this server has all of them.
    let logged = format!(
        "SELECT count(*) FROM index_changes WHERE revision = {}",
        revoked.revision
    );
    assert_eq!(app.number(&logged).await, 10_000);
    let status = sidecar
        .index_status(pb::GetIndexStatusRequest::default())
        .await
        .unwrap();
    assert_eq!(status.revision, revoked.revision);
}
