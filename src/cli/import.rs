//! `import`: takes API clients over from a backup of HitKeep, or takes that back. Both are dry
//! runs unless they are to apply.

use std::{process::ExitCode, sync::Arc};

use chrono::TimeDelta;

use super::{Failure, USAGE, accounts::ready, print, print_error, progress::Progress};
use crate::{
    config::{HitKeepArgs, ImportArgs, ImportCommand, UndoArgs},
    domain::{Revision, Timestamp, audit::Provenance, id::RequestId},
    import::{
        answers::Answers,
        compare::{Comparison, compare},
        hitkeep::HitKeep,
        plan::{Fate, Plan},
        run::{Import, apply_undo, plan_undo},
        snapshot::{self, BackupSnapshot},
    },
    store::Store,
};

mod report;

use report::{Report, UndoReport};

/// The exit code if rows were refused; the same as for invalid arguments, which print nothing on
/// standard output.
const REFUSED: u8 = USAGE;
/// The exit code if some answers are narrower than HitKeep's, and none is wider.
const NARROWER: u8 = 3;
/// The exit code if some answers are wider than HitKeep's.
const WIDER: u8 = 4;
/// An older snapshot is worth a warning.
const MAX_AGE: TimeDelta = TimeDelta::hours(1);

pub(super) async fn run(args: &ImportArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        ImportCommand::Hitkeep(args) => import(args).await,
        ImportCommand::Undo(args) => undo(args).await,
    }
}

async fn import(args: &HitKeepArgs) -> Result<ExitCode, Failure> {
    let progress = Progress::at_once();
    let store = ready(&args.database).await?;
    // Before the files are read: whatever is pushed from here on is newer.
    let began = if args.apply {
        Some(Import::begin(&store).await?)
    } else {
        None
    };
    let snapshot = snapshot::find(&args.folder)?;
    for (path, why) in &snapshot.skipped {
        print_error(&format!(
            "{} is not whole, and was skipped: {why}",
            path.display()
        ));
    }
    let step = |what| progress.say(&format!("reading {what}"));
    let tables = HitKeep::read(&snapshot.files, &step)?;
    let import = Import {
        tables: &tables,
        snapshot_time: snapshot.time,
        options: args.options(),
    };
    let (plan, now, revision) = if let Some(began) = began {
        progress.say("waiting for the database");
        let step = |done, all| progress.say(&format!("writing {done} of {all} new clients"));
        let provenance = provenance(&store);
        let done = import.apply(&store, began, &provenance, &step).await?;
        let (plan, now) = done.value;
        (plan, now, Some(done.revision))
    } else {
        progress.say("reading the database");
        let (plan, now) = import.plan(&store).await?;
        (plan, now, None)
    };
    progress.say("comparing");
    let comparison = compare(&Answers::of(&tables), &plan, now);
    progress.clear();
    let warnings = warnings(&snapshot, now);
    for warning in &warnings {
        print_error(warning);
    }
    finish(args, &snapshot, &plan, &comparison, revision, warnings)
}

fn finish(
    args: &HitKeepArgs,
    snapshot: &BackupSnapshot,
    plan: &Plan,
    comparison: &Comparison,
    revision: Option<Revision>,
    warnings: Vec<String>,
) -> Result<ExitCode, Failure> {
    let report = Report {
        snapshot,
        plan,
        comparison,
        revision,
        warnings,
        is_comparison: args.compare,
    };
    print(&if args.output.json {
        report.as_json().to_string()
    } else {
        report.as_text()
    })?;
    if args.compare && !args.apply {
        return Ok(match comparison.counts() {
            (0, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(NARROWER),
            _ => ExitCode::from(WIDER),
        });
    }
    let is_refused = |fate: &Fate| matches!(fate, Fate::Refused(_));
    let refused = plan.rows.iter().any(|row| is_refused(&row.fate)) || report.has_refused_grants();
    Ok(if refused {
        ExitCode::from(REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}

async fn undo(args: &UndoArgs) -> Result<ExitCode, Failure> {
    let store = ready(&args.database).await?;
    let (undo, revision) = if args.apply {
        let done = apply_undo(&store, &provenance(&store)).await?;
        (done.value, Some(done.revision))
    } else {
        (plan_undo(&store).await?, None)
    };
    let report = UndoReport {
        undo: &undo,
        revision,
    };
    print(&if args.output.json {
        report.as_json().to_string()
    } else {
        report.as_text()
    })?;
    Ok(if undo.kept.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(REFUSED)
    })
}

/// One id for all events of a run.
fn provenance(store: &Store) -> Arc<Provenance> {
    let id = RequestId::mint(store.clock().now(), store.entropy());
    Arc::new(Provenance {
        request_id: id.to_string(),
        ..Provenance::default()
    })
}

fn warnings(snapshot: &BackupSnapshot, now: Timestamp) -> Vec<String> {
    let mut warnings = Vec::new();
    let age = now - snapshot.time;
    if age > MAX_AGE {
        let age = std::time::Duration::from_secs(age.num_seconds().unsigned_abs());
        warnings.push(format!(
            "the snapshot is {} old: restart HitKeep to make a new one",
            humantime::format_duration(age)
        ));
    }
    warnings
}
