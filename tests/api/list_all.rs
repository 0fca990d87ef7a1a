//! `ListApiClients` by what an operator looks for: everybody's clients, by their expiry,
//! their use, their creator, their state or a site.

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::clock::Clock,
    pb::{self, ApiClientState, InstanceRole, SiteRole},
};

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, told, violations},
};

/// The names of all clients of a list, read in pages of two.
async fn names(dashboard: &Caller, wanted: pb::ListApiClientsRequest) -> Vec<String> {
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListApiClientsRequest {
            page_size: 2,
            page_token,
            ..wanted.clone()
        };
        let page = dashboard.list(request).await.expect("a page");
        assert!(page.api_clients.len() <= 2);
        names.extend(page.api_clients.into_iter().map(|client| client.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return names;
        }
    }
}

fn everybodys(user: &str) -> pb::ListApiClientsRequest {
    list(user, None)
}

/// A world with a client for each state, of several owners, oldest first: working (Vera's),
/// team's, revoked, expired, expired and revoked, and Eve's, who is disabled.
async fn clients(app: &TestApp) -> Caller {
    let dashboard = app.dashboard().await;
    let later = |request: pb::CreateApiClientRequest| {
        app.clock.advance(TimeDelta::seconds(1));
        request
    };
    let working = personal(VERA)
        .named("working")
        .granted(SITE, SiteRole::Editor);
    dashboard.created(working).await;
    dashboard
        .created(later(team_client(ALICE).named("team's")))
        .await;
    let revoked = team_client(ADAM)
        .named("revoked")
        .granted(SITE, SiteRole::Viewer);
    let revoked = dashboard.created(later(revoked)).await;
    let in_a_minute = || in_seconds(app, 60);
    let expired = later(personal(VERA))
        .named("expired")
        .expiring(in_a_minute());
    dashboard.created(expired).await;
    let both = later(personal(VERA)).named("both").expiring(in_a_minute());
    let both = dashboard.created(both).await;
    dashboard
        .created(later(
            personal(EVE).named("eve's").expiring(in_seconds(app, 3600)),
        ))
        .await;
    dashboard.revoke(revoke(ROOT, &revoked.id)).await.unwrap();
    dashboard.revoke(revoke(ROOT, &both.id)).await.unwrap();
    app.clock.advance(TimeDelta::seconds(120));
    app.change([put_user(EVE, InstanceRole::User, true)]).await;
    dashboard
}

const ALL: [&str; 6] = ["eve's", "both", "expired", "revoked", "team's", "working"];

#[tokio::test]
async fn only_an_owner_of_the_instance_lists_everybodys() {
    let app = TestApp::with_world().await;
    let dashboard = clients(&app).await;
    for user in [ALICE, ADAM, VERA, EVE, NOBODY] {
        let refused = dashboard.list(everybodys(user)).await;
        assert_eq!(
            told(&refused),
            "PermissionDenied OWNER_NOT_MANAGED",
            "{user}"
        );
    }
    let active = names(&dashboard, everybodys(ROOT)).await;
    assert_eq!(active, ["team's", "working"]);
    let all = pb::ListApiClientsRequest {
        include_inactive: true,
        ..everybodys(ROOT)
    };
    assert_eq!(names(&dashboard, all.clone()).await, ALL);
    let states = dashboard.list(all).await.unwrap().api_clients;
    let states: Vec<_> = states.iter().map(pb::ApiClient::state).collect();
    use ApiClientState::{Active, Expired, OwnerInactive, Revoked};
    assert_eq!(
        states,
        [OwnerInactive, Revoked, Expired, Revoked, Active, Active]
    );
    // What counts is what holds now.
    app.change([
        put_user(ROOT, InstanceRole::Owner, true),
        put_user(ALICE, InstanceRole::Owner, false),
    ])
    .await;
    let refused = dashboard.list(everybodys(ROOT)).await;
    assert_eq!(told(&refused), "PermissionDenied OWNER_NOT_MANAGED");
    assert_eq!(names(&dashboard, everybodys(ALICE)).await.len(), 2);
    app.change([put_team(TEAM, true)]).await;
    assert_eq!(names(&dashboard, everybodys(ALICE)).await, ["working"]);
}

#[tokio::test]
async fn a_state_lets_through_those_that_are_in_it() {
    let app = TestApp::with_world().await;
    let dashboard = clients(&app).await;
    let cases: [(ApiClientState, &[&str]); 4] = [
        (ApiClientState::Active, &["team's", "working"]),
        (ApiClientState::Revoked, &["both", "revoked"]),
        (ApiClientState::Expired, &["expired"]),
        (ApiClientState::OwnerInactive, &["eve's"]),
    ];
    for (state, expected) in cases {
        for include_inactive in [false, true] {
            let request = pb::ListApiClientsRequest {
                state: Some(state.into()),
                include_inactive,
                ..everybodys(ROOT)
            };
            assert_eq!(names(&dashboard, request).await, expected, "{state:?}");
        }
    }
    // With an owner as well, and for an actor who may list that owner's.
    let of_vera = pb::ListApiClientsRequest {
        state: Some(ApiClientState::Revoked.into()),
        ..list(VERA, of_user(VERA))
    };
    assert_eq!(names(&dashboard, of_vera).await, ["both"]);
    let of_eve = pb::ListApiClientsRequest {
        state: Some(ApiClientState::OwnerInactive.into()),
        ..list(ROOT, of_user(EVE))
    };
    assert_eq!(names(&dashboard, of_eve).await, ["eve's"]);
}

