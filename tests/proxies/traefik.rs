//! Traefik, with the files of `deploy/traefik` as they are but for the addresses.

use std::net::TcpListener;

use tokio::process::Command;

use crate::{
    forward_auth::{self, Front},
    service::{SITE, Service},
    support::{folder::Folder, process::Process, programs, upstream},
};

/// Where CI puts it.
const PLACE: &str = "target/ci-tools/traefik/bin/traefik";
const STATIC: &str = include_str!("../../deploy/traefik/traefik.yml");
const DYNAMIC: &str = include_str!("../../deploy/traefik/dynamic.yml");
/// Gives it a listening socket that is there already, as systemd would: so there is no
/// port that another program could take first.
const ON_STDIN: &str = "LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0";

/// Starts one in front of an upstream, with that token of its own; none where it is
/// not installed.
async fn start(service: &Service, caller: &str) -> Option<Front> {
    let program = programs::find("traefik", PLACE)?;
    let upstream = upstream::start().await;
    let folder = Folder::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let replaced = [
        ("127.0.0.1:50052", &*service.http),
        ("127.0.0.1:8080", &upstream),
    ];
    folder.put("dynamic.yml", DYNAMIC, &replaced);
    // It looks for newer versions of itself, which are no business of a test's.
    let configuration = format!("{STATIC}\nglobal: {{ checkNewVersion: false }}\n");
    folder.put(
        "traefik.yml",
        &configuration,
        &[("127.0.0.1:8081", &address)],
    );
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", ON_STDIN])
        .arg(program)
        .arg("--configfile=traefik.yml")
        .current_dir(&*folder)
        .env("HITKEEP_CALLER_TOKEN", caller);
    let process = Process::spawn(command, std::os::fd::OwnedFd::from(listener).into());
    let front = Front {
        address,
        _folder: folder,
        _process: process,
    };
    // It accepts before it knows its routes, and does not say when it does.
    front.until(200, "/healthz", &[]).await;
    Some(front)
}

forward_auth::suite!();

/// What some upstreams would take for a header of the check's, in whichever spelling.
#[tokio::test]
async fn nobody_says_who_they_are_but_the_check() {
    let service = Service::start(&[]).await;
    let Some(traefik) = start(&service, &service.caller).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    for name in [
        "X_HITKEEP_OWNER",
        "x-hitkeep_owner",
        "x.hitkeep.owner",
        "x~hitkeep~owner",
        "x!hitkeep-owner",
    ] {
        let headers = [("authorization", &*bearer), (name, "user:root")];
        for target in ["/", "/healthz"] {
            let answer = traefik.get(target, &headers).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
            assert!(!answer.body.contains("root"), "{name}: {answer:?}");
        }
    }
    // None that is not known yet, either, where there is a check.
    let headers = [("authorization", &*bearer), ("x-hitkeep-future", "1")];
    let answer = traefik.get("/", &headers).await;
    assert_eq!(answer.arrived("x-hitkeep-future"), [""; 0]);
}

#[tokio::test]
async fn what_may_not_pass_is_refused_as_it_should_be() {
    let service = Service::start(&[]).await;
    if let Some(traefik) = start(&service, &service.caller).await {
        forward_auth::refuses(&traefik, &service).await;
        // Some upstreams take the first one, and some the last.
        let twice = [("authorization", "Bearer x"), ("authorization", "Bearer y")];
        assert_eq!(traefik.get("/", &twice).await.error(), "invalid_token");
    }
}

/// No path gets to a route that needs less than the one which some upstreams would see
/// in it.
#[tokio::test]
async fn a_path_of_a_route_that_needs_less_is_refused() {
    let service = Service::start(&[]).await;
    let Some(traefik) = start(&service, &service.caller).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let headers = [("authorization", &*bearer)];
    for path in [
        "/api%2fsites/SITE/hits",
        "/other%2f..%2fapi/sites/SITE",
        "/other/..%5c..%5capi/sites/SITE",
        "/other/%2e%2e%2fapi/sites/SITE",
        "/other/%252e%252e/api/sites/SITE",
        "/api%3b/sites/SITE",
        "/api%00/sites/SITE",
        "/api/sites%3f/SITE",
        "/api/sites%23/SITE",
    ] {
        let answer = traefik.get(&path.replace("SITE", SITE), &headers).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_told_is_503() {
    let service = Service::start(&["--max-staleness", "1s"]).await;
    let Some(traefik) = start(&service, &service.caller).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let good = [("authorization", &*bearer)];
    service.database.cut();
    traefik.until(503, "/", &good).await;
    let answer = traefik.get("/", &good).await;
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert_eq!(answer.header("retry-after"), ["1"]);
    service.database.mend();
    traefik.until(200, "/", &good).await;
    // Not there at all: of that, Traefik tells in its own way.
    let (stopped, _) = service.stop().await;
    assert_eq!(traefik.get("/", &good).await.status, 500);
    assert_eq!(traefik.get("/healthz", &[]).await.status, 200);
    let _service = stopped.start().await;
    traefik.until(200, "/", &good).await;
}

/// That hitkeep-auth does not know Traefik is not the client's fault, and Traefik cannot
/// be informed: the client sees whose fault it is.
#[tokio::test]
async fn an_unknown_proxy_is_told_to_the_client() {
    let service = Service::start(&[]).await;
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    // Nor can the client say for Traefik who it is.
    let headers = [
        ("authorization", &*bearer),
        ("x-hitkeep-caller", &service.caller),
    ];
    for caller in ["", "hks_x", &made.token] {
        let Some(traefik) = start(&service, caller).await else {
            return;
        };
        let answer = traefik.get("/", &headers).await;
        assert_eq!((answer.status, &*answer.error()), (401, "caller_unknown"));
        assert_eq!(answer.header("www-authenticate"), ["X-HitKeep-Caller"]);
    }
}
