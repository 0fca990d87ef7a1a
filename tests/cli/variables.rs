//! Variables in the place of options: how they are read, and what they must not change.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    help,
    process::{Ended, Process, binary},
    remote::{ALICE, Installation, NOWHERE, SITE, TEAM},
};

/// The variables that describe the environment, and so are the same for several commands that
/// call a server.
const OF_THE_ENVIRONMENT: [&str; 12] = [
    "HITKEEP_AUTH_ACTOR",
    "HITKEEP_AUTH_DATABASE_URL",
    "HITKEEP_AUTH_DATABASE_URL_FILE",
    "HITKEEP_AUTH_JSON",
    "HITKEEP_AUTH_LOG",
    "HITKEEP_AUTH_LOG_FORMAT",
    "HITKEEP_AUTH_SERVER",
    "HITKEEP_AUTH_SERVER_CA",
    "HITKEEP_AUTH_TEAM",
    "HITKEEP_AUTH_TIMEOUT",
    "HITKEEP_AUTH_TOKEN_FILE",
    "HITKEEP_AUTH_USER",
];

/// Compose files and Kubernetes write `1` or `yes` as well as `true`, and one parser reads them
/// all. What is none of them is refused before anything is done.
#[tokio::test]
async fn every_switch_is_read_alike() {
    let mut switches = Vec::new();
    for help in help::all() {
        for (name, said) in &help.options {
            let Some(variable) = variable(said) else {
                continue;
            };
            if said.contains(&format!("{name} <")) {
                continue;
            }
            let mut command = binary(&help.path);
            command.env(variable, "perhaps");
            let refused = Process::start(command).ended().await.refused(2);
            let is_refused = refused.contains("must be yes or no");
            assert!(is_refused, "{name} of {:?}: {refused}", help.path);
            switches.push(name.clone());
        }
    }
    for name in ["--json", "--allow-standby", "--without-names", "--yes"] {
        assert!(switches.iter().any(|switch| switch == name), "{name}");
    }
}

#[tokio::test]
async fn a_switch_is_turned_on_by_1() {
    for (command, variable) in [
        ("serve", "HITKEEP_AUTH_ALLOW_STANDBY"),
        ("replica", "HITKEEP_AUTH_WITHOUT_NAMES"),
    ] {
        for yes in ["1", "true", "yes", "on"] {
            let mut command = binary([command]);
            command.env(variable, yes);
            let refused = Process::start(command).ended().await.refused(2);
            // What it lacks is another option.
            assert!(refused.contains("required"), "{variable}={yes}: {refused}");
        }
    }
}

/// The name of an option's variable in what the help says of the option.
fn variable(said: &str) -> Option<&str> {
    let (_, variable) = said.split_once("[env: ")?;
    variable.split(['=', ']']).next()
}

#[test]
fn what_a_call_is_about_has_variables_of_its_own_command() {
    let calls = [
        "client",
        "introspect",
        "explain",
        "audit",
        "directory",
        "status",
        "import",
    ];
    let mut commands: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for help in help::all() {
        let command = help.path.first().map_or("", String::as_str);
        if !calls.contains(&command) {
            continue;
        }
        for variable in help.options.values().filter_map(|said| variable(said)) {
            let of = commands.entry(variable.to_owned()).or_default();
            of.insert(help.path.join(" "));
        }
    }
    for (variable, of) in &commands {
        let is_common = OF_THE_ENVIRONMENT.contains(&&**variable);
        assert!(is_common || of.len() == 1, "{variable} is of {of:?}");
    }
    for (variable, is_not_of) in [
        ("HITKEEP_AUTH_ACTOR", "audit list"),
        ("HITKEEP_AUTH_USER", "audit list"),
        ("HITKEEP_AUTH_USER", "client revoke-all"),
        ("HITKEEP_AUTH_TEAM", "client revoke-all"),
    ] {
        assert!(!commands[variable].contains(is_not_of), "{variable}");
    }
}

/// Runs a command with these variables. What it does not refuse fails, since there is no server.
pub async fn with(variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let mut command = binary(arguments);
    command
        .env("HITKEEP_AUTH_SERVER", "unix:/nowhere")
        .env("HITKEEP_AUTH_TOKEN", "hks_unused")
        .env("HITKEEP_AUTH_ACTOR", ALICE)
        .envs(variables.iter().copied());
    Process::start(command).ended().await
}

#[tokio::test]
async fn what_is_exported_for_one_call_changes_no_other() {
    let exported = [
        ("HITKEEP_AUTH_NAME", "Weekly report"),
        ("HITKEEP_AUTH_DESCRIPTION", "for Monday"),
        ("HITKEEP_AUTH_SITE", SITE),
        ("HITKEEP_AUTH_USER", ALICE),
    ];
    let refused = with(&exported, &["client", "update", NOWHERE]).await;
    assert!(refused.refused(2).contains("--name"));
    let refused = with(&exported, &["client", "revoke-all", "--yes"]).await;
    assert!(refused.refused(2).contains("--created-by"));
    let asked = with(&exported, &["introspect"]).await;
    assert!(asked.refused(1).contains("does not answer"));
    // What is exported for the command itself counts.
    let own = [("HITKEEP_AUTH_UPDATE_NAME", "Daily report")];
    let asked = with(&own, &["client", "update", NOWHERE]).await;
    assert!(asked.refused(1).contains("does not answer"));
}

#[tokio::test]
async fn an_owner_on_the_command_line_counts_before_one_in_the_environment() {
    let (user, team) = (("HITKEEP_AUTH_USER", ALICE), ("HITKEEP_AUTH_TEAM", TEAM));
    let as_one_word = format!("--user={ALICE}");
    for (exported, arguments) in [
        (user, &["--team", TEAM][..]),
        (team, &["--user", ALICE]),
        (team, &[as_one_word.as_str()]),
    ] {
        let list = [&["client", "list"], arguments].concat();
        let asked = with(&[exported], &list).await.refused(1);
        assert!(asked.contains("does not answer"), "{list:?}: {asked}");
    }
    // In the same place, they are a mistake.
    let refused = with(&[user, team], &["client", "list"]).await.refused(2);
    assert!(refused.contains("--team"), "{refused}");
}

#[tokio::test]
async fn the_actor_of_calls_is_no_filter_of_events() {
    let here = Installation::start().await;
    here.create("first").await;
    let actions = async |filter: &[&str]| -> BTreeSet<String> {
        let listed = here.json(&[&["audit", "list"], filter].concat()).await;
        let events = listed["events"].as_array().unwrap().iter();
        events
            .map(|event| event["action"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = actions(&[]).await;
    let account = "service_account.created";
    assert!(all.contains(account) && all.contains("api_client.created"));
    let alices = actions(&["--actor", ALICE]).await;
    assert!(!alices.contains(account) && alices.contains("api_client.created"));
    here.stop().await;
}
