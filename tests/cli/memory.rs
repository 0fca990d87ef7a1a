//! What a server keeps for callers who begin calls and do not finish them.

use std::{convert::Infallible, pin::Pin};

use futures_util::{Stream, StreamExt, stream};
use http_body_util::StreamBody;
use hyper::{
    body::{Bytes, Frame},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::oneshot};

use crate::{
    postgres::migrated_database,
    run::{introspect, run_on, serve},
    waiting::within,
};

const CONNECTIONS: usize = 10;
const CALLS: usize = 100;
/// What a thousand of them may cost, in bytes.
const MOST: usize = 64 * 1024 * 1024;

/// One field of /proc/PID/status, in bytes.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    kibibytes.unwrap().parse::<usize>().unwrap() * 1024
}

async fn caller(url: &str, name: &str, permission: &str) -> String {
    let arguments = [
        "service-account",
        "create",
        name,
        "--allow",
        permission,
        "--json",
    ];
    let made = run_on(url, &arguments).await.given_json();
    made["token"].as_str().unwrap().to_owned()
}

type Half = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

fn body(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Half {
    StreamBody::new(Box::pin(frames.map(Ok)))
}

/// A message that announces so much, of which so much is sent. Says when it was.
fn half(announced: u32, sent: usize) -> (Half, oneshot::Receiver<()>) {
    let (tell, told) = oneshot::channel();
    let message = [&[0][..], &announced.to_be_bytes(), &vec![0; sent]].concat();
    let parts: Vec<_> = message
        .chunks(16 * 1024)
        .map(|part| Frame::data(Bytes::copy_from_slice(part)))
        .collect();
    let end = stream::once(async move {
        tell.send(()).ok();
        std::future::pending().await
    });
    (body(stream::iter(parts).chain(end)), told)
}

/// The shortest message that there is.
fn whole_and_empty() -> Half {
    body(stream::iter([Frame::data(Bytes::from_static(&[0; 5]))]))
}

fn request(path: &str, token: &str, body: Half) -> http::Request<Half> {
    http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"))
        .body(body)
        .unwrap()
}

/// A thousand calls from ten connections, of which each announces a message and sends so
/// much of it; however large that is, and whatever they call, it costs little.
#[tokio::test]
async fn half_sent_calls_cost_little() {
    let url = migrated_database().await;
    let introspects = caller(&url, "sidecar", "introspect").await;
    let pushes = caller(&url, "pusher", "directory").await;
    let cases = [
        (
            "hitkeep.auth.v1.IntrospectionService/Introspect",
            &introspects,
            4 << 20,
            16 << 10,
        ),
        (
            "hitkeep.auth.v1.IntrospectionService/Introspect",
            &introspects,
            64 << 10,
            16 << 10,
        ),
        (
            "hitkeep.auth.v1.IntrospectionService/Introspect",
            &introspects,
            64 << 10,
            60 << 10,
        ),
        (
            "hitkeep.auth.v1.IntrospectionService/IntrospectStream",
            &introspects,
            64 << 10,
            60 << 10,
        ),
        (
            "envoy.service.auth.v3.Authorization/Check",
            &introspects,
            256 << 10,
            16 << 10,
        ),
        (
            "envoy.service.auth.v3.Authorization/Check",
            &introspects,
            256 << 10,
            60 << 10,
        ),
        (
            "hitkeep.auth.v1.DirectoryService/ApplyDirectoryChanges",
            &pushes,
            4 << 20,
            16 << 10,
        ),
        (
            "hitkeep.auth.v1.DirectoryService/ApplyDirectoryChanges",
            &pushes,
            4 << 20,
            60 << 10,
        ),
    ];
    for (method, token, announced, sent) in cases {
        let (server, address) = serve(&url).await;
        // Whatever the first call needs is there.
        introspect(&address, &introspects, "x").await.unwrap();
        let before = resident(server.id());
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let io = TokioIo::new(TcpStream::connect(&address).await.unwrap());
            let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                .handshake(io)
                .await
                .unwrap();
            tokio::spawn(connection);
            let path = format!("http://{address}/{method}");
            let mut sent_all = Vec::new();
            for _ in 0..CALLS {
                let (half, all_sent) = half(announced, sent);
                sender.ready().await.unwrap();
                let call = sender.send_request(request(&path, token, half));
                open.push(tokio::spawn(call));
                sent_all.push(all_sent);
            }
            for all_sent in sent_all {
                // An error where the call was refused before that.
                within("it is sent, or refused", all_sent).await.ok();
            }
            // Whole, and behind all of them: so they were read, by the connection and by what
            // serves their method.
            let introspect = "hitkeep.auth.v1.IntrospectionService/Introspect";
            for (method, token) in [(introspect, &introspects), (method, token)] {
                let path = format!("http://{address}/{method}");
                sender.ready().await.unwrap();
                let answered = sender.send_request(request(&path, token, whole_and_empty()));
                within("it is answered", answered).await.unwrap();
            }
        }
        let cost = resident(server.id()).saturating_sub(before);
        assert!(
            cost <= MOST,
            "{method}, {announced} announced, {sent} sent: {} KiB",
            cost / 1024
        );
        println!(
            "{method}, {announced} announced, {sent} sent: {} KiB",
            cost / 1024
        );
        drop(open);
    }
}
