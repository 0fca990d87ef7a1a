//! The folders of a private Postgres. A user that can write to one of them controls the
//! server, so each belongs to one user only.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use crate::{
    error::{PostgresError, io_error},
    users::{Unprivileged, our_uid, run_as},
};

/// A socket's path has at most 107 bytes, including the file's name.
const LONGEST_SOCKET_FOLDER: usize = 107 - "/.s.PGSQL.5432".len();

/// The permissions of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Accessible to its user only.
    Private = 0o700,
    /// Other users may traverse it, but not list it.
    Traversable = 0o711,
}

/// Creates a folder that belongs to the user, or checks that it does: a user that can write
/// to a folder controls its content. Without a user, it must be the current one's.
fn ensure_own_folder(
    folder: &Path,
    user: Option<&Unprivileged>,
    mode: Mode,
) -> Result<PathBuf, PostgresError> {
    let what = || format!("making the folder {}", folder.display());
    let made = fs::DirBuilder::new().mode(mode as u32).create(folder);
    match made {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Links are not followed, because any user could have created one there.
            let found = fs::symlink_metadata(folder).map_err(io_error(what()))?;
            let owner = user.map_or_else(our_uid, |user| user.uid);
            let open = found.permissions().mode() & 0o777 & !(mode as u32);
            if found.is_dir() && found.uid() == owner && open == 0 {
                return fs::canonicalize(folder).map_err(io_error(what()));
            }
            // An empty folder of our own is as good as a new one.
            let empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
            if !(found.is_dir() && found.uid() == our_uid() && empty()) {
                return Err(PostgresError::NotOurs(folder.to_owned()));
            }
        }
        Err(error) => return Err(io_error(what())(error)),
    }
    // The umask may have removed permissions.
    let permissions = fs::Permissions::from_mode(mode as u32);
    fs::set_permissions(folder, permissions).map_err(io_error(what()))?;
    if let Some(user) = user {
        chown(folder, Some(user.uid), Some(user.gid)).map_err(io_error(what()))?;
    }
    fs::canonicalize(folder).map_err(io_error(what()))
}

/// Creates the outer folder, which is ours, and in it the server's.
pub(crate) fn make_folders(
    folder: &Path,
    user: Option<&Unprivileged>,
) -> Result<(PathBuf, PathBuf), PostgresError> {
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        let what = format!("making the folder {}", parent.display());
        fs::create_dir_all(parent).map_err(io_error(what))?;
    }
    let mode = if user.is_some() {
        Mode::Traversable
    } else {
        Mode::Private
    };
    let folder = ensure_own_folder(folder, None, mode)?;
    let servers = ensure_own_folder(&folder.join("postgres"), user, Mode::Private)?;
    if let Some(user) = user {
        let mut reach = run_as(OsStr::new("/bin/sh"), Some(user));
        let reached = reach.args(["-c", "cd \"$0\""]).arg(&servers).output();
        if !reached.is_ok_and(|output| output.status.success()) {
            return Err(PostgresError::Unreachable {
                user: user.name.clone(),
                folder,
            });
        }
    }
    Ok((folder, servers))
}

/// Locks the folder against other processes, including those that have not started their
/// server yet. The kernel releases the lock in any case.
pub(crate) fn lock(folder: &Path) -> Result<fs::File, PostgresError> {
    let path = folder.join("lock");
    let what = || format!("locking {}", path.display());
    let file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path);
    let file = file.map_err(io_error(what()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(PostgresError::InUse(folder.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(io_error(what())(error)),
    }
}

/// The folder of the socket: the server's own, or a shorter one if its path is too long for a
/// socket.
pub(crate) fn socket_folder(
    servers: &Path,
    user: Option<&Unprivileged>,
) -> Result<PathBuf, PostgresError> {
    if servers.as_os_str().len() <= LONGEST_SOCKET_FOLDER {
        return Ok(servers.to_owned());
    }
    let name = blake3::hash(servers.as_os_str().as_encoded_bytes()).to_hex();
    let short = std::env::temp_dir().join(format!("hitkeep-auth-{}", &name[..16]));
    ensure_own_folder(&short, user, Mode::Private)
}
