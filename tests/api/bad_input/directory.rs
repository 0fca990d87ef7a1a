//! `DirectoryService`: every kind of change, and the chunks of a replacement.

use hitkeep_auth::pb::{
    self, InstanceRole, ReplaceDirectoryRequest, SiteRole, TeamRole, directory_change::Change,
};

use super::{NO_VALUES, missing_ids, refuses_each};
use crate::{
    fixtures::*,
    harness::{TestApp, violations},
};

/// Every kind of change with a field that is wrong, and that field's name.
fn bad_changes() -> Vec<(Change, &'static str)> {
    let (user, viewer) = (InstanceRole::User, SiteRole::Viewer);
    let mut all = Vec::new();
    for bad in missing_ids() {
        let bad = bad.as_str();
        all.extend([
            (put_user(bad, user, false), "put_user.id"),
            (delete_user(bad), "delete_user.id"),
            (put_team(bad, false), "put_team.id"),
            (delete_team(bad), "delete_team.id"),
            (
                put_team_member(bad, VERA, TeamRole::Member),
                "put_team_member.team_id",
            ),
            (
                put_team_member(TEAM, bad, TeamRole::Member),
                "put_team_member.user_id",
            ),
            (delete_team_member(bad, VERA), "delete_team_member.team_id"),
            (delete_team_member(TEAM, bad), "delete_team_member.user_id"),
            (put_site(bad, TEAM), "put_site.id"),
            (put_site(SITE, bad), "put_site.team_id"),
            (delete_site(bad), "delete_site.id"),
            (
                put_site_member(bad, VERA, viewer),
                "put_site_member.site_id",
            ),
            (
                put_site_member(SITE, bad, viewer),
                "put_site_member.user_id",
            ),
            (delete_site_member(bad, VERA), "delete_site_member.site_id"),
            (delete_site_member(SITE, bad), "delete_site_member.user_id"),
        ]);
    }
    for role in NO_VALUES {
        all.extend([
            (
                Change::PutUser(pb::User {
                    id: VERA.to_owned(),
                    instance_role: role,
                    disabled: false,
                }),
                "put_user.instance_role",
            ),
            (
                Change::PutTeamMember(pb::TeamMember {
                    team_id: TEAM.to_owned(),
                    user_id: VERA.to_owned(),
                    role,
                }),
                "put_team_member.role",
            ),
            (
                Change::PutSiteMember(pb::SiteMember {
                    site_id: SITE.to_owned(),
                    user_id: VERA.to_owned(),
                    role,
                }),
                "put_site_member.role",
            ),
        ]);
    }
    all
}

#[tokio::test]
async fn every_kind_of_change_is_refused_for_each_field_that_is_wrong() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let mut cases = vec![(batch([]), vec!["changes".to_owned()])];
    for (change, field) in bad_changes() {
        // Also behind one that is good, of which nothing is kept.
        let alone = batch([change.clone()]);
        let second = batch([put_user(NOBODY, InstanceRole::User, false), change]);
        cases.push((alone, vec![format!("changes[0].{field}")]));
        cases.push((second, vec![format!("changes[1].{field}")]));
    }
    let empty = pb::ApplyDirectoryChangesRequest {
        changes: vec![pb::DirectoryChange { change: None }; 2],
        sequence: None,
    };
    cases.push((
        empty,
        vec!["changes[0]".to_owned(), "changes[1]".to_owned()],
    ));
    refuses_each(&app, async |request| pusher.apply(request).await, cases).await;
}

#[tokio::test]
async fn what_a_change_names_must_be_there() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let viewer = SiteRole::Viewer;
    let cases = [
        (
            put_team_member(NOBODY, VERA, TeamRole::Member),
            vec!["put_team_member.team_id"],
        ),
        (
            put_team_member(TEAM, NOBODY, TeamRole::Member),
            vec!["put_team_member.user_id"],
        ),
        (
            put_team_member(NOBODY, NOBODY, TeamRole::Member),
            vec!["put_team_member.team_id", "put_team_member.user_id"],
        ),
        (put_site(SITE, NOBODY), vec!["put_site.team_id"]),
        (
            put_site_member(NOBODY, VERA, viewer),
            vec!["put_site_member.site_id"],
        ),
        (
            put_site_member(SITE, NOBODY, viewer),
            vec!["put_site_member.user_id"],
        ),
        (
            put_site_member(NOBODY, NOBODY, viewer),
            vec!["put_site_member.site_id", "put_site_member.user_id"],
        ),
        // An id of another kind is none.
        (put_site(SITE, VERA), vec!["put_site.team_id"]),
        (
            put_team_member(SITE, TEAM, TeamRole::Member),
            vec!["put_team_member.team_id", "put_team_member.user_id"],
        ),
    ];
    let cases = cases.map(|(change, fields)| {
        let fields = fields
            .into_iter()
            .map(|field| format!("changes[2].{field}"));
        let back = put_user(VERA, InstanceRole::User, false);
        let request = batch([delete_user(VERA), back, change]);
        (request, fields.collect::<Vec<_>>())
    });
    refuses_each(&app, async |request| pusher.apply(request).await, cases).await;
}

