//! `ReplaceDirectory`: the whole directory as one difference.

use std::time::Duration;

use futures_util::future::join_all;
use hitkeep_auth::{
    domain::{caller::CallerPermission::Directory, token::TokenKind},
    pb::{
        self, InstanceRole, ReplaceDirectoryRequest, SiteRole, TeamRole,
        directory_service_client::DirectoryServiceClient,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{USER, events, numbered, status, tables};
use crate::{
    fixtures::*,
    fresh::{deaf, mint, without_polls},
    harness::{Caller, TestApp, told, violations},
    layers::{framed, raw_open},
};

/// An id of that number.
fn id(number: usize) -> String {
    format!("00000000-0000-7000-8000-00000000{number:04}")
}

fn user(id: &str) -> pb::User {
    pb::User {
        id: id.to_owned(),
        instance_role: USER.into(),
        disabled: false,
    }
}

fn team(id: &str) -> pb::Team {
    pb::Team {
        id: id.to_owned(),
        archived: false,
    }
}

fn site(id: &str, team: &str) -> pb::Site {
    pb::Site {
        id: id.to_owned(),
        team_id: team.to_owned(),
    }
}

/// The world's directory, as one chunk.
pub fn world_chunk() -> ReplaceDirectoryRequest {
    use pb::directory_change::Change;

    let mut chunk = ReplaceDirectoryRequest::default();
    for change in world() {
        match change {
            Change::PutUser(user) => chunk.users.push(user),
            Change::PutTeam(team) => chunk.teams.push(team),
            Change::PutTeamMember(member) => chunk.team_members.push(member),
            Change::PutSite(site) => chunk.sites.push(site),
            Change::PutSiteMember(member) => chunk.site_members.push(member),
            other => panic!("{other:?} is no part of a world"),
        }
    }
    chunk
}

/// Revision, added, changed, removed.
async fn replaced(pusher: &Caller, chunks: Vec<ReplaceDirectoryRequest>) -> (u64, u32, u32, u32) {
    let done = pusher.replace(chunks).await.expect("the directory is good");
    (done.revision, done.added, done.changed, done.removed)
}

#[tokio::test]
async fn a_replacement_counts_how_it_differed() {
    let app = TestApp::start().await;
    let pusher = app.pusher().await;
    assert_eq!(replaced(&pusher, vec![world_chunk()]).await, (1, 16, 0, 0));
    let applied = TestApp::with_world().await;
    assert_eq!(tables(&app).await, tables(&applied).await);

    let mut next = world_chunk();
    next.users[0].disabled = true;
    next.users[1].instance_role = InstanceRole::User.into();
    next.users.push(user(NOBODY));
    next.teams[1].archived = true;
    next.team_members[0].role = TeamRole::Member.into();
    next.team_members.pop();
    next.sites[0].team_id = OTHER_TEAM.to_owned();
    next.sites.pop();
    next.site_members[0].role = SiteRole::Owner.into();
    next.site_members[1].user_id = NOBODY.to_owned();
    assert_eq!(replaced(&pusher, vec![next]).await, (2, 2, 6, 3));
}

#[tokio::test]
async fn a_replacement_with_the_same_changes_nothing() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let before = app.everything().await;
    let pusher = app.pusher().await;
    for _ in 0..2 {
        assert_eq!(replaced(&pusher, vec![world_chunk()]).await, (2, 0, 0, 0));
    }
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn more_than_half_of_a_kind_is_removed_only_when_that_is_allowed() {
    for known in [1, 2, 3, 4, 5] {
        let app = TestApp::start().await;
        let pusher = app.pusher().await;
        let full = |users: usize, teams: usize, sites: usize| ReplaceDirectoryRequest {
            // The first team is never removed alone, since the sites need one.
            users: (0..users).map(|number| user(&id(number))).collect(),
            teams: (0..teams).map(|number| team(&id(number))).collect(),
            sites: (0..sites).map(|number| site(&id(number), &id(0))).collect(),
            ..ReplaceDirectoryRequest::default()
        };
        pusher
            .replace(vec![full(known, known, known)])
            .await
            .unwrap();
        let before = app.everything().await;
        // At most half may go.
        let fewest = known - known / 2;
        let one_less = fewest - 1;
        let sites_of_none = if one_less == 0 { 0 } else { known };
        for (kind, next) in [
            ("users", full(one_less, known, known)),
            ("sites", full(known, known, one_less)),
            ("teams", full(known, one_less, sites_of_none)),
        ] {
            let refused = pusher.replace(vec![next.clone()]).await;
            assert_eq!(told(&refused), "FailedPrecondition MASS_REMOVAL", "{kind}");
            // What a later chunk allows does not count.
            let late = ReplaceDirectoryRequest {
                allow_mass_removal: true,
                ..ReplaceDirectoryRequest::default()
            };
            let refused = pusher.replace(vec![next, late]).await;
            assert_eq!(told(&refused), "FailedPrecondition MASS_REMOVAL", "{kind}");
            assert_eq!(app.everything().await, before);
        }
        let half = full(fewest, fewest, fewest);
        let (_, added, changed, removed) = replaced(&pusher, vec![half]).await;
        let gone = u32::try_from(3 * (known - fewest)).unwrap();
        assert_eq!((added, changed, removed), (0, 0, gone));
        let allowed = ReplaceDirectoryRequest {
            allow_mass_removal: true,
            ..ReplaceDirectoryRequest::default()
        };
        let (.., removed) = replaced(&pusher, vec![allowed]).await;
        assert_eq!(removed, u32::try_from(3 * fewest).unwrap());
    }
}

#[tokio::test]
async fn memberships_may_all_go_and_an_empty_directory_may_be_replaced() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let mut next = world_chunk();
    next.team_members.clear();
    next.site_members.clear();
    assert_eq!(replaced(&pusher, vec![next]).await, (2, 0, 0, 6));
    let empty = TestApp::start().await;
    let pusher = empty.pusher().await;
    let nothing = vec![ReplaceDirectoryRequest::default()];
    assert_eq!(replaced(&pusher, nothing).await, (0, 0, 0, 0));
}

#[tokio::test]
async fn chunks_may_be_cut_anywhere() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let before = tables(&app).await;
    let whole = world_chunk();
    let empty = ReplaceDirectoryRequest::default;
    // Everything in a chunk of its own, what is referred to last.
    let mut chunks = vec![empty()];
    for member in whole.site_members {
        let site_members = vec![member];
        chunks.push(ReplaceDirectoryRequest {
            site_members,
            ..empty()
        });
    }
    for member in whole.team_members {
        let team_members = vec![member];
        chunks.push(ReplaceDirectoryRequest {
            team_members,
            ..empty()
        });
    }
    chunks.push(empty());
    for site in whole.sites {
        let sites = vec![site];
        chunks.push(ReplaceDirectoryRequest { sites, ..empty() });
    }
    for team in whole.teams {
        let teams = vec![team];
        chunks.push(ReplaceDirectoryRequest { teams, ..empty() });
    }
    for user in whole.users {
        let users = vec![user];
        chunks.push(ReplaceDirectoryRequest { users, ..empty() });
    }
    assert_eq!(replaced(&pusher, chunks.clone()).await, (1, 0, 0, 0));
    chunks.reverse();
    assert_eq!(replaced(&pusher, chunks).await, (1, 0, 0, 0));
    assert_eq!(tables(&app).await, before);
}

