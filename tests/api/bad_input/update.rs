//! `UpdateApiClient`: the mask, and the fields that it names.

use hitkeep_auth::pb::{self, SiteRole};

use super::{MISPLACED_TOKENS, NO_TIMES, NO_VALUES, missing_ids, refuses_each, time};
use crate::{fixtures::*, harness::TestApp};

const ALL: [&str; 5] = [
    "name",
    "description",
    "instance_role",
    "site_grants",
    "expire_time",
];

#[tokio::test]
async fn a_mask_names_fields_that_can_be_changed_each_once() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let masked = |mask: &[&str]| update(VERA, made.client.clone(), mask);
    let no_mask = pb::UpdateApiClientRequest {
        update_mask: None,
        ..masked(&[])
    };
    let mut cases = vec![
        (no_mask, vec!["update_mask"]),
        (masked(&[]), vec!["update_mask"]),
        (masked(&["name", "name"]), vec!["update_mask.paths[1]"]),
        (
            masked(&["name", "description", "name", "description", "name"]),
            vec![
                "update_mask.paths[2]",
                "update_mask.paths[3]",
                "update_mask.paths[4]",
            ],
        ),
        (masked(&["*", "name"]), vec!["update_mask.paths[0]"]),
        (masked(&["name", "*"]), vec!["update_mask.paths[1]"]),
        (
            masked(&["*", "*"]),
            vec!["update_mask.paths[0]", "update_mask.paths[1]"],
        ),
    ];
    let long = "name".repeat(10_000);
    for path in [
        "",
        " ",
        "x",
        "\0",
        "Name",
        "NAME",
        "name ",
        "name,description",
        "api_client.name",
        "site_grants[0]",
        "site_grants.role",
        "siteGrants",
        "expireTime",
        "id",
        "owner",
        "state",
        "create_time",
        "update_time",
        "revoke_time",
        "last_used_time",
        "created_by_user_id",
        "token_hint",
        "etag",
        "**",
        &long,
    ] {
        cases.push((masked(&[path]), vec!["update_mask.paths[0]"]));
        cases.push((masked(&["name", path]), vec!["update_mask.paths[1]"]));
    }
    refuses_each(&app, async |request| dashboard.update(request).await, cases).await;
    // In any order they are good.
    let reversed: Vec<&str> = ALL.iter().rev().copied().collect();
    for mask in [&ALL[..], &reversed, &["*"]] {
        dashboard.update(masked(mask)).await.unwrap();
    }
}

#[tokio::test]
async fn each_field_that_the_mask_names_must_be_good() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let changed = |change: &dyn Fn(&mut pb::ApiClient)| {
        let mut client = made.client.clone();
        change(&mut client);
        client
    };
    let mut wrong: Vec<(&str, String, pb::ApiClient)> = Vec::new();
    for name in ["", "  ", "a\0b", "\n", "a\nb", &"é".repeat(121)] {
        let client = changed(&|client| client.name = name.to_owned());
        wrong.push(("name", "name".to_owned(), client));
    }
    for description in ["\0", "\x1b", &"é".repeat(501)] {
        let client = changed(&|client| client.description = description.to_owned());
        wrong.push(("description", "description".to_owned(), client));
    }
    for token in MISPLACED_TOKENS {
        let client = changed(&|client| client.name = token.to_owned());
        wrong.push(("name", "name".to_owned(), client));
        let client = changed(&|client| client.description = token.to_owned());
        wrong.push(("description", "description".to_owned(), client));
    }
    for role in NO_VALUES {
        let client = changed(&|client| client.instance_role = Some(role));
        wrong.push(("instance_role", "instance_role".to_owned(), client));
        let bad = pb::SiteGrant {
            role,
            ..grant(SITE, SiteRole::Viewer)
        };
        let client = changed(&|client| client.site_grants = vec![bad.clone()]);
        wrong.push(("site_grants", "site_grants[0].role".to_owned(), client));
    }
    for site in missing_ids() {
        let bad = grant(&site, SiteRole::Viewer);
        let client = changed(&|client| client.site_grants = vec![bad.clone()]);
        wrong.push(("site_grants", "site_grants[0].site_id".to_owned(), client));
    }
    let viewer = grant(SITE, SiteRole::Viewer);
    let twice = changed(&|client| client.site_grants = vec![viewer.clone(); 2]);
    wrong.push(("site_grants", "site_grants[1].site_id".to_owned(), twice));
    let many = changed(&|client| client.site_grants = vec![viewer.clone(); 101]);
    wrong.push(("site_grants", "site_grants".to_owned(), many));
    for bad in NO_TIMES.into_iter().chain([(0, 0), (1_767_268_800, 0)]) {
        // The last of them is the clock's own time.
        let client = changed(&|client| client.expire_time = Some(time(bad)));
        wrong.push(("expire_time", "expire_time".to_owned(), client));
    }
    let mut cases = Vec::new();
    for (path, field, client) in &wrong {
        for mask in [&[*path][..], &["*"], &ALL] {
            let request = update(VERA, client.clone(), mask);
            cases.push((request, [format!("api_client.{field}")]));
        }
    }
    refuses_each(&app, async |request| dashboard.update(request).await, cases).await;

    // What the mask does not name is not looked at.
    for (path, field, client) in wrong {
        let others: Vec<&str> = ALL.into_iter().filter(|other| *other != path).collect();
        let done = dashboard.update(update(VERA, client, &others)).await;
        assert_eq!(
            done.unwrap().api_client,
            Some(made.client.clone()),
            "{field}"
        );
    }
}