#[tokio::test]
async fn all_that_is_wrong_with_a_batch_is_named() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let nothing = |change| pb::DirectoryChange { change };
    let changes = vec![
        nothing(Some(put_user(VERA, InstanceRole::Unspecified, false))),
        nothing(None),
        nothing(Some(put_site_member("", "x", SiteRole::Unspecified))),
        nothing(Some(put_team(TEAM, false))),
        nothing(Some(delete_team_member("x", "x"))),
    ];
    let everything = [
        "sequence",
        "changes[0].put_user.instance_role",
        "changes[1]",
        "changes[2].put_site_member.site_id",
        "changes[2].put_site_member.user_id",
        "changes[2].put_site_member.role",
        "changes[4].delete_team_member.team_id",
        "changes[4].delete_team_member.user_id",
    ];
    let request = pb::ApplyDirectoryChangesRequest {
        changes,
        sequence: Some(u64::MAX),
    };
    refuses_each(
        &app,
        async |request| pusher.apply(request).await,
        [(request, everything)],
    )
    .await;
}

/// The fields that an answer names, which are many, but not all: it says so, and
/// fits into 8 KiB of header, in base64 and with everything else that is there.
fn named_and_more<T: std::fmt::Debug>(refused: &Result<T, tonic::Status>) -> Vec<String> {
    let named = violations(refused);
    assert!(named.len() > 20, "{named:?}");
    assert_eq!(named.last().unwrap(), "...");
    let status = refused.as_ref().unwrap_err();
    let header = status.details().len() * 4 / 3 + status.message().len();
    assert!(header < 7 * 1024, "{header}");
    named
}

#[tokio::test]
async fn as_many_wrong_fields_are_named_as_fit_into_a_header() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let malformed = put_site_member("x", "x", SiteRole::Unspecified);
    let unknown = put_site_member(NOBODY, NOBODY, SiteRole::Viewer);
    let in_chunk = pb::SiteMember {
        site_id: NOBODY.to_owned(),
        user_id: NOBODY.to_owned(),
        role: SiteRole::Viewer.into(),
    };
    for change in [malformed, unknown] {
        let refused = pusher.apply(batch(vec![change; 1000])).await;
        let named = named_and_more(&refused);
        assert_eq!(named[0], "changes[0].put_site_member.site_id");
    }
    let chunk = ReplaceDirectoryRequest {
        site_members: vec![in_chunk; 1000],
        ..ReplaceDirectoryRequest::default()
    };
    let refused = pusher.replace(vec![chunk]).await;
    let named = named_and_more(&refused);
    assert_eq!(named[0], "site_members[1]", "there twice");
    let paths = vec!["x"; 1000];
    let request = update(VERA, pb::ApiClient::default(), &paths);
    let named = named_and_more(&app.dashboard().await.update(request).await);
    assert_eq!(named[19], "update_mask.paths[19]");
    let mut request = personal(VERA);
    request.api_client.as_mut().unwrap().site_grants = vec![pb::SiteGrant::default(); 100];
    let named = named_and_more(&app.dashboard().await.create(request).await);
    assert_eq!(named[49], "api_client.site_grants[24].role");
}

#[tokio::test]
async fn a_batch_has_a_thousand_changes_at_most() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let user = |number: usize| {
        let id = format!("00000000-0000-7000-8000-0000000d{number:04}");
        put_user(&id, InstanceRole::User, false)
    };
    let cases = [(batch((0..1001).map(user)), ["changes"])];
    refuses_each(&app, async |request| pusher.apply(request).await, cases).await;
    pusher.apply(batch((0..1000).map(user))).await.unwrap();
}

#[tokio::test]
async fn a_sequence_is_no_larger_than_the_database_can_keep() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let numbered = |sequence| pb::ApplyDirectoryChangesRequest {
        sequence: Some(sequence),
        ..batch([])
    };
    let largest = i64::MAX.unsigned_abs();
    let too_large = [largest + 1, u64::MAX];
    let cases = too_large.map(|sequence| (numbered(sequence), ["sequence"]));
    refuses_each(&app, async |request| pusher.apply(request).await, cases).await;
    let cases = too_large.map(|sequence| {
        let chunk = ReplaceDirectoryRequest {
            sequence: Some(sequence),
            ..ReplaceDirectoryRequest::default()
        };
        (vec![chunk], ["sequence"])
    });
    refuses_each(&app, async |chunks| pusher.replace(chunks).await, cases).await;
    let applied = pusher.apply(numbered(largest)).await.unwrap();
    assert_eq!(applied.applied_sequence, largest);
    let status = pusher.directory_status(pb::GetDirectoryStatusRequest {});
    assert_eq!(status.await.unwrap().applied_sequence, largest);
}

