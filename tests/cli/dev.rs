//! `dev`: everything on one machine, with nothing set up and nothing left behind.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use hitkeep_auth::pb::{
    Actor, ApiClient, CreateApiClientRequest, GetDirectoryStatusRequest, InactiveReason,
    ListApiClientsRequest, ListAuditEventsRequest, Owner, RevokeApiClientRequest,
    api_client_service_client::ApiClientServiceClient, audit_service_client::AuditServiceClient,
    directory_service_client::DirectoryServiceClient, owner,
};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    folder::Folder,
    postgres,
    process::{Process, without_settings},
    run::{connect, from_caller, http_get, introspect, run, run_on},
};

/// The folder that `dev` is to make, in one of ours.
impl Folder {
    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn data_dir(&self) -> String {
        self.data().to_str().unwrap().to_owned()
    }

    /// Postgres removes this file when it has stopped in order.
    fn postgres_runs(&self) -> bool {
        self.data().join("postgres/data/postmaster.pid").exists()
    }
}

/// `dev` as a child whose standard output its Postgres holds open as well: the
/// output ends when all of them are gone.
fn dev(folder: &Folder, listen: &str, more: &[&str]) -> Process {
    let script = "exec 3>&1; exec \"$@\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_hitkeep-auth")]);
    command.args(["dev", "--listen", listen, "--data-dir", &folder.data_dir()]);
    command.args(["--http-listen", "127.0.0.1:0"]);
    command.args(more);
    without_settings(&mut command);
    Process::start(command)
}

/// One that runs, and what it printed.
async fn started(folder: &Folder) -> (Process, Value) {
    let mut process = dev(folder, "127.0.0.1:0", &["--json"]);
    let line = process.stdout.line("{").await;
    let shown: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(process.address().await, shown["listen"]);
    (process, shown)
}

/// Stops one, and looks whether everything is gone.
async fn stop(folder: &Folder, process: Process, signal: &str) {
    assert!(folder.postgres_runs());
    process.signal(signal).await;
    let ended = process.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!folder.postgres_runs());
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// Why a token does not work; `None` where it does.
async fn inactive_reason(shown: &Value, token: &str) -> Option<InactiveReason> {
    let caller = text(&shown["callers"]["introspect"]);
    let answer = introspect(text(&shown["listen"]), caller, token)
        .await
        .unwrap();
    (!answer.active).then(|| answer.inactive_reason())
}

/// The demo's Alice.
fn alice(shown: &Value) -> Actor {
    Actor {
        user_id: text(&shown["directory"]["users"]["alice"]).to_owned(),
        ..Actor::default()
    }
}

async fn manager(shown: &Value) -> ApiClientServiceClient<tonic::transport::Channel> {
    ApiClientServiceClient::new(connect(text(&shown["listen"])).await)
}

/// What must be the same at each start.
fn lasting(shown: &Value) -> Value {
    let mut shown = shown.clone();
    // The ports were for the system to choose.
    for listen in ["listen", "http_listen"] {
        let listen = shown.as_object_mut().unwrap().remove(listen);
        assert_ne!(listen.unwrap(), "127.0.0.1:0", "the real port is shown");
    }
    shown
}

