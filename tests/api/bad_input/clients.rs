//! `ApiClientService`, but for updates.

use hitkeep_auth::pb::{self, SiteRole};
use tonic::Status;

mod listings;

use super::{MISPLACED_TOKENS, NO_TIMES, NO_VALUES, missing_ids, no_owners, refuses_each, time};
use crate::{
    fixtures::*,
    harness::{Caller, TestApp, violations},
};

const DAY: i64 = 24 * 60 * 60;

/// Every call of the service, on behalf of that actor.
async fn every_call(
    dashboard: &Caller,
    actor: Option<pb::Actor>,
    id: &str,
) -> Vec<(&'static str, Result<(), Status>)> {
    let create = pb::CreateApiClientRequest {
        actor: actor.clone(),
        ..personal(VERA)
    };
    let list = pb::ListApiClientsRequest {
        actor: actor.clone(),
        ..list(VERA, of_user(VERA))
    };
    let mut calls = vec![
        ("create", dashboard.create(create).await.map(drop)),
        ("list", dashboard.list(list).await.map(drop)),
    ];
    calls.extend(every_call_on_one(dashboard, actor, id).await);
    calls
}

/// Every call on one client.
async fn every_call_on_one(
    dashboard: &Caller,
    actor: Option<pb::Actor>,
    id: &str,
) -> Vec<(&'static str, Result<(), Status>)> {
    let client = pb::ApiClient {
        id: id.to_owned(),
        name: "renamed".to_owned(),
        ..pb::ApiClient::default()
    };
    let mut get = get(VERA, id);
    get.actor.clone_from(&actor);
    let mut usage = usage(VERA, id);
    usage.actor.clone_from(&actor);
    let update = pb::UpdateApiClientRequest {
        actor: actor.clone(),
        ..update(VERA, client, &["name"])
    };
    let rotate = pb::RotateApiClientRequest {
        actor: actor.clone(),
        ..rotate(VERA, id)
    };
    let revoke = pb::RevokeApiClientRequest {
        actor: actor.clone(),
        ..revoke(VERA, id)
    };
    let reactivate = pb::ReactivateApiClientRequest {
        actor: actor.clone(),
        ..reactivate(VERA, id)
    };
    let delete = pb::DeleteApiClientRequest {
        actor,
        ..delete(VERA, id)
    };
    vec![
        ("get", dashboard.get(get).await.map(drop)),
        ("usage", dashboard.usage(usage).await.map(drop)),
        ("update", dashboard.update(update).await.map(drop)),
        ("rotate", dashboard.rotate(rotate).await.map(drop)),
        ("revoke", dashboard.revoke(revoke).await.map(drop)),
        (
            "reactivate",
            dashboard.reactivate(reactivate).await.map(drop),
        ),
        ("delete", dashboard.delete(delete).await.map(drop)),
    ]
}

#[tokio::test]
async fn every_call_needs_an_actor_that_can_be_one() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let changed = |change: &dyn Fn(&mut pb::Actor)| {
        let mut actor = actor(VERA).unwrap();
        change(&mut actor);
        Some(actor)
    };
    let mut cases = vec![(None, vec!["actor"])];
    for id in missing_ids() {
        let bad = changed(&|actor| actor.user_id.clone_from(&id));
        cases.push((bad, vec!["actor.user_id"]));
    }
    for address in [
        "x",
        " ",
        "\0",
        "1.2.3",
        "1.2.3.4.5",
        "256.0.0.1",
        "1.2.3.4:80",
        "::g",
        "[::1]",
        "fe80::1%eth0",
        "localhost",
        " 1.2.3.4",
        "1.2.3.4, 5.6.7.8",
    ] {
        let bad = changed(&|actor| actor.ip_address = address.to_owned());
        cases.push((bad, vec!["actor.ip_address"]));
    }
    for agent in ["\0", "a\nb", "a\x1b[31mb", "\u{7f}", &"é".repeat(4097)] {
        let bad = changed(&|actor| actor.user_agent = agent.to_owned());
        cases.push((bad, vec!["actor.user_agent"]));
    }
    let bad = changed(&|actor| {
        *actor = pb::Actor {
            user_id: "x".to_owned(),
            ip_address: "x".to_owned(),
            user_agent: "\0".to_owned(),
        };
    });
    let all = vec!["actor.user_id", "actor.ip_address", "actor.user_agent"];
    cases.push((bad, all));

    let before = app.everything().await;
    for (actor, expected) in cases {
        for (call, refused) in every_call(&dashboard, actor.clone(), &made.id).await {
            assert_eq!(violations(&refused), expected, "{call} by {actor:.200?}");
        }
    }
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn every_call_on_one_client_needs_its_id() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    dashboard.created(personal(VERA)).await;
    let before = app.everything().await;
    for id in missing_ids() {
        for (call, refused) in every_call_on_one(&dashboard, actor(VERA), &id).await {
            let field = if call == "update" {
                "api_client.id"
            } else {
                "id"
            };
            assert_eq!(violations(&refused), [field], "{call} {id:.100}");
        }
        for (call, refused) in every_call_on_one(&dashboard, None, &id).await {
            let field = if call == "update" {
                "api_client.id"
            } else {
                "id"
            };
            assert_eq!(violations(&refused), ["actor", field], "{call} {id:.100}");
        }
    }
    assert_eq!(app.everything().await, before);
}