#[tokio::test]
async fn a_repetition_or_a_gap_is_found_across_chunks() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let before = app.everything().await;
    let again = ReplaceDirectoryRequest {
        users: vec![user(VERA), user(NOBODY), user(VERA)],
        sites: vec![site(NOBODY, NOBODY)],
        ..ReplaceDirectoryRequest::default()
    };
    let refused = pusher.replace(vec![world_chunk(), again]).await;
    let expected = ["users[5].id", "users[7].id", "sites[3].team_id"];
    assert_eq!(violations(&refused), expected);
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn a_site_keeps_its_grants_when_its_team_goes_and_it_stays() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let roots = dashboard
        .created(
            personal(ROOT)
                .granted(SITE, SiteRole::Editor)
                .granted(SECOND_SITE, SiteRole::Editor),
        )
        .await;
    let teams = dashboard.created(team_client(ALICE)).await;
    let mut next = world_chunk();
    next.teams.remove(0);
    next.team_members.retain(|member| member.team_id != TEAM);
    next.sites.retain(|site| site.id != SECOND_SITE);
    next.sites[0].team_id = OTHER_TEAM.to_owned();
    next.site_members.pop();
    let pusher = app.pusher().await;
    // Gone: a team, three memberships in it, a site and a membership on it.
    assert_eq!(replaced(&pusher, vec![next]).await, (4, 0, 1, 6));
    let answer = sidecar.introspect(introspect(&roots.token)).await.unwrap();
    assert_eq!(answer.site_grants, [grant(SITE, SiteRole::Editor)]);
    let unknown = Some(pb::InactiveReason::UnknownToken);
    assert_eq!(sidecar.inactive_reason(&teams.token).await, unknown);
    let told = events(&app, "api_client.deleted").await;
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0].client_id, &told[0].actor), (&teams.id, &None));
    assert_eq!(told[0].changes[0].before, format!("team:{TEAM}"));
    let kept = format!("SELECT count(*) FROM site_members WHERE site_id = '{SITE}'");
    assert_eq!(app.number(&kept).await, 1);
}

