//! `GetApiClient` and `ListApiClients`: who sees what, and lists page by page.

use chrono::TimeDelta;
use hitkeep_auth::pb::{self, ApiClientState, InstanceRole, SiteRole, TeamRole};
use tonic::Status;
use tonic_types::StatusExt;

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, told, violations},
};

/// All that a status tells, less the request's id.
fn whole<T: std::fmt::Debug>(result: &Result<T, Status>) -> String {
    let status = result.as_ref().expect_err("a refusal");
    let mut metadata = status.metadata().clone();
    metadata.remove("x-request-id");
    metadata.remove("date");
    format!(
        "{:?} {:?} {:?} {metadata:?}",
        status.code(),
        status.message(),
        status.get_error_details()
    )
}

/// What each of the world's people, and an unknown actor, gets to see of a client.
async fn who_sees(dashboard: &Caller, id: &str) -> Vec<&'static str> {
    let people = [ROOT, ALICE, ADAM, VERA, EVE, NOBODY];
    let absent = dashboard.get(get(ROOT, NOBODY)).await;
    let mut seeing = Vec::new();
    for person in people {
        let seen = dashboard.get(get(person, id)).await;
        if seen.is_ok() {
            seeing.push(person);
        } else {
            assert_eq!(told(&seen), "NotFound API_CLIENT_NOT_FOUND", "{person}");
            assert_eq!(whole(&seen), whole(&absent), "{person}");
        }
    }
    seeing
}

/// Who of the same may list an owner's clients.
async fn who_lists(dashboard: &Caller, owner: Option<pb::Owner>) -> Vec<&'static str> {
    let people = [ROOT, ALICE, ADAM, VERA, EVE, NOBODY];
    let absent = dashboard.list(list(EVE, of_team(NOBODY))).await;
    let mut listing = Vec::new();
    for person in people {
        let listed = dashboard.list(list(person, owner.clone())).await;
        if listed.is_ok() {
            listing.push(person);
        } else {
            assert_eq!(told(&listed), "PermissionDenied OWNER_NOT_MANAGED");
            assert_eq!(whole(&listed), whole(&absent), "{person}");
        }
    }
    listing
}

#[tokio::test]
async fn a_client_is_seen_by_those_who_manage_it_and_by_instance_owners() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let veras = dashboard.created(personal(VERA)).await.id;
    let teams = dashboard.created(team_client(ADAM)).await.id;
    let sees = async || {
        let (vera, team) = (of_user(VERA), of_team(TEAM));
        let seen = (
            who_sees(&dashboard, &veras).await,
            who_sees(&dashboard, &teams).await,
        );
        let listed = (
            who_lists(&dashboard, vera).await,
            who_lists(&dashboard, team).await,
        );
        assert_eq!(seen, listed, "whoever may get it may list it");
        seen
    };
    assert_eq!(sees().await, (vec![ROOT, VERA], vec![ROOT, ALICE, ADAM]));

    // What counts is what holds now, not who made it.
    app.change([
        put_team_member(TEAM, ADAM, TeamRole::Member),
        put_team_member(TEAM, VERA, TeamRole::Admin),
        put_team_member(TEAM, EVE, TeamRole::Owner),
    ])
    .await;
    let managers = vec![ROOT, ALICE, VERA, EVE];
    assert_eq!(sees().await, (vec![ROOT, VERA], managers));

    app.change([
        delete_team_member(TEAM, ALICE),
        put_user(VERA, InstanceRole::User, true),
    ])
    .await;
    assert_eq!(sees().await, (vec![ROOT], vec![ROOT, EVE]));

    app.change([put_team(TEAM, true)]).await;
    assert_eq!(sees().await, (vec![ROOT], vec![ROOT]));

    // A disabled instance owner sees nothing; an instance admin is no owner.
    app.change([
        put_user(ROOT, InstanceRole::Owner, true),
        put_user(ALICE, InstanceRole::Owner, false),
        put_user(EVE, InstanceRole::Admin, false),
    ])
    .await;
    assert_eq!(sees().await, (vec![ALICE], vec![ALICE]));

    app.change([
        put_team(TEAM, false),
        put_user(VERA, InstanceRole::User, false),
    ])
    .await;
    assert_eq!(sees().await, (vec![ALICE, VERA], vec![ALICE, VERA, EVE]));
}

#[tokio::test]
async fn a_client_that_is_gone_is_as_one_that_never_was() {
    let (_app, dashboard, made) = TestApp::with_client().await;
    let hidden = dashboard.get(get(EVE, &made.id)).await;
    dashboard.delete(delete(VERA, &made.id)).await.unwrap();
    let gone = dashboard.get(get(VERA, &made.id)).await;
    let never = dashboard.get(get(VERA, NOBODY)).await;
    assert_eq!(told(&gone), "NotFound API_CLIENT_NOT_FOUND");
    assert_eq!(whole(&gone), whole(&never));
    assert_eq!(whole(&gone), whole(&hidden));
}

