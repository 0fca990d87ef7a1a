//! A real Envoy, in front of an upstream that answers with the request that came to it.

use std::fs;

use tokio::process::Command;

use super::{by_hand::get, folder::Folder, process::Process, programs, upstream, waiting::until};

/// Where CI puts it.
const PLACE: &str = "target/ci-tools/envoy/envoy/_bin/envoy";

/// A running Envoy.
pub struct Envoy {
    pub address: String,
    pub process: Process,
}

impl Envoy {
    /// Starts one with a file of `deploy/envoy` and that caller's token; none where it is not
    /// installed. The port of hitkeep-auth in the file, `auth`, becomes that of the address.
    pub async fn start(written: &str, auth: (u16, &str), caller: &str) -> Option<Self> {
        let program = programs::find("envoy", PLACE)?;
        let upstream = upstream::start().await;
        let folder = Folder::new();
        let admin = folder.path("admin");
        let mut text = written.to_owned();
        let (auth_port, auth_address) = auth;
        for (from, to) in [
            (10000, "0"),
            (auth_port, port(auth_address)),
            (8080, port(&upstream)),
        ] {
            let from = format!("port_value: {from}");
            assert_eq!(text.matches(&from).count(), 1, "{from}");
            text = text.replace(&from, &format!("port_value: {to}"));
        }
        let configuration = folder.write("envoy.yaml", &text);
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(&configuration)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--disable-hot-restart", "--concurrency", "1"])
            // To find out which port it listens on.
            .arg("--config-yaml")
            .arg("admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }")
            .env("HITKEEP_CALLER_TOKEN", caller);
        let mut process = Process::start(command);
        process.stderr.line("starting workers").await;
        let admin = fs::read_to_string(&admin).expect("it says where its admin is");
        // The line comes before they accept, so they are asked until they do.
        let workers = "/stats?filter=workers_started";
        until("its workers have started", async || {
            let stats = get(&admin, workers, &[]).await.body;
            if stats.contains("started: 1") {
                Ok(())
            } else {
                Err(stats)
            }
        })
        .await;
        let listeners = get(&admin, "/listeners?format=json", &[]).await.body;
        // It is sent in chunks.
        let listeners: String = listeners
            .lines()
            .filter(|l| l.starts_with([' ', '{', '}']))
            .collect();
        let listeners: serde_json::Value = serde_json::from_str(&listeners).expect(&listeners);
        let socket = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        Some(Self {
            address: format!("127.0.0.1:{}", socket["port_value"]),
            process,
        })
    }
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap()
}
