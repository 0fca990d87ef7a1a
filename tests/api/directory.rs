//! `DirectoryService`: changes in order, all or none, and what they take along.

use hitkeep_auth::pb::{self, ApiClientState, InstanceRole, SiteRole, TeamRole};

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, violations},
};

mod model;
mod order;
pub mod replace;

const USER: InstanceRole = InstanceRole::User;

async fn status(pusher: &Caller) -> pb::GetDirectoryStatusResponse {
    pusher
        .directory_status(pb::GetDirectoryStatusRequest {})
        .await
        .expect("the status is known")
}

/// A batch with a number.
fn numbered(
    sequence: u64,
    changes: impl IntoIterator<Item = pb::directory_change::Change>,
) -> pb::ApplyDirectoryChangesRequest {
    pb::ApplyDirectoryChangesRequest {
        sequence: Some(sequence),
        ..batch(changes)
    }
}

/// The part of everything that is the directory, without the revision.
async fn tables(app: &TestApp) -> String {
    let everything = app.everything().await;
    let (_, from_users) = everything.split_once("\nusers:\n").expect("the users");
    let (tables, _) = from_users
        .split_once("\ndirectory_state:\n")
        .expect("the sequence");
    tables.to_owned()
}

#[tokio::test]
async fn the_status_counts_what_there_is() {
    let app = TestApp::start().await;
    let pusher = app.pusher().await;
    let empty = pb::GetDirectoryStatusResponse::default();
    assert_eq!(status(&pusher).await, empty);
    pusher.apply(numbered(7, world())).await.unwrap();
    let expected = pb::GetDirectoryStatusResponse {
        revision: 1,
        applied_sequence: 7,
        users: 5,
        teams: 2,
        sites: 3,
        memberships: 6,
    };
    assert_eq!(status(&pusher).await, expected);
    app.change([delete_team(TEAM), delete_user(EVE)]).await;
    let expected = pb::GetDirectoryStatusResponse {
        revision: 2,
        applied_sequence: 7,
        users: 4,
        teams: 1,
        sites: 1,
        memberships: 0,
    };
    assert_eq!(status(&pusher).await, expected);
}

#[tokio::test]
async fn changes_are_applied_in_their_order() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let before = app.everything().await;
    // What it names comes too late, or is gone already.
    for (changes, wrong) in [
        (
            vec![put_site(NOBODY, NOBODY), put_team(NOBODY, false)],
            vec!["changes[0].put_site.team_id"],
        ),
        (
            vec![
                put_user(NOBODY, USER, false),
                delete_user(NOBODY),
                put_team_member(TEAM, NOBODY, TeamRole::Member),
            ],
            vec!["changes[2].put_team_member.user_id"],
        ),
        (
            vec![
                delete_team(TEAM),
                put_site_member(SITE, EVE, SiteRole::Viewer),
            ],
            vec!["changes[1].put_site_member.site_id"],
        ),
    ] {
        let refused = pusher.apply(batch(changes)).await;
        assert_eq!(violations(&refused), wrong);
    }
    assert_eq!(app.everything().await, before);
    // The other way round it is good.
    app.change([
        put_team(NOBODY, false),
        put_site(NOBODY, NOBODY),
        put_user(NOBODY, USER, false),
        put_team_member(NOBODY, NOBODY, TeamRole::Owner),
        put_site_member(NOBODY, NOBODY, SiteRole::Viewer),
    ])
    .await;
    assert_eq!(status(&pusher).await.memberships, 8);
}

