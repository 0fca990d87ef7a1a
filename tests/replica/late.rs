//! A way to a server on which connections may be made late, so that a search finds another
//! one of several servers first.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::sleep,
};

use crate::{
    nodes::{DATABASE, Node},
    support::paths::encoded,
};

/// How late: far less than the 100 ms for which a search waits at least for the other
/// servers once it found one, so that it sees this one as well. On a busy machine the order
/// is therefore likely and not certain; `the_newest_timeline_of_one_cluster_leads` tries
/// both orders in any case.
const DELAY: Duration = Duration::from_millis(10);

/// A relay on a socket of its own.
pub struct Late {
    folder: PathBuf,
    is_late: Arc<AtomicBool>,
    _accepting: JoinSet<()>,
}

impl Late {
    /// Starts one in front of a server, which delays nothing at first.
    pub fn start(node: &Node) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hka-late-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let listener = UnixListener::bind(socket(&folder)).unwrap();
        let is_late = Arc::new(AtomicBool::new(false));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, node.socket(), Arc::clone(&is_late)));
        Self {
            folder,
            is_late,
            _accepting: accepting,
        }
    }

    /// Delays new connections from here on, or no longer does.
    pub fn delay(&self, is_late: bool) {
        self.is_late.store(is_late, Ordering::Relaxed);
    }

    /// The host in a URL.
    pub fn host(&self) -> String {
        encoded(&self.folder)
    }

    /// Where to connect to the service's database.
    pub fn database(&self) -> String {
        format!("postgres://postgres@{}/{DATABASE}", self.host())
    }

    pub fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join(".s.PGSQL.5432")
}

async fn accept(listener: UnixListener, target: PathBuf, is_late: Arc<AtomicBool>) {
    let mut open = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let delay = is_late.load(Ordering::Relaxed).then_some(DELAY);
        open.spawn(relay(client, target.clone(), delay));
    }
}

/// Without a server, the connection is closed.
async fn relay(mut client: UnixStream, target: PathBuf, delay: Option<Duration>) {
    if let Some(delay) = delay {
        sleep(delay).await;
    }
    if let Ok(mut server) = UnixStream::connect(target).await {
        drop(copy_bidirectional(&mut client, &mut server).await);
    }
}
