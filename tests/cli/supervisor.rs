//! What systemd is sent about `serve` and `replica`: `sd_notify(3)`.

use std::path::Path;

use tokio::net::UnixDatagram;

use crate::{
    folder::{Folder, text},
    postgres::migrated_database,
    process::{Process, binary},
    run::{run, run_on, unreachable_database},
    waiting::within,
};

const SERVES: &str = "READY=1\nSTATUS=introspection serves";
const DOES_NOT_SERVE: &str = "STATUS=introspection does not serve";
const STOPS: &str = "STOPPING=1\nSTATUS=finishing the calls in flight";

/// The next message that the supervisor gets.
async fn next(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let received = within("a message to the supervisor", socket.recv(&mut buffer)).await;
    let message = &buffer[..received.unwrap()];
    String::from_utf8(message.to_vec())
        .unwrap()
        .trim_end()
        .to_owned()
}

/// Whether a server that listens there says of itself that it serves.
async fn is_ready(address: &str) -> bool {
    let asked = run(["healthcheck", "ready", "--listen", address]).await;
    asked.code == Some(0)
}

#[tokio::test]
async fn serve_is_ready_when_it_serves_and_stopping_before_it_ends() {
    let folder = Folder::new();
    let socket = UnixDatagram::bind(folder.path("notify")).unwrap();
    let file = folder.write("url", &unreachable_database());
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--drain-delay", "1h"];
    let mut command = binary(arguments);
    command
        .env("NOTIFY_SOCKET", folder.path("notify"))
        .env("HITKEEP_AUTH_DATABASE_URL_FILE", &file);
    let mut server = Process::start(command);
    let address = server.address().await;
    assert_eq!(next(&socket).await, DOES_NOT_SERVE);
    assert!(!is_ready(&address).await);

    // Postgres is there.
    replace(&file, &migrated_database().await);
    server.signal("HUP").await;
    assert_eq!(next(&socket).await, SERVES);
    assert!(is_ready(&address).await);

    // It ends an hour later, or with a second signal.
    server.signal("TERM").await;
    assert_eq!(next(&socket).await, STOPS);
    assert!(!is_ready(&address).await);
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut more = [0; 16];
    assert!(
        socket.try_recv(&mut more).is_err(),
        "it had said everything"
    );
}

/// Never half of the text.
fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(&new, file).unwrap();
}

/// The supervisor listens on an abstract socket, as that of containers may.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn replica_is_ready_when_it_has_a_copy() {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram as Blocking},
    };

    let name = format!("hka-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = Blocking::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = UnixDatagram::from_std(socket).unwrap();

    let url = migrated_database().await;
    let account = ["service-account", "create", "edge", "--allow", "replicate"];
    let made = run_on(&url, &[&account[..], &["--json"]].concat()).await;
    let token = made.given_json()["token"].as_str().unwrap().to_owned();
    let folder = Folder::new();
    let upstream = folder.path("upstream");
    let mut command = binary(["replica", "--listen", "127.0.0.1:0"]);
    command
        .env("NOTIFY_SOCKET", format!("@{name}"))
        .env("HITKEEP_AUTH_UPSTREAM", format!("unix:{}", text(&upstream)))
        .env("HITKEEP_AUTH_UPSTREAM_TOKEN", &token);
    let mut replica = Process::start(command);
    assert_eq!(next(&socket).await, DOES_NOT_SERVE);
    let here = replica.address().await;
    assert!(!is_ready(&here).await);

    let listen = format!("unix:{}", text(&upstream));
    let arguments = ["serve", "--listen", &listen, "--database-url", &url];
    let mut server = Process::start(binary(arguments));
    server.stderr.line("introspection serves").await;
    replica.stderr.line("introspection serves").await;
    assert_eq!(next(&socket).await, SERVES);
    assert!(is_ready(&here).await);
    replica.signal("TERM").await;
    assert_eq!(next(&socket).await, STOPS);
    let ended = replica.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    drop(server);
}

/// A supervisor that cannot be reached stops nothing.
#[tokio::test]
async fn a_supervisor_that_is_not_there_is_logged() {
    let url = migrated_database().await;
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &url];
    let mut command = binary(arguments);
    command.env("NOTIFY_SOCKET", Folder::new().path("none"));
    let mut server = Process::start(command);
    server.stderr.line("could not be notified").await;
    server.stderr.line_so_far("introspection serves").await;
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