#[tokio::test]
async fn a_user_left_out_takes_its_clients_along() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let eves = dashboard.created(personal(EVE)).await;
    let veras = dashboard.created(personal(VERA)).await;
    let mut next = world_chunk();
    next.users.pop();
    next.team_members.pop();
    let pusher = app.pusher().await;
    assert_eq!(replaced(&pusher, vec![next]).await, (4, 0, 0, 2));
    let unknown = Some(pb::InactiveReason::UnknownToken);
    assert_eq!(sidecar.inactive_reason(&eves.token).await, unknown);
    assert_eq!(sidecar.inactive_reason(&veras.token).await, None);
    let told = events(&app, "api_client.deleted").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].client_id, eves.id);
    assert_eq!(told[0].changes[0].before, format!("user:{EVE}"));
}

#[tokio::test]
async fn the_first_chunks_sequence_becomes_the_applied_one() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    pusher.apply(numbered(50, [])).await.unwrap();
    let with = |sequence| ReplaceDirectoryRequest {
        sequence,
        ..world_chunk()
    };
    let over = |sequence| ReplaceDirectoryRequest {
        start_over: true,
        ..with(sequence)
    };
    let only = |sequence| ReplaceDirectoryRequest {
        sequence,
        ..ReplaceDirectoryRequest::default()
    };
    for (chunks, expected) in [
        (vec![with(None)], 50),
        (vec![with(Some(50))], 50),
        (vec![with(Some(60))], 60),
        (vec![over(Some(10))], 10),
        // That of a later chunk does not count.
        (vec![with(None), only(Some(99))], 10),
        (vec![with(Some(20)), only(Some(99))], 20),
        (vec![over(None)], 20),
        (vec![over(Some(0))], 0),
    ] {
        let done = pusher.replace(chunks).await.unwrap();
        assert_eq!((done.revision, done.applied_sequence), (1, expected));
        assert_eq!(status(&pusher).await.applied_sequence, expected);
    }
    // After it, the source starts over.
    let done = pusher.apply(numbered(1, [put_team(TEAM, true)])).await;
    let done = done.unwrap();
    assert_eq!((done.revision, done.applied_sequence), (2, 1));
    // One that is refused takes no sequence over.
    let refused = pusher.replace(vec![only(Some(7))]).await;
    assert_eq!(told(&refused), "FailedPrecondition MASS_REMOVAL");
    assert_eq!(status(&pusher).await.applied_sequence, 1);
}

/// Few replacements are let in at once, and a call with an invented token waits for the index.
#[tokio::test]
async fn calls_with_invented_tokens_are_not_among_the_replacements() {
    let (app, proxy) = deaf(without_polls()).await;
    let pusher = app.pusher().await;
    // It is known from here on.
    status(&pusher).await;
    let invented = mint(TokenKind::ServiceAccount).reveal();
    // On the same connection, so that the server begins them in this order.
    let stranger = Caller::with_token(pusher.channel.clone(), &invented);
    let pusher = pusher.within(Duration::from_secs(1));
    proxy.stall();
    let strangers = join_all((0..8).map(|_| stranger.replace(Vec::new())));
    tokio::select! {
        biased;
        told = strangers => panic!("the database does not answer: {told:?}"),
        late = pusher.replace(vec![ReplaceDirectoryRequest::default()]) => {
            // Of the deadline, the server or the client tells.
            let late = late.expect_err("the database does not answer");
            assert!(!late.message().contains("too many requests"), "{late:?}");
        }
    }
}

