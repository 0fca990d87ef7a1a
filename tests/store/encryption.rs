//! TLS towards Postgres, and servers that will not do. What stands in front of the
//! real one says what Postgres says before TLS begins, and passes on the rest.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hitkeep_auth::{
    store::{NoConnection, Store, StoreOptions, Transaction, error::StoreError, migrations},
    system::{SystemClock, SystemEntropy},
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Notify, mpsc},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    certificates::Authority,
    database::{nobody, world},
    folder::Folder,
    paths::{decoded, encoded},
};

/// What a client says that wants TLS, and one that wants a statement cancelled.
const WANTS_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const WANTS_CANCEL: [u8; 4] = [4, 210, 22, 46];

/// How a front answers who asks for TLS.
#[derive(Clone)]
enum Answer {
    Yes(Arc<ServerConfig>),
    No,
    /// It says nothing, whatever is asked.
    Nothing,
}

/// What came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    encrypted: bool,
    /// Whether a certificate was shown.
    identified: bool,
    cancels: bool,
}

struct Front {
    address: SocketAddr,
    passed: mpsc::UnboundedReceiver<Passed>,
    database: String,
}

impl Front {
    async fn start(answer: Answer) -> Self {
        let url = world().await;
        let (sockets, database) = url
            .strip_prefix("postgres://postgres@")
            .and_then(|rest| rest.split_once('/'))
            .expect("a private Postgres' URL");
        let socket = decoded(sockets).join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, passed) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (answer, socket, sender) = (answer.clone(), socket.clone(), sender.clone());
                // Where the client breaks off, there is nothing to do.
                tokio::spawn(async move { pass(client, answer, &socket, &sender).await.ok() });
            }
        });
        Self {
            address,
            passed,
            database: database.to_owned(),
        }
    }

    async fn with_tls(authority: &Authority, names: &[&str]) -> Self {
        Self::start(Answer::Yes(config(authority, names, None))).await
    }

    fn url(&self, settings: &str) -> String {
        let port = self.address.port();
        format!(
            "postgres://postgres@localhost:{port}/{}?{settings}",
            self.database
        )
    }

    /// Whether a client with those settings gets in, and how.
    async fn lets_in(&mut self, settings: &str) -> Result<Passed, String> {
        match store(&self.url(settings)).probe().await {
            Ok(()) => Ok(self.passed.recv().await.expect("it came by")),
            Err(NoConnection::Unreachable(why)) => Err(why),
            Err(refused @ NoConnection::Refused(_)) => panic!("{settings}: {refused}"),
        }
    }
}

