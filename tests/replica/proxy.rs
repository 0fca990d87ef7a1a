//! The proxy does what the other tests rely on.

use std::time::Duration;

use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use futures_util::FutureExt;

use crate::{
    support::{
        postgres,
        proxy::{Direction, Limit, Listeners, Proxy, Then},
    },
    waiting::{until, wanted, within},
};

async fn through() -> (Proxy, AsyncPgConnection, String) {
    let (proxy, url) = Proxy::start(&postgres::migrated_database().await);
    let connection = AsyncPgConnection::establish(&url).await.unwrap();
    (proxy, connection, url)
}

#[tokio::test]
async fn a_stalled_connection_goes_on_where_it_was() {
    let (proxy, mut connection, url) = through().await;
    proxy.stall();
    let mut statement = connection.batch_execute("SELECT 1").boxed();
    let waiting = tokio::time::timeout(Duration::from_millis(50), &mut statement);
    waiting.await.expect_err("nothing comes back");
    let connect = AsyncPgConnection::establish(&url);
    let connecting = tokio::time::timeout(Duration::from_millis(50), connect);
    assert!(connecting.await.is_err(), "and nobody is refused");
    proxy.mend();
    within("the statement ends", statement).await.unwrap();
}

#[tokio::test]
async fn connections_break_and_new_ones_are_made() {
    let (proxy, mut connection, url) = through().await;
    proxy.sever();
    connection.batch_execute("SELECT 1").await.unwrap_err();
    let mut connection = AsyncPgConnection::establish(&url).await.unwrap();
    proxy.cut();
    connection.batch_execute("SELECT 1").await.unwrap_err();
    assert!(AsyncPgConnection::establish(&url).await.is_err());
    proxy.mend();
    assert!(AsyncPgConnection::establish(&url).await.is_ok());
}

#[tokio::test]
async fn a_limit_is_kept_to_the_byte() {
    for direction in [Direction::ToServer, Direction::ToClient] {
        for bytes in [0, 1, 7, 20] {
            let (proxy, mut connection, _) = through().await;
            let before = proxy.passed(direction);
            proxy.limit(Limit {
                direction,
                bytes,
                then: Then::Sever,
            });
            assert!(proxy.is_limited());
            let statement = "SELECT 'more than twenty bytes'";
            connection.batch_execute(statement).await.unwrap_err();
            assert_eq!(proxy.passed(direction) - before, bytes, "{direction:?}");
            assert!(!proxy.is_limited());
        }
    }
}

#[tokio::test]
async fn a_limit_that_stalls_loses_nothing() {
    let (proxy, mut connection, _) = through().await;
    proxy.limit(Limit {
        direction: Direction::ToClient,
        bytes: 9,
        then: Then::Stall,
    });
    let mut statement = connection.batch_execute("SELECT 1").boxed();
    until("the limit is reached", async || {
        assert!((&mut statement).now_or_never().is_none());
        wanted(!proxy.is_limited())
    })
    .await;
    proxy.mend();
    within("the statement ends", statement).await.unwrap();
}

#[tokio::test]
async fn those_who_listen_are_treated_in_their_own_way() {
    let (proxy, mut other, url) = through().await;
    let listen = "LISTEN told";
    let mut listener = AsyncPgConnection::establish(&url).await.unwrap();
    listener.batch_execute("UNLISTEN *").await.unwrap();
    assert_eq!(proxy.listening(), 0);
    listener.batch_execute(listen).await.unwrap();
    assert_eq!(proxy.listening(), 1);
    proxy.listeners(Listeners::Stalled);
    let stalled = listener.batch_execute("SELECT 1");
    let stalled = tokio::time::timeout(Duration::from_millis(50), stalled);
    stalled.await.expect_err("nothing comes back");
    other.batch_execute("SELECT 1").await.unwrap();
    proxy.listeners(Listeners::Refused);
    until("it is broken", async || wanted(proxy.listening() == 0)).await;
    let mut listener = AsyncPgConnection::establish(&url).await.unwrap();
    listener.batch_execute("SELECT 1").await.unwrap();
    listener.batch_execute(listen).await.unwrap_err();
    other.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn notifications_are_lost_and_nothing_else() {
    let (proxy, _, url) = through().await;
    let config: tokio_postgres::Config = url.parse().unwrap();
    let (client, mut connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |at| connection.poll_message(at));
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
            if let tokio_postgres::AsyncMessage::Notification(found) = message {
                sender.send(found.payload().to_owned()).unwrap();
            }
        }
    });
    client.batch_execute("LISTEN told").await.unwrap();
    proxy.listeners(Listeners::Mute);
    client.batch_execute("NOTIFY told, 'lost'").await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    proxy.listeners(Listeners::Heard);
    client.batch_execute("NOTIFY told, 'heard'").await.unwrap();
    let first = within("a notification comes", told.recv()).await;
    assert_eq!(first.as_deref(), Some("heard"));
    reading.abort();
}

#[tokio::test]
async fn one_reply_is_held_back() {
    let (proxy, mut connection, url) = through().await;
    let mut other = AsyncPgConnection::establish(&url).await.unwrap();
    proxy.hold_replies_to(b"marked");
    let held = tokio::spawn(async move { connection.batch_execute("SELECT 'marked'").await });
    within("the request comes by", proxy.caught()).await;
    other.batch_execute("SELECT 1").await.unwrap();
    assert!(!held.is_finished());
    proxy.release();
    within("the reply comes", held).await.unwrap().unwrap();
}
