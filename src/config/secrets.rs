//! Secrets in files of their own, as Docker and Kubernetes mount them. What a file holds
//! is in no error and in no log.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The largest file that is taken for a secret, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// A file that holds one secret and nothing else.
#[derive(Clone, Debug)]
pub(super) struct SecretFile(PathBuf);

/// Why a file gives no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("{} cannot be read ({why})", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why; told already, and so no source.
        why: io::Error,
    },
    /// There is nothing in it.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// Whatever is in it, it is no secret.
    #[error("{} is too large: a secret has at most {} KiB", .0.display(), MAX_BYTES / 1024)]
    TooLarge(PathBuf),
    /// It is not text.
    #[error("{} is not text in UTF-8", .0.display())]
    NoText(PathBuf),
}

impl SecretFile {
    /// The file at that path. It is not read before it is asked for.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the secret, without the line end that editors and `echo` put behind it.
    /// Blocks for as long as the file system does. By its path each time: a symbolic link
    /// that was pointed elsewhere is followed.
    ///
    /// # Errors
    /// Where there is no secret in it.
    pub(super) fn read(&self) -> Result<String, SecretError> {
        let path = || self.0.clone();
        let unreadable = |why| SecretError::Unreadable { path: path(), why };
        let mut bytes = Vec::new();
        let file = File::open(&self.0).map_err(unreadable)?;
        // One more, so that a file that was cut off is not taken for a whole one.
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(SecretError::TooLarge(path()));
        }
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(SecretError::NoText(path()));
        };
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(SecretError::Empty(path()));
        }
        Ok(secret.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with one file in it. Removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("hka-secret-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn read(&self, content: &[u8]) -> Result<String, SecretError> {
            let path = self.0.join("secret");
            std::fs::write(&path, content).unwrap();
            SecretFile::new(path).read()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn line_ends_are_not_part_of_the_secret() {
        let folder = Folder::new("ends");
        for content in ["s3cret", "s3cret\n", "s3cret\r\n", "s3cret\n\n"] {
            assert_eq!(folder.read(content.as_bytes()).unwrap(), "s3cret");
        }
        // A blank may well be, and so may a line end that something follows.
        assert_eq!(folder.read(b" a b \n").unwrap(), " a b ");
        assert_eq!(folder.read(b"a\nb\n").unwrap(), "a\nb");
    }

    #[test]
    fn a_secret_may_be_so_long_and_no_longer() {
        let folder = Folder::new("length");
        let most = usize::try_from(MAX_BYTES).unwrap();
        assert_eq!(folder.read(&vec![b'a'; most]).unwrap().len(), most);
        let longer = folder.read(&vec![b'a'; most + 1]);
        assert!(
            matches!(longer, Err(SecretError::TooLarge(_))),
            "{longer:?}"
        );
    }

    #[test]
    fn what_holds_no_secret_is_an_error() {
        let folder = Folder::new("none");
        for content in [&b""[..], b"\n", b"\r\n\r\n"] {
            let read = folder.read(content);
            assert!(matches!(read, Err(SecretError::Empty(_))), "{read:?}");
        }
        let read = folder.read(b"\xff\xfe");
        assert!(matches!(read, Err(SecretError::NoText(_))), "{read:?}");
        for path in [folder.0.clone(), folder.0.join("missing")] {
            let read = SecretFile::new(path).read();
            assert!(
                matches!(read, Err(SecretError::Unreadable { .. })),
                "{read:?}"
            );
        }
    }
}