/// A creation that is good but for what `change` does to it.
fn creation(change: impl FnOnce(&mut pb::ApiClient)) -> pb::CreateApiClientRequest {
    let mut request = personal(VERA);
    change(
        request
            .api_client
            .as_mut()
            .expect("there is a client in it"),
    );
    request
}

#[tokio::test]
async fn a_creation_is_refused_for_each_field_that_is_wrong() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let without = pb::CreateApiClientRequest {
        api_client: None,
        ..personal(VERA)
    };
    let mut cases = vec![(without, vec!["api_client".to_owned()])];
    for (owner, expected) in no_owners("api_client.owner") {
        cases.push((creation(|client| client.owner = owner), expected));
    }
    let mut wrong = |field: &str, request| cases.push((request, vec![field.to_owned()]));
    let long = "é".repeat(121);
    let padded = format!("  {long}\n");
    for name in [
        "",
        " ",
        "\n\t ",
        "\u{a0}\u{2003}",
        "\0",
        "a\0b",
        "a\nb",
        "a\tb",
        "\x1b[0m",
        "\u{7f}",
        "a\u{85}b",
        &long,
        &padded,
    ]
    .into_iter()
    .chain(MISPLACED_TOKENS)
    {
        wrong(
            "api_client.name",
            creation(|client| client.name = name.to_owned()),
        );
    }
    let long = "語".repeat(501);
    for description in ["\0", "a\0b", "\x1b[0m", "\u{7f}", "\u{85}", "\x0b", &long]
        .into_iter()
        .chain(MISPLACED_TOKENS)
    {
        let description = description.to_owned();
        wrong(
            "api_client.description",
            creation(|client| client.description = description),
        );
    }
    for role in NO_VALUES.into_iter().chain([4]) {
        let request = creation(|client| client.instance_role = Some(role));
        wrong("api_client.instance_role", request);
    }
    for site in missing_ids() {
        wrong(
            "api_client.site_grants[0].site_id",
            personal(VERA).granted(&site, SiteRole::Viewer),
        );
    }
    for role in NO_VALUES {
        let bad = pb::SiteGrant {
            role,
            ..grant(SECOND_SITE, SiteRole::Viewer)
        };
        let request = personal(VERA).granted(SITE, SiteRole::Viewer);
        let mut request = request;
        request.api_client.as_mut().unwrap().site_grants.push(bad);
        wrong("api_client.site_grants[1].role", request);
    }
    wrong(
        "api_client.site_grants[2].site_id",
        personal(VERA)
            .granted(SITE, SiteRole::Viewer)
            .granted(SECOND_SITE, SiteRole::Viewer)
            .granted(SITE, SiteRole::Viewer),
    );
    for bad in NO_TIMES {
        wrong("api_client.expire_time", personal(VERA).expiring(time(bad)));
    }
    for past in [(0, 0), (-62_135_596_800, 0), (1_000_000_000, 999_999_999)] {
        wrong(
            "api_client.expire_time",
            personal(VERA).expiring(time(past)),
        );
    }
    refuses_each(&app, async |request| dashboard.create(request).await, cases).await;
}

#[tokio::test]
async fn all_that_is_wrong_with_a_creation_is_named() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let grant = |site_id: &str, role| pb::SiteGrant {
        site_id: site_id.to_owned(),
        role,
    };
    let all_wrong = pb::CreateApiClientRequest {
        actor: Some(pb::Actor {
            user_id: "x".to_owned(),
            ip_address: "x".to_owned(),
            user_agent: "\0".to_owned(),
        }),
        api_client: Some(pb::ApiClient {
            owner: of_team("x"),
            name: " ".to_owned(),
            description: "\0".to_owned(),
            instance_role: Some(0),
            site_grants: vec![
                grant("x", 0),
                grant(SITE, 1),
                grant(SITE, 1),
                // Twice, whatever the roles are.
                grant(SITE, 99),
                grant(SECOND_SITE, 99),
                grant(SECOND_SITE, 1),
            ],
            expire_time: Some(time((0, 0))),
            ..pb::ApiClient::default()
        }),
        request_id: "x".to_owned(),
    };
    let everything = vec![
        "actor.user_id",
        "actor.ip_address",
        "actor.user_agent",
        "api_client.owner.team_id",
        "api_client.name",
        "api_client.description",
        "api_client.instance_role",
        "api_client.site_grants[0].site_id",
        "api_client.site_grants[0].role",
        "api_client.site_grants[2].site_id",
        "api_client.site_grants[3].role",
        "api_client.site_grants[3].site_id",
        "api_client.site_grants[4].role",
        "api_client.site_grants[5].site_id",
        "api_client.expire_time",
        "request_id",
    ];
    let team_with_role = pb::CreateApiClientRequest {
        actor: None,
        ..creation(|client| {
            client.owner = of_team(TEAM);
            client.name.clear();
            client.instance_role = Some(pb::InstanceRole::Admin.into());
        })
    };
    let cases = [
        (all_wrong, everything),
        (
            pb::CreateApiClientRequest::default(),
            vec!["actor", "api_client"],
        ),
        (
            team_with_role,
            vec!["actor", "api_client.name", "api_client.instance_role"],
        ),
        (
            creation(|client| *client = pb::ApiClient::default()),
            vec!["api_client.owner", "api_client.name"],
        ),
    ];
    refuses_each(&app, async |request| dashboard.create(request).await, cases).await;
}

