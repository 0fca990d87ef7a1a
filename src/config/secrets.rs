//! Secrets in files, as Docker and Kubernetes mount them. No error or log line contains a
//! file's content.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The largest size of a secret's file, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// A file that contains one secret and nothing else.
#[derive(Clone, Debug)]
pub(super) struct SecretFile(PathBuf);

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{} cannot be read ({why})", path.display())]
    Unreadable {
        path: PathBuf,
        /// The cause. It is part of the message, and so not the `source`.
        why: io::Error,
    },
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    #[error("{} is too large: a secret has at most {} KiB", .0.display(), MAX_BYTES / 1024)]
    TooLarge(PathBuf),
    #[error("{} is not text in UTF-8", .0.display())]
    NotUtf8(PathBuf),
}

impl SecretFile {
    /// The file at that path. It is read on request only.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the secret, without a trailing line break, which editors and `echo` append. Blocks
    /// on the file system. The path is resolved each time, so a redirected symbolic link is
    /// followed.
    ///
    /// # Errors
    /// If the file contains no secret.
    pub(super) fn read(&self) -> Result<String, SecretError> {
        let path = || self.0.clone();
        let unreadable = |why| SecretError::Unreadable { path: path(), why };
        let mut bytes = Vec::new();
        let file = File::open(&self.0).map_err(unreadable)?;
        // One byte more, to detect a file that exceeds the limit.
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(SecretError::TooLarge(path()));
        }
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(SecretError::NotUtf8(path()));
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

    /// A folder with one file, removed on drop.
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
    fn trailing_line_breaks_are_not_part_of_the_secret() {
        let folder = Folder::new("ends");
        for content in ["s3cret", "s3cret\n", "s3cret\r\n", "s3cret\n\n"] {
            assert_eq!(folder.read(content.as_bytes()).unwrap(), "s3cret");
        }
        // A space may be part of it, and so may a line break before other text.
        assert_eq!(folder.read(b" a b \n").unwrap(), " a b ");
        assert_eq!(folder.read(b"a\nb\n").unwrap(), "a\nb");
    }

    #[test]
    fn the_size_of_a_secret_is_limited() {
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
    fn files_without_a_secret_are_errors() {
        let folder = Folder::new("none");
        for content in [&b""[..], b"\n", b"\r\n\r\n"] {
            let read = folder.read(content);
            assert!(matches!(read, Err(SecretError::Empty(_))), "{read:?}");
        }
        let read = folder.read(b"\xff\xfe");
        assert!(matches!(read, Err(SecretError::NotUtf8(_))), "{read:?}");
        for path in [folder.0.clone(), folder.0.join("missing")] {
            let read = SecretFile::new(path).read();
            assert!(
                matches!(read, Err(SecretError::Unreadable { .. })),
                "{read:?}"
            );
        }
    }
}
