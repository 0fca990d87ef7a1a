//! Caddy, with `deploy/caddy/Caddyfile` as it is but for the addresses.

use tokio::process::Command;

use crate::{
    forward_auth::{self, Front},
    service::Service,
    support::{folder::Folder, process::Process, programs, upstream},
};

/// Where CI puts it.
const PLACE: &str = "target/ci-tools/proxies/usr/bin/caddy";
const CONFIGURATION: &str = include_str!("../../deploy/caddy/Caddyfile");

/// Starts one in front of an upstream, with that token of its own; none where it is
/// not installed.
async fn start(service: &Service, caller: &str) -> Option<Front> {
    let program = programs::find("caddy", PLACE)?;
    let upstream = upstream::start().await;
    let folder = Folder::new();
    // Without its admin, which has a fixed port.
    let configuration = format!("{{\n\tadmin off\n}}\n{CONFIGURATION}");
    let listen = format!("http:// {{\n\tbind unix/{}", folder.socket());
    let replaced = [
        ("http://127.0.0.1:8081 {", &*listen),
        ("127.0.0.1:50052", &service.http),
        ("127.0.0.1:8080", &upstream),
    ];
    folder.put("Caddyfile", &configuration, &replaced);
    let mut command = Command::new(program);
    command
        .args(["run", "--adapter", "caddyfile", "--config", "Caddyfile"])
        .current_dir(&*folder)
        .env("HOME", &*folder)
        .env("XDG_CONFIG_HOME", &*folder)
        .env("XDG_DATA_HOME", &*folder)
        .env("HITKEEP_CALLER_TOKEN", caller);
    let mut process = Process::start(command);
    process.stderr.line("serving initial configuration").await;
    Some(Front {
        address: folder.socket(),
        _folder: folder,
        _process: process,
    })
}

forward_auth::suite!();

#[tokio::test]
async fn what_is_not_known_yet_is_not_believed_either() {
    let service = Service::start(&[]).await;
    let Some(caddy) = start(&service, &service.caller).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let headers = [("authorization", &*bearer), ("x-hitkeep-future", "1")];
    let answer = caddy.get("/", &headers).await;
    assert_eq!(answer.arrived("x-hitkeep-future"), [""; 0]);
}

#[tokio::test]
async fn what_may_not_pass_is_refused_as_it_should_be() {
    let service = Service::start(&[]).await;
    if let Some(caddy) = start(&service, &service.caller).await {
        forward_auth::refuses(&caddy, &service).await;
        // Some upstreams take the first one, and some the last.
        let twice = [("authorization", "Bearer x"), ("authorization", "Bearer y")];
        assert_eq!(caddy.get("/", &twice).await.error(), "invalid_token");
    }
}

#[tokio::test]
async fn what_cannot_be_told_is_503() {
    let service = Service::start(&["--max-staleness", "1s"]).await;
    let Some(caddy) = start(&service, &service.caller).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let good = [("authorization", &*bearer)];
    service.database.cut();
    caddy.until(503, "/", &good).await;
    let answer = caddy.get("/", &good).await;
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert_eq!(answer.header("retry-after"), ["1"]);
    service.database.mend();
    caddy.until(200, "/", &good).await;
    // Not there at all: of that, Caddy tells in its own way.
    let (stopped, _) = service.stop().await;
    assert_eq!(caddy.get("/", &good).await.status, 502);
    let _service = stopped.start().await;
    caddy.until(200, "/", &good).await;
}

/// That hitkeep-auth does not know Caddy is not the client's fault.
#[tokio::test]
async fn an_unknown_proxy_is_500() {
    let service = Service::start(&[]).await;
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    for caller in ["", "hks_x", &made.token] {
        let Some(caddy) = start(&service, caller).await else {
            return;
        };
        let answer = caddy.get("/", &[("authorization", &bearer)]).await;
        assert_eq!(answer.status, 500);
        assert_eq!(answer.header("www-authenticate"), [""; 0]);
    }
}
