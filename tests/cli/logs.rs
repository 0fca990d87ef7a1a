//! What is logged, and what reads it.

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    time::timeout,
};

use crate::{
    postgres::migrated_database,
    process::{account, binary},
    run::introspect,
};

/// How long an answer may take on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// A log collector that hangs, or a terminal that was paused with Ctrl-S.
#[tokio::test]
async fn a_reader_of_the_log_that_stops_costs_no_answer() {
    let url = migrated_database().await;
    let caller = account(&url, "sidecar", "introspect").await;
    let mut server = binary([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--database-url",
        &url,
        "--log",
        "info,h2=trace",
        "--log-format",
        "json",
    ])
    .stdin(Stdio::null())
    .stdout(Stdio::null())
    .stderr(Stdio::piped())
    .kill_on_drop(true)
    .spawn()
    .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut address = None;
    let address = loop {
        let mut line = String::new();
        log.read_line(&mut line).await.unwrap();
        let line: Value = serde_json::from_str(&line).expect("one object in a line");
        let message = line["message"].as_str().unwrap_or_default();
        if message.starts_with("serving on") {
            address = line["address"].as_str().map(str::to_owned);
        } else if message.contains("introspection serves") {
            break address.expect("it has said where");
        }
    };
    for _ in 0..100 {
        let answer = introspect(&address, &caller, "hk_unknown");
        let answer = timeout(PATIENCE, answer).await.expect("it is answered");
        assert!(!answer.unwrap().active);
    }
    server.start_kill().unwrap();
    let mut rest = String::new();
    log.read_to_string(&mut rest).await.unwrap();
    // The pipe was full before the last: each connection's client acknowledges the settings once.
    let acknowledged = r#""message":"received","frame":"Settings { flags: (0x1: ACK)"#;
    let connections = rest.matches(acknowledged).count();
    assert!((1..100).contains(&connections), "{connections}");
}
