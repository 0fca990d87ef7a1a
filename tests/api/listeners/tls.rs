//! Callers over TLS: which versions, which keys, and what is not let in.

use hitkeep_auth::{
    domain::caller::CallerPermission::Manage,
    server::Ended,
    transport::tls::{Files, Tls, TlsError, Watcher},
};
use hyper_util::rt::TokioIo;
use rustls::{
    DEFAULT_VERSIONS,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};
use tonic::Status;

use super::{Listening, over_unix, text, through};
use crate::{
    blocked::Blocker,
    fixtures::*,
    support::{
        certificates::{Authority, Identity},
        folder::Folder,
        waiting::until,
    },
};

/// The name that the tests' servers go by.
pub const NAME: &str = "auth.example";

/// Files of an identity, and TLS with them.
pub fn load(folder: &Folder, identity: &Identity) -> (Tls, Watcher) {
    let (certificate, key) = folder.write_identity("server", identity);
    Tls::load(Files {
        certificate,
        key,
        client_authorities: None,
    })
    .unwrap()
}

#[tokio::test]
async fn callers_talk_over_both_versions() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (tls, _) = load(&folder, &authority.sign(&[NAME]));
    let server = Listening::with(&tls).await;
    for version in [&TLS12, &TLS13] {
        let channel = server.channel(authority.client(&[version], None)).await;
        let caller = server.caller(channel.unwrap());
        for _ in 0..2 {
            let answer = caller.introspect(introspect("x")).await;
            assert!(!answer.unwrap().active, "{version:?}");
        }
    }
}

/// tonic's own TLS, as most Rust callers have it.
#[tokio::test]
async fn a_tonic_client_talks_to_it() {
    use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (tls, _) = load(&folder, &authority.sign(&[NAME]));
    let server = Listening::with(&tls).await;
    let config = ClientTlsConfig::new()
        .domain_name(NAME)
        .ca_certificate(Certificate::from_pem(authority.pem()));
    let channel = Endpoint::from_shared(format!("https://{}", server.addresses[0]))
        .unwrap()
        .tls_config(config)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let answer = server.caller(channel).introspect(introspect("x")).await;
    assert!(!answer.unwrap().active);
}

#[tokio::test]
async fn what_is_not_encrypted_is_not_let_in_over_tcp() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (tls, _) = load(&folder, &authority.sign(&[NAME]));
    let unix = folder.path("auth.sock");
    let addresses = ["127.0.0.1:0", &format!("unix:{}", text(&unix))];
    let server = Listening::on(&addresses, Some(&tls)).await;
    let socket = server.socket().await;
    let plain = through(async move { Ok(TokioIo::new(socket)) })
        .await
        .unwrap();
    server
        .caller(plain)
        .introspect(introspect("x"))
        .await
        .expect_err("it was sent in clear text");
    // What does not leave the machine needs no certificate.
    let local = over_unix(&unix).await.unwrap();
    let answer = server.caller(local).introspect(introspect("x")).await;
    assert!(!answer.unwrap().active);
}

/// A hello of TLS 1.1, which no client of ours can say: nothing but the version is
/// looked at.
#[tokio::test]
async fn older_versions_are_refused() {
    const HANDSHAKE_FAILURE: u8 = 40;
    const PROTOCOL_VERSION: u8 = 70;
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (tls, _) = load(&folder, &authority.sign(&[NAME]));
    let server = Listening::with(&tls).await;
    // The last one, TLS 1.2, is refused for its cipher suite.
    for (minor, why) in [
        (1, PROTOCOL_VERSION),
        (2, PROTOCOL_VERSION),
        (3, HANDSHAKE_FAILURE),
    ] {
        let mut hello = vec![3, minor];
        hello.extend([7; 32]);
        // No session; one cipher suite, ECDHE-ECDSA-AES128-SHA; no compression; signatures by
        // ECDSA with SHA-256.
        hello.extend([0, 0, 2, 0xc0, 0x09, 1, 0]);
        hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
        let length = u8::try_from(hello.len()).unwrap();
        let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
        record.extend(hello);
        let mut socket = server.socket().await;
        socket.write_all(&record).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        // An alert: fatal, and why.
        assert_eq!((answer[0], &answer[5..]), (21, &[2, why][..]), "{answer:?}");
    }
}

#[tokio::test]
async fn another_protocol_than_http_2_is_refused() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (tls, _) = load(&folder, &authority.sign(&[NAME]));
    let server = Listening::with(&tls).await;
    let mut config = authority.client(DEFAULT_VERSIONS, None);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    server.channel(config).await.expect_err("it is no HTTP/2");
    // Who says nothing of protocols speaks the only one there is.
    let mut config = authority.client(DEFAULT_VERSIONS, None);
    config.alpn_protocols.clear();
    let channel = server.channel(config).await.unwrap();
    let answer = server.caller(channel).introspect(introspect("x")).await;
    assert!(!answer.unwrap().active);
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_waiting() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (tls, _) = load(&folder, &authority.sign(&[NAME]));
    let server = Listening::with(&tls).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(server.socket().await);
    }
    let channel = server
        .channel(authority.client(DEFAULT_VERSIONS, None))
        .await;
    let answer = server
        .caller(channel.unwrap())
        .introspect(introspect("x"))
        .await;
    assert!(!answer.unwrap().active);
    // Nor does it keep the server from ending.
    server.stop.send(()).await.unwrap();
    assert_eq!(server.server.await.unwrap(), Ended::Drained);
    for mut socket in silent {
        assert!(!matches!(socket.read(&mut [0]).await, Ok(1..)));
    }
}

