//! Folders of a test's own.

use std::{
    fs::{self, Permissions},
    ops::Deref,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A folder with a path that is short enough for sockets in it, and that the user whom
/// Postgres runs as can enter. Removed when dropped, with all that is in it.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one, which is empty.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hka-{}-{number}", std::process::id()));
        let made = fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)));
        made.expect("a folder can be made");
        Self(path)
    }

    /// The path of what has that name in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file into it, in place of what has that name.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("it can be written");
        path
    }

    /// The same, in one step: a reader finds the old one or the new one.
    pub fn replace(&self, name: &str, content: &str) {
        let new = self.write(&format!("{name}.new"), content);
        fs::rename(new, self.path(name)).expect("it can be replaced");
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A path as the text of an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("it is text")
}
