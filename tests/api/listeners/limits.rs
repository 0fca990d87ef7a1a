//! What one connection, or many, can take.

use hitkeep_auth::server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    sync::mpsc,
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    harness::TestApp,
    support::waiting::{until, wanted},
};

/// The first words of HTTP/2, and empty settings.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn there_are_only_so_many_connections_at_once() {
    let app = TestApp::start().await;
    let options = server::Options {
        max_connections: 2,
        ..server::Options::default()
    };
    let (connections, incoming) = mpsc::unbounded_channel();
    let (_stop, stopped) = mpsc::channel(2);
    let incoming = UnboundedReceiverStream::new(incoming);
    tokio::spawn(server::serve(app.store.clone(), options, incoming, stopped));
    let connect = async || {
        let (mut ours, theirs) = duplex(1024);
        connections.send(Ok::<_, std::io::Error>(theirs)).unwrap();
        // Where it is closed already, reading says so.
        ours.write_all(GREETING).await.ok();
        let answered = ours.read_u8().await.is_ok();
        (ours, answered)
    };
    let (mut first, answered) = connect().await;
    assert!(answered);
    let (_second, answered) = connect().await;
    assert!(answered);
    assert!(!connect().await.1);
    assert!(!connect().await.1);
    // It says something that is no HTTP/2, and is ended. Its place is kept until it ends
    // on its side as well: then there is room for one.
    first.write_all(&[0xff; 64]).await.unwrap();
    first.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(!connect().await.1);
    drop(first);
    let (_third, answered) = connect().await;
    assert!(answered);
    assert!(!connect().await.1);
}

/// The other listener has as many of its own.
#[tokio::test]
async fn there_are_only_so_many_connections_of_http_at_once() {
    let app = TestApp::with(server::Options {
        max_connections: 2,
        ..server::Options::default()
    })
    .await;
    let connect = async || {
        let (mut ours, theirs) = duplex(1024);
        app.connect_http(theirs);
        // Where it is closed already, reading says so.
        let asked = b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n";
        ours.write_all(asked).await.ok();
        let answered = ours.read_u8().await.is_ok();
        (ours, answered)
    };
    let (first, answered) = connect().await;
    assert!(answered);
    let (_second, answered) = connect().await;
    assert!(answered);
    assert!(!connect().await.1);
    // There is room again once the server has seen that one has gone.
    drop(first);
    let _third = until("there is room again", async || {
        let (third, answered) = connect().await;
        wanted(answered).map(|()| third)
    })
    .await;
    assert!(!connect().await.1);
}