#[tokio::test]
async fn all_that_is_wrong_with_an_update_is_named() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let bad = pb::ApiClient {
        id: "x".to_owned(),
        name: String::new(),
        description: "\0".to_owned(),
        instance_role: Some(0),
        site_grants: vec![pb::SiteGrant::default()],
        expire_time: Some(time((0, -1))),
        ..pb::ApiClient::default()
    };
    let anonymous = |client: Option<pb::ApiClient>, mask: &[&str]| pb::UpdateApiClientRequest {
        actor: None,
        api_client: client.clone(),
        ..update(VERA, pb::ApiClient::default(), mask)
    };
    let fields = vec![
        "actor",
        "api_client.id",
        "api_client.name",
        "api_client.description",
        "api_client.instance_role",
        "api_client.site_grants[0].site_id",
        "api_client.site_grants[0].role",
        "api_client.expire_time",
    ];
    let cases = vec![
        (anonymous(Some(bad.clone()), &["*"]), fields.clone()),
        (anonymous(Some(bad.clone()), &ALL), fields),
        (
            pb::UpdateApiClientRequest::default(),
            vec!["actor", "update_mask", "api_client"],
        ),
        (
            anonymous(None, &["x", "name"]),
            vec!["actor", "update_mask.paths[0]", "api_client"],
        ),
        (
            anonymous(Some(bad.clone()), &[]),
            vec!["actor", "update_mask", "api_client.id"],
        ),
        // A path that is wrong does not hide what the others bring.
        (
            anonymous(Some(bad), &["name", "x", "name", "expire_time"]),
            vec![
                "actor",
                "update_mask.paths[1]",
                "update_mask.paths[2]",
                "api_client.id",
                "api_client.name",
                "api_client.expire_time",
            ],
        ),
    ];
    refuses_each(&app, async |request| dashboard.update(request).await, cases).await;
    // A team's client can have no instance role, whatever else is asked.
    let expiring = team_client(ALICE).expiring(in_seconds(&app, 60));
    let team = dashboard.created(expiring).await;
    let admin = pb::ApiClient {
        instance_role: Some(pb::InstanceRole::Admin.into()),
        not_before_time: team.client.expire_time,
        ..team.client
    };
    let (role, start) = ("api_client.instance_role", "api_client.not_before_time");
    let cases = [
        (update(ALICE, admin.clone(), &["instance_role"]), vec![role]),
        // Of what only the stored client shows, everything is named as well.
        (
            update(ALICE, admin, &["not_before_time", "instance_role"]),
            vec![role, start],
        ),
    ];
    refuses_each(&app, async |request| dashboard.update(request).await, cases).await;
}