#[tokio::test]
async fn what_it_prints_works() {
    let folder = Folder::new();
    let (process, shown) = started(&folder).await;
    for client in ["personal_client", "team_client"] {
        let token = text(&shown[client]["token"]);
        let caller = text(&shown["callers"]["introspect"]);
        let answer = introspect(text(&shown["listen"]), caller, token)
            .await
            .unwrap();
        assert!(answer.active, "{client}");
        assert_eq!(answer.client_id, shown[client]["id"]);
        assert_eq!(answer.site_grants.len(), 2, "{client}");
        assert_eq!(
            answer.site_grants[0].site_id,
            shown["directory"]["sites"][0]
        );
    }
    let owner = Owner {
        owner: Some(owner::Owner::UserId(
            text(&shown["personal_client"]["owner"]["user_id"]).to_owned(),
        )),
    };
    let list = ListApiClientsRequest {
        actor: Some(alice(&shown)),
        owner: Some(owner),
        ..ListApiClientsRequest::default()
    };
    let request = from_caller(text(&shown["callers"]["manage"]), list);
    let listed = manager(&shown)
        .await
        .list_api_clients(request)
        .await
        .unwrap();
    assert_eq!(listed.into_inner().api_clients.len(), 1);

    let channel = connect(text(&shown["listen"])).await;
    let request = from_caller(
        text(&shown["callers"]["directory"]),
        GetDirectoryStatusRequest {},
    );
    let status = DirectoryServiceClient::new(channel.clone())
        .get_directory_status(request)
        .await;
    let status = status.unwrap().into_inner();
    assert_eq!((status.users, status.teams, status.sites), (2, 1, 2));

    let request = from_caller(
        text(&shown["callers"]["audit"]),
        ListAuditEventsRequest::default(),
    );
    let events = AuditServiceClient::new(channel)
        .list_audit_events(request)
        .await;
    assert_eq!(events.unwrap().into_inner().events.len(), 7);

    // An account of each kind, none of which may do another's work.
    for (permission, token) in shown["callers"].as_object().unwrap() {
        let answer = introspect(text(&shown["listen"]), text(token), "").await;
        assert_eq!(answer.is_ok(), permission == "introspect", "{permission}");
    }

    let tokens = std::fs::metadata(folder.data().join("demo-tokens.json")).unwrap();
    assert_eq!(tokens.permissions().mode() & 0o777, 0o600);
    // Nobody else lists it or writes to it, and nobody enters the server's own.
    let data = std::fs::metadata(folder.data()).unwrap();
    assert_eq!(data.permissions().mode() & 0o066, 0);
    let servers = std::fs::metadata(folder.data().join("postgres")).unwrap();
    assert_eq!(servers.permissions().mode() & 0o777, 0o700);
    stop(&folder, process, "INT").await;
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_is_not_used() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.data()).unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder.data(), open).unwrap();
    std::fs::write(folder.data().join("something"), "of somebody").unwrap();
    let refused = async |data_dir: &str| {
        let arguments = ["dev", "--listen", "127.0.0.1:0", "--data-dir", data_dir];
        let said = run(&arguments).await.refused(1);
        assert!(said.contains("not private"), "{said}");
    };
    refused(&folder.data_dir()).await;
    // Nor one that a link leads to.
    let link = folder.data().with_extension("link");
    std::os::unix::fs::symlink(folder.data(), &link).unwrap();
    refused(link.to_str().unwrap()).await;
    let left = std::fs::read_dir(folder.data()).unwrap().count();
    assert_eq!(left, 1, "nothing was put there");
}

#[tokio::test]
async fn a_second_start_finds_the_same_again() {
    let folder = Folder::new();
    let (process, first) = started(&folder).await;
    let client = ApiClient {
        owner: Some(Owner {
            owner: Some(owner::Owner::TeamId(
                text(&first["directory"]["team"]).to_owned(),
            )),
        }),
        name: "made in between".to_owned(),
        ..ApiClient::default()
    };
    let create = CreateApiClientRequest {
        actor: Some(alice(&first)),
        api_client: Some(client),
        ..CreateApiClientRequest::default()
    };
    let manage = text(&first["callers"]["manage"]);
    let made = manager(&first)
        .await
        .create_api_client(from_caller(manage, create))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(inactive_reason(&first, &made.token).await, None);
    stop(&folder, process, "INT").await;

    let (process, second) = started(&folder).await;
    assert_eq!(lasting(&second), lasting(&first));
    assert_eq!(inactive_reason(&second, &made.token).await, None);

    // A client's token and a caller's that no longer work are replaced, and
    // nothing else is.
    let revoke = RevokeApiClientRequest {
        actor: Some(alice(&second)),
        id: text(&second["personal_client"]["id"]).to_owned(),
    };
    let revoked = manager(&second)
        .await
        .revoke_api_client(from_caller(manage, revoke))
        .await;
    revoked.unwrap();
    let url = text(&second["database_url"]);
    run_on(url, &["service-account", "revoke", "audit"])
        .await
        .given();
    stop(&folder, process, "TERM").await;

    let (process, third) = started(&folder).await;
    let mut expected = lasting(&second);
    for pointer in [
        "/personal_client/id",
        "/personal_client/token",
        "/callers/audit",
    ] {
        let replaced = third.pointer(pointer).unwrap();
        assert_ne!(expected.pointer(pointer), Some(replaced), "{pointer}");
        *expected.pointer_mut(pointer).unwrap() = replaced.clone();
    }
    assert_eq!(lasting(&third), expected);
    let old = text(&second["personal_client"]["token"]);
    let new = text(&third["personal_client"]["token"]);
    assert_eq!(
        inactive_reason(&third, old).await,
        Some(InactiveReason::Revoked)
    );
    for token in [new, text(&third["team_client"]["token"]), &made.token] {
        assert_eq!(inactive_reason(&third, token).await, None);
    }
    stop(&folder, process, "INT").await;
}

