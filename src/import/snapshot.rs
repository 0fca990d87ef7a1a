//! Finds a snapshot in HitKeep's backup folder.
//!
//! HitKeep writes each backup to a folder of its own, `shared/<time>`, which may be half-written
//! when it is looked at. Only a snapshot with all needed files is used, and in which those that are
//! not needed are whole, if they are there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chrono::NaiveDateTime;

use super::{
    hitkeep::{NEEDED, OPTIONAL},
    parquet::ParquetFolder,
    tables::ReadError,
};
use crate::domain::Timestamp;

/// How HitKeep names the folder of a snapshot, in UTC.
const NAME: &str = "%Y-%m-%dT%H%M%SZ";
/// The folder of the snapshots of the control database.
const SHARED: &str = "shared";
/// The table that a folder must have to count as a snapshot.
const CLIENTS: &str = "api_clients";

/// A whole snapshot.
#[derive(Clone, Debug)]
pub struct BackupSnapshot {
    pub files: ParquetFolder,
    /// When it was made: by its name, or else by the age of its files.
    pub time: Timestamp,
    /// Newer snapshots that are not whole, and why.
    pub skipped: Vec<(PathBuf, ReadError)>,
}

/// Why there is no snapshot to import.
#[derive(Debug, thiserror::Error)]
pub enum NoSnapshot {
    #[error("{}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{}: this is neither a snapshot of HitKeep (a folder with api_clients.parquet and others) \
         nor its backup folder (one with shared/<time>)", .0.display()
    )]
    NotABackup(PathBuf),
    #[error("{}: {why}", .path.display())]
    NotWhole {
        /// The newest snapshot.
        path: PathBuf,
        why: ReadError,
    },
}

/// Finds the snapshot: the folder itself, or the newest whole one in it.
///
/// # Errors
/// If there is none.
pub fn find(folder: &Path) -> Result<BackupSnapshot, NoSnapshot> {
    let unreadable = |error| NoSnapshot::Unreadable {
        path: folder.to_owned(),
        error,
    };
    let itself = ParquetFolder::new(folder);
    if itself.file(CLIENTS).exists() {
        if let Err(why) = check(&itself) {
            let path = folder.to_owned();
            return Err(NoSnapshot::NotWhole { path, why });
        }
        // "." has no name.
        let whole_path = fs::canonicalize(folder).map_err(unreadable)?;
        let time = match time_of(&whole_path) {
            Some(time) => time,
            None => modified(&itself.file(CLIENTS)).map_err(unreadable)?,
        };
        return Ok(BackupSnapshot {
            files: itself,
            time,
            skipped: Vec::new(),
        });
    }
    let shared = folder.join(SHARED);
    let parent = if shared.is_dir() { &shared } else { folder };
    let mut dated = Vec::new();
    for entry in fs::read_dir(parent).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if let Some(time) = time_of(&path).filter(|_| path.is_dir()) {
            dated.push((time, path));
        }
    }
    dated.sort_unstable_by(|a, b| b.cmp(a));
    let mut skipped = Vec::new();
    for (time, path) in dated {
        let files = ParquetFolder::new(&path);
        match check(&files) {
            Ok(()) => {
                return Ok(BackupSnapshot {
                    files,
                    time,
                    skipped,
                });
            }
            Err(why) => skipped.push((path, why)),
        }
    }
    Err(match skipped.into_iter().next() {
        Some((path, why)) => NoSnapshot::NotWhole { path, why },
        None => NoSnapshot::NotABackup(folder.to_owned()),
    })
}

fn check(files: &ParquetFolder) -> Result<(), ReadError> {
    NEEDED.iter().try_for_each(|table| files.check(table))?;
    let is_missing = |error: &ReadError| matches!(error, ReadError::NoTable(_));
    for table in OPTIONAL {
        files.check(table).or_else(|error| {
            if is_missing(&error) {
                Ok(())
            } else {
                Err(error)
            }
        })?;
    }
    Ok(())
}

/// The time in the name of a snapshot's folder.
fn time_of(path: &Path) -> Option<Timestamp> {
    let name = path.file_name()?.to_str()?;
    let time = NaiveDateTime::parse_from_str(name, NAME).ok()?;
    Some(time.and_utc())
}

fn modified(path: &Path) -> io::Result<Timestamp> {
    let age = fs::metadata(path)?.modified()?;
    let since = age.duration_since(std::time::UNIX_EPOCH);
    let micros = since.map(|since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    let time = Timestamp::from_timestamp_micros(micros.unwrap_or_default());
    Ok(time.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_snapshot_is_its_time() {
        let time = |name: &str| time_of(&Path::new("/backup/shared").join(name));
        assert_eq!(
            time("2026-03-08T120000Z"),
            Some("2026-03-08T12:00:00Z".parse().unwrap())
        );
        for other in [
            "",
            "2026-03-08",
            "2026-03-08T120000",
            "2026-13-08T120000Z",
            "tmp",
        ] {
            assert_eq!(time(other), None, "{other:?}");
        }
    }
}
