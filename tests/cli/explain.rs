//! `explain`: that it says what the service answers, and why.

use hitkeep_auth::{
    domain::token::{Token, TokenKind},
    pb::{
        IntrospectRequest, PermissionCheck,
        introspection_service_client::IntrospectionServiceClient,
    },
    system::SystemEntropy,
};
use serde_json::{Value, json};

#[path = "explain/odd.rs"]
mod odd;

use crate::{
    postgres::{execute, migrated_database},
    process::{Ended, Process, binary},
    run::{connect, from_caller, run_on, serve},
};

/// A user who is admin of team 1 and viewer of its first site, a disabled one, and an
/// owner of the instance. Team 2 is archived, and the third site is its.
pub const DIRECTORY: &str = "
    INSERT INTO users (id, instance_role, disabled) VALUES
        ('00000000-0000-7000-8000-0000000000a1', 'user', false),
        ('00000000-0000-7000-8000-0000000000a2', 'user', true),
        ('00000000-0000-7000-8000-0000000000a3', 'owner', false);
    INSERT INTO teams (id, archived) VALUES
        ('00000000-0000-7000-8000-0000000000b1', false),
        ('00000000-0000-7000-8000-0000000000b2', true);
    INSERT INTO team_members (team_id, user_id, role) VALUES
        ('00000000-0000-7000-8000-0000000000b1', '00000000-0000-7000-8000-0000000000a1', 'admin'),
        ('00000000-0000-7000-8000-0000000000b1', '00000000-0000-7000-8000-0000000000a2', 'owner');
    INSERT INTO sites (id, team_id) VALUES
        ('00000000-0000-7000-8000-0000000000c1', '00000000-0000-7000-8000-0000000000b1'),
        ('00000000-0000-7000-8000-0000000000c2', '00000000-0000-7000-8000-0000000000b1'),
        ('00000000-0000-7000-8000-0000000000c3', '00000000-0000-7000-8000-0000000000b2');
    INSERT INTO site_members (site_id, user_id, role) VALUES
        ('00000000-0000-7000-8000-0000000000c1', '00000000-0000-7000-8000-0000000000a1', 'viewer')";

fn id(short: &str) -> String {
    format!("00000000-0000-7000-8000-0000000000{short}")
}

/// A client with grants on all three sites.
pub struct Client {
    id: String,
    pub token: String,
}

/// Makes one, with what is to be said of it in SQL: its owner's column and id, its
/// instance role, its expiry and revocation, and the end of its token.
pub async fn client(
    url: &str,
    number: u8,
    [column, owner, role, expires, revoked, end]: [&str; 6],
) -> Client {
    let token = Token::mint(TokenKind::Personal, &SystemEntropy);
    let [first, rest] = [0, 16].map(|at| {
        let half = token.hash().0[at..at + 16].try_into().unwrap();
        format!("{:032x}", u128::from_be_bytes(half))
    });
    let client = id(&format!("d{number}"));
    let (owner, someone) = (id(owner), id("a1"));
    let [c1, c2, c3] = ["c1", "c2", "c3"].map(id);
    execute(
        url,
        &format!(
            "INSERT INTO api_clients (id, {column}, name, description, instance_role, expire_time,
                 revoke_time, created_by_user_id, create_time, update_time)
             VALUES ('{client}', '{owner}', 'client {number}', '', '{role}', {expires}, {revoked},
                 '{someone}', now(), now());
             INSERT INTO api_client_grants (client_id, site_id, role) VALUES
                 ('{client}', '{c1}', 'editor'), ('{client}', '{c2}', 'owner'),
                 ('{client}', '{c3}', 'viewer');
             INSERT INTO api_client_tokens (hash, client_id, hint, create_time, end_time)
             VALUES ('\\x{first}{rest}', '{client}', 'hkp_...', now(), {end})"
        ),
    )
    .await;
    Client {
        id: client,
        token: token.reveal(),
    }
}

