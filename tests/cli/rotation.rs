//! A database URL in a file: read at the start by every command, and again while a
//! server runs.

use std::{os::unix::fs::symlink, path::Path};

use crate::{
    folder::{Folder, text},
    passwords::Role,
    postgres::{execute, migrated_database, url},
    process::{Process, binary},
    run::{introspect, run, run_on, serve, unreachable_database},
};

const SERVE: [&str; 4] = ["serve", "--listen", "127.0.0.1:0", "--database-url-file"];

#[tokio::test]
async fn every_command_reads_the_url_from_a_file() {
    let folder = Folder::new();
    let database = migrated_database().await;
    let file = folder.write("url", &format!("{database}\n"));
    let option = ["--database-url-file", text(&file)];
    for command in [&["migrate"][..], &["service-account", "list"]] {
        run(command.iter().chain(&option)).await.given();
        let mut by_variable = binary(command);
        by_variable.env("HITKEEP_AUTH_DATABASE_URL_FILE", &file);
        Process::start(by_variable).ended().await.given();
    }
    let mut server = Process::start(binary(SERVE.iter().chain(&option[1..])));
    server.stderr.line("introspection serves").await;
}

#[tokio::test]
async fn a_url_and_a_file_together_are_a_mistake_of_usage() {
    let url = unreachable_database();
    let both = ["migrate", "--database-url", &url];
    let said = run(both.iter().chain(&["--database-url-file", "x"])).await;
    let said = said.refused(2);
    assert!(said.contains("--database-url-file"), "{said}");
    assert!(!said.contains("opensesame"), "{said}");
    // One of them by a variable, or both.
    for arguments in [&["migrate"][..], &["migrate", "--database-url-file", "x"]] {
        let mut command = binary(arguments);
        command.env("HITKEEP_AUTH_DATABASE_URL", &url);
        command.env("HITKEEP_AUTH_DATABASE_URL_FILE", "x");
        let said = Process::start(command).ended().await.refused(2);
        assert!(said.contains("--database-url-file"), "{said}");
        assert!(!said.contains("opensesame"), "{said}");
    }
}

#[tokio::test]
async fn a_file_without_a_url_is_refused_by_name() {
    let folder = Folder::new();
    let none = folder.path("none");
    let cases = [
        (none.clone(), "No such file"),
        (folder.write("empty", "\n"), "is empty"),
        (folder.write("large", &"x".repeat(65537)), "is too large"),
        (folder.path(""), "cannot be read"),
        (folder.write("url", "opensesame"), "cannot be read"),
        (
            folder.write("passfile", "postgres://u@h/opensesame?passfile=x"),
            "--database-url-file",
        ),
    ];
    for (path, why) in cases {
        for command in [&SERVE[..3], &["migrate"], &["service-account", "list"]] {
            let option = ["--database-url-file", text(&path)];
            let said = run(command.iter().chain(&option)).await.refused(1);
            assert!(said.contains(text(&path)), "{said}");
            assert!(said.contains(why), "{said}");
            assert!(!said.contains("opensesame"), "{said}");
        }
    }
}

/// A server that was told of a file with the URL, and what it takes to see that Postgres
/// answers it.
struct Rotated {
    server: Process,
    address: String,
    caller: String,
    folder: Folder,
    role: Role,
}

impl Rotated {
    async fn start(every: &str) -> Self {
        let (database, folder) = (migrated_database().await, Folder::new());
        let account = ["service-account", "create", "a", "--allow", "introspect"];
        let made = run_on(&database, &[&account[..], &["--json"]].concat()).await;
        let caller = made.given_json()["token"].as_str().unwrap().to_owned();
        let role = Role::create(&database, "first").await;
        let file = folder.write("url", &role.url("first"));
        // No search for the primary replaces a connection meanwhile.
        let options = [
            text(&file),
            "--secret-poll-interval",
            every,
            "--max-staleness",
            "1day",
        ];
        let mut server = Process::start(binary(SERVE.iter().chain(&options)));
        let address = server.address().await;
        server.stderr.line("introspection serves").await;
        Self {
            server,
            address,
            caller,
            folder,
            role,
        }
    }

    /// An unknown token can be answered only where the database does.
    async fn is_answered(&self) {
        let answer = introspect(&self.address, &self.caller, "hkp_unknown").await;
        assert!(!answer.unwrap().active);
    }

    async fn ends_well(self) {
        self.server.signal("TERM").await;
        let ended = self.server.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for password in ["first", "second", "third"] {
            assert!(!ended.stderr.contains(&format!(":{password}@")));
        }
    }
}

/// Nobody has to tell it: Postgres refuses it, and so it looks.
#[tokio::test]
async fn a_rotated_password_heals_by_itself() {
    let mut rotated = Rotated::start("1day").await;
    for password in ["second", "third"] {
        rotated.is_answered().await;
        rotated.role.rotate(password).await;
        rotated.server.stderr.line("is not updated until").await;
        let url = rotated.role.url(password);
        rotated.folder.replace("url", &url);
        let said = "the database password was replaced";
        rotated.server.stderr.line(said).await;
        rotated
            .server
            .stderr
            .line("the database answers again")
            .await;
        rotated.is_answered().await;
    }
    rotated.ends_well().await;
}

