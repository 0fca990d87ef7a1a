//! `client report-leak`, `client revoke-all` and `client list` for everybody's: what is done in
//! an incident, and before there is one.

use serde_json::{Value, json};

use crate::remote::{ALICE, Installation, NOWHERE, SITE, TEAM};

/// Makes Alice an owner of the instance, and makes a team client.
async fn promoted(here: &Installation) -> (String, String) {
    let changes = json!([{"put_user": {"id": ALICE, "instance_role": "INSTANCE_ROLE_OWNER"}}]);
    here.fed(&["directory", "apply", "-"], &changes.to_string())
        .await
        .given();
    let grant = format!("{SITE}=viewer");
    let made = here
        .json(&[
            "client", "create", "--team", TEAM, "--name", "Team's", "--grant", &grant,
        ])
        .await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made["api_client"]["id"]), text(&made["token"]))
}

fn ids(list: &Value) -> Vec<&str> {
    let clients = list["api_clients"].as_array().unwrap().iter();
    clients
        .map(|client| client["id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_leaked_token_ends_with_two_commands() {
    let here = Installation::start().await;
    let (id, token) = here.create("Nightly").await;
    let reported = here
        .fed(
            &[
                "client",
                "report-leak",
                "--source",
                "gitleaks",
                "--url",
                "https://git.example/a",
            ],
            &format!("  {token}\n"),
        )
        .await
        .given();
    let first = reported.lines().next().unwrap();
    assert_eq!(
        first,
        "The token worked until now. Its API client is revoked."
    );
    assert!(reported.contains(&id), "{reported}");
    assert!(reported.contains(&format!("user:{ALICE}")), "{reported}");
    assert!(!reported.contains(&token[4..47]), "{reported}");
    assert_eq!(here.introspect(&token).await["active"], false);
    let again = here.fed(&["client", "report-leak", "--json"], &token).await;
    let again = again.given_json();
    assert_eq!(
        [&again["known"], &again["was_live"], &again["revoked"]],
        [true, false, false]
    );
    let again = here.fed(&["client", "report-leak"], &token).await.given();
    assert!(again.contains("was revoked before"), "{again}");
    let events = here.json(&["audit", "list", "--client", &id]).await;
    let leaked = events["events"].as_array().unwrap().iter();
    let leaked: Vec<_> = leaked
        .filter(|event| event["action"] == "api_client.leaked")
        .collect();
    assert_eq!(leaked.len(), 2, "with a source, and without one");
    // What is no token is refused here, and says why; nobody is asked.
    let other = if token.ends_with('0') { '1' } else { '0' };
    for (text, why) in [
        ("", "0 characters"),
        ("hkp_x", "5 characters"),
        (&*token.replace("hkp_", "hkq_"), "does not begin with"),
        (&*format!("{}{other}", &token[..52]), "checksum"),
    ] {
        let refused = here.fed(&["client", "report-leak"], text).await;
        let said = refused.refused(1);
        assert!(said.contains(why), "{text}: {said}");
    }
    here.stop().await;
}

#[tokio::test]
async fn a_leaked_token_is_named_by_its_hash() {
    let here = Installation::start().await;
    let (id, token) = here.create("Nightly").await;
    let hash = blake3::derive_key(
        "auth.hitkeep.com 2026-11-23 token at rest v1",
        token.as_bytes(),
    );
    let hash = hash.map(|byte| format!("{byte:02x}")).concat();
    let report = ["client", "report-leak", "--hash", &hash];
    let reported = here.json(&report).await;
    assert_eq!(reported["was_live"], true);
    assert_eq!(reported["api_client"]["id"], *id);
    assert_eq!(here.introspect(&token).await["active"], false);
    let unknown = ["client", "report-leak", "--hash", &"0".repeat(64)];
    let unknown = here.run(&unknown).await.given();
    assert!(unknown.starts_with("It is not known"), "{unknown}");
    let refused = here.run(&["client", "report-leak", "--hash", "x"]).await;
    let said = refused.refused(1);
    assert!(said.contains("token_hash must be 64"), "{said}");
    // The token of the caller itself is for the command line on the server.
    let caller = here.token.clone();
    let refused = here.fed(&["client", "report-leak"], &caller).await;
    let said = refused.refused(1);
    assert!(said.contains("SERVICE_ACCOUNT_TOKEN"), "{said}");
    assert!(said.contains("the service account all"), "{said}");
    here.stop().await;
}

#[tokio::test]
async fn all_clients_are_revoked_by_what_they_have_in_common() {
    let here = Installation::start().await;
    let (team, token) = promoted(&here).await;
    let (first, _) = here.create("First").await;
    let (second, _) = here.create("Second").await;
    let own = ["client", "revoke-all", "--user", ALICE];
    // Nobody can be asked here, so it has to be said.
    let refused = here.run(&own).await.refused(2);
    assert!(refused.contains("--yes"), "{refused}");
    let none = here.run(&["client", "revoke-all", "--yes"]).await;
    assert!(none.refused(2).contains("--created-by"));

    let tried = here.run(&[&own[..], &["--dry-run"]].concat()).await.given();
    let mut both = [first.as_str(), second.as_str()];
    both.sort_unstable();
    let lines: Vec<_> = tried.lines().collect();
    assert_eq!(lines[0], "2 API clients would be revoked.");
    assert_eq!(lines[1..], both);
    assert_eq!(here.introspect(&token).await["active"], true);
    let all = here.json(&["client", "list", "--user", ALICE]).await;
    assert_eq!(ids(&all), [second.as_str(), first.as_str()]);

    let revoked = here.json(&[&own[..], &["--yes"]].concat()).await;
    assert_eq!(revoked["revoked_count"], 2);
    assert_eq!(revoked["ids"], json!(both));
    let on_site = [
        "client",
        "revoke-all",
        "--site",
        SITE,
        "--created-by",
        ALICE,
        "--yes",
    ];
    let revoked = here.run(&on_site).await.given();
    assert_eq!(revoked, format!("Revoked 1 API client.\n{team}\n"));
    assert_eq!(here.introspect(&token).await["active"], false);
    let again = here.run(&on_site).await.given();
    assert_eq!(again, "Revoked 0 API clients.\n");
    let nobodys = ["client", "revoke-all", "--user", NOWHERE, "--yes"];
    let refused = here.run(&nobodys).await.refused(1);
    assert!(refused.contains("OWNER_NOT_MANAGED"), "{refused}");
    here.stop().await;
}

#[tokio::test]
async fn an_owner_of_the_instance_lists_everybodys() {
    let here = Installation::start().await;
    let (first, _) = here.create("First").await;
    // Who is none gets the own ones, as before there was such a list.
    let own = here.json(&["client", "list"]).await;
    assert_eq!(ids(&own), [first.as_str()]);
    let (team, _) = promoted(&here).await;
    let all = here.json(&["client", "list"]).await;
    assert_eq!(ids(&all), [team.as_str(), first.as_str()]);
    let shown = here.run(&["client", "list"]).await.given();
    assert!(shown.contains(&format!("team:{TEAM}")), "{shown}");
    here.run(&["client", "revoke", &first]).await.given();
    let list = async |filter: &[&str]| {
        let all = here.json(&[&["client", "list"], filter].concat()).await;
        ids(&all).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(list(&["--state", "revoked"]).await, [first.as_str()]);
    assert_eq!(list(&["--state", "active"]).await, [team.as_str()]);
    assert_eq!(list(&["--state", "owner-inactive"]).await, none);
    assert_eq!(list(&["--site", SITE]).await, [team.as_str()]);
    assert_eq!(list(&["--created-by", NOWHERE]).await, none);
    assert_eq!(
        list(&["--created-by", ALICE, "--include-inactive"]).await,
        [team.as_str(), first.as_str()]
    );
    assert_eq!(list(&["--expire-before", "30d"]).await, none);
    assert_eq!(list(&["--unused-since", "90d"]).await, none);
    assert_eq!(
        list(&["--unused-since", "2999-01-01"]).await,
        [team.as_str()]
    );
    let refused = here.run(&["client", "list", "--state", "gone"]).await;
    assert!(refused.refused(2).contains("owner-inactive"));
    here.stop().await;
}
