//! Which events a query lets through, in which order, page by page.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use hitkeep_auth::pb::{self, ListAuditEventsRequest};

use super::listed;
use crate::{
    fixtures::*,
    harness::{Caller, TestApp, violations},
};

/// The time of an event, to compare.
fn moment(time: Option<prost_types::Timestamp>) -> Option<(i64, i32)> {
    time.map(|time| (time.seconds, time.nanos))
}

/// Things happen, each of them a second after the one before: three personal
/// clients and a team's, of three actors, and all six actions.
async fn history(app: &TestApp) -> Vec<pb::AuditEvent> {
    let dashboard = app.dashboard().await;
    let step = || app.clock.advance(TimeDelta::seconds(1));
    step();
    let veras = dashboard.created(personal(VERA)).await;
    step();
    let teams = dashboard.created(team_client(ALICE)).await;
    step();
    let alices = dashboard.created(personal(ALICE)).await;
    for (manager, id) in [(VERA, &veras.id), (ADAM, &teams.id), (ALICE, &alices.id)] {
        step();
        dashboard
            .rotate(rotate(manager, id))
            .await
            .expect("it can be rotated");
        step();
        dashboard
            .revoke(revoke(ROOT, id))
            .await
            .expect("it can be revoked");
        step();
        dashboard
            .reactivate(reactivate(manager, id))
            .await
            .expect("it can be reactivated");
    }
    step();
    let renamed = pb::ApiClient {
        id: teams.id,
        name: "renamed".to_owned(),
        ..pb::ApiClient::default()
    };
    dashboard
        .update(update(ALICE, renamed, &["name"]))
        .await
        .expect("it can be renamed");
    step();
    dashboard
        .delete(delete(VERA, &veras.id))
        .await
        .expect("it can be deleted");
    step();
    app.change([delete_user(ALICE)]).await;
    let all = listed(&app.auditor().await, ListAuditEventsRequest::default()).await;
    assert_eq!(all.len(), 15 + 5, "and the service accounts");
    all
}

/// Whether an event is let through, worked out without the database.
fn let_through(query: &ListAuditEventsRequest, event: &pb::AuditEvent) -> bool {
    let actor = event.actor.as_ref().map(|actor| &actor.user_id);
    let time = moment(event.event_time);
    (query.client_id.is_empty() || query.client_id == event.client_id)
        && (query.owner.is_none() || query.owner == event.owner)
        && (query.actor_user_id.is_empty() || Some(&query.actor_user_id) == actor)
        && (query.action.is_empty() || query.action == event.action)
        && (query.start_time.is_none() || moment(query.start_time) <= time)
        && (query.end_time.is_none() || time < moment(query.end_time))
}

/// Each of the queries with each of the choices.
fn each<T>(
    queries: &[ListAuditEventsRequest],
    choices: &[T],
    choose: impl Fn(&mut ListAuditEventsRequest, &T),
) -> Vec<ListAuditEventsRequest> {
    let with = |query: &ListAuditEventsRequest, choice| {
        let mut query = query.clone();
        choose(&mut query, choice);
        query
    };
    let chosen = queries
        .iter()
        .flat_map(|query| choices.iter().map(move |choice| (query, choice)));
    chosen.map(|(query, choice)| with(query, choice)).collect()
}

#[tokio::test]
async fn filters_let_through_what_all_of_them_let_through() {
    let app = TestApp::with_world().await;
    let all = history(&app).await;
    let auditor = app.auditor().await;
    let teams = all
        .iter()
        .find(|event| event.owner == of_team(TEAM))
        .expect("the team has one");
    let actions = [
        "",
        "api_client.created",
        "api_client.updated",
        "api_client.revoked",
        "api_client.deleted",
        "service_account.created",
    ];
    let ranges = [
        (None, None),
        (Some(-9), None),
        (None, Some(-5)),
        (Some(-9), Some(-2)),
    ];
    let queries = [ListAuditEventsRequest::default()];
    let clients = ["", &teams.client_id, NOBODY];
    let queries = each(&queries, &clients, |query, id| {
        query.client_id = (*id).to_owned();
    });
    let owners = [None, of_user(VERA), of_team(TEAM), of_team(NOBODY)];
    let queries = each(&queries, &owners, |query, owner| {
        query.owner.clone_from(owner);
    });
    let queries = each(&queries, &["", ROOT, ALICE, NOBODY], |query, id| {
        query.actor_user_id = (*id).to_owned();
    });
    let queries = each(&queries, &actions, |query, action| {
        query.action = (*action).to_owned();
    });
    let queries = each(&queries, &ranges, |query, (start, end)| {
        query.start_time = start.map(|seconds| in_seconds(&app, seconds));
        query.end_time = end.map(|seconds| in_seconds(&app, seconds));
    });
    let mut sizes = BTreeSet::new();
    for query in queries {
        let events = all.iter().filter(|event| let_through(&query, event));
        let expected: Vec<_> = events.cloned().collect();
        sizes.insert(expected.len());
        let found = listed(&auditor, query.clone()).await;
        assert_eq!(found, expected, "{query:?}");
    }
    // The cases tell something apart.
    assert!(sizes.len() > 6, "{sizes:?}");
}

