//! nginx, with the files of `deploy/nginx` as they are but for the addresses.

use tokio::process::Command;

use crate::{
    forward_auth::{self, Front},
    service::Service,
    support::{folder::Folder, process::Process, programs, upstream},
};

/// Where CI puts it.
const PLACE: &str = "target/ci-tools/proxies/usr/sbin/nginx";
const CONFIGURATION: &str = include_str!("../../deploy/nginx/nginx.conf");
const CHECK: &str = include_str!("../../deploy/nginx/hitkeep_check.conf");
const PROTECTED: &str = include_str!("../../deploy/nginx/hitkeep_protected.conf");
const PREFLIGHT: &str = include_str!("../../deploy/nginx/hitkeep_preflight.conf");
const OPEN: &str = include_str!("../../deploy/nginx/hitkeep_open.conf");

/// Starts one in front of an upstream, with that token of its own; none where it is
/// not installed.
async fn start(service: &Service, caller: &str) -> Option<Front> {
    let program = programs::find("nginx", PLACE)?;
    let upstream = upstream::start().await;
    let folder = Folder::new();
    // What it writes stays in its folder: it need not be root's.
    let mut http = "http {\n    access_log off;".to_owned();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let line = ["\n    ", kind, "_temp_path temporary;"].concat();
        http.push_str(&line);
    }
    let listen = format!("listen unix:{};", folder.socket());
    let replaced = [
        ("http {", &*http),
        ("listen 127.0.0.1:8081;", &listen),
        ("127.0.0.1:50052", &service.http),
        ("127.0.0.1:8080", &upstream),
    ];
    folder.put("nginx.conf", CONFIGURATION, &replaced);
    folder.put("hitkeep_check.conf", CHECK, &[("hks_CHANGE_THIS", caller)]);
    folder.put("hitkeep_protected.conf", PROTECTED, &[]);
    folder.put("hitkeep_open.conf", OPEN, &[]);
    folder.put("hitkeep_preflight.conf", PREFLIGHT, &[]);
    let mut command = Command::new(program);
    command.args(["-c", "nginx.conf", "-e", "stderr", "-g"]);
    command.arg("daemon off; master_process off; pid pid; error_log stderr notice;");
    command.arg("-p").arg(&*folder);
    let mut process = Process::start(command);
    process.stderr.line("using the").await;
    Some(Front {
        address: folder.socket(),
        _folder: folder,
        _process: process,
    })
}

forward_auth::suite!();

#[tokio::test]
async fn what_may_not_pass_is_refused_as_it_should_be() {
    let service = Service::start(&[]).await;
    if let Some(nginx) = start(&service, &service.caller).await {
        forward_auth::refuses(&nginx, &service).await;
        // Some upstreams take the first one, and some the last.
        let twice = [("authorization", "Bearer x"), ("authorization", "Bearer y")];
        assert_eq!(nginx.get("/", &twice).await.status, 400);
    }
}

/// nginx makes 500 of all that it does not know of a check; the client gets what it is.
#[tokio::test]
async fn what_cannot_be_told_is_503() {
    let service = Service::start(&["--max-staleness", "1s"]).await;
    let Some(nginx) = start(&service, &service.caller).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let good = [("authorization", &*bearer)];
    let cannot_tell = async || {
        let answer = nginx.get("/", &good).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.error(), "temporarily_unavailable");
        assert_eq!(answer.header("retry-after"), ["1"]);
        assert_eq!(answer.header("www-authenticate"), [""; 0]);
        assert_eq!(answer.header("cache-control"), ["no-store"]);
    };
    service.database.cut();
    nginx.until(503, "/", &good).await;
    cannot_tell().await;
    service.database.mend();
    nginx.until(200, "/", &good).await;
    // Not there at all.
    let (stopped, _) = service.stop().await;
    cannot_tell().await;
    let _service = stopped.start().await;
    nginx.until(200, "/", &good).await;
}

/// That hitkeep-auth does not know nginx is not the client's fault.
#[tokio::test]
async fn an_unknown_proxy_is_500() {
    let service = Service::start(&[]).await;
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    for caller in ["", "hks_x", &made.token] {
        let Some(nginx) = start(&service, caller).await else {
            return;
        };
        let answer = nginx.get("/", &[("authorization", &bearer)]).await;
        assert_eq!((answer.status, &*answer.error()), (500, "server_error"));
    }
    let (_, log) = service.stop().await;
    assert!(log.contains("a proxy was refused"), "{log}");
    assert!(!log.contains(&made.token[4..]));
}