/// The parts of a chunk that these changes would put.
fn chunk(changes: impl IntoIterator<Item = Change>) -> ReplaceDirectoryRequest {
    let mut chunk = ReplaceDirectoryRequest::default();
    for change in changes {
        match change {
            Change::PutUser(user) => chunk.users.push(user),
            Change::PutTeam(team) => chunk.teams.push(team),
            Change::PutTeamMember(member) => chunk.team_members.push(member),
            Change::PutSite(site) => chunk.sites.push(site),
            Change::PutSiteMember(member) => chunk.site_members.push(member),
            other => panic!("{other:?} puts nothing"),
        }
    }
    chunk
}

#[tokio::test]
async fn a_replacement_is_refused_for_each_field_that_is_wrong() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let mut cases = vec![(vec![], vec!["the stream".to_owned()])];
    let counts = |list: &str| {
        world()
            .iter()
            .filter(|change| list_of(change) == list)
            .count()
    };
    for (change, field) in bad_changes() {
        if field.starts_with("delete") {
            continue;
        }
        let (list, (_, field)) = (list_of(&change), field.split_once('.').unwrap());
        let alone = vec![chunk([change.clone()])];
        let last = vec![chunk(world()), chunk([]), chunk([change])];
        cases.push((alone, vec![format!("{list}[0].{field}")]));
        cases.push((last, vec![format!("{list}[{}].{field}", counts(list))]));
    }
    refuses_each(&app, async |chunks| pusher.replace(chunks).await, cases).await;
}

fn list_of(change: &Change) -> &'static str {
    match change {
        Change::PutUser(_) => "users",
        Change::PutTeam(_) => "teams",
        Change::PutTeamMember(_) => "team_members",
        Change::PutSite(_) => "sites",
        Change::PutSiteMember(_) => "site_members",
        other => panic!("{other:?} puts nothing"),
    }
}

#[tokio::test]
async fn what_a_replacement_names_must_be_in_it_and_nothing_twice() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let viewer = SiteRole::Viewer;
    let cases = [
        (
            put_user(EVE, InstanceRole::Admin, true),
            vec!["users[5].id"],
        ),
        (put_team(TEAM, true), vec!["teams[2].id"]),
        (put_site(SITE, OTHER_TEAM), vec!["sites[3].id"]),
        (
            put_team_member(TEAM, VERA, TeamRole::Owner),
            vec!["team_members[4]"],
        ),
        (put_site_member(SITE, VERA, viewer), vec!["site_members[2]"]),
        (put_site(NOBODY, NOBODY), vec!["sites[3].team_id"]),
        (
            put_team_member(NOBODY, VERA, TeamRole::Member),
            vec!["team_members[4].team_id"],
        ),
        (
            put_team_member(TEAM, NOBODY, TeamRole::Member),
            vec!["team_members[4].user_id"],
        ),
        (
            put_site_member(NOBODY, NOBODY, viewer),
            vec!["site_members[2].site_id", "site_members[2].user_id"],
        ),
    ];
    let mut all = Vec::new();
    for (change, fields) in cases {
        // In one chunk, and in chunks of their own before and after.
        let together = world().into_iter().chain([change.clone()]);
        all.push((vec![chunk(together)], fields.clone()));
        all.push((vec![chunk(world()), chunk([change])], fields));
    }
    // It is in the database, and not in the replacement.
    let without_vera = world().into_iter().skip(4);
    let only_members = chunk(without_vera.filter(|change| !matches!(change, Change::PutUser(_))));
    all.push((
        vec![only_members],
        vec![
            "team_members[0].user_id",
            "team_members[1].user_id",
            "team_members[2].user_id",
            "team_members[3].user_id",
            "site_members[0].user_id",
            "site_members[1].user_id",
        ],
    ));
    refuses_each(&app, async |chunks| pusher.replace(chunks).await, all).await;
}

#[tokio::test]
async fn all_that_is_wrong_with_a_chunk_is_named() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let wrong = ReplaceDirectoryRequest {
        sequence: Some(u64::MAX),
        ..chunk([
            put_user("x", InstanceRole::Unspecified, false),
            put_team("x", false),
            put_team_member("x", "x", TeamRole::Unspecified),
            put_site("x", "x"),
            put_site_member("x", "x", SiteRole::Unspecified),
        ])
    };
    let everything = [
        "sequence",
        "users[0].id",
        "users[0].instance_role",
        "teams[0].id",
        "team_members[0].team_id",
        "team_members[0].user_id",
        "team_members[0].role",
        "sites[0].id",
        "sites[0].team_id",
        "site_members[0].site_id",
        "site_members[0].user_id",
        "site_members[0].role",
    ];
    let cases = [(vec![wrong], everything)];
    refuses_each(&app, async |chunks| pusher.replace(chunks).await, cases).await;
}