#[tokio::test]
async fn an_owner_that_is_not_there_has_no_list_for_anybody() {
    let (_app, dashboard) = TestApp::with_dashboard().await;
    for owner in [
        of_user(NOBODY),
        of_team(NOBODY),
        of_user(TEAM),
        of_team(VERA),
    ] {
        assert!(who_lists(&dashboard, owner).await.is_empty());
    }
}

#[tokio::test]
async fn a_client_is_shown_as_it_was_delegated_dormant_grants_included() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard
        .created(
            personal(ALICE)
                .with_role(InstanceRole::Admin)
                .granted(SITE, SiteRole::Owner)
                .granted(SECOND_SITE, SiteRole::Viewer),
        )
        .await;
    app.change([
        put_user(ALICE, InstanceRole::User, false),
        delete_team_member(TEAM, ALICE),
    ])
    .await;
    let seen = dashboard.get(get(ALICE, &made.id)).await.unwrap();
    assert_eq!(seen.api_client, Some(made.client.clone()));
    let listed = dashboard.list(list(ALICE, of_user(ALICE))).await.unwrap();
    assert_eq!(listed.api_clients, [made.client]);
}

#[tokio::test]
async fn looking_changes_nothing() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let before = app.everything().await;
    dashboard.get(get(VERA, &made.id)).await.unwrap();
    dashboard.list(list(ROOT, of_user(VERA))).await.unwrap();
    dashboard.get(get(EVE, &made.id)).await.unwrap_err();
    assert_eq!(app.everything().await, before);
}

/// One page: the names on it, and the token of the next one.
async fn page(dashboard: &Caller, size: i32, token: &str) -> (Vec<String>, String) {
    let request = pb::ListApiClientsRequest {
        page_size: size,
        page_token: token.to_owned(),
        include_inactive: true,
        ..list(VERA, of_user(VERA))
    };
    let page = dashboard.list(request).await.expect("the page is there");
    let names = page.api_clients.into_iter().map(|client| client.name);
    (names.collect(), page.next_page_token)
}

/// All pages of that size, one after the other.
async fn pages(dashboard: &Caller, size: i32) -> Vec<Vec<String>> {
    let (mut pages, mut token) = (Vec::new(), String::new());
    loop {
        let (names, next) = page(dashboard, size, &token).await;
        pages.push(names);
        assert!(pages.len() < 100, "the list has an end");
        if next.is_empty() {
            return pages;
        }
        token = next;
    }
}

/// Creates clients that are called what they are called, in groups of one
/// moment each. Gives the names in the order of a list.
async fn listed(app: &TestApp, dashboard: &Caller, groups: &[&[&str]]) -> Vec<String> {
    let mut newest_first = Vec::new();
    for group in groups {
        app.clock.advance(TimeDelta::seconds(1));
        let mut made = Vec::new();
        for name in *group {
            let client = dashboard.created(personal(VERA).named(name)).await;
            made.push((client.id, (*name).to_owned()));
        }
        made.sort();
        newest_first.splice(0..0, made.into_iter().map(|(_, name)| name));
    }
    newest_first
}

#[tokio::test]
async fn lists_are_newest_first_with_ties_by_id_and_every_page_size_shows_all_once() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let groups: [&[&str]; 4] = [&["a"], &["b", "c", "d", "e"], &["f"], &["g", "h", "i"]];
    let all = listed(&app, &dashboard, &groups).await;
    // Others' are not among them.
    dashboard.created(personal(EVE)).await;
    dashboard.created(team_client(ALICE)).await;
    assert_eq!(all.len(), 9);
    for size in 1..=10 {
        let pages = pages(&dashboard, size).await;
        let size = usize::try_from(size).unwrap();
        assert_eq!(pages.concat(), all, "pages of {size}");
        assert_eq!(pages.len(), all.len().div_ceil(size), "no empty last page");
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == size));
    }
}

