//! The commands that call a running server: what they print where, and what they say when the
//! server refuses.

use serde_json::{Value, json};

#[path = "remote/refusals.rs"]
mod refusals;
#[path = "remote/status.rs"]
mod status;

use crate::{
    folder::{Folder, text},
    postgres::migrated_database,
    process::{Ended, Process, binary},
    run::{run_on, serve_with},
};

pub const ALICE: &str = "00000000-0000-7000-8000-0000000000a1";
pub const TEAM: &str = "00000000-0000-7000-8000-0000000000b1";
pub const SITE: &str = "00000000-0000-7000-8000-0000000000c1";
pub const NOWHERE: &str = "00000000-0000-7000-8000-0000000000ff";

/// A server with Alice, her team and its site, and one account with every permission.
pub struct Installation {
    server: Process,
    address: String,
    pub token: String,
}

impl Installation {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(more: &[&str]) -> Self {
        let url = migrated_database().await;
        let allow = "introspect,manage,directory,audit";
        let made = run_on(
            &url,
            &["service-account", "create", "all", "--allow", allow],
        )
        .await;
        let (server, address) = serve_with(&url, more).await;
        let here = Self {
            server,
            address,
            token: made.given().trim().to_owned(),
        };
        let changes = json!([
            {"put_user": {"id": ALICE, "instance_role": "INSTANCE_ROLE_USER"}},
            {"put_team": {"id": TEAM}},
            {"putTeamMember": {"teamId": TEAM, "userId": ALICE, "role": "TEAM_ROLE_OWNER"}},
            {"put_site": {"id": SITE, "team_id": TEAM}},
        ]);
        let applied = here
            .fed(&["directory", "apply", "-"], &changes.to_string())
            .await
            .given();
        assert!(applied.starts_with("Applied 4 changes."), "{applied}");
        here
    }

    /// Runs a command with the address, the token and the actor in the environment.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        self.fed(arguments, "").await
    }

    /// The same, with that text on standard input.
    pub async fn fed(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = binary(arguments);
        command.env("HITKEEP_AUTH_SERVER", &self.address);
        command.env("HITKEEP_AUTH_TOKEN", &self.token);
        command.env("HITKEEP_AUTH_ACTOR", ALICE);
        Process::start_with(command, input).ended().await
    }

    pub async fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat())
            .await
            .given_json()
    }

    pub async fn introspect(&self, token: &str) -> Value {
        self.fed(&["introspect", "--json"], token)
            .await
            .given_json()
    }

    /// Creates a client, and gives its id and its token.
    pub async fn create(&self, name: &str) -> (String, String) {
        let made = self
            .json(&["client", "create", "--user", ALICE, "--name", name])
            .await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&made["api_client"]["id"]), text(&made["token"]))
    }

    pub async fn stop(self) {
        self.server.signal("TERM").await;
        assert_eq!(self.server.ended().await.code, Some(0));
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).collect()
}