#[tokio::test]
async fn a_range_includes_its_start_and_not_its_end() {
    let app = TestApp::with_world().await;
    app.clock.advance(TimeDelta::microseconds(5));
    app.dashboard().await.created(personal(VERA)).await;
    let auditor = app.auditor().await;
    let at = |nanos| prost_types::Timestamp {
        nanos,
        ..in_seconds(&app, 0)
    };
    let found = async |start: Option<i32>, end: Option<i32>| {
        let query = ListAuditEventsRequest {
            action: "api_client.created".to_owned(),
            start_time: start.map(at),
            end_time: end.map(at),
            ..ListAuditEventsRequest::default()
        };
        listed(&auditor, query).await.len() == 1
    };
    // It happened at 5,000 ns, and no event between two microseconds.
    for (start, end, expected) in [
        (None, None, true),
        (Some(0), None, true),
        (Some(4_999), None, true),
        (Some(5_000), None, true),
        (Some(5_001), None, false),
        (Some(6_000), None, false),
        (None, Some(4_000), false),
        (None, Some(4_999), false),
        (None, Some(5_000), false),
        (None, Some(5_001), true),
        (None, Some(6_000), true),
        (Some(5_000), Some(5_001), true),
        (Some(4_999), Some(5_000), false),
        (Some(4_999), Some(5_001), true),
        (Some(5_001), Some(5_002), false),
    ] {
        assert_eq!(found(start, end).await, expected, "{start:?} to {end:?}");
    }
}

/// All pages of that size, one after the other.
async fn pages(auditor: &Caller, query: &ListAuditEventsRequest) -> Vec<Vec<pb::AuditEvent>> {
    let (mut pages, mut query) = (Vec::new(), query.clone());
    loop {
        let page = auditor
            .events(query.clone())
            .await
            .expect("the page is there");
        pages.push(page.events);
        assert!(pages.len() < 100, "the list has an end");
        if page.next_page_token.is_empty() {
            return pages;
        }
        query.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn events_are_newest_first_with_ties_by_id_and_every_page_size_shows_all_once() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    // The clock stands still for some, and goes on for others.
    for number in 0..12 {
        if number % 4 == 0 {
            app.clock.advance(TimeDelta::seconds(1));
        }
        dashboard.created(personal(VERA)).await;
    }
    let auditor = app.auditor().await;
    let sized = |page_size| ListAuditEventsRequest {
        owner: of_user(VERA),
        page_size,
        ..ListAuditEventsRequest::default()
    };
    let all = listed(&auditor, sized(0)).await;
    assert_eq!(all.len(), 12);
    let key = |event: &pb::AuditEvent| (moment(event.event_time), event.id.clone());
    assert!(all.is_sorted_by(|one, next| key(one) > key(next)));
    for size in 1..=13 {
        let pages = pages(&auditor, &sized(size)).await;
        let size = usize::try_from(size).unwrap();
        assert_eq!(pages.concat(), all, "pages of {size}");
        assert_eq!(pages.len(), all.len().div_ceil(size), "no empty last page");
    }
}

#[tokio::test]
async fn what_happens_between_pages_is_on_none_of_them() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    for _ in 0..4 {
        app.clock.advance(TimeDelta::seconds(1));
        dashboard.created(personal(VERA)).await;
    }
    let auditor = app.auditor().await;
    let mut query = ListAuditEventsRequest {
        action: "api_client.created".to_owned(),
        page_size: 2,
        ..ListAuditEventsRequest::default()
    };
    let all = pages(&auditor, &query).await.concat();
    let first = auditor.events(query.clone()).await.unwrap();
    app.clock.advance(TimeDelta::seconds(1));
    dashboard.created(personal(VERA)).await;
    query.page_token = first.next_page_token;
    let second = auditor.events(query).await.unwrap();
    assert_eq!([first.events, second.events].concat(), all);
    assert_eq!(second.next_page_token, "");
}