/// One in each state.
async fn clients(url: &str) -> Vec<(&'static str, Client)> {
    let personal =
        |owner, role, expires, revoked, end| ["owner_user_id", owner, role, expires, revoked, end];
    let (never, past, future) = (
        "NULL",
        "now() - interval '1 hour'",
        "now() + interval '1 day'",
    );
    let all = [
        ("works", personal("a1", "admin", never, never, never)),
        ("replaced", personal("a1", "user", never, never, past)),
        ("overlapping", personal("a1", "user", never, never, future)),
        ("revoked", personal("a1", "user", past, past, never)),
        ("expired", personal("a1", "user", past, never, never)),
        ("disabled", personal("a2", "user", never, never, never)),
        ("owner", personal("a3", "owner", future, never, never)),
        (
            "team's",
            ["owner_team_id", "b1", "user", never, never, never],
        ),
        (
            "archived",
            ["owner_team_id", "b2", "user", never, never, never],
        ),
    ];
    let mut made = Vec::new();
    for (number, (name, state)) in (0..).zip(all) {
        made.push((name, client(url, number, state).await));
    }
    made
}

async fn explain(url: &str, token: &str, more: &[&str]) -> Ended {
    let arguments = ["explain", "--database-url", url];
    let command = binary(arguments.iter().chain(more));
    Process::start_with(command, &format!("{token}\n"))
        .ended()
        .await
}

#[tokio::test]
async fn it_says_what_the_service_answers() {
    let url = migrated_database().await;
    execute(&url, DIRECTORY).await;
    let clients = clients(&url).await;
    let made = run_on(
        &url,
        &[
            "service-account",
            "create",
            "x",
            "--allow",
            "introspect",
            "--json",
        ],
    );
    let caller = made.await.given_json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let (_server, address) = serve(&url).await;
    let mut service = IntrospectionServiceClient::new(connect(&address).await);
    let malformed = clients[0].1.token.replace("hkp", "hkt");
    let unknown = Token::mint(TokenKind::Personal, &SystemEntropy).reveal();
    let others = [malformed, unknown, caller.clone()];
    let tokens = clients.iter().map(|(_, client)| &client.token);
    for token in tokens.chain(&others) {
        for (site, permission) in [
            (id("c1"), "site.view"),
            (id("c1"), "site.manage_goals"),
            (id("c2"), "site.manage_data"),
            (id("c2"), "site.delete"),
            (id("c3"), "site.view"),
            (id("c9"), "site.view"),
            (String::new(), "instance.manage_users"),
        ] {
            let mut more = vec!["--json", "--permission", permission];
            if !site.is_empty() {
                more.extend(["--site", site.as_str()]);
            }
            let told = explain(&url, token, &more).await.given_json();
            let request = IntrospectRequest {
                token: token.clone(),
                check: Some(PermissionCheck {
                    site_id: site.clone(),
                    permission: permission.to_owned(),
                }),
                ..IntrospectRequest::default()
            };
            let answer = service.introspect(from_caller(&caller, request)).await;
            let answer = answer.unwrap().into_inner();
            assert_eq!(told["active"], answer.active, "{told}");
            assert_eq!(told["revision"], answer.revision, "{told}");
            let reason = answer.inactive_reason().as_str_name();
            if answer.active {
                let role = answer.instance_role().as_str_name().to_lowercase();
                let said = told["instance_role"]["effective"].as_str().unwrap();
                assert_eq!(format!("instance_role_{said}"), role);
                let grants: Vec<_> = { told["site_grants"].as_array().unwrap().iter() }
                    .filter(|grant| !grant["effective"].is_null())
                    .map(|grant| {
                        let role = grant["effective"].as_str().unwrap();
                        let role = format!("SITE_ROLE_{}", role.to_uppercase());
                        (grant["site_id"].as_str().unwrap().to_owned(), role)
                    })
                    .collect();
                let expected: Vec<_> = { answer.site_grants.iter() }
                    .map(|grant| (grant.site_id.clone(), grant.role().as_str_name().to_owned()))
                    .collect();
                assert_eq!(grants, expected, "{told}");
            } else {
                let reason = reason.strip_prefix("INACTIVE_REASON_").unwrap();
                assert_eq!(told["inactive_reason"], reason, "{told}");
            }
            if told.get("decision").is_some() {
                let decision = answer.decision.unwrap();
                let reason = decision.reason().as_str_name();
                let reason = reason.strip_prefix("DECISION_REASON_").unwrap();
                let expected = json!({"allowed": decision.allowed, "reason": reason});
                assert_eq!(told["decision"], expected, "{told}");
            }
        }
    }
}

