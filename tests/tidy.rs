//! What no compiler checks: which room may use which, the sizes and names of
//! files, and that what the documentation and the files of deploy/ mention exists.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "support/help.rs"]
mod help;

#[path = "tidy/architecture.rs"]
mod architecture;
#[path = "tidy/deploy.rs"]
mod deploy;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/links.rs"]
mod links;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/words.rs"]
mod words;