/// The key inside of PKCS#8's wrapping, for a key on P-256: what is called SEC1.
fn sec1(key: &rcgen::KeyPair) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let wrapped = key.serialize_der();
    let begin = wrapped
        .windows(4)
        .position(|bytes| bytes == [0x04, 0x6d, 0x30, 0x6b]);
    let bare = STANDARD.encode(&wrapped[begin.unwrap() + 2..]);
    format!("-----BEGIN EC PRIVATE KEY-----\n{bare}\n-----END EC PRIVATE KEY-----\n")
}

#[tokio::test]
async fn keys_come_in_several_wrappings() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let identity = authority.sign(&[NAME]);
    let (certificate, _) = folder.write_identity("server", &identity);
    // With a certificate in the same file, as some tools write them.
    let both = identity.certificate.pem() + &identity.key.serialize_pem();
    for key in [sec1(&identity.key), both] {
        let files = Files {
            certificate: certificate.clone(),
            key: folder.write("other.key", &key),
            client_authorities: None,
        };
        let (tls, _) = Tls::load(files).unwrap();
        let server = Listening::with(&tls).await;
        let channel = server
            .channel(authority.client(DEFAULT_VERSIONS, None))
            .await;
        channel.expect("a handshake");
    }
}

#[test]
fn files_of_no_use_are_refused_and_named() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let identity = authority.sign(&[NAME]);
    let (certificate, key) = folder.write_identity("server", &identity);
    let (_, other_key) = folder.write_identity("other", &authority.sign(&[NAME]));
    let pem = identity.certificate.pem();
    let half = folder.write("half.pem", &pem[..pem.len() / 2]);
    let (empty, missing) = (folder.write("empty.pem", ""), folder.path("missing.pem"));
    let refused = |certificate: &_, key: &_, authorities: Option<&_>| {
        let files = Files {
            certificate: std::path::PathBuf::clone(certificate),
            key: std::path::PathBuf::clone(key),
            client_authorities: authorities.cloned(),
        };
        Tls::load(files).expect_err("it is of no use")
    };
    let error = refused(&certificate, &other_key, None);
    assert!(matches!(error, TlsError::NoPair { .. }), "{error}");
    for bad in [&half, &empty, &missing] {
        for error in [
            refused(bad, &key, None),
            refused(&certificate, bad, None),
            refused(&certificate, &key, Some(bad)),
        ] {
            assert!(error.to_string().contains(text(bad)), "{error}");
        }
    }
    let error = refused(&key, &key, None).to_string();
    assert!(error.contains("holds no certificate"), "{error}");
    let error = refused(&certificate, &certificate, None).to_string();
    assert!(error.contains("private key"), "{error}");
    // Nothing of a key is in what is said of it.
    assert!(!error.contains("BEGIN"), "{error}");
}

/// A server with TLS, and a call that waits for the write lock.
async fn with_a_call_under_way() -> (Listening, Blocker, JoinHandle<Result<(), Status>>, Folder) {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (tls, _) = load(&folder, &authority.sign(&[NAME]));
    let server = Listening::with(&tls).await;
    server.app.change(world()).await;
    let config = authority.client(DEFAULT_VERSIONS, None);
    let mut dashboard = server.caller(server.channel(config).await.unwrap());
    dashboard.metadata = vec![(
        "authorization",
        format!("Bearer {}", server.app.token(Manage)),
    )];
    let blocker = server.app.hold_write_lock().await;
    let call = async move { dashboard.create(personal(VERA)).await.map(drop) };
    let call = tokio::spawn(call);
    server.app.until_waiting(1).await;
    (server, blocker, call, folder)
}

#[tokio::test]
async fn a_call_under_way_is_finished_first() {
    let (server, blocker, call, _folder) = with_a_call_under_way().await;
    server.stop.send(()).await.unwrap();
    // No connection is accepted any more, which is seen from when the listener is closed.
    until("the listener is closed", async || {
        match server.try_socket().await {
            Ok(mut late) => {
                assert!(!matches!(late.read(&mut [0]).await, Ok(1..)));
                Err("it is open")
            }
            Err(_) => Ok(()),
        }
    })
    .await;
    assert!(!call.is_finished() && !server.server.is_finished());
    blocker.release().await;
    call.await.unwrap().expect("it is finished");
    assert_eq!(server.server.await.unwrap(), Ended::Drained);
}

#[tokio::test]
async fn a_second_word_cuts_it_off() {
    let (server, blocker, call, _folder) = with_a_call_under_way().await;
    server.stop.send(()).await.unwrap();
    server.stop.send(()).await.unwrap();
    assert_eq!(server.server.await.unwrap(), Ended::Interrupted);
    call.await.unwrap().expect_err("it is cut off");
    blocker.release().await;
}