#[tokio::test]
async fn of_a_batch_that_is_refused_nothing_is_applied() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let pusher = app.pusher().await;
    let before = app.everything().await;
    let changes = vec![
        put_user(NOBODY, USER, false),
        delete_user(VERA),
        put_team(TEAM, true),
        delete_site(SITE),
        put_site(SECOND_SITE, OTHER_TEAM),
        put_site_member(SECOND_SITE, VERA, SiteRole::Viewer),
        put_site(SITE, SITE),
    ];
    let refused = pusher.apply(numbered(9, changes)).await;
    // The first that is wrong is named; it decides what the next one would find.
    assert_eq!(
        violations(&refused)[0],
        "changes[5].put_site_member.user_id"
    );
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn unknown_references_are_named_with_their_place_and_their_id() {
    use tonic_types::StatusExt;

    let app = TestApp::with_world().await;
    let gone = "00000000-0000-7000-8000-0000000000fe";
    let member = |team, user| put_team_member(team, user, TeamRole::Member);
    let changes = [
        put_user(EVE, USER, false),
        member(TEAM, EVE),
        member(TEAM, NOBODY),
        member(gone, EVE),
        member(gone, NOBODY),
        // Of other kinds, too, up to the last one.
        put_site(SITE, gone),
        put_site(gone, gone),
        put_site_member(SITE, NOBODY, SiteRole::Viewer),
        // That site would be known if its team were.
        put_site_member(gone, EVE, SiteRole::Viewer),
        put_site_member(NOBODY, EVE, SiteRole::Viewer),
    ];
    let before = app.everything().await;
    let refused = app.pusher().await.apply(batch(changes)).await.unwrap_err();
    let details = refused.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let told: Vec<_> = violations
        .iter()
        .map(|violation| format!("{} {}", violation.field, violation.description))
        .collect();
    let expected = [
        format!("changes[2].put_team_member.user_id names {NOBODY}, which is unknown"),
        format!("changes[3].put_team_member.team_id names {gone}, which is unknown"),
        format!("changes[4].put_team_member.team_id names {gone}, which is unknown"),
        format!("changes[4].put_team_member.user_id names {NOBODY}, which is unknown"),
        format!("changes[5].put_site.team_id names {gone}, which is unknown"),
        format!("changes[6].put_site.team_id names {gone}, which is unknown"),
        format!("changes[7].put_site_member.user_id names {NOBODY}, which is unknown"),
        format!("changes[9].put_site_member.site_id names {NOBODY}, which is unknown"),
    ];
    assert_eq!(told, expected);
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn deleting_what_is_absent_succeeds_and_changes_nothing() {
    let app = TestApp::with_world().await;
    let before = app.everything().await;
    let revision = app
        .change([
            delete_user(NOBODY),
            delete_team(NOBODY),
            delete_site(NOBODY),
            delete_team_member(NOBODY, NOBODY),
            delete_team_member(TEAM, EVE),
            delete_team_member(TEAM, NOBODY),
            delete_site_member(NOBODY, VERA),
            delete_site_member(SITE, EVE),
            // Ids of other kinds are absent too.
            delete_user(TEAM),
            delete_team(SITE),
            delete_site(VERA),
        ])
        .await;
    assert_eq!(revision, 1);
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn putting_what_is_there_changes_nothing() {
    let app = TestApp::with_world().await;
    let before = app.everything().await;
    assert_eq!(app.change(world()).await, 1);
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn puts_make_or_replace() {
    let app = TestApp::with_world().await;
    let untouched = tables(&app).await;
    let changes = [
        put_user(VERA, InstanceRole::Admin, true),
        put_team(TEAM, true),
        put_team_member(TEAM, VERA, TeamRole::Owner),
        put_site(SITE, OTHER_TEAM),
        put_site_member(SITE, VERA, SiteRole::Owner),
    ];
    for (number, change) in (2..).zip(changes) {
        let before = tables(&app).await;
        assert_eq!(app.change([change.clone()]).await, number);
        assert_ne!(tables(&app).await, before);
        assert_eq!(app.change([change]).await, number, "the second time");
    }
    let after = tables(&app).await;
    let lines = |text: &str| text.lines().count();
    assert_eq!(lines(&after), lines(&untouched), "none was added");
    let same = |line: &&str| untouched.lines().any(|other| other == *line);
    let changed: Vec<_> = after.lines().filter(|line| !same(line)).collect();
    let expected = [
        format!("({VERA},admin,t)"),
        format!("({TEAM},t)"),
        format!("({TEAM},{VERA},owner)"),
        format!("({SITE},{OTHER_TEAM})"),
        format!("({SITE},{VERA},owner)"),
    ];
    assert_eq!(changed, expected);
}

#[tokio::test]
async fn repetitions_in_a_batch_are_as_one_after_the_other() {
    let changes = [
        put_user(NOBODY, InstanceRole::Owner, true),
        put_user(NOBODY, USER, false),
        put_user(NOBODY, InstanceRole::Admin, false),
        put_team_member(TEAM, NOBODY, TeamRole::Owner),
        put_team_member(TEAM, NOBODY, TeamRole::Member),
        put_site(SITE, OTHER_TEAM),
        put_site(SITE, TEAM),
        put_site(SITE, OTHER_TEAM),
        put_site_member(SITE, VERA, SiteRole::Owner),
        put_site_member(SITE, VERA, SiteRole::Viewer),
        delete_user(EVE),
        delete_user(EVE),
        put_user(EVE, USER, true),
        put_team(OTHER_TEAM, true),
        put_team(OTHER_TEAM, false),
        delete_site(SECOND_SITE),
        put_site(SECOND_SITE, TEAM),
    ];
    let (together, apart) = (TestApp::with_world().await, TestApp::with_world().await);
    assert_eq!(together.change(changes.clone()).await, 2);
    for change in changes {
        apart.change([change]).await;
    }
    assert_eq!(tables(&together).await, tables(&apart).await);
    assert!(
        tables(&together)
            .await
            .contains(&format!("({NOBODY},admin,f)"))
    );
}

#[tokio::test]
async fn a_batch_whose_sequence_is_not_above_the_last_is_acknowledged_and_skipped() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let disable = |disabled| [put_user(VERA, USER, disabled)];
    let done = pusher.apply(numbered(5, disable(true))).await.unwrap();
    assert_eq!((done.revision, done.applied_sequence), (2, 5));
    let before = app.everything().await;
    for sequence in [5, 4, 1, 0] {
        let skipped = pusher.apply(numbered(sequence, disable(false))).await;
        let skipped = skipped.unwrap();
        assert_eq!((skipped.revision, skipped.applied_sequence), (2, 5));
    }
    // Also where its changes could not be applied any more.
    let stale = pusher.apply(numbered(5, [put_site(SITE, NOBODY)])).await;
    assert_eq!(stale.unwrap().applied_sequence, 5);
    assert_eq!(app.everything().await, before);
    // Without a sequence it is always applied, and the last one stays.
    let done = pusher.apply(batch(disable(false))).await.unwrap();
    assert_eq!((done.revision, done.applied_sequence), (3, 5));
    // Gaps are no matter.
    let done = pusher.apply(numbered(100, disable(true))).await.unwrap();
    assert_eq!((done.revision, done.applied_sequence), (4, 100));
}

#[tokio::test]
async fn sequences_begin_anywhere_also_at_zero() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let disable = |disabled| [put_user(VERA, USER, disabled)];
    let first = pusher.apply(numbered(0, disable(true))).await.unwrap();
    assert_eq!((first.revision, first.applied_sequence), (2, 0));
    let again = pusher.apply(numbered(0, disable(false))).await.unwrap();
    assert_eq!((again.revision, again.applied_sequence), (2, 0));
    let next = pusher.apply(numbered(1, disable(false))).await.unwrap();
    assert_eq!((next.revision, next.applied_sequence), (3, 1));
}

#[tokio::test]
async fn a_batch_that_changes_nothing_keeps_its_sequence_and_makes_no_revision() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let same = pusher.apply(numbered(3, world())).await.unwrap();
    assert_eq!((same.revision, same.applied_sequence), (1, 3));
    let empty = pusher.apply(numbered(4, [])).await.unwrap();
    assert_eq!((empty.revision, empty.applied_sequence), (1, 4));
    assert_eq!(status(&pusher).await.applied_sequence, 4);
    // One that is refused does not.
    let refused = pusher.apply(numbered(9, [put_site(SITE, NOBODY)])).await;
    assert_eq!(violations(&refused), ["changes[0].put_site.team_id"]);
    assert_eq!(status(&pusher).await.applied_sequence, 4);
    let done = pusher.apply(numbered(9, [])).await.unwrap();
    assert_eq!((done.revision, done.applied_sequence), (1, 9));
}

