//! Where the user's data and what can be got again are kept.

use std::{ffi::OsString, path::PathBuf};

use crate::users;

/// This project's folder among those of other programs.
const FOLDER: &str = "hitkeep-auth";

/// Where data of the user's is kept. Root's home is closed to the user that
/// Postgres runs as.
pub fn data_folder() -> Option<PathBuf> {
    user_folder("XDG_DATA_HOME", ".local/share", "/var/lib")
}

/// Where the user's programs put what they can get again.
pub fn cache_folder() -> Option<PathBuf> {
    user_folder("XDG_CACHE_HOME", ".cache", "/var/cache")
}

/// A folder by the XDG base directory rules, for root by the file hierarchy's.
fn user_folder(variable: &str, below_home: &str, of_root: &str) -> Option<PathBuf> {
    if users::is_root() {
        return Some(PathBuf::from(of_root).join(FOLDER));
    }
    let set =
        |variable: &str| std::env::var_os(variable).filter(|value: &OsString| !value.is_empty());
    // The rules say that a relative path is to be ignored.
    let named = set(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let folder = named.or_else(|| Some(PathBuf::from(set("HOME")?).join(below_home)))?;
    Some(folder.join(FOLDER))
}
