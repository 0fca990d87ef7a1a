//! Certificates that are replaced on disk.

use std::{
    os::unix::fs::symlink,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hitkeep_auth::transport::tls::{Files, Reload, Tls, TlsError};
use rustls::{DEFAULT_VERSIONS, pki_types::ServerName};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::{
    Listening,
    tls::{NAME, load},
};
use crate::{
    fixtures::*,
    support::{
        certificates::{Authority, Identity},
        folder::Folder,
        waiting::within,
    },
};

impl Listening {
    /// The certificate that it shows to a new connection.
    async fn shown(&self, authority: &Authority) -> Vec<u8> {
        let config = authority.client(DEFAULT_VERSIONS, None);
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(NAME).unwrap();
        let stream = connector.connect(name, self.socket().await).await.unwrap();
        let (_, session) = stream.get_ref();
        session.peer_certificates().unwrap()[0].to_vec()
    }

    async fn shows(&self, authority: &Authority, identity: &Identity) -> bool {
        self.shown(authority).await == identity.certificate.der().to_vec()
    }
}

#[tokio::test]
async fn what_replaces_the_files_is_taken_up_and_connections_go_on() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let first = authority.sign(&[NAME]);
    let (tls, mut watcher) = load(&folder, &first);
    let server = Listening::with(&tls).await;
    assert!(matches!(watcher.reload(), Reload::Unchanged));
    let channel = server
        .channel(authority.client(DEFAULT_VERSIONS, None))
        .await;
    let caller = server.caller(channel.unwrap());
    caller.introspect(introspect("x")).await.unwrap();
    assert!(server.shows(&authority, &first).await);

    // In place, and by renaming.
    let second = authority.sign_until(&[NAME], 2100);
    folder.write_identity("server", &second);
    assert!(matches!(watcher.reload(), Reload::Replaced));
    assert!(server.shows(&authority, &second).await);
    assert_eq!(
        tls.not_after().unwrap().to_rfc3339(),
        "2100-01-01T00:00:00+00:00"
    );
    let third = authority.sign(&[NAME]);
    folder.replace("server.pem", &third.certificate.pem());
    folder.replace("server.key", &third.key.serialize_pem());
    assert!(matches!(watcher.reload(), Reload::Replaced));
    assert!(server.shows(&authority, &third).await);
    assert!(matches!(watcher.reload(), Reload::Unchanged));
    // The connection from before knows nothing of it.
    caller.introspect(introspect("x")).await.unwrap();
}

/// As Kubernetes replaces the files of a secret: a link to a folder is turned.
#[tokio::test]
async fn links_may_be_turned() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let [first, second] = [(), ()].map(|()| authority.sign(&[NAME]));
    for (name, identity) in [("one", &first), ("two", &second)] {
        std::fs::create_dir(folder.path(name)).unwrap();
        folder.write_identity(&format!("{name}/tls"), identity);
    }
    symlink("one", folder.path("data")).unwrap();
    for file in ["tls.pem", "tls.key"] {
        symlink(PathBuf::from("data").join(file), folder.path(file)).unwrap();
    }
    let (tls, mut watcher) = Tls::load(Files {
        certificate: folder.path("tls.pem"),
        key: folder.path("tls.key"),
        client_authorities: None,
    })
    .unwrap();
    let server = Listening::with(&tls).await;
    assert!(server.shows(&authority, &first).await);
    symlink("two", folder.path("data.new")).unwrap();
    std::fs::rename(folder.path("data.new"), folder.path("data")).unwrap();
    assert!(matches!(watcher.reload(), Reload::Replaced));
    assert!(server.shows(&authority, &second).await);
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing_and_is_told_of_once() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let [first, second] = [(), ()].map(|()| authority.sign(&[NAME]));
    let (tls, mut watcher) = load(&folder, &first);
    let server = Listening::with(&tls).await;
    let pem = second.certificate.pem();

    // The certificate first, half of it and then the whole; the key later.
    folder.write("server.pem", &pem[..pem.len() / 2]);
    assert!(matches!(
        watcher.reload(),
        Reload::Rejected(TlsError::Lacks { .. })
    ));
    assert!(matches!(watcher.reload(), Reload::Unchanged));
    folder.write("server.pem", &pem);
    assert!(matches!(
        watcher.reload(),
        Reload::Rejected(TlsError::NoPair { .. })
    ));
    assert!(matches!(watcher.reload(), Reload::Unchanged));
    assert!(server.shows(&authority, &first).await);
    std::fs::remove_file(folder.path("server.key")).unwrap();
    assert!(matches!(
        watcher.reload(),
        Reload::Rejected(TlsError::Unreadable { .. })
    ));
    assert!(matches!(watcher.reload(), Reload::Unchanged));
    assert!(server.shows(&authority, &first).await);
    folder.write("server.key", &second.key.serialize_pem());
    assert!(matches!(watcher.reload(), Reload::Replaced));
    assert!(server.shows(&authority, &second).await);

    // Put back as it was, there is nothing to do; and the next mistake is logged.
    folder.write("server.pem", "");
    assert!(matches!(watcher.reload(), Reload::Rejected(_)));
    folder.write("server.pem", &pem);
    assert!(matches!(watcher.reload(), Reload::Unchanged));
    folder.write("server.pem", "");
    assert!(matches!(watcher.reload(), Reload::Rejected(_)));
    assert!(server.shows(&authority, &second).await);
}

/// As many callers as like, on connections that stay and on new ones, while the
/// certificate changes again and again: none of them notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_notices_a_change_under_load() {
    const CHANGES: usize = 30;
    const CALLERS: usize = 4;
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (tls, mut watcher) = load(&folder, &authority.sign(&[NAME]));
    let server = Arc::new(Listening::with(&tls).await);
    let config = authority.client(DEFAULT_VERSIONS, None);
    let done = Arc::new(AtomicBool::new(false));
    let caller = |stays: bool, answered: watch::Sender<()>| {
        let (server, config, done) = (Arc::clone(&server), config.clone(), Arc::clone(&done));
        async move {
            let connect = async || {
                let channel = server.channel(config.clone()).await.expect("a handshake");
                server.caller(channel)
            };
            let mut caller = connect().await;
            while !done.load(Ordering::Relaxed) {
                if !stays {
                    caller = connect().await;
                }
                caller
                    .introspect(introspect("x"))
                    .await
                    .expect("it goes on");
                answered.send_replace(());
            }
        }
    };
    let (mut callers, mut answers) = (Vec::new(), Vec::new());
    for number in 0..CALLERS {
        let (answered, answer) = watch::channel(());
        callers.push(tokio::spawn(caller(number % 2 == 0, answered)));
        answers.push(answer);
    }
    for _ in 0..CHANGES {
        for answer in &mut answers {
            answer.mark_unchanged();
        }
        let next = authority.sign(&[NAME]);
        // Between the two, what is on disk is no pair.
        folder.replace("server.pem", &next.certificate.pem());
        assert!(matches!(watcher.reload(), Reload::Rejected(_)));
        server.shown(&authority).await;
        folder.replace("server.key", &next.key.serialize_pem());
        assert!(matches!(watcher.reload(), Reload::Replaced));
        assert!(server.shows(&authority, &next).await);
        for answer in &mut answers {
            within("a call", answer.changed()).await.unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
}