#[tokio::test]
async fn a_page_is_fifty_events_and_five_hundred_at_most() {
    let app = TestApp::start().await;
    app.psql(
        "INSERT INTO audit_events (id, event_time, action, client_id, client_name, caller, \
             request_id, changes) \
         SELECT gen_random_uuid(), now(), 'api_client.created', gen_random_uuid(), 'x', '', '', \
             '[]' FROM generate_series(1, 501)",
    )
    .await;
    let auditor = app.auditor().await;
    let sized = |page_size| ListAuditEventsRequest {
        action: "api_client.created".to_owned(),
        page_size,
        ..ListAuditEventsRequest::default()
    };
    for (size, expected) in [
        (0, 50),
        (1, 1),
        (499, 499),
        (500, 500),
        (501, 500),
        (i32::MAX, 500),
    ] {
        assert_eq!(
            listed(&auditor, sized(size)).await.len(),
            expected,
            "{size}"
        );
    }
    let pages = pages(&auditor, &sized(501)).await;
    let lengths: Vec<_> = pages.iter().map(Vec::len).collect();
    assert_eq!(lengths, [500, 1]);
}

#[tokio::test]
async fn a_page_token_is_good_for_the_same_filters_alone() {
    let (app, dashboard, made) = TestApp::with_client().await;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    let auditor = app.auditor().await;
    let query = ListAuditEventsRequest {
        owner: of_user(VERA),
        page_size: 1,
        ..ListAuditEventsRequest::default()
    };
    let first = auditor.events(query.clone()).await.unwrap();
    let next = ListAuditEventsRequest {
        page_token: first.next_page_token.clone(),
        page_size: 7,
        ..query
    };
    assert_eq!(listed(&auditor, next.clone()).await.len(), 1);
    let same = next.clone();
    let others = [
        ListAuditEventsRequest {
            owner: None,
            ..same.clone()
        },
        ListAuditEventsRequest {
            owner: of_team(VERA),
            ..same.clone()
        },
        ListAuditEventsRequest {
            owner: of_user(EVE),
            ..same.clone()
        },
        ListAuditEventsRequest {
            client_id: made.id,
            ..same.clone()
        },
        ListAuditEventsRequest {
            actor_user_id: VERA.to_owned(),
            ..same.clone()
        },
        ListAuditEventsRequest {
            action: "api_client.revoked".to_owned(),
            ..same.clone()
        },
        ListAuditEventsRequest {
            start_time: Some(in_seconds(&app, -60)),
            ..same.clone()
        },
        ListAuditEventsRequest {
            end_time: Some(in_seconds(&app, 60)),
            ..same
        },
    ];
    for other in others {
        let refused = auditor.events(other.clone()).await;
        assert_eq!(violations(&refused), ["page_token"], "{other:?}");
    }
    // Nor is a list of clients one of events, or the other way round.
    for _ in 0..2 {
        dashboard.created(personal(VERA)).await;
    }
    let clients = pb::ListApiClientsRequest {
        page_size: 1,
        ..list(VERA, of_user(VERA))
    };
    let of_clients = dashboard
        .list(clients.clone())
        .await
        .unwrap()
        .next_page_token;
    let refused = auditor
        .events(ListAuditEventsRequest {
            page_token: of_clients,
            ..ListAuditEventsRequest::default()
        })
        .await;
    assert_eq!(violations(&refused), ["page_token"]);
    let refused = dashboard
        .list(pb::ListApiClientsRequest {
            page_token: first.next_page_token.clone(),
            ..clients
        })
        .await;
    assert_eq!(violations(&refused), ["page_token"]);
    for at in 0..first.next_page_token.len() {
        for other in ["A", "b", "-", "é", ""] {
            let token = &first.next_page_token;
            let page_token = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            if page_token == *token {
                continue;
            }
            let edited = ListAuditEventsRequest {
                page_token,
                ..next.clone()
            };
            assert_eq!(violations(&auditor.events(edited).await), ["page_token"]);
        }
    }
}