#[tokio::test]
async fn it_says_why_in_words() {
    let url = migrated_database().await;
    execute(&url, DIRECTORY).await;
    let clients = clients(&url).await;
    let of = |name: &str| &clients.iter().find(|(other, _)| *other == name).unwrap().1;
    let (c1, c2, c3) = (id("c1"), id("c2"), id("c3"));
    for (name, expected) in [
        ("works", vec!["The token works.".to_owned()]),
        (
            "works",
            vec![
                format!(
                    "{c1}  viewer   editor   viewer       the owner's role on the site, the \
                     weaker one; the team role gives admin"
                ),
                format!(
                    "{c2}  admin    owner    admin        the owner's role in the site's team\n"
                ),
                format!("{c3}  none     viewer   none         the site's team is archived"),
                "instance role  user: the client was given admin, and the owner holds user"
                    .to_owned(),
            ],
        ),
        (
            "replaced",
            vec!["NOT work (TOKEN_ROTATED): it was replaced by a newer token".to_owned()],
        ),
        ("overlapping", vec!["The token works, until ".to_owned()]),
        ("revoked", vec!["NOT work (REVOKED)".to_owned()]),
        (
            "expired",
            vec!["NOT work (EXPIRED): its client expired ".to_owned()],
        ),
        ("disabled", vec!["the owning user is disabled".to_owned()]),
        (
            "owner",
            vec![format!(
                "{c2}  owner    owner    owner        an instance owner owns every site"
            )],
        ),
        (
            "team's",
            vec![
                format!("{c2}  owner    owner    owner        the site belongs to the team"),
                format!("{c3}  none     viewer   none         the site belongs to another team"),
            ],
        ),
        ("archived", vec!["the owning team is archived".to_owned()]),
    ] {
        let said = explain(&url, &of(name).token, &[]).await.given();
        for expected in expected {
            assert!(said.contains(&expected), "{name}: {expected}\n{said}");
        }
        assert!(!said.contains(&of(name).token), "{said}");
        assert!(said.contains("As of revision "), "{said}");
    }
    let works = of("works");
    let more = ["--site", &c1, "--permission", "site.manage_goals"];
    let said = explain(&url, &works.token, &more).await.given();
    let rule =
        "NOT allowed (ROLE_TOO_LOW): its role there is viewer, and site.manage_goals needs editor.";
    assert!(said.contains(rule), "{said}");
    // By the client's id: its newest token.
    let by_id = run_on(&url, &["explain", &works.id]).await.given();
    assert!(
        by_id.contains("The token works.") && by_id.contains("client 0"),
        "{by_id}"
    );
}

#[tokio::test]
async fn it_shows_from_where_and_from_when_on_tokens_work() {
    let url = migrated_database().await;
    execute(&url, DIRECTORY).await;
    let clients = clients(&url).await;
    let of = |name: &str| &clients.iter().find(|(other, _)| *other == name).unwrap().1;
    let works = of("works");
    let restrict = async |set: &str| {
        let sql = format!("UPDATE api_clients SET {set} WHERE id = '{}'", works.id);
        execute(&url, &sql).await;
    };
    restrict("allowed_cidrs = ARRAY['192.0.2.0/24', '2001:db8::/32']").await;
    let ranges = "192.0.2.0/24, 2001:db8::/32";
    for (source, said) in [
        (None, "no address was stated (--source-ip)"),
        (Some("198.51.100.1"), "not from 198.51.100.1"),
    ] {
        let option = source.map_or(vec![], |source| vec!["--source-ip", source]);
        let text = explain(&url, &works.token, &option).await.given();
        let why = format!("(SOURCE_NOT_ALLOWED): its client works only from {ranges}, and {said}.");
        assert!(text.contains(&why), "{text}");
        assert!(
            text.contains(&format!("works from     {ranges}\n")),
            "{text}"
        );
    }
    let from = ["--source-ip", "::ffff:192.0.2.1"];
    let text = explain(&url, &works.token, &from).await.given();
    assert!(text.contains("The token works."), "{text}");
    restrict("not_before_time = '2100-01-01T00:00:00Z'").await;
    let text = explain(&url, &works.token, &from).await.given();
    let why = "(NOT_YET_ACTIVE): its client works from 2100-01-01 00:00:00Z on.";
    assert!(text.contains(why), "{text}");
    let json = [&from[..], &["--json"]].concat();
    let told = explain(&url, &works.token, &json).await.given_json();
    assert_eq!(told["inactive_reason"], "NOT_YET_ACTIVE");
    assert_eq!(
        told["allowed_cidrs"],
        json!(["192.0.2.0/24", "2001:db8::/32"])
    );
    assert_eq!(told["not_before_time"], "2100-01-01T00:00:00+00:00");
}

