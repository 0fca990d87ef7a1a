//! Help, usage errors, and options that are environment variables as well.

use std::collections::BTreeSet;

use crate::{
    empty::empty_database,
    help,
    process::{Process, binary},
    run::{run, unreachable_database},
};

#[test]
fn each_command_explains_itself() {
    let commands: Vec<_> = help::all().iter().map(|help| help.path.join(" ")).collect();
    for expected in [
        "",
        "dev",
        "serve",
        "migrate",
        "service-account",
        "service-account create",
        "service-account list",
        "service-account rotate",
        "service-account revoke",
        "explain",
        "client create",
        "client get",
        "client list",
        "client update",
        "client rotate",
        "client revoke",
        "client reactivate",
        "client delete",
        "client usage",
        "client report-leak",
        "client revoke-all",
        "introspect",
        "audit list",
        "directory status",
        "directory apply",
        "status",
        "healthcheck",
        "completions",
        "man",
    ] {
        assert!(commands.iter().any(|path| path == expected), "{expected}");
    }
    for help in help::all() {
        let usage = format!("Usage: hitkeep-auth {}", help.path.join(" "));
        assert!(help.text.contains(usage.trim_end()), "{}", help.text);
    }
}

/// At most two screens of 24 lines. What has more options than fit says where all are.
#[tokio::test]
async fn help_fits_on_a_terminal() {
    for help in help::all() {
        let path = || help.path.iter().map(String::as_str);
        let short = run(path().chain(["--help"])).await.given();
        assert_eq!(run(path().chain(["-h"])).await.given(), short);
        let count = short.lines().count();
        assert!(count <= 48, "{:?}: {count} lines:\n{short}", help.path);
        assert!(short.contains("hitkeep-auth help COMMAND"), "{short}");
        for line in short.lines().chain(help.text.lines()) {
            assert!(line.chars().count() <= 100, "{:?}: {line}", help.path);
        }
    }
}

/// Also on one that is wider.
#[tokio::test]
async fn help_is_no_wider_on_a_wide_terminal() {
    for arguments in [&["help", "serve"][..], &["serve", "--help"]] {
        let mut command = binary(arguments);
        command.env("COLUMNS", "200");
        let help = Process::start(command).ended().await.given();
        let widest = help.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{help}");
    }
}

#[test]
fn every_option_is_an_environment_variable_too() {
    for help in help::all() {
        assert!(help.options.contains_key("--help"), "{:?}", help.path);
        for (name, said) in &help.options {
            if ["--help", "--version"].contains(&name.as_str()) {
                continue;
            }
            assert!(
                said.contains("[env: HITKEEP_AUTH_"),
                "{name} of {:?}:\n{said}",
                help.path
            );
        }
    }
}

