//! A proxy between the service and its Postgres that can be cut and mended: an
//! outage that only one test's service sees.

use std::path::{Path, PathBuf};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// A proxy on a Unix socket of its own.
pub struct Proxy {
    folder: PathBuf,
    open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts one in front of the database of that URL. Gives its own URL too.
    pub fn start(url: &str) -> (Self, String) {
        let rest = url
            .strip_prefix("postgres://postgres@")
            .expect("a private Postgres' URL");
        let (folder, database) = rest.split_once('/').expect("a database");
        let target = PathBuf::from(folder.replace("%2F", "/")).join(".s.PGSQL.5432");
        let name = format!("hka-proxy-{}-{database}", std::process::id());
        let own = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&own).unwrap();
        let listener = UnixListener::bind(own.join(".s.PGSQL.5432")).unwrap();
        let (open, gate) = watch::channel(true);
        let accepting = tokio::spawn(accept(listener, target, gate));
        let host = own.to_str().unwrap().replace('/', "%2F");
        let url = format!("postgres://postgres@{host}/{database}");
        (
            Self {
                folder: own,
                open,
                accepting,
            },
            url,
        )
    }

    /// Ends every connection, and accepts no more.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Accepts connections again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

async fn accept(listener: UnixListener, target: PathBuf, gate: watch::Receiver<bool>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(forward(client, target.clone(), gate.clone()));
    }
}

async fn forward(
    mut client: UnixStream,
    target: impl AsRef<Path>,
    mut gate: watch::Receiver<bool>,
) {
    if !*gate.borrow() {
        return;
    }
    let Ok(mut server) = UnixStream::connect(target).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = gate.wait_for(|open| !open) => {}
    }
}