#[tokio::test]
async fn a_client_is_managed_from_its_creation_to_its_deletion() {
    let here = Installation::start().await;
    // The token is all that is on standard output: a script keeps it in a variable.
    let grant = format!("{SITE}=editor");
    let created = here
        .run(&[
            "client",
            "create",
            "--team",
            TEAM,
            "--name",
            "Weekly report",
            "--description",
            "for Monday",
            "--grant",
            &grant,
            "--expire-time",
            "30d",
        ])
        .await;
    assert_eq!(created.code, Some(0), "{created:?}");
    let token = created.stdout.trim();
    assert!(
        token.starts_with("hkt_") && token.len() == 53,
        "{created:?}"
    );
    assert!(created.stderr.contains("Created"), "{created:?}");
    assert!(!created.stderr.contains(token), "{created:?}");

    let answer = here.introspect(&format!("{token}\n")).await;
    assert_eq!(answer["active"], true);
    assert_eq!(answer["client_name"], "Weekly report");
    assert_eq!(answer["owner"], json!({"team_id": TEAM}));
    let id = answer["client_id"].as_str().unwrap();
    let may = [
        "introspect",
        "--permission",
        "site.manage_goals",
        "--site",
        SITE,
    ];
    let said = here.fed(&may, token).await.given();
    assert_eq!(lines(&said)[0], "active");
    assert!(said.contains("decision       allowed"), "{said}");
    let may_not = ["introspect", "--permission", "site.delete", "--site", SITE];
    let said = here.fed(&may_not, token).await.given();
    assert!(said.contains("denied: role too low"), "{said}");

    let got = here.json(&["client", "get", id]).await;
    let client = &got["api_client"];
    assert_eq!(
        client["site_grants"],
        json!([{"site_id": SITE, "role": "SITE_ROLE_EDITOR"}])
    );
    assert_eq!(client["description"], "for Monday");
    let etag = client["etag"].as_str().unwrap();
    let shown = here.run(&["client", "get", id]).await.given();
    for said in [
        id,
        "Weekly report",
        &format!("team:{TEAM}"),
        etag,
        &grant,
        "active",
    ] {
        assert!(shown.contains(said), "{said} in {shown}");
    }

    // Only what is given changes.
    let updated = here
        .json(&[
            "client",
            "update",
            id,
            "--no-grants",
            "--name",
            "Daily",
            "--etag",
            etag,
        ])
        .await;
    let client = &updated["api_client"];
    assert_eq!(
        (&client["name"], &client["site_grants"]),
        (&json!("Daily"), &json!([]))
    );
    assert_eq!(client["description"], "for Monday");
    assert!(client["expire_time"].is_string());
    let said = here
        .run(&["client", "update", id, "--name", "x", "--etag", etag])
        .await
        .refused(1);
    assert!(
        said.contains("ETAG_MISMATCH") && said.contains("client get"),
        "{said}"
    );
    let cleared = ["--description", "", "--never-expire", "--grant", &grant];
    let updated = here
        .json(&[&["client", "update", id][..], &cleared].concat())
        .await;
    let client = &updated["api_client"];
    assert_eq!(client["description"], "");
    assert!(client["expire_time"].is_null(), "{client}");

    let rotated = here.run(&["client", "rotate", id, "--overlap", "1h"]).await;
    let new = rotated.stdout.trim();
    assert!(new.starts_with("hkt_") && new != token, "{rotated:?}");
    for token in [token, new] {
        assert_eq!(here.introspect(token).await["active"], true);
    }
    let used = here.json(&["client", "usage", id]).await;
    assert!(used["days"].is_array());

    here.run(&["client", "revoke", id]).await.given();
    for token in [token, new] {
        let answer = here.introspect(token).await;
        assert_eq!(answer["active"], false);
        assert_eq!(answer["inactive_reason"], "INACTIVE_REASON_REVOKED");
    }
    let said = here.run(&["client", "rotate", id]).await.refused(1);
    assert!(said.contains("API_CLIENT_INACTIVE"), "{said}");
    here.run(&["client", "reactivate", id]).await.given();
    assert_eq!(here.introspect(new).await["active"], true);
    here.run(&["client", "delete", id]).await.given();
    let said = here.fed(&["introspect"], new).await.given();
    assert_eq!(said, "inactive: unknown token\n");
    let said = here.run(&["client", "get", id]).await.refused(1);
    assert!(said.contains("API_CLIENT_NOT_FOUND"), "{said}");

    let events = here.json(&["audit", "list", "--client", id]).await;
    let actions: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["action"].as_str().unwrap())
        .collect();
    let expected = [
        "deleted",
        "reactivated",
        "revoked",
        "rotated",
        "updated",
        "updated",
        "created",
    ];
    let expected = expected.map(|action| format!("api_client.{action}"));
    assert_eq!(actions, expected);
    let first = ["audit", "list", "--client", id, "--limit", "1"];
    let newest = here.run(&first).await;
    assert_eq!(newest.code, Some(0), "{newest:?}");
    assert_eq!(newest.stdout.lines().count(), 2, "{newest:?}");
    assert!(newest.stdout.contains("api_client.deleted"), "{newest:?}");
    let notice = "The list ends after 1 event, and there are older ones: raise --limit.\n";
    assert_eq!(newest.stderr, format!("hitkeep-auth: {notice}"));
    // A program sees it by the token of the next page, and a list that is whole needs no notice.
    assert_ne!(here.json(&first).await["next_page_token"], "");
    let whole = ["audit", "list", "--client", id, "--limit", "7"];
    assert_eq!(here.run(&whole).await.given().lines().count(), 8);
    let none = here
        .run(&["audit", "list", "--client", id, "--until", "1d"])
        .await
        .given();
    assert_eq!(none, "There are no such events.\n");
    here.stop().await;
}