/// All audit events of an action, newest first.
async fn events(app: &TestApp, action: &str) -> Vec<pb::AuditEvent> {
    let query = pb::ListAuditEventsRequest {
        action: action.to_owned(),
        ..pb::ListAuditEventsRequest::default()
    };
    app.auditor()
        .await
        .events(query)
        .await
        .expect("the query is good")
        .events
}

#[tokio::test]
async fn a_deleted_user_takes_its_own_clients_and_memberships_along_and_no_others() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let own = dashboard
        .created(personal(ALICE).named("own").granted(SITE, SiteRole::Owner))
        .await;
    let revoked = dashboard.created(personal(ALICE).named("revoked")).await;
    dashboard.revoke(revoke(ALICE, &revoked.id)).await.unwrap();
    let teams = dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Owner))
        .await;
    let others = dashboard.created(personal(VERA)).await;
    app.change([
        put_site_member(SITE, ALICE, SiteRole::Admin),
        delete_user(ALICE),
    ])
    .await;

    let unknown = Some(pb::InactiveReason::UnknownToken);
    assert_eq!(sidecar.inactive_reason(&own.token).await, unknown);
    assert_eq!(sidecar.inactive_reason(&teams.token).await, None);
    assert_eq!(sidecar.inactive_reason(&others.token).await, None);
    let left = dashboard.get(get(ADAM, &teams.id)).await.unwrap();
    let left = left.api_client.unwrap();
    assert_eq!(left.state(), ApiClientState::Active);
    assert_eq!(left.created_by_user_id, ALICE, "which stays for the record");
    let leftovers = format!(
        "SELECT count(*) FROM team_members FULL JOIN site_members USING (user_id) \
         WHERE user_id = '{ALICE}'"
    );
    assert_eq!(app.number(&leftovers).await, 0);
    let rows = "SELECT count(*) FROM api_client_tokens";
    assert_eq!(app.number(rows).await, 2, "tokens go with their clients");

    let mut told = events(&app, "api_client.deleted").await;
    told.sort_by(|one, other| one.client_name.cmp(&other.client_name));
    let died = told.iter().map(|event| event.client_id.as_str());
    assert_eq!(died.collect::<Vec<_>>(), [&own.id, &revoked.id]);
    for event in &told {
        assert_eq!(event.actor, None, "nobody asked for it");
        assert_eq!(event.owner, of_user(ALICE));
        assert_eq!(event.caller, "directory");
        assert!(!event.request_id.is_empty());
        let change = pb::AuditChange {
            field: "owner".to_owned(),
            before: format!("user:{ALICE}"),
            after: "deleted".to_owned(),
        };
        assert_eq!(event.changes, [change]);
    }
    // A user of that id who comes back gets nothing back.
    app.change([put_user(ALICE, InstanceRole::Owner, false)])
        .await;
    assert_eq!(sidecar.inactive_reason(&own.token).await, unknown);
    let listed = dashboard.list(list(ALICE, of_user(ALICE))).await.unwrap();
    assert_eq!(listed.api_clients, []);
}

