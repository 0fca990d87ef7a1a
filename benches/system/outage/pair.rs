//! A primary and its standby that change places, as often as one likes. What the
//! primary acknowledges is on the standby by then, so that a failover loses nothing;
//! what was the primary is made anew as a standby of the one that took its place.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    time::{Duration, Instant},
};

use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    nodes::{self, Node},
    support::postgres::{attempt, connect, remove_after_us},
};

/// Of whose data nothing is copied but the folders: it is of the running server, or
/// comes by replication.
const EMPTY: [&str; 8] = [
    "pg_wal",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];
/// Files that are of the running server.
const NOT_COPIED: [&str; 3] = ["postmaster.pid", "postmaster.opts", "standby.signal"];
/// How long a standby may take until commits wait for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether they do.
const POLL: Duration = Duration::from_millis(20);

/// What of a folder is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    All,
    /// The folders in it, and none of their files.
    Folders,
}

/// Two servers. Removed when dropped.
pub struct Pair {
    /// The one that takes the writes, until a failover has begun.
    pub primary: Node,
    /// The one that follows it.
    pub standby: Node,
    /// The URL that names both, the one that was the primary first before the other.
    url: String,
}

impl Pair {
    /// Starts both, with the service's database, and all migrations applied.
    pub async fn start() -> Self {
        let [primary, standby] = nodes::pair().await;
        for node in [&primary, &standby] {
            remove_after_us(&node.folder);
            // A new standby needs what was written since it was copied.
            node.set("wal_keep_size = '1GB'").await;
        }
        let hosts = format!("{},{}", primary.host(), standby.host());
        let url = format!("postgres://postgres@{hosts}/app?target_session_attrs=read-write");
        Self {
            primary,
            standby,
            url,
        }
    }

    /// Where to connect to whichever takes writes.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// After a failover: makes the old primary a standby of the new one, and has commits
    /// wait for it.
    pub async fn turned(self) -> Self {
        let Self {
            primary: old,
            standby: primary,
            url,
        } = self;
        // Stopping and copying block.
        let folder = spawn_blocking(|| old.rest()).await.expect("it stops");
        let data = nodes::data(&primary.folder);
        let to = nodes::data(&folder);
        let server = connect(&primary.database()).await;
        let begun = server.batch_execute("SELECT pg_backup_start('standby', true)");
        begun.await.expect("a backup begins");
        let copied = to.clone();
        let copied = spawn_blocking(move || {
            fs::remove_dir_all(&copied)?;
            copy(&data, &copied, What::All)
        });
        copied.await.expect("no panic").expect("it can be copied");
        let ended = server.query_one("SELECT labelfile FROM pg_backup_stop(false)", &[]);
        let label: String = ended.await.expect("the backup ends").get(0);
        let owned = fs::metadata(&to).and_then(|about| {
            let file = to.join("backup_label");
            fs::write(&file, label)?;
            keep_owner(&about, &file)
        });
        owned.expect("the folder is ours");
        nodes::follow(&folder, &primary);
        let standby = Node::start(folder).await;
        until(&primary, "state = 'streaming'").await;
        primary.set("synchronous_standby_names = 'standby'").await;
        until(&primary, "sync_state = 'sync'").await;
        Self {
            primary,
            standby,
            url,
        }
    }
}

/// Waits until that is true of the primary's standby.
async fn until(primary: &Node, is: &str) {
    let query = format!("SELECT 1 / count(*) FROM pg_stat_replication WHERE {is}");
    let begun = Instant::now();
    while let Err(why) = attempt(&primary.database(), &query).await {
        assert!(begun.elapsed() < PATIENCE, "the standby follows: {why}");
        sleep(POLL).await;
    }
}

/// Copies the data of a running server. What vanishes meanwhile is not needed.
fn copy(from: &Path, to: &Path, what: What) -> io::Result<()> {
    let about = fs::metadata(from)?;
    fs::create_dir(to)?;
    fs::set_permissions(to, about.permissions())?;
    keep_owner(&about, to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let (path, target) = (entry.path(), to.join(&*name));
        if entry.file_type()?.is_dir() {
            let what = if EMPTY.contains(&&*name) {
                What::Folders
            } else {
                what
            };
            copy(&path, &target, what)?;
        } else if what == What::All && !NOT_COPIED.contains(&&*name) {
            match copy_file(&path, &target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => copied?,
            }
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let about = fs::metadata(from)?;
    fs::copy(from, to)?;
    keep_owner(&about, to)
}

/// The servers run as a user of their own where we are root.
fn keep_owner(about: &fs::Metadata, of: &Path) -> io::Result<()> {
    chown(of, Some(about.uid()), Some(about.gid()))
}