/// A replacement under way: what is sent goes into the channel.
pub fn begun(
    pusher: &Caller,
) -> (
    mpsc::Sender<ReplaceDirectoryRequest>,
    tokio::task::JoinHandle<Result<pb::ReplaceDirectoryResponse, tonic::Status>>,
) {
    let (sender, chunks) = mpsc::channel(1);
    let request = pusher.request(ReceiverStream::new(chunks));
    let mut client = DirectoryServiceClient::new(pusher.channel.clone());
    let call = tokio::spawn(async move {
        let answer = client.replace_directory(request).await;
        answer.map(tonic::Response::into_inner)
    });
    (sender, call)
}

/// Chunks that are together more than what the transport takes in unread, so
/// that the server has read some of them when all are sent.
async fn send_a_lot(sender: &mpsc::Sender<ReplaceDirectoryRequest>) {
    let users: Vec<_> = (0..10_000).map(|number| user(&id(number))).collect();
    for chunk in users.chunks(1000).cycle().take(40) {
        let users = chunk.to_vec();
        let chunk = ReplaceDirectoryRequest {
            users,
            ..ReplaceDirectoryRequest::default()
        };
        sender.send(chunk).await.expect("the server reads on");
    }
}

#[tokio::test]
async fn of_a_replacement_that_is_broken_off_nothing_is_applied() {
    let app = TestApp::with_world().await;
    let before = app.everything().await;
    let allowed = ReplaceDirectoryRequest {
        allow_mass_removal: true,
        sequence: Some(9),
        ..ReplaceDirectoryRequest::default()
    };
    // The call is cancelled, which the server sees as an error of the stream.
    let pusher = app.pusher().await;
    let (sender, call) = begun(&pusher);
    sender.send(allowed.clone()).await.unwrap();
    send_a_lot(&sender).await;
    call.abort();
    call.await.unwrap_err();
    drop(sender);
    // It runs out of time in the middle.
    let path = "/hitkeep.auth.v1.DirectoryService/ReplaceDirectory";
    let hurried = [("grpc-timeout", "300m")];
    let refused = raw_open(&app, Directory, path, &hurried, framed(&allowed)).await;
    let refused: Result<(), _> = Err(refused);
    assert_eq!(told(&refused), "DeadlineExceeded DEADLINE_EXCEEDED");
    // The whole connection goes away.
    let leaving = app.pusher().await;
    let (sender, call) = begun(&leaving);
    sender.send(allowed).await.unwrap();
    send_a_lot(&sender).await;
    call.abort();
    drop((leaving, sender));

    assert_eq!(app.everything().await, before);
    assert_eq!(replaced(&pusher, vec![world_chunk()]).await, (1, 0, 0, 0));
}

#[tokio::test]
async fn a_slow_sender_holds_up_nobody() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let (sender, call) = begun(&pusher);
    let first = ReplaceDirectoryRequest {
        start_over: true,
        ..world_chunk()
    };
    sender.send(first).await.unwrap();
    assert_eq!(app.change([put_team(TEAM, true)]).await, 2);
    app.dashboard().await.created(personal(VERA)).await;
    drop(sender);
    let done = call.await.unwrap().unwrap();
    assert_eq!((done.revision, done.changed), (4, 1));
}

#[tokio::test]
async fn thousands_of_users_are_replaced_in_one_go() {
    let app = TestApp::start().await;
    let pusher = app.pusher().await;
    let users: Vec<_> = (0..5000).map(|number| user(&id(number))).collect();
    let members: Vec<_> = users
        .iter()
        .map(|user| pb::TeamMember {
            team_id: TEAM.to_owned(),
            user_id: user.id.clone(),
            role: TeamRole::Member.into(),
        })
        .collect();
    let mut chunks = vec![ReplaceDirectoryRequest {
        teams: vec![team(TEAM)],
        ..ReplaceDirectoryRequest::default()
    }];
    for (users, team_members) in users.chunks(700).zip(members.chunks(700)) {
        chunks.push(ReplaceDirectoryRequest {
            users: users.to_vec(),
            team_members: team_members.to_vec(),
            ..ReplaceDirectoryRequest::default()
        });
    }
    assert_eq!(replaced(&pusher, chunks.clone()).await, (1, 10_001, 0, 0));
    assert_eq!(replaced(&pusher, chunks).await, (1, 0, 0, 0));
    let counted = status(&pusher).await;
    assert_eq!((counted.users, counted.memberships), (5000, 5000));
}