#[tokio::test]
async fn a_client_may_work_from_some_addresses_and_from_some_time_on() {
    let here = Installation::start().await;
    let create = ["client", "create", "--user", ALICE, "--name", "here"];
    let more = [
        "--allow-cidr",
        "2001:db8::/32,192.0.2.0/24",
        "--not-before",
        "1h",
        "--expire-time",
        "2h",
    ];
    let made = here.json(&[create, more].concat()).await;
    let client = &made["api_client"];
    let ranges = json!(["192.0.2.0/24", "2001:db8::/32"]);
    assert_eq!(client["allowed_cidrs"], ranges);
    assert!(client["not_before_time"].is_string(), "{client}");
    let (id, token) = (
        client["id"].as_str().unwrap(),
        made["token"].as_str().unwrap(),
    );
    let shown = here.run(&["client", "get", id]).await.given();
    assert!(
        shown.contains("works from     192.0.2.0/24, 2001:db8::/32"),
        "{shown}"
    );
    assert!(shown.contains("not before     20"), "{shown}");
    let listed = here.run(&["client", "list"]).await.given();
    assert!(listed.contains("192.0.2.0/24 and 1 more"), "{listed}");
    assert_eq!(
        here.fed(&["introspect"], token).await.given(),
        "inactive: not yet active\n"
    );

    let update = ["client", "update", id, "--no-not-before", "--allow-cidr"];
    let updated = here.json(&[&update[..], &["192.0.2.0/25"]].concat()).await;
    let client = &updated["api_client"];
    assert_eq!(client["allowed_cidrs"], json!(["192.0.2.0/25"]));
    assert!(client["not_before_time"].is_null(), "{client}");
    for (source, said) in [
        ("192.0.2.1", "active\n"),
        ("192.0.2.200", "inactive: source not allowed\n"),
        ("2001:db8::1", "inactive: source not allowed\n"),
    ] {
        let introspected = here
            .fed(&["introspect", "--source-ip", source], token)
            .await;
        assert!(introspected.given().starts_with(said), "{source}");
    }
    let free = ["client", "update", id, "--allow-everywhere"];
    let updated = here.json(&free).await;
    assert_eq!(updated["api_client"]["allowed_cidrs"], json!([]));
    assert_eq!(here.introspect(token).await["active"], true);

    for (wrong, said) in [
        (["--allow-cidr", "10.0.0.1"], "10.0.0.1/32"),
        (["--allow-cidr", "10.1.0.0/8"], "10.0.0.0/8"),
        (["--not-before", "soon"], "a time"),
    ] {
        let refused = here
            .run(&[&["client", "update", id][..], &wrong].concat())
            .await;
        let refused = refused.refused(2);
        assert!(refused.contains(said), "{refused}");
    }
    let late = ["client", "update", id, "--not-before", "3h"];
    let refused = here.run(&late).await.refused(1);
    assert!(refused.contains("must be before expire_time"), "{refused}");
    here.stop().await;
}

#[tokio::test]
async fn a_list_has_every_page_and_the_inactive_on_request() {
    let here = Installation::start().await;
    let none = here.run(&["client", "list"]).await.given();
    assert_eq!(none, "There are no API clients.\n");
    let (first, _) = here.create("first").await;
    let (second, _) = here.create("second").await;
    here.run(&["client", "revoke", &first]).await.given();
    let listed = here.run(&["client", "list"]).await.given();
    let listed = lines(&listed);
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(
        listed[0].starts_with("ID") && listed[1].starts_with(&second),
        "{listed:?}"
    );
    let all = here
        .json(&["client", "list", "--user", ALICE, "--include-inactive"])
        .await;
    let ids: Vec<_> = all["api_clients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|client| client["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [&*second, &first]);
    let teams = here.json(&["client", "list", "--team", TEAM]).await;
    assert_eq!(teams["api_clients"], json!([]));
    here.stop().await;
}