#[tokio::test]
async fn a_creation_at_the_edge_of_its_limits_is_good() {
    let app = TestApp::with_world().await;
    let site = |number: usize| format!("00000000-0000-7000-8000-0000000c{number:04}");
    app.change((0..101).map(|number| put_site(&site(number), TEAM)))
        .await;
    let dashboard = app.dashboard().await;
    let long = "語".repeat(120);
    let request = creation(|client| {
        client.name = format!("\u{2003} {long}\n");
        client.description = "é\n\r\t ".repeat(100);
        client.expire_time = Some(time((253_402_300_799, 999_999_999)));
        // What is output only is not looked at.
        client.id = "x".to_owned();
        client.state = 99;
        client.create_time = Some(time((i64::MAX, -1)));
        client.created_by_user_id = "x".to_owned();
        client.token_hint = "\0".to_owned();
        client.etag = "x".to_owned();
    });
    let made = dashboard.created(request).await;
    assert_eq!(made.client.name, long);
    assert_eq!(made.client.description, "é\n\r\t ".repeat(100));
    let kept = time((253_402_300_799, 999_999_000));
    assert_eq!(made.client.expire_time, Some(kept), "to the microsecond");

    let actor = pb::Actor {
        ip_address: "2001:db8::1".to_owned(),
        user_agent: "é".repeat(4096),
        ..actor(VERA).unwrap()
    };
    for actor in [
        actor,
        pb::Actor {
            user_id: VERA.to_owned(),
            ..pb::Actor::default()
        },
    ] {
        let actor = Some(actor);
        dashboard
            .created(pb::CreateApiClientRequest {
                actor,
                ..personal(VERA)
            })
            .await;
    }

    let granted = |count| {
        let mut request = personal(ALICE);
        for number in 0..count {
            request = request.granted(&site(number), SiteRole::Owner);
        }
        request
    };
    let most = dashboard.created(granted(100)).await;
    assert_eq!(most.client.site_grants.len(), 100);
    let cases = [(granted(101), ["api_client.site_grants"])];
    refuses_each(&app, async |request| dashboard.create(request).await, cases).await;
}

#[tokio::test]
async fn an_instance_role_left_out_is_user_and_an_unspecified_one_is_none() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let left_out = dashboard
        .created(creation(|client| client.instance_role = None))
        .await;
    assert_eq!(left_out.client.instance_role(), pb::InstanceRole::User);
    let unspecified = creation(|client| client.instance_role = Some(0));
    let cases = [(unspecified, ["api_client.instance_role"])];
    refuses_each(&app, async |request| dashboard.create(request).await, cases).await;
}

#[tokio::test]
async fn an_overlap_is_from_nothing_to_seven_days() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let lasting = |(seconds, nanos)| pb::RotateApiClientRequest {
        overlap: Some(prost_types::Duration { seconds, nanos }),
        ..rotate(VERA, &made.id)
    };
    let refused = [
        (7 * DAY, 1),
        (7 * DAY, 999),
        (7 * DAY, 1_000),
        (7 * DAY + 1, 0),
        (7 * DAY, 999_999_999),
        (0, -1),
        (0, -999_999_999),
        (-1, 0),
        (-1, -1),
        (-7 * DAY, 0),
        // Signs that differ, and more than a second of nanoseconds.
        (1, -1),
        (-1, 1),
        (0, 1_000_000_000),
        (1, i32::MAX),
        (1, i32::MIN),
        (i64::MAX, 0),
        (i64::MIN, 0),
        (i64::MAX, 999_999_999),
        (i64::MIN, i32::MIN),
    ];
    let cases = refused.map(|length| (lasting(length), ["overlap"]));
    refuses_each(&app, async |request| dashboard.rotate(request).await, cases).await;
    let several = pb::RotateApiClientRequest {
        actor: None,
        id: "x".to_owned(),
        overlap: Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        }),
        ..pb::RotateApiClientRequest::default()
    };
    let cases = [(several, ["actor", "id", "overlap"])];
    refuses_each(&app, async |request| dashboard.rotate(request).await, cases).await;
    for good in [(0, 0), (0, 1), (7 * DAY - 1, 999_999_999), (7 * DAY, 0)] {
        dashboard.rotate(lasting(good)).await.unwrap();
    }
}
