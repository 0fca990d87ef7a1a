//! What the commands say when the server refuses, or cannot be asked at all.

use super::*;

#[tokio::test]
async fn refusals_name_the_reason_and_what_to_do() {
    let here = Installation::start().await;
    let create = ["client", "create", "--name", "x", "--user"];
    let grant = format!("{SITE}=owner");
    let foreign = format!("{NOWHERE}=viewer");
    for (arguments, reason) in [
        (&["client", "get", NOWHERE][..], "API_CLIENT_NOT_FOUND"),
        (&[&create[..], &[NOWHERE]].concat(), "OWNER_NOT_MANAGED"),
        (
            &[&create[..], &[ALICE, "--instance-role", "admin"]].concat(),
            "DELEGATION_EXCEEDS_ACTOR",
        ),
        (
            &[&create[..], &[ALICE, "--grant", &foreign]].concat(),
            "SITE_NOT_DELEGABLE",
        ),
        (
            &[
                &create[..],
                &[ALICE, "--expire-time", "2020-01-01T00:00:00Z"],
            ]
            .concat(),
            "expire_time",
        ),
    ] {
        let said = here.run(arguments).await.refused(1);
        assert!(said.contains(reason), "{arguments:?}: {said}");
        let remedy = said.lines().next_back().unwrap();
        assert!(remedy.starts_with("  "), "{arguments:?}: {said}");
    }
    // Alice owns the team, and so its sites.
    let made = here
        .run(&[&create[..], &[ALICE, "--grant", &grant, "--json"]].concat())
        .await;
    made.given_json();

    let with = |token: &str, arguments: &[&str]| {
        let mut command = binary(arguments);
        command.env("HITKEEP_AUTH_SERVER", &here.address);
        command.env("HITKEEP_AUTH_TOKEN", token);
        Process::start(command)
    };
    let list = ["client", "list", "--actor", ALICE];
    for command in [
        &list[..],
        &["status"],
        &["audit", "list"],
        &["directory", "status"],
        &["introspect"],
    ] {
        let said = with("", command).ended().await.refused(2);
        assert!(
            said.contains("HITKEEP_AUTH_TOKEN") && said.contains("--token-file"),
            "{command:?}: {said}"
        );
    }
    let unknown = "hks_unknown";
    let said = with(unknown, &list).ended().await.refused(1);
    assert!(said.contains("CALLER_UNKNOWN"), "{said}");
    assert!(!said.contains(unknown), "{said}");
    let said = with("sécret\u{1}", &list).ended().await.refused(1);
    assert!(!said.contains("cret"), "{said}");

    // A file holds the token as well, and counts before the variable.
    let folder = Folder::new();
    let file = folder.write("token", &format!("{}\n", here.token));
    let path = text(&file);
    let listed = with(unknown, &[&list[..], &["--token-file", path]].concat());
    listed.ended().await.given();
    drop(folder);
    let missing = with(unknown, &[&list[..], &["--token-file", path]].concat());
    let said = missing.ended().await.refused(1);
    assert!(said.contains(path), "{said}");
    here.stop().await;

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut command = binary(list);
    command.env("HITKEEP_AUTH_SERVER", &address);
    command.env("HITKEEP_AUTH_TOKEN", unknown);
    let said = Process::start(command).ended().await.refused(1);
    assert!(
        said.contains(&format!("the server at {address} does not answer")),
        "{said}"
    );
    assert!(said.contains("--server"), "{said}");
}

#[tokio::test]
async fn a_command_line_that_is_wrong_exits_with_2() {
    let token = "hks_unused";
    let nothing_changes = ["client", "update", NOWHERE, "--actor", ALICE];
    for (arguments, said) in [
        (&["client", "list", "--actor", "alice"][..], "UUID"),
        (
            &["client", "list", "--server", "ftp://a:1"],
            "https://HOST:PORT",
        ),
        (
            &["client", "create", "--actor", ALICE, "--name", "x"],
            "--user",
        ),
        (
            &[
                "client", "create", "--actor", ALICE, "--user", ALICE, "--team", TEAM, "--name",
                "x",
            ],
            "--team",
        ),
        (
            &[
                "client", "create", "--actor", ALICE, "--user", ALICE, "--name", "x", "--grant",
                SITE,
            ],
            "SITE=viewer",
        ),
        (&nothing_changes, "--name"),
        (
            &[
                "client",
                "rotate",
                NOWHERE,
                "--actor",
                ALICE,
                "--overlap",
                "7d 1us",
            ],
            "at most 7 days",
        ),
        (&["introspect", "--site", SITE], "--permission"),
        (&["completions", "tcsh"], "bash"),
    ] {
        let mut command = binary(arguments);
        command.env("HITKEEP_AUTH_TOKEN", token);
        let refused = Process::start(command).ended().await.refused(2);
        assert!(refused.contains(said), "{arguments:?}: {refused}");
    }
    // The longest overlap is a matter for the server.
    let longest = [
        "client",
        "rotate",
        NOWHERE,
        "--actor",
        ALICE,
        "--overlap",
        "7d",
    ];
    let mut command = binary(longest.iter().chain(&["--server", "unix:/nowhere"]));
    command.env("HITKEEP_AUTH_TOKEN", token);
    let refused = Process::start(command).ended().await.refused(1);
    assert!(refused.contains("does not answer"), "{refused}");
}
