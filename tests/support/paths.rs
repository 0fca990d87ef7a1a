//! Paths as parts of URLs: a Postgres that listens on a Unix socket has the folder of
//! the socket for a host.

use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// A path as a part of a URL: temporary folders may have any character in them.
pub fn encoded(path: &Path) -> String {
    percent_encode(path.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC).to_string()
}

/// The path that a part of a URL stands for.
pub fn decoded(part: &str) -> PathBuf {
    let path = percent_decode_str(part).decode_utf8();
    PathBuf::from(path.expect("it is text").into_owned())
}