#[tokio::test]
async fn a_folder_of_a_build_from_before_a_release_is_to_be_removed() {
    let folder = Folder::new();
    let (process, shown) = started(&folder).await;
    let unreleased = "INSERT INTO __diesel_schema_migrations VALUES ('20260101000000', now())";
    postgres::execute(text(&shown["database_url"]), unreleased).await;
    stop(&folder, process, "INT").await;
    let ended = dev(&folder, "127.0.0.1:0", &[]).ended().await;
    let said = ended.refused(1);
    assert!(said.contains("a build from before a release"), "{said}");
    let remedy = format!("Remove {}", folder.data_dir());
    assert!(said.contains(&remedy), "{said}");
    assert!(!folder.postgres_runs());
}

#[tokio::test]
async fn its_postgres_does_not_outlive_it() {
    let folder = Folder::new();
    let (process, first) = started(&folder).await;
    process.signal("KILL").await;
    // The output ends with the last process that holds it.
    let ended = process.ended().await;
    assert_eq!(ended.code, None, "{ended:?}");
    assert!(!folder.postgres_runs());
    let (process, second) = started(&folder).await;
    assert_eq!(lasting(&second), lasting(&first));
    stop(&folder, process, "INT").await;
}

/// Runs the commands of the program itself, one after the other, as a person pastes them.
async fn are_worth_pasting(commands: &str) {
    for command in ["create", "rotate", "list", "revoke"] {
        let command = format!(" client {command} ");
        assert!(commands.contains(&command), "{command}: {commands}");
    }
    let mut shell = Command::new("/bin/sh");
    // A command that fails ends it, and so does a variable that is not set.
    shell.args(["-eu", "-c", commands]);
    without_settings(&mut shell);
    let pasted = Process::start(shell).ended().await;
    assert_eq!(pasted.code, Some(0), "{pasted:?}\n{commands}");
    for done in ["Created ", "Rotated "] {
        assert!(pasted.stderr.contains(done), "{pasted:?}");
    }
    let mut shown = pasted.stdout.lines();
    assert_eq!(shown.next(), Some("active"), "{pasted:?}");
    for said in ["decision       allowed", "Daily report", "Revoked "] {
        assert!(shown.any(|line| line.contains(said)), "{said}: {pasted:?}");
    }
    assert_eq!(shown.next(), Some("inactive: revoked"), "{pasted:?}");
    // Tokens are kept, and not shown.
    assert!(!pasted.stdout.contains("hks_"), "{pasted:?}");
}

