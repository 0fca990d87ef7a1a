//! A way to Postgres that takes time, as a network's does: each byte arrives so much
//! later. What limits the server then are its connections, and not the cores, of which a
//! benchmark has too few to give everybody some.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::Instant,
};
use tokio_postgres::config::Host;

use super::{paths::encoded, postgres::Postgres};

/// The name that a client of Postgres looks for in a folder.
const SOCKET: &str = ".s.PGSQL.5432";
/// How much is read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// The URL of a database behind such a way. It goes on until the runtime ends.
pub fn to(postgres: &Postgres, database: &str, delay: Duration) -> String {
    let config: tokio_postgres::Config = database.parse().expect("a URL");
    let [Host::Unix(server)] = config.get_hosts() else {
        panic!("a private Postgres listens on a socket");
    };
    let server = server.join(SOCKET);
    let folder = postgres.folder().join("far");
    std::fs::create_dir(&folder).expect("the folder is ours");
    let listener = UnixListener::bind(folder.join(SOCKET)).expect("nobody listens there");
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.expect("it listens");
            // Where Postgres does not answer, nobody does.
            if let Ok(far) = UnixStream::connect(&server).await {
                let ((from_near, to_near), (from_far, to_far)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(carry(from_near, to_far, delay));
                tokio::spawn(carry(from_far, to_near, delay));
            }
        }
    });
    let name = config.get_dbname().expect("a database's URL");
    format!("postgres://postgres@{}/{name}", encoded(&folder))
}

/// Carries everything one way until one end is closed.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
) {
    let (sender, mut on_the_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, bytes)) = on_the_way.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let sent = (Instant::now() + delay, chunk[..length].to_vec());
        if sender.send(sent).is_err() {
            return;
        }
    }
}