#[tokio::test]
async fn a_deleted_team_takes_clients_memberships_sites_and_grants_along() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let teams = dashboard.created(team_client(ALICE)).await;
    let veras = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let roots = dashboard
        .created(
            personal(ROOT)
                .granted(SITE, SiteRole::Viewer)
                .granted(OTHER_SITE, SiteRole::Viewer),
        )
        .await;
    let revision = app.change([delete_team(TEAM)]).await;
    assert_eq!(revision, 5, "one for all that went");
    let unknown = Some(pb::InactiveReason::UnknownToken);
    assert_eq!(sidecar.inactive_reason(&teams.token).await, unknown);
    let grants = async |user: &str, id: &str| {
        let seen = dashboard.get(get(user, id)).await.unwrap();
        let seen = seen.api_client.unwrap();
        assert_eq!(seen.state(), ApiClientState::Active);
        seen.site_grants
    };
    assert_eq!(grants(VERA, &veras.id).await, []);
    let other = grant(OTHER_SITE, SiteRole::Viewer);
    assert_eq!(grants(ROOT, &roots.id).await, [other]);
    let pusher = app.pusher().await;
    let left = status(&pusher).await;
    assert_eq!((left.teams, left.sites, left.memberships), (1, 1, 1));
    assert_eq!(left.users, 5, "users stay");

    let told = events(&app, "api_client.deleted").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].client_id, teams.id);
    assert_eq!(told[0].owner, of_team(TEAM));
    assert_eq!(told[0].actor, None);
    assert_eq!(told[0].changes[0].before, format!("team:{TEAM}"));
}

#[tokio::test]
async fn a_deleted_site_takes_its_grants_along() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard
        .created(
            personal(VERA)
                .granted(SITE, SiteRole::Viewer)
                .granted(SECOND_SITE, SiteRole::Viewer),
        )
        .await;
    app.change([delete_site(SITE)]).await;
    let seen = dashboard.get(get(VERA, &made.id)).await.unwrap();
    let seen = seen.api_client.unwrap();
    assert_eq!(seen.site_grants, [grant(SECOND_SITE, SiteRole::Viewer)]);
    assert_ne!(seen.etag, made.client.etag, "it is not what was read");
    // A site of that id that comes back brings no grant back.
    app.change([put_site(SITE, TEAM)]).await;
    let again = dashboard.get(get(VERA, &made.id)).await.unwrap();
    assert_eq!(again.api_client, Some(seen));
}
