//! Snapshots as HitKeep writes them: by DuckDB itself, the version that HitKeep has in it.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Pinned, as in `.ci/tools.sh`.
const PACKAGE: &str = "duckdb==1.5.4";
/// Where `.ci/tools.sh` installs it.
const PLACE: &str = "target/ci-tools/duckdb";
/// Set where DuckDB has to be there, as CI does.
const REQUIRED: &str = "REQUIRED_DUCKDB";
/// Runs the statements on its standard input, in memory.
const SCRIPT: &str = "import duckdb, sys; duckdb.connect().execute(sys.stdin.read())";

/// Runs statements in a database in memory. Returns false, having said so loudly, if there is
/// no DuckDB and none is required.
pub fn run(sql: &str) -> bool {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = match FOLDER.get_or_init(find) {
        Ok(folder) => folder,
        Err(why) => {
            let what = format!("{PACKAGE} (a package of Python's): {why}");
            assert!(
                env::var_os(REQUIRED).is_none(),
                "required, and cannot be had: {what}"
            );
            // Not by a macro: what those print is only shown of tests that fail.
            let line = format!("\nSKIPPED, because it cannot be had: {what}\n\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return false;
        }
    };
    let mut python = python(folder)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is Python");
    let mut input = python.stdin.take().unwrap();
    input.write_all(sql.as_bytes()).unwrap();
    drop(input);
    let output = python.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "DuckDB failed: {errors}");
    true
}

fn python(folder: &Path) -> Command {
    let mut python = Command::new("python3");
    python
        .env("PYTHONPATH", folder)
        .env("PYTHONNOUSERSITE", "1");
    python
}

/// The folder of the package, which is installed unless it is there.
fn find() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join(PLACE);
    let version = PACKAGE.split_once("==").unwrap().1;
    let check = "import duckdb; print(duckdb.__version__)";
    let is_there = |folder: &Path| {
        let output = python(folder).args(["-c", check]).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == version)
    };
    if is_there(&folder) {
        return Ok(folder);
    }
    // Installed elsewhere and renamed, so that what is there is whole.
    let partial = root.join(format!("{PLACE}-{}", std::process::id()));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-input"]);
    pip.args(["--disable-pip-version-check", "--only-binary", ":all:"]);
    let output = pip.arg("--target").arg(&partial).arg(PACKAGE).output();
    let output = output.map_err(|error| format!("python3: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    drop(fs::remove_dir_all(&folder));
    drop(fs::rename(&partial, &folder));
    drop(fs::remove_dir_all(&partial));
    if is_there(&folder) {
        Ok(folder)
    } else {
        Err(format!("it does not run in {}", folder.display()))
    }
}
