//! Finds the Postgres programs of a suitable version.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{error::PostgresError, install, options::Options};

/// The oldest major version that the service supports.
const OLDEST_MAJOR: u32 = 15;
/// Where distributions install the programs.
const USUAL_PLACES: [&str; 4] = [
    "/usr/lib/postgresql",
    "/usr/pgsql",
    "/opt/homebrew/opt",
    "/usr/local/opt",
];

/// The programs of one Postgres installation.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) folder: PathBuf,
    pub(crate) major: u32,
}

/// Finds the programs of the data's version, or the newest, or installs some.
pub(crate) fn find(
    options: &Options,
    made_by: Option<&str>,
    folder: &Path,
    announce: &dyn Fn(&str),
) -> Result<Programs, PostgresError> {
    let fits =
        |programs: &Programs| made_by.is_none_or(|major| major == programs.major.to_string());
    let other_version = || PostgresError::OtherVersion {
        folder: folder.to_owned(),
        made_by: made_by.unwrap_or_default().to_owned(),
    };
    if let Some(named) = &options.programs {
        let programs =
            programs_in(named).ok_or_else(|| PostgresError::NoPrograms(named.clone()))?;
        return if fits(&programs) {
            Ok(programs)
        } else {
            Err(other_version())
        };
    }
    let mut found = installed();
    let cache = options.cache.as_deref();
    found.extend(
        cache
            .and_then(install::cached)
            .as_deref()
            .and_then(programs_in),
    );
    if let Some(programs) = found.iter().find(|programs| fits(programs)) {
        return Ok(programs.clone());
    }
    if !found.is_empty() {
        return Err(other_version());
    }
    let no_place = || "there is no folder to install it into".to_owned();
    let installed = cache
        .ok_or_else(no_place)
        .and_then(|cache| install::install(cache, announce));
    let installed = installed.map_err(|why| PostgresError::NotInstalled { why })?;
    let programs = programs_in(&installed);
    let programs = programs.ok_or(PostgresError::NoPrograms(installed))?;
    if fits(&programs) {
        Ok(programs)
    } else {
        Err(other_version())
    }
}

/// The installed programs, newest first.
fn installed() -> Vec<Programs> {
    let mut folders = Vec::new();
    let config = Command::new("pg_config")
        .arg("--bindir")
        .stderr(Stdio::null())
        .output();
    if let Ok(output) = config
        && output.status.success()
    {
        folders.push(PathBuf::from(
            String::from_utf8_lossy(&output.stdout).trim(),
        ));
    }
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    for place in USUAL_PLACES {
        let versions = fs::read_dir(place).into_iter().flatten().flatten();
        folders.extend(versions.map(|version| version.path().join("bin")));
    }
    let mut programs: Vec<_> = folders
        .iter()
        .filter_map(|folder| programs_in(folder))
        .collect();
    programs.sort_by_key(|programs| std::cmp::Reverse(programs.major));
    programs.dedup_by(|a, b| a.folder == b.folder);
    programs
}

/// The programs in a folder, if they exist and are new enough.
fn programs_in(folder: &Path) -> Option<Programs> {
    // Resolved, because initdb looks for postgres beside its real path.
    let postgres = fs::canonicalize(folder.join("postgres")).ok()?;
    let folder = postgres.parent()?.to_owned();
    if !folder.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(&postgres).arg("--version").output().ok()?;
    // "postgres (PostgreSQL) 15.18 (Debian …)"
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = version.split_whitespace().nth(2)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    let major = digits.parse().ok().filter(|major| *major >= OLDEST_MAJOR)?;
    Some(Programs { folder, major })
}