/// Before Postgres refuses it: on a signal, and by itself.
#[tokio::test]
async fn a_password_that_comes_first_interrupts_nothing() {
    for every in ["10ms", "1day"] {
        let mut rotated = Rotated::start(every).await;
        for password in ["second", "third"] {
            rotated.folder.replace("url", &rotated.role.url(password));
            if every == "1day" {
                rotated.server.signal("HUP").await;
            }
            let said = "the database password was replaced";
            rotated.server.stderr.line(said).await;
            rotated.is_answered().await;
            rotated.role.rotate(password).await;
        }
        rotated.ends_well().await;
    }
}

/// A symbolic link to a folder is pointed elsewhere, in which all files are new ones.
#[tokio::test]
async fn a_mounted_secret_of_kubernetes_is_followed() {
    let database = migrated_database().await;
    let role = Role::create(&database, "first").await;
    let folder = Folder::new();
    let publish = |version: &str, password: &str| {
        std::fs::create_dir(folder.path(version)).unwrap();
        let file = folder.path(version).join("database-url");
        std::fs::write(file, role.url(password)).unwrap();
        symlink(Path::new(version), folder.path("..data.new")).unwrap();
        std::fs::rename(folder.path("..data.new"), folder.path("..data")).unwrap();
    };
    publish("..1", "first");
    let file = folder.path("database-url");
    symlink("..data/database-url", &file).unwrap();
    let options = [text(&file), "--secret-poll-interval", "10ms"];
    let mut server = Process::start(binary(SERVE.iter().chain(&options)));
    server.stderr.line("introspection serves").await;
    publish("..2", "second");
    let said = "the database password was replaced";
    server.stderr.line(said).await;
}

/// What cannot be used is said once, and changes nothing.
#[tokio::test]
async fn what_cannot_be_used_is_not_taken_up() {
    let mut rotated = Rotated::start("10ms").await;
    for (content, why) in [
        ("\n", "is empty"),
        ("opensesame", "cannot be read"),
        ("postgres://h/d?passfile=opensesame", "passfile"),
    ] {
        rotated.folder.replace("url", content);
        let said = rotated.server.stderr.line("was not replaced").await;
        assert!(said.contains(why), "{said}");
        rotated.is_answered().await;
    }
    std::fs::remove_file(rotated.folder.path("url")).unwrap();
    rotated.server.stderr.line("was not replaced").await;
    rotated.is_answered().await;
    let before = rotated.role.backends().await;
    rotated.folder.replace("url", &rotated.role.url("second"));
    rotated.server.stderr.line("password was replaced").await;
    assert_eq!(rotated.role.backends().await, before);
    rotated.server.signal("TERM").await;
    let ended = rotated.server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("opensesame"), "{ended:?}");
    assert_eq!(ended.stderr.matches("was not replaced").count(), 4);
}

#[tokio::test]
async fn another_database_is_followed() {
    let mut rotated = Rotated::start("1day").await;
    // It has the account too, and something that the first one has not.
    let first = rotated.role.url("first");
    let (_, name) = first.rsplit_once('/').unwrap();
    let close = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false");
    let second = format!("{name}_second");
    execute(&url("postgres"), &close).await;
    let backends = format!(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'"
    );
    execute(&url("postgres"), &backends).await;
    let copy = format!("CREATE DATABASE {second} TEMPLATE {name}");
    execute(&url("postgres"), &copy).await;
    let open = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true");
    execute(&url("postgres"), &open).await;
    let another = "UPDATE index_state SET database_id = gen_random_uuid(), revision = 7";
    execute(&url(&second), another).await;

    let there = rotated.role.url_of(&url(&second), "first");
    rotated.folder.replace("url", &there);
    rotated.server.signal("HUP").await;
    let said = rotated.server.stderr.line("the database URL was").await;
    assert!(said.contains(&second), "{said}");
    let loaded = rotated.server.stderr.line("loaded the index").await;
    assert!(
        loaded.contains("revision=7") || loaded.contains("\"revision\":7"),
        "{loaded}"
    );
    rotated.is_answered().await;
    rotated.ends_well().await;
}

/// As after a failover to a standby that had not received everything.
#[tokio::test]
async fn a_history_without_what_was_acknowledged_is_an_error() {
    let url = migrated_database().await;
    let account = ["service-account", "create", "all", "--allow", "directory"];
    let token = run_on(&url, &account).await.given();
    let (mut server, address) = serve(&url).await;
    let mut apply = binary(["directory", "apply", "-"]);
    apply.env("HITKEEP_AUTH_SERVER", &address);
    apply.env("HITKEEP_AUTH_TOKEN", token.trim());
    let change = r#"[{"put_team": {"id": "01930000-0000-7000-8000-00000000000a"}}]"#;
    let applied = Process::start_with(apply, change).ended().await.given();
    assert!(applied.starts_with("Applied 1 change"), "{applied}");
    let fork = "BEGIN; \
        UPDATE index_state SET revision = revision - 1, nonce = gen_random_uuid(); \
        DELETE FROM index_revisions WHERE revision > (SELECT revision FROM index_state); \
        COMMIT";
    execute(&url, fork).await;
    server.stderr.line("an acknowledged change is lost").await;
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
