//! Programs that may be installed or not.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
};

/// Names of programs that have to be there, with commas between them.
const REQUIRED: &str = "REQUIRED_PROXIES";

/// Finds a program: at that place in the project, or else on the path. Where there is
/// none, the test that asks has to end, and says so loudly.
pub fn find(name: &str, place: &str) -> Option<PathBuf> {
    let in_project = Path::new(env!("CARGO_MANIFEST_DIR")).join(place);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = [in_project]
        .into_iter()
        .chain(env::split_paths(&path).map(|folder| folder.join(name)));
    let found = places.find(|place| place.is_file());
    if found.is_none() {
        let required = env::var_os(REQUIRED).unwrap_or_default();
        let is_required = required.to_string_lossy().split(',').any(|one| one == name);
        assert!(!is_required, "{name} is required, and is not installed");
        // Not by a macro: what those print is only shown of tests that fail.
        let line = format!("\nSKIPPED, because it is not installed: {name}\n\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    found
}
