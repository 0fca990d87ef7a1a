//! The options of `import`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{DatabaseArgs, OutputArgs, values::boolean};
use crate::import::plan::{self, DirectoryMode, PlanOptions};

#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    pub command: ImportCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Import from a backup of HitKeep
    ///
    /// It is a dry run unless --apply is given.
    ///
    /// Exits with 0 if all was (or would be) imported, with 2 if rows were refused, and with 1 if
    /// nothing was done, or the database does not acknowledge it. With --compare and without
    /// --apply, exits with 0 if all answers are the same, with 3 if some are narrower than
    /// HitKeep's, and with 4 if some are wider.
    Hitkeep(Box<HitKeepArgs>),
    /// Remove the imported clients that were not changed since
    ///
    /// It is a dry run unless --apply is given.
    ///
    /// Exits with 0 if all go, with 2 if some stay because they were changed here, and with 1 if
    /// nothing was done, or the database does not acknowledge it. The directory stays.
    Undo(UndoArgs),
}

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are options of the command line, each by itself"
)]
pub struct HitKeepArgs {
    /// A snapshot (a folder of Parquet files), or HitKeep's backup folder, of which the newest
    /// whole snapshot is used
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Write to the database; without it, only report
    #[arg(long, env = "HITKEEP_AUTH_IMPORT_APPLY", value_parser = boolean)]
    pub apply: bool,
    /// Report every answer that differs from HitKeep's, and the rule that makes the difference
    #[arg(long, env = "HITKEEP_AUTH_IMPORT_COMPARE", value_parser = boolean)]
    pub compare: bool,
    /// What to do with a client that was changed both here and in HitKeep since the last import
    #[arg(
        long,
        env = "HITKEEP_AUTH_IMPORT_ON_CONFLICT",
        value_enum,
        default_value_t
    )]
    on_conflict: OnConflict,
    /// What to do with an imported client that HitKeep does not have any more
    #[arg(long, env = "HITKEEP_AUTH_IMPORT_MISSING", value_enum, default_value_t)]
    missing: Missing,
    /// Leave users, teams, sites and memberships as they are
    #[arg(
        long,
        env = "HITKEEP_AUTH_IMPORT_NO_DIRECTORY",
        value_parser = boolean,
        conflicts_with_all = ["allow_mass_removal", "replace_pushed_directory"]
    )]
    no_directory: bool,
    /// Let more than half of the users, teams or sites go
    #[arg(long, env = "HITKEEP_AUTH_IMPORT_ALLOW_MASS_REMOVAL", value_parser = boolean)]
    allow_mass_removal: bool,
    /// Replace a directory that was pushed over gRPC, although the snapshot may be older
    #[arg(long, env = "HITKEEP_AUTH_IMPORT_REPLACE_PUSHED_DIRECTORY", value_parser = boolean)]
    replace_pushed_directory: bool,
    /// Owners with more API clients than this are named; their clients are imported all the same
    #[arg(
        long,
        env = "HITKEEP_AUTH_MAX_CLIENTS_PER_OWNER",
        default_value_t = 100,
        value_name = "N"
    )]
    max_clients_per_owner: u32,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct UndoArgs {
    /// Write to the database; without it, only report
    #[arg(long, env = "HITKEEP_AUTH_IMPORT_UNDO_APPLY", value_parser = boolean)]
    pub apply: bool,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum OnConflict {
    /// Refuse the row, and name it
    #[default]
    Refuse,
    /// Keep what was changed here
    Keep,
    /// Take what was changed in HitKeep
    Take,
}

/// What to do about missing clients.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Missing {
    /// Name them
    #[default]
    Report,
    /// Revoke them
    Revoke,
}

impl HitKeepArgs {
    pub fn options(&self) -> PlanOptions {
        PlanOptions {
            on_conflict: match self.on_conflict {
                OnConflict::Refuse => plan::OnConflict::Refuse,
                OnConflict::Keep => plan::OnConflict::Keep,
                OnConflict::Take => plan::OnConflict::Take,
            },
            missing: match self.missing {
                Missing::Report => plan::Missing::Report,
                Missing::Revoke => plan::Missing::Revoke,
            },
            directory: if self.no_directory {
                DirectoryMode::Keep
            } else {
                DirectoryMode::Replace {
                    allow_mass_removal: self.allow_mass_removal,
                    over_pushed: self.replace_pushed_directory,
                }
            },
            max_clients_per_owner: self.max_clients_per_owner,
        }
    }
}