#[tokio::test]
async fn what_is_made_or_deleted_between_pages_neither_repeats_nor_hides_others() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let all = listed(&app, &dashboard, &[&["a", "b", "c"], &["d", "e", "f"]]).await;
    let id = async |name: &str| {
        let listing = dashboard.list(list(VERA, of_user(VERA))).await.unwrap();
        let mut clients = listing.api_clients.into_iter();
        clients.find(|client| client.name == name).unwrap().id
    };
    let (first, token) = page(&dashboard, 2, "").await;
    assert_eq!(first, all[..2]);
    // A newer one, and the very one that the token points at.
    app.clock.advance(TimeDelta::seconds(1));
    dashboard.created(personal(VERA).named("newer")).await;
    let gone = id(&all[1]).await;
    dashboard.delete(delete(VERA, &gone)).await.unwrap();
    let (second, token) = page(&dashboard, 2, &token).await;
    assert_eq!(second, all[2..4]);
    // One that was still to come.
    let gone = id(&all[4]).await;
    dashboard.delete(delete(VERA, &gone)).await.unwrap();
    let (third, token) = page(&dashboard, 2, &token).await;
    assert_eq!(third, all[5..]);
    assert_eq!(token, "");
    // A page token stays good, and the page size may differ from page to page.
    let (_, token) = page(&dashboard, 1, "").await;
    let (rest, _) = page(&dashboard, 500, &token).await;
    assert_eq!(rest, [&all[0], &all[2], &all[3], &all[5]].map(Clone::clone));
    // The last page of exactly the size that is left leads nowhere.
    let (rest, token) = page(&dashboard, 4, &token).await;
    assert_eq!((rest.len(), token.as_str()), (4, ""));
}

#[tokio::test]
async fn a_page_is_fifty_clients_and_five_hundred_at_most() {
    let options = hitkeep_auth::server::Options {
        grpc: hitkeep_auth::grpc::ServiceOptions {
            max_clients_per_owner: 1000,
            ..hitkeep_auth::grpc::ServiceOptions::default()
        },
        ..hitkeep_auth::server::Options::default()
    };
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    dashboard.created(personal(VERA)).await;
    // 500 more of the same, by hand, which is quicker.
    app.psql(
        "WITH made AS ( \
             INSERT INTO api_clients (id, owner_user_id, name, description, instance_role, \
                 created_by_user_id, create_time, update_time) \
             SELECT gen_random_uuid(), owner_user_id, name, description, instance_role, \
                 created_by_user_id, create_time, update_time \
             FROM api_clients, generate_series(1, 500) RETURNING id) \
         INSERT INTO api_client_tokens (hash, client_id, hint, create_time) \
         SELECT sha256(id::text::bytea), id, 'hkp_...xxxx', now() FROM made",
    )
    .await;
    for (size, expected) in [
        (0, 50),
        (1, 1),
        (499, 499),
        (500, 500),
        (501, 500),
        (i32::MAX, 500),
    ] {
        let (names, next) = page(&dashboard, size, "").await;
        assert_eq!(names.len(), expected, "a page of {size}");
        assert!(!next.is_empty());
    }
    let (_, next) = page(&dashboard, 501, "").await;
    let (rest, next) = page(&dashboard, 501, &next).await;
    assert_eq!((rest.len(), next.as_str()), (1, ""));
}

#[tokio::test]
async fn a_page_token_is_good_for_its_own_list_alone() {
    let (_app, dashboard) = TestApp::with_dashboard().await;
    for user in [VERA, VERA, EVE, EVE] {
        dashboard.created(personal(user)).await;
        dashboard.created(team_client(ALICE)).await;
    }
    let first = pb::ListApiClientsRequest {
        page_size: 1,
        ..list(VERA, of_user(VERA))
    };
    let token = dashboard.list(first.clone()).await.unwrap().next_page_token;
    let next = |request| pb::ListApiClientsRequest {
        page_token: token.clone(),
        ..request
    };
    // It is bound to the list, not to who asks or for how many.
    for (asking, page_size) in [(VERA, 1), (VERA, 0), (ROOT, 1), (ROOT, 500)] {
        let request = pb::ListApiClientsRequest {
            page_size,
            ..list(asking, of_user(VERA))
        };
        let page = dashboard.list(next(request)).await.unwrap();
        assert_eq!(page.api_clients.len(), 1);
    }
    let inactive_too = pb::ListApiClientsRequest {
        include_inactive: true,
        ..list(VERA, of_user(VERA))
    };
    for other in [
        inactive_too,
        list(EVE, of_user(EVE)),
        list(ALICE, of_team(TEAM)),
        list(ROOT, of_user(EVE)),
    ] {
        let refused = dashboard.list(next(other)).await;
        assert_eq!(violations(&refused), ["page_token"]);
    }
    // An actor who may not see the list does not see more of it with a token.
    let refused = dashboard.list(next(list(EVE, of_user(VERA)))).await;
    assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
}