/// A reply that was lost is asked for again.
#[tokio::test]
async fn the_same_request_gives_the_same_token() {
    let here = Installation::start().await;
    let create = [
        "client",
        "create",
        "--user",
        ALICE,
        "--name",
        "once",
        "--request-id",
        "00000000-0000-4000-8000-000000000001",
    ];
    // A duration from now would be another time, and so another request, when it is sent again.
    for (option, duration) in [("--expire-time", "30d"), ("--not-before", "1h")] {
        let lasting = [&create[..], &[option, duration]].concat();
        let refused = here.run(&lasting).await.refused(2);
        assert!(
            refused.contains(option) && refused.contains("2026-12-31T00:00:00Z"),
            "{refused}"
        );
    }
    let create = [
        &create[..],
        &["--expire-time", "2999-12-31", "--not-before"],
        &["2999-01-31T12:00:00Z"],
    ]
    .concat();
    let first = here.json(&create).await;
    assert_eq!(here.json(&create).await, first);
    let listed = here.json(&["client", "list"]).await;
    assert_eq!(listed["api_clients"].as_array().unwrap().len(), 1);
    here.stop().await;
}

#[tokio::test]
async fn the_directory_is_read_from_a_file() {
    let here = Installation::start().await;
    let folder = Folder::new();
    let batch = json!({"changes": [{"put_team": {"id": NOWHERE}}], "sequence": "7"});
    let file = folder.write("changes.json", &batch.to_string());
    let path = text(&file);
    let applied = here.json(&["directory", "apply", path]).await;
    assert_eq!(applied["applied_sequence"], "7");
    // What the command line says counts before the file.
    let older = here
        .run(&["directory", "apply", path, "--sequence", "3"])
        .await
        .given();
    assert!(older.starts_with("Skipped: sequence 7"), "{older}");
    // So is another batch of the same number.
    folder.write(
        "changes.json",
        &json!({"changes": [{"delete_team": {"id": NOWHERE}}]}).to_string(),
    );
    let again = here
        .run(&["directory", "apply", path, "--sequence", "7"])
        .await
        .given();
    assert!(again.starts_with("Skipped: sequence 7"), "{again}");
    let status = here.json(&["directory", "status"]).await;
    assert_eq!((&status["teams"], &status["users"]), (&json!(2), &json!(1)));
    let shown = here.run(&["directory", "status"]).await.given();
    assert_eq!(lines(&shown)[1], "teams             2");

    for (content, said) in [
        ("nonsense", "expected"),
        (r#"[{"put_usr": {}}]"#, "put_usr"),
        (r#"[{"put_user": {"id": "x"}}]"#, "changes[0].put_user.id"),
    ] {
        folder.write("changes.json", content);
        let refused = here.run(&["directory", "apply", path]).await.refused(1);
        assert!(refused.contains(said), "{refused}");
    }
    drop(folder);
    let refused = here.run(&["directory", "apply", path]).await.refused(1);
    assert!(refused.contains(path), "{refused}");
    let unknown = format!(
        r#"[{{"put_site": {{"id": "{SITE}", "team_id": "00000000-0000-7000-8000-00000000dead"}}}}]"#
    );
    let refused = here.fed(&["directory", "apply", "-"], &unknown).await;
    let refused = refused.refused(1);
    assert!(refused.contains("INVALID_FIELD"), "{refused}");
    here.stop().await;
}

#[tokio::test]
async fn a_unix_socket_is_a_server_too() {
    let folder = Folder::new();
    let socket = format!("unix:{}", text(&folder.path("auth.sock")));
    let here = Installation::start_with(&["--listen", &socket]).await;
    let listed = here.json(&["client", "list", "--server", &socket]).await;
    assert_eq!(listed["api_clients"], json!([]));
    here.stop().await;
}