/// A user's role on a site and the one in its team: both, and which of them decides.
#[tokio::test]
async fn it_shows_both_memberships() {
    let url = migrated_database().await;
    execute(&url, DIRECTORY).await;
    let state = ["owner_user_id", "a1", "user", "NULL", "NULL", "NULL"];
    let client = client(&url, 1, state).await;
    let c2 = id("c2");
    for (team_role, on_site, holds, because, told) in [
        (
            "admin",
            "owner",
            "admin",
            "the owner's role in the site's team, the weaker one; on the site, owner",
            json!({"on_site": "owner", "in_team": "admin", "team_role_gives": "admin",
                   "decided_by": "in_team"}),
        ),
        (
            "owner",
            "viewer",
            "viewer",
            "the owner's role on the site, the weaker one; the team role gives owner",
            json!({"on_site": "viewer", "in_team": "owner", "team_role_gives": "owner",
                   "decided_by": "on_site"}),
        ),
        (
            "admin",
            "admin",
            "admin",
            "the owner's role on the site, and the same from the one in its team",
            json!({"on_site": "admin", "in_team": "admin", "team_role_gives": "admin",
                   "decided_by": "both"}),
        ),
        (
            "member",
            "owner",
            "owner",
            "the owner's role on the site; the one in its team, member, gives none",
            json!({"on_site": "owner", "in_team": "member", "team_role_gives": null,
                   "decided_by": "on_site"}),
        ),
        (
            "owner",
            "",
            "owner",
            "the owner's role in the site's team",
            json!({"on_site": null, "in_team": "owner", "team_role_gives": "owner",
                   "decided_by": "in_team"}),
        ),
        (
            "member",
            "",
            "none",
            "the owner's role in the site's team, member, gives none",
            json!({"on_site": null, "in_team": "member", "team_role_gives": null,
                   "decided_by": null}),
        ),
    ] {
        let user = id("a1");
        let change = format!(
            "DELETE FROM site_members WHERE site_id = '{c2}' AND user_id = '{user}';
             UPDATE team_members SET role = '{team_role}' WHERE user_id = '{user}';
             INSERT INTO site_members SELECT '{c2}', '{user}', '{on_site}'
                 WHERE '{on_site}' <> ''"
        );
        execute(&url, &change).await;
        let said = explain(&url, &client.token, &[]).await.given();
        let row = format!("{c2}  {holds:<8} owner    {holds:<11}  {because}\n");
        assert!(said.contains(&row), "{row}\n{said}");
        let said = explain(&url, &client.token, &["--json"]).await.given_json();
        let grants = said["site_grants"].as_array().unwrap();
        let grant = grants.iter().find(|grant| grant["site_id"] == c2).unwrap();
        assert_eq!(grant["owner_memberships"], told, "{grant}");
        assert_eq!(grant["because"], because, "{grant}");
        let role = (holds != "none").then_some(holds);
        assert_eq!(grant["owner_holds"], json!(role), "{grant}");
        // No membership decides on a site of an archived team.
        let archived = grants.iter().find(|grant| grant["site_id"] == id("c3"));
        assert!(archived.unwrap()["owner_memberships"].is_null());
    }
}

/// There is no verdict to tell, so nothing is given that a program could take for one.
#[tokio::test]
async fn a_client_without_a_token_to_explain_is_a_failure() {
    let url = migrated_database().await;
    execute(&url, DIRECTORY).await;
    let clients = clients(&url).await;
    let (_, replaced) = { clients.iter() }
        .find(|(name, _)| *name == "replaced")
        .unwrap();
    for more in [&[][..], &["--json"]] {
        let arguments = |client| [&["explain", client], more].concat();
        let nobody = id("ff");
        let said = run_on(&url, &arguments(&nobody)).await.refused(1);
        assert!(said.contains("there is no API client"), "{said}");
        let said = run_on(&url, &arguments(&replaced.id)).await.refused(1);
        assert!(said.contains("has no newest token"), "{said}");
    }
}
