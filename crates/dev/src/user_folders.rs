//! The user's folders for data and for caches.

use std::{ffi::OsString, path::PathBuf};

use crate::users;

/// The name of this project's folder.
const FOLDER: &str = "hitkeep-auth";

/// The folder for the user's data. Root's home is not accessible to the user that Postgres
/// runs as, so root has another.
pub fn data_folder() -> Option<PathBuf> {
    user_folder("XDG_DATA_HOME", ".local/share", "/var/lib")
}

/// The folder for files that can be downloaded again.
pub fn cache_folder() -> Option<PathBuf> {
    user_folder("XDG_CACHE_HOME", ".cache", "/var/cache")
}

/// A folder by the XDG base directory specification; for root, by the filesystem hierarchy.
fn user_folder(variable: &str, below_home: &str, of_root: &str) -> Option<PathBuf> {
    if users::is_root() {
        return Some(PathBuf::from(of_root).join(FOLDER));
    }
    let set =
        |variable: &str| std::env::var_os(variable).filter(|value: &OsString| !value.is_empty());
    // The specification says to ignore relative paths.
    let named = set(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let folder = named.or_else(|| Some(PathBuf::from(set("HOME")?).join(below_home)))?;
    Some(folder.join(FOLDER))
}