/// A password in the environment must not be shown to whoever asks for help.
#[tokio::test]
async fn help_does_not_show_the_database_url() {
    for arguments in [
        &["serve", "--help"][..],
        &["migrate", "--help"],
        &["service-account", "list", "--help"],
        &["serve", "--no-such-option"],
    ] {
        let mut command = binary(arguments);
        command.env("HITKEEP_AUTH_DATABASE_URL", unreachable_database());
        let ended = Process::start(command).ended().await;
        let said = ended.stdout + &ended.stderr;
        assert!(!said.contains("opensesame"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_taken_from_the_environment() {
    for yes in ["true", "1"] {
        let mut command = binary(["migrate"]);
        command.env("HITKEEP_AUTH_DATABASE_URL", empty_database().await);
        command.env("HITKEEP_AUTH_JSON", yes);
        let given = Process::start(command).ended().await.given_json();
        assert!(!given["applied"].as_array().unwrap().is_empty());
    }
    for no in ["false", "0"] {
        let mut command = binary(["migrate"]);
        command.env("HITKEEP_AUTH_DATABASE_URL", empty_database().await);
        command.env("HITKEEP_AUTH_JSON", no);
        let given = Process::start(command).ended().await.given();
        assert!(given.starts_with("Applied"), "{given}");
    }
    // The command line counts before the environment.
    let url = empty_database().await;
    let mut command = binary(["migrate", "--json", "--database-url", &url]);
    command.env("HITKEEP_AUTH_DATABASE_URL", unreachable_database());
    Process::start(command).ended().await.given_json();

    let url = crate::postgres::migrated_database().await;
    let mut command = binary(["service-account", "create", "sidecar", "--json"]);
    command.env("HITKEEP_AUTH_DATABASE_URL", &url);
    command.env("HITKEEP_AUTH_ALLOW", "introspect,audit");
    let made = Process::start(command).ended().await.given_json();
    assert_eq!(
        made["permissions"],
        serde_json::json!(["introspect", "audit"])
    );
}

/// As compose files set those that nobody gave a value.
#[tokio::test]
async fn variables_that_are_set_to_nothing_are_not_set() {
    let mut variables = BTreeSet::new();
    for said in help::all().iter().flat_map(|help| help.options.values()) {
        let variable = said.split_once("[env: ").map(|(_, rest)| rest);
        variables.extend(variable.and_then(|rest| Some(rest.split(['=', ']']).next()?.to_owned())));
    }
    assert!(variables.len() > 30, "{variables:?}");
    let with_nothing = |arguments: &[&str]| {
        let mut command = binary(arguments);
        command.envs(variables.iter().map(|name| (name, "")));
        command
    };
    let url = crate::postgres::migrated_database().await;
    let database = ["--database-url", &*url];
    let allow = ["service-account", "create", "a", "--allow", "audit"];
    for arguments in [&["migrate"][..], &["service-account", "list"], &allow] {
        let command = with_nothing(&[arguments, &database].concat());
        Process::start(command).ended().await.given();
    }
    let mut server = Process::start(with_nothing(
        &[&["serve", "--listen", "127.0.0.1:0"], &database[..]].concat(),
    ));
    let address = server.address().await;
    server.stderr.line("introspection serves").await;
    let command = with_nothing(&["healthcheck", "--listen", &address]);
    Process::start(command).ended().await.given();
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code, Some(0));

    // What is required is missing, and what is asked for help still tells the name.
    let said = Process::start(with_nothing(&["serve"])).ended().await;
    let said = said.refused(2);
    assert!(said.contains("--database-url <URL>"), "{said}");
    let help = Process::start(with_nothing(&["help", "serve"]))
        .ended()
        .await;
    let help = help.given();
    let help: Vec<_> = help.split_whitespace().collect();
    let help = help.join(" ");
    assert!(help.contains("[env: HITKEEP_AUTH_POOL_SIZE=]"), "{help}");
}

#[tokio::test]
async fn what_cannot_be_read_exits_with_2() {
    let url = unreachable_database();
    let database = ["--database-url", &url];
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["frobnicate"], "frobnicate"),
        (&["serve", "--frobnicate"], "--frobnicate"),
        (&["migrate"], "--database-url"),
        (&["serve"], "--database-url"),
        (&["service-account"], "Usage"),
        (&["service-account", "list"], "--database-url"),
        (&["service-account", "create", "sidecar"], "--allow"),
        (&["service-account", "create", "--allow", "audit"], "<NAME>"),
        (&["service-account", "revoke"], "<NAME>"),
        (&["healthcheck", "--timeout", "soon"], "--timeout"),
        (&["healthcheck", "--timeout", "0s"], "--timeout"),
        (&["healthcheck", "dead"], "live"),
    ];
    for (arguments, named) in cases {
        let said = run(*arguments).await.refused(2);
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
    let cases: &[(&[&str], &str)] = &[
        (&["migrate", "--log-format", "xml"], "--log-format"),
        (&["serve", "--pool-size", "0"], "--pool-size"),
        (&["serve", "--listen", "unix:"], "--listen"),
        (&["serve", "--listen", "127.0.0.1:0,"], "--listen"),
        (&["serve", "--tls-cert", "x.pem"], "--tls-key"),
        (&["serve", "--tls-key", "x.key"], "--tls-cert"),
        (&["serve", "--tls-client-ca", "ca.pem"], "--tls-cert"),
        (
            &["serve", "--tls-poll-interval", "0s"],
            "--tls-poll-interval",
        ),
        (&["serve", "--max-calls", "0"], "--max-calls"),
        (&["serve", "--drain-delay", "soon"], "--drain-delay"),
        (
            &["serve", "--secret-poll-interval", "0s"],
            "--secret-poll-interval",
        ),
        (&["serve", "--request-timeout=-1"], "--request-timeout"),
        (&["serve", "--request-timeout", "0s"], "--request-timeout"),
        (&["serve", "--http-listen", "unix:"], "--http-listen"),
        (&["serve", "--grpc-web"], "--http-listen"),
        (&["serve", "--grpc-web-origins", "*"], "--grpc-web-origins"),
        (
            &["serve", "--grpc-web-origins", "https://a.example/"],
            "--grpc-web-origins",
        ),
        (
            &["serve", "--grpc-web-origins", "https://a.example"],
            "--grpc-web",
        ),
        (
            &["serve", "--usage-flush-interval", "0s"],
            "--usage-flush-interval",
        ),
        (
            &["serve", "--usage-flush-interval", "often"],
            "--usage-flush-interval",
        ),
        (
            &[
                "service-account",
                "create",
                "sidecar",
                "--allow",
                "everything",
            ],
            "must be one of introspect, manage, directory, audit, replicate",
        ),
        (
            &[
                "service-account",
                "create",
                "sidecar",
                "--allow",
                "introspect,everything",
            ],
            "everything",
        ),
        (
            &["service-account", "create", "Side Car", "--allow", "audit"],
            "lower-case",
        ),
        (
            &["service-account", "create", "", "--allow", "audit"],
            "lower-case",
        ),
        (&["service-account", "revoke", "Side Car"], "lower-case"),
        (
            &[
                "service-account",
                "create",
                "sidecar",
                "--allow",
                "audit",
                "--certificate-name",
                "*.example",
            ],
            "spiffe://",
        ),
    ];
    for (arguments, named) in cases {
        let said = run(arguments.iter().chain(&database)).await.refused(2);
        assert!(said.contains(named), "{arguments:?}: {said}");
        assert!(!said.contains("opensesame"), "{said}");
    }
}

#[tokio::test]
async fn a_log_filter_that_cannot_be_read_is_a_mistake_of_usage() {
    let said = run(["healthcheck", "--log", "info,=="]).await.refused(2);
    assert!(said.contains("log filter"), "{said}");
}

#[tokio::test]
async fn the_version_is_told() {
    let given = run(["--version"]).await.given();
    assert_eq!(
        given,
        format!("hitkeep-auth {}\n", env!("CARGO_PKG_VERSION"))
    );
}

/// Whatever fails, the password in the URL stays where it is, also in a log with
/// everything in it.
#[tokio::test]
async fn a_database_that_cannot_be_reached_is_a_failure_without_its_password() {
    let unreachable = unreachable_database();
    for (url, code) in [
        (unreachable.as_str(), 1),
        ("postgres://somebody:opensesame@127.0.0.1:port/nowhere", 2),
        ("postgres://somebody:opensesame@%zz/nowhere", 1),
        (
            "postgres://somebody:opensesame@127.0.0.1/nowhere?option=none",
            2,
        ),
        (
            "postgresl://somebody:opensesame@127.0.0.1/nowhere?sslmode=disable",
            2,
        ),
        (
            "host=127.0.0.1 user=somebody password=opensesame port=none",
            2,
        ),
        ("user=somebody password='opensesame", 2),
        ("opensesame", 2),
    ] {
        for command in [
            &["migrate"][..],
            &["serve", "--listen", "127.0.0.1:0"],
            &["service-account", "list"],
            &["service-account", "create", "sidecar", "--allow", "audit"],
            &["service-account", "revoke", "sidecar"],
        ] {
            // It waits for what does not answer.
            if command[0] == "serve" && code == 1 {
                continue;
            }
            let options = ["--database-url", url, "--log", "trace"];
            let said = run(command.iter().chain(&options)).await.refused(code);
            assert!(said.contains("hitkeep-auth: "), "{command:?}: {said}");
            assert!(!said.contains("opensesame"), "{command:?} {url}: {said}");
        }
    }
}