#[tokio::test]
async fn people_get_commands_to_paste() {
    let folder = Folder::new();
    let mut process = dev(&folder, "127.0.0.1:0", &[]);
    let first = process.stdout.line("listens on").await;
    let http = process.http_address().await;
    let address = process.address().await;
    assert!(first.contains(&address) && first.contains(&http), "{first}");
    let mut commands = process
        .stdout
        .line("# The same with hitkeep-auth itself")
        .await;
    loop {
        let line = process.stdout.line("").await;
        if line.starts_with("# Introspect over HTTP") {
            break;
        }
        commands = format!("{commands}\n{line}");
    }
    are_worth_pasting(&commands).await;
    process.signal("INT").await;
    let ended = process.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for said in [
        "Ctrl-C",
        "Callers",
        "hks_",
        "hkp_",
        "hkt_",
        "grpcurl",
        "client list",
        &address,
        &format!("http://{http}/oauth2/introspect"),
        &format!("http://{http}/forward-auth?permission=site.view"),
        &format!("curl http://{http}/readyz http://{http}/metrics"),
    ] {
        assert!(ended.stdout.contains(said), "{said} in {}", ended.stdout);
    }
    assert!(!ended.stdout.contains("127.0.0.1:0 "), "{}", ended.stdout);
    assert!(ended.stdout.contains(folder.data().to_str().unwrap()));
}

/// The port for HTTP is not what somebody tries it for.
#[tokio::test]
async fn another_port_is_taken_for_http_where_that_is_free() {
    let folder = Folder::new();
    // Free or not, from here on it is not.
    let taken = std::net::TcpListener::bind("127.0.0.1:50052");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hitkeep-auth"));
    command.args(["dev", "--listen", "127.0.0.1:0", "--json", "--data-dir"]);
    command.arg(folder.data_dir());
    without_settings(&mut command);
    let mut process = Process::start(command);
    let line = process.stdout.line("{").await;
    let shown: Value = serde_json::from_str(&line).unwrap();
    let http = text(&shown["http_listen"]);
    assert_ne!(http, "127.0.0.1:50052");
    let ready = http_get(http, "/livez").await;
    assert!(ready.starts_with("HTTP/1.1 200 OK"), "{ready}");
    drop(taken);
    stop(&folder, process, "INT").await;
}

#[tokio::test]
async fn a_second_one_in_the_same_folder_is_refused_with_advice() {
    let folder = Folder::new();
    let (process, shown) = started(&folder).await;
    let said = dev(&folder, "127.0.0.1:0", &["--json"])
        .ended()
        .await
        .refused(1);
    assert!(said.contains("in use by another hitkeep-auth"), "{said}");
    assert!(said.contains(&folder.data_dir()), "{said}");
    assert!(said.contains("--data-dir"), "{said}");
    // The first one is none the worse for it.
    let token = text(&shown["team_client"]["token"]);
    assert_eq!(inactive_reason(&shown, token).await, None);
    stop(&folder, process, "INT").await;
}

#[tokio::test]
async fn a_taken_port_is_refused_before_anything_is_made() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = dev(&folder, &address, &["--json"]).ended().await.refused(1);
    assert!(said.contains(&address), "{said}");
    assert!(said.contains("another program listens there"), "{said}");
    assert!(said.contains("--listen"), "{said}");
    assert!(!folder.data().exists());
}

#[tokio::test]
async fn a_folder_without_postgres_is_refused_with_advice() {
    let folder = Folder::new();
    let empty = folder.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let process = dev(&folder, "127.0.0.1:0", &["--postgres-bin", empty]);
    let said = process.ended().await.refused(1);
    assert!(said.contains(empty), "{said}");
    assert!(
        said.contains("initdb and postgres of version 15 or newer"),
        "{said}"
    );
    // What went wrong is no reason not to try again.
    let (process, _) = started(&folder).await;
    stop(&folder, process, "INT").await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_refused() {
    let folder = Folder::new();
    let file = folder.write("file", "");
    let below = file.join("data");
    let arguments = ["dev", "--listen", "127.0.0.1:0", "--data-dir"];
    let arguments = arguments
        .map(Path::new)
        .into_iter()
        .chain([below.as_path()]);
    let said = run(arguments).await.refused(1);
    assert!(said.contains(file.to_str().unwrap()), "{said}");
}