fn config(authority: &Authority, names: &[&str], clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let identity = authority.sign(names);
    let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            let root = CertificateDer::from_pem_slice(clients.pem().as_bytes()).unwrap();
            roots.add(root).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![identity.certificate.der().clone()];
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

async fn pass(
    mut client: TcpStream,
    answer: Answer,
    socket: &Path,
    passed: &mpsc::UnboundedSender<Passed>,
) -> std::io::Result<()> {
    let mut first = [0; 8];
    client.read_exact(&mut first).await?;
    let asks = first == WANTS_TLS;
    match answer {
        Answer::Nothing => std::future::pending().await,
        Answer::Yes(config) if asks => {
            client.write_all(b"S").await?;
            let stream = TlsAcceptor::from(config).accept(client).await?;
            let identified = stream.get_ref().1.peer_certificates().is_some();
            join(stream, None, socket, |cancels| {
                let encrypted = true;
                passed
                    .send(Passed {
                        encrypted,
                        identified,
                        cancels,
                    })
                    .unwrap();
            })
            .await
        }
        Answer::No | Answer::Yes(_) => {
            if asks {
                client.write_all(b"N").await?;
            }
            let read = (!asks).then_some(first);
            join(client, read, socket, |cancels| {
                let (encrypted, identified) = (false, false);
                passed
                    .send(Passed {
                        encrypted,
                        identified,
                        cancels,
                    })
                    .unwrap();
            })
            .await
        }
    }
}

/// Passes everything on to the real one, what was read already first.
async fn join(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    read: Option<[u8; 8]>,
    socket: &Path,
    tell: impl FnOnce(bool),
) -> std::io::Result<()> {
    let first = if let Some(first) = read {
        first
    } else {
        let mut first = [0; 8];
        client.read_exact(&mut first).await?;
        first
    };
    tell(first[4..] == WANTS_CANCEL);
    let mut server = UnixStream::connect(socket).await?;
    server.write_all(&first).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

fn store(url: &str) -> Store {
    let clock = Arc::new(SystemClock::default());
    Store::new(&StoreOptions::new(url), clock, Arc::new(SystemEntropy))
}

/// The settings of a case, whether it gets in, and whether encrypted.
type Case<'c> = (&'c str, Option<bool>);

async fn check(front: &mut Front, cases: &[Case<'_>]) {
    for (settings, expected) in cases {
        let passed = front.lets_in(settings).await;
        let encrypted = passed.as_ref().ok().map(|passed| passed.encrypted);
        assert_eq!(encrypted, *expected, "{settings}: {passed:?}");
    }
}

#[tokio::test]
async fn each_mode_is_as_good_as_its_word() {
    let folder = Folder::new();
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    folder.write("ca.pem", &authority.pem());
    folder.write("other.pem", &other.pem());
    let root = |file: &str| format!("sslrootcert={}", encoded(&folder.path(file)));
    let with = |mode: &str, file: &str| format!("sslmode={mode}&{}", root(file));
    for name in ["localhost", "elsewhere.internal"] {
        let mut front = Front::with_tls(&authority, &[name]).await;
        let verified = (name == "localhost").then_some(true);
        let cases: &[Case<'_>] = &[
            ("sslmode=disable", Some(false)),
            ("", Some(true)),
            ("sslmode=allow", Some(true)),
            ("sslmode=prefer", Some(true)),
            ("sslmode=require", Some(true)),
            (&with("require", "ca.pem"), Some(true)),
            (&with("verify-ca", "ca.pem"), Some(true)),
            (&with("verify-full", "ca.pem"), verified),
            // Also where it is only preferred, it does not become clear text.
            (&with("prefer", "other.pem"), None),
            (&with("require", "other.pem"), None),
            (&with("verify-ca", "other.pem"), None),
            (&with("verify-full", "other.pem"), None),
            (&with("verify-full", "missing.pem"), None),
        ];
        check(&mut front, cases).await;
    }
}

#[tokio::test]
async fn a_server_without_tls_does_only_where_none_is_asked_for() {
    let folder = Folder::new();
    folder.write("ca.pem", &Authority::new("ca").pem());
    let root = format!("sslrootcert={}", encoded(&folder.path("ca.pem")));
    let mut front = Front::start(Answer::No).await;
    let cases: &[Case<'_>] = &[
        ("sslmode=disable", Some(false)),
        ("sslmode=prefer", Some(false)),
        ("sslmode=require", None),
        (&format!("sslmode=verify-ca&{root}"), None),
        (&format!("sslmode=verify-full&{root}"), None),
    ];
    check(&mut front, cases).await;
}

#[tokio::test]
async fn who_has_a_certificate_shows_it() {
    let folder = Folder::new();
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let (certificate, key) = folder.write_identity("own", &clients.sign(&["hitkeep-auth"]));
    let own = format!(
        "sslmode=require&sslcert={}&sslkey={}",
        encoded(&certificate),
        encoded(&key)
    );
    let config = config(&authority, &["localhost"], Some(&clients));
    let mut front = Front::start(Answer::Yes(config)).await;
    assert!(front.lets_in(&own).await.unwrap().identified);
    // It is read each time: what replaces it counts from the next connection on.
    folder.write("own.pem", "");
    let why = front.lets_in(&own).await.unwrap_err();
    assert!(why.contains("own.pem"), "{why}");
    front
        .lets_in("sslmode=require")
        .await
        .expect_err("none is shown");
}

/// Everything that the service does goes the same way: the pool, the feed, what
/// listens, migrations, and what cancels a statement.
#[tokio::test(flavor = "multi_thread")]
async fn all_connections_are_encrypted() {
    let mut front = Front::with_tls(&Authority::new("ca"), &["localhost"]).await;
    let url = front.url("sslmode=require");
    let store = store(&url);
    migrations::apply(&url).await.unwrap();
    store.connect_feed().await.unwrap();
    store.listen(|| ()).await.unwrap();
    let begun = Notify::new();
    let work = async |_: &mut Transaction| -> Result<(), StoreError> {
        begun.notify_one();
        std::future::pending().await
    };
    let provenance = nobody();
    let mut abandoned = Box::pin(store.transaction(&provenance, work));
    tokio::select! {
        done = &mut abandoned => panic!("it never ends: {:?}", done.is_ok()),
        () = begun.notified() => {}
    }
    for _ in 0..4 {
        let passed = front.passed.recv().await.unwrap();
        assert!(passed.encrypted && !passed.cancels, "{passed:?}");
    }
    drop(abandoned);
    let cancel = front.passed.recv().await.unwrap();
    assert!(cancel.encrypted && cancel.cancels, "{cancel:?}");
}

/// A server that takes connections and says nothing (its disk hangs, say) is given
/// up like one that is not there.
#[tokio::test]
async fn a_silent_server_is_not_the_end() {
    let silent = Front::start(Answer::Nothing).await;
    let mut front = Front::start(Answer::No).await;
    let url = front.url("connect_timeout=5").replace(
        "localhost:",
        &format!("localhost:{},localhost:1,localhost:", silent.address.port()),
    );
    let store = store(&url);
    store.probe().await.expect("the last one answers");
    assert!(front.passed.recv().await.is_some());
    store
        .pending_migrations()
        .await
        .expect("and so it does to the pool");
    let place = store.place();
    let ports = [silent.address.port(), 1, front.address.port()];
    let places: Vec<_> = ports
        .iter()
        .map(|port| format!("localhost:{port}"))
        .collect();
    assert_eq!(place, format!("{}/{}", places.join(","), front.database));

    let nobody = url.replace(&format!(",localhost:{}/", front.address.port()), "/");
    let why = self::store(&nobody).probe().await.unwrap_err().to_string();
    for place in &places[..2] {
        assert!(why.contains(place.as_str()), "{why}");
    }
}

/// Files can be slow, on a network for instance. Here, a file without an end until
/// another task on the same thread has done something.
#[tokio::test]
async fn nobody_waits_while_files_are_read() {
    let folder = Folder::new();
    let slow = folder.path("ca.pem");
    let made = std::process::Command::new("mkfifo").arg(&slow).status();
    assert!(made.unwrap().success());
    let (done, is_done) = std::sync::mpsc::channel();
    let file = slow.clone();
    let writer = std::thread::spawn(move || {
        // Opens when it is read.
        let _open = std::fs::File::create(&file).unwrap();
        is_done.recv_timeout(Duration::from_secs(10)).is_ok()
    });
    let url = format!(
        "postgres://postgres@localhost:1/x?sslmode=verify-full&sslrootcert={}",
        encoded(&slow)
    );
    let store = store(&url);
    let (probed, ()) = tokio::join!(store.probe(), async { done.send(()).unwrap() });
    assert!(
        matches!(probed, Err(NoConnection::Unreachable(_))),
        "{probed:?}"
    );
    assert!(writer.join().unwrap(), "all else stood still");
}