#[tokio::test]
async fn an_edited_page_token_is_refused_whichever_character_was_changed() {
    let (_app, dashboard) = TestApp::with_dashboard().await;
    for _ in 0..2 {
        dashboard.created(personal(VERA)).await;
    }
    let (_, token) = page(&dashboard, 1, "").await;
    let mut edited = Vec::new();
    for at in 0..token.len() {
        for other in ["A", "B", "z", "9", "-", "_", "=", "+", " ", "é", ""] {
            let text = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            if text != token {
                edited.push(text);
            }
        }
        edited.push(token[..at].to_owned());
    }
    edited.retain(|text| !text.is_empty());
    edited.extend([
        format!("{token}="),
        format!("{token}A"),
        format!(" {token}"),
    ]);
    edited.extend([token.repeat(2), token.to_lowercase(), "A".repeat(43)]);
    for page_token in edited {
        let request = pb::ListApiClientsRequest {
            page_token: page_token.clone(),
            include_inactive: true,
            ..list(VERA, of_user(VERA))
        };
        let refused = dashboard.list(request).await;
        assert_eq!(violations(&refused), ["page_token"], "{page_token}");
    }
}

/// The names and states on a list.
async fn states(dashboard: &Caller, user: &str, inactive: bool) -> Vec<(String, ApiClientState)> {
    let request = pb::ListApiClientsRequest {
        include_inactive: inactive,
        ..list(user, of_user(VERA))
    };
    let listed = dashboard.list(request).await.expect("the list is there");
    let named = |client: pb::ApiClient| (client.name.clone(), client.state());
    let mut states: Vec<_> = listed.api_clients.into_iter().map(named).collect();
    states.sort_by(|one, other| one.0.cmp(&other.0));
    states
}

#[tokio::test]
async fn inactive_clients_are_listed_only_when_asked_for() {
    use ApiClientState::{Active, Expired, OwnerInactive, Revoked};

    let (app, dashboard) = TestApp::with_dashboard().await;
    let short = in_seconds(&app, 60);
    let revoked = dashboard.created(personal(VERA).named("revoked")).await;
    let both = personal(VERA).named("both").expiring(short);
    let both = dashboard.created(both).await;
    dashboard.created(personal(VERA).named("active")).await;
    dashboard
        .created(personal(VERA).named("expiring").expiring(short))
        .await;
    for id in [&revoked.id, &both.id] {
        dashboard.revoke(revoke(VERA, id)).await.unwrap();
    }
    let expected = |states: &[(&str, ApiClientState)]| {
        let owned = states
            .iter()
            .map(|(name, state)| ((*name).to_owned(), *state));
        owned.collect::<Vec<_>>()
    };
    app.clock.advance(TimeDelta::microseconds(59_999_999));
    let all = [
        ("active", Active),
        ("both", Revoked),
        ("expiring", Active),
        ("revoked", Revoked),
    ];
    let some = [("active", Active), ("expiring", Active)];
    assert_eq!(states(&dashboard, VERA, true).await, expected(&all));
    assert_eq!(states(&dashboard, VERA, false).await, expected(&some));

    // At the expiry itself it has come; a revocation is the first reason.
    app.clock.advance(TimeDelta::microseconds(1));
    let all = [
        ("active", Active),
        ("both", Revoked),
        ("expiring", Expired),
        ("revoked", Revoked),
    ];
    assert_eq!(states(&dashboard, VERA, true).await, expected(&all));
    let some = [("active", Active)];
    assert_eq!(states(&dashboard, VERA, false).await, expected(&some));
    let seen = dashboard.get(get(VERA, &revoked.id)).await.unwrap();
    assert_eq!(seen.api_client.unwrap().state(), Revoked);

    // An inactive owner has no active client, which only others can see.
    app.change([put_user(VERA, InstanceRole::User, true)]).await;
    let all = [
        ("active", OwnerInactive),
        ("both", Revoked),
        ("expiring", Expired),
        ("revoked", Revoked),
    ];
    assert_eq!(states(&dashboard, ROOT, true).await, expected(&all));
    assert_eq!(states(&dashboard, ROOT, false).await, []);
}

#[tokio::test]
async fn an_archived_teams_clients_are_inactive() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard.created(team_client(ALICE)).await;
    app.change([put_team(TEAM, true)]).await;
    let seen = dashboard.get(get(ROOT, &made.id)).await.unwrap();
    let state = seen.api_client.unwrap().state();
    assert_eq!(state, ApiClientState::OwnerInactive);
    let active = dashboard.list(list(ROOT, of_team(TEAM))).await.unwrap();
    assert_eq!(active, pb::ListApiClientsResponse::default());
    let all = pb::ListApiClientsRequest {
        include_inactive: true,
        ..list(ROOT, of_team(TEAM))
    };
    let all = dashboard.list(all).await.unwrap().api_clients;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].state(), ApiClientState::OwnerInactive);
}
