//! Python's grpcio with the service config of `deploy/grpc`: it asks two servers over one
//! channel, and no call fails when one of them is killed.

use std::path::Path;

use base64::{Engine, prelude::BASE64_STANDARD};
use hitkeep_auth::pb::IntrospectRequest;
use prost::Message;
use tokio::process::Command;

use crate::{
    service::Service,
    support::{process::Process, programs},
};

/// Where CI puts it, which is no program.
const MODULE: &str = "target/ci-tools/grpcio/grpc/__init__.py";
const CONFIG: &str = "deploy/grpc/service-config.json";
const PROGRAM: &str = "tests/proxies/grpcio.py";

#[tokio::test]
async fn no_call_fails_when_one_of_two_servers_is_killed() {
    let (Some(module), Some(python)) = (
        programs::find("grpcio", MODULE),
        programs::find("python3", "target/ci-tools/python3"),
    ) else {
        return;
    };
    let modules = module.parent().and_then(Path::parent);
    let service = Service::start(&[]).await;
    let (killed, killed_http, killed_address) = service.another().await;
    let request = IntrospectRequest {
        token: service.client().await.token,
        ..IntrospectRequest::default()
    };
    let mut command = Command::new(python);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env(
            "PYTHONPATH",
            modules.expect("it is in a folder of a folder"),
        )
        .env("CALLER", &service.caller)
        .env("REQUEST", BASE64_STANDARD.encode(request.encode_to_vec()))
        .args([PROGRAM, CONFIG])
        .args([&service.address, &service.http])
        .args([&killed_address, &killed_http]);
    let (stdin, go_on) = std::io::pipe().expect("the system gives a pipe");
    let mut program = Process::spawn(command, stdin.into());
    program.stderr.line("all servers have answered").await;
    killed.signal("KILL").await;
    assert_eq!(killed.ended().await.code, None);
    drop(go_on);
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("no call failed"), "{}", ended.stdout);
    service.stop().await;
}