#[tokio::test]
async fn filters_let_through_what_passes_all_of_them() {
    let app = TestApp::with_world().await;
    let dashboard = clients(&app).await;
    let all = || pb::ListApiClientsRequest {
        include_inactive: true,
        ..everybodys(ROOT)
    };
    // Expiring in 60 s was said two minutes ago; the last one in an hour.
    let soon = pb::ListApiClientsRequest {
        expire_before: Some(in_seconds(&app, 0)),
        ..all()
    };
    assert_eq!(names(&dashboard, soon).await, ["both", "expired"]);
    let of_eve = dashboard.list(list(ROOT, of_user(EVE))).await.unwrap();
    assert_eq!(of_eve.api_clients.len(), 0, "inactive");
    let hour = app.clock.now() + TimeDelta::hours(2);
    let hour = prost_types::Timestamp {
        seconds: hour.timestamp(),
        nanos: 0,
    };
    let all_expiring = pb::ListApiClientsRequest {
        expire_before: Some(hour),
        ..all()
    };
    assert_eq!(
        names(&dashboard, all_expiring).await,
        ["eve's", "both", "expired"]
    );
    let by_alice = pb::ListApiClientsRequest {
        created_by_user_id: ALICE.to_owned(),
        ..all()
    };
    assert_eq!(names(&dashboard, by_alice.clone()).await, ["team's"]);
    let on_site = pb::ListApiClientsRequest {
        site_id: SITE.to_owned(),
        ..all()
    };
    assert_eq!(
        names(&dashboard, on_site.clone()).await,
        ["revoked", "working"]
    );
    let active_there = pb::ListApiClientsRequest {
        include_inactive: false,
        ..on_site.clone()
    };
    assert_eq!(names(&dashboard, active_there).await, ["working"]);
    let nobody = pb::ListApiClientsRequest {
        created_by_user_id: ALICE.to_owned(),
        ..on_site.clone()
    };
    assert!(names(&dashboard, nobody).await.is_empty());
    let of_team = pb::ListApiClientsRequest {
        owner: of_team(TEAM),
        actor: actor(ADAM),
        ..on_site
    };
    assert_eq!(names(&dashboard, of_team).await, ["revoked"]);
}

#[tokio::test]
async fn unused_is_what_is_older_and_was_not_used_since() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let mut made = Vec::new();
    for name in [
        "never used",
        "used before",
        "used at it",
        "used after",
        "young",
    ] {
        made.push(dashboard.created(personal(VERA).named(name)).await.id);
        app.clock.advance(TimeDelta::seconds(10));
    }
    // Ten seconds after the fourth one was made, when the fifth was.
    let since = app.clock.now() - TimeDelta::seconds(10);
    let used = |id: &str, offset: i64| {
        let time = (since + TimeDelta::microseconds(offset)).to_rfc3339();
        format!("INSERT INTO api_client_usage VALUES ('{id}', '{time}');")
    };
    app.psql(&format!(
        "{}{}{}INSERT INTO api_client_usage VALUES ('{}', NULL)",
        used(&made[1], -1),
        used(&made[2], 0),
        used(&made[3], 1),
        made[0],
    ))
    .await;
    let request = pb::ListApiClientsRequest {
        unused_since: Some(prost_types::Timestamp {
            seconds: since.timestamp(),
            nanos: i32::try_from(since.timestamp_subsec_nanos()).unwrap(),
        }),
        ..everybodys(ROOT)
    };
    assert_eq!(
        names(&dashboard, request.clone()).await,
        ["used before", "never used"]
    );
    let own = pb::ListApiClientsRequest {
        actor: actor(VERA),
        owner: of_user(VERA),
        ..request
    };
    assert_eq!(names(&dashboard, own).await, ["used before", "never used"]);
}

#[tokio::test]
async fn a_page_token_is_bound_to_every_filter() {
    let app = TestApp::with_world().await;
    let dashboard = clients(&app).await;
    let first = pb::ListApiClientsRequest {
        include_inactive: true,
        page_size: 1,
        ..everybodys(ROOT)
    };
    let token = dashboard.list(first.clone()).await.unwrap().next_page_token;
    let next = |change: fn(&mut pb::ListApiClientsRequest)| {
        let mut request = pb::ListApiClientsRequest {
            page_token: token.clone(),
            ..first.clone()
        };
        change(&mut request);
        request
    };
    let page = dashboard.list(next(|request| request.page_size = 2)).await;
    let page = page.unwrap().api_clients;
    let names: Vec<_> = page.iter().map(|client| client.name.as_str()).collect();
    assert_eq!(names, ALL[1..3]);
    let changes: [fn(&mut pb::ListApiClientsRequest); 7] = [
        |request| request.owner = of_user(VERA),
        |request| request.include_inactive = false,
        |request| {
            request.expire_before = Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 0,
            });
        },
        |request| {
            request.unused_since = Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 0,
            });
        },
        |request| request.created_by_user_id = ALICE.to_owned(),
        |request| request.state = Some(ApiClientState::Active.into()),
        |request| request.site_id = SITE.to_owned(),
    ];
    for change in changes {
        let refused = dashboard.list(next(change)).await;
        assert_eq!(violations(&refused), ["page_token"]);
    }
}
