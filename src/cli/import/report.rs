//! The reports of `import`, for people and for programs. No report has a hash or a token.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    cli::counted,
    domain::{Revision, Timestamp},
    import::{
        compare::{Cause, Comparison, Difference, Place},
        hitkeep::{Note, WhyDropped},
        plan::{Fate, Plan, PlannedRow},
        snapshot::BackupSnapshot,
        undo::{Undo, UndoneClient},
    },
};

/// How many rows of one kind are listed for people where there is a count as well.
const MAX_LISTED: usize = 20;

/// The result of an import or of a dry run.
pub(super) struct Report<'r> {
    pub(super) snapshot: &'r BackupSnapshot,
    pub(super) plan: &'r Plan,
    pub(super) comparison: &'r Comparison,
    /// The revision with the import; `None` for a dry run.
    pub(super) revision: Option<Revision>,
    pub(super) warnings: Vec<String>,
    /// Whether all answers are to be compared, and not only those of grants.
    pub(super) is_comparison: bool,
}

impl Report<'_> {
    /// Whether a grant was refused that HitKeep would have kept.
    pub(super) fn has_refused_grants(&self) -> bool {
        let mut dropped = self.plan.dropped.iter();
        dropped.any(|grant| grant.why == WhyDropped::UnknownRole)
    }

    /// The differences to report: those of grants by the rules, or all.
    fn differences(&self) -> impl Iterator<Item = &Difference> {
        let all = self.is_comparison;
        self.comparison.differences.iter().filter(move |found| {
            let by_rule = found.causes.iter().any(|cause| *cause <= Cause::D6);
            all || (by_rule && matches!(found.place, Place::Site(_)))
        })
    }

    pub(super) fn as_json(&self) -> Value {
        let plan = self.plan;
        let change = plan.directory.change;
        let (wider, narrower) = self.comparison.counts();
        let mut json = json!({
            "applied": self.revision.is_some(),
            "revision": self.revision.map(|revision| revision.0),
            "snapshot": {
                "path": self.snapshot.files.path().display().to_string(),
                "time": rfc3339(self.snapshot.time),
            },
            "warnings": self.warnings,
            "directory": {
                "replaced": plan.directory.is_replaced,
                "added": change.added,
                "changed": change.changed,
                "removed": change.removed,
                "clients_deleted": plan.directory.clients_lost,
            },
            "counts": counts(&plan.rows),
            "clients": plan.rows.iter().map(row).collect::<Vec<_>>(),
            "dropped_grants": plan.dropped.iter().map(|grant| json!({
                "client_id": grant.client.map(|id| id.to_string()),
                "site_id": grant.site.map(|id| id.to_string()),
                "reason": grant.why.code(),
            })).collect::<Vec<_>>(),
            "over_quota": plan.over_quota.iter().map(|(owner, clients)| json!({
                "owner": owner.to_string(),
                "clients": clients,
            })).collect::<Vec<_>>(),
            "notes": plan.notes.iter().map(note).collect::<Vec<_>>(),
            "differences": self.differences().map(difference).collect::<Vec<_>>(),
        });
        if self.is_comparison {
            json["comparison"] = json!({
                "compared": self.comparison.compared,
                "wider": wider,
                "narrower": narrower,
            });
        }
        json
    }

    pub(super) fn as_text(&self) -> String {
        let plan = self.plan;
        let mut lines = vec![format!(
            "Snapshot of {} in {}",
            minutes(self.snapshot.time),
            self.snapshot.files.path().display()
        )];
        let change = plan.directory.change;
        lines.push(if plan.directory.is_replaced {
            format!(
                "Directory: {} added, {} changed, {} removed; {} lost with their owners",
                change.added,
                change.changed,
                change.removed,
                counted(plan.directory.clients_lost, "API client")
            )
        } else if change.is_none() {
            "Directory: no difference".to_owned()
        } else {
            format!(
                "Directory: left as it is; the snapshot has {} more, {} others, {} less",
                change.added, change.changed, change.removed
            )
        });
        let fates = counts(&plan.rows);
        let fates = fates.iter().map(|(fate, count)| format!("{count} {fate}"));
        let fates: Vec<String> = fates.collect();
        lines.push(if fates.is_empty() {
            "API clients: none".to_owned()
        } else {
            format!("API clients: {}", fates.join(", "))
        });
        self.list_clients(&mut lines);
        self.list_rest(&mut lines);
        self.list_differences(&mut lines);
        lines.push(String::new());
        lines.push(match self.revision {
            Some(revision) => format!("Imported, as revision {} of the database.", revision.0),
            None => "This was a dry run: nothing was changed. Import with --apply.".to_owned(),
        });
        lines.join("\n")
    }

    fn list_clients(&self, lines: &mut Vec<String>) {
        let rows = self.plan.rows.iter();
        let reported = rows.filter(|row| row.fate != Fate::Unchanged || !row.remarks.is_empty());
        let reported: Vec<&PlannedRow> = reported.collect();
        if reported.is_empty() {
            return;
        }
        lines.push(String::new());
        lines.push(format!(
            "{:<36}  {:<18}  {:<41}  {}",
            "CLIENT", "FATE", "OWNER", "NAME"
        ));
        for row in reported {
            let id = row.id.map(|id| id.to_string()).unwrap_or_default();
            let owner = row.owner.map(|owner| owner.to_string()).unwrap_or_default();
            let mut line = format!(
                "{id:<36}  {:<18}  {owner:<41}  {}",
                row.fate.as_str(),
                row.name
            );
            let mut more = Vec::new();
            if let Fate::Refused(reason) = &row.fate {
                more.push(reason.explain());
            }
            if row.fate != Fate::Created && !row.changes.is_empty() {
                more.push(format!("changes {}", row.changes.join(", ")));
            }
            more.extend(
                row.remarks
                    .iter()
                    .map(|remark| explained(remark).to_owned()),
            );
            if !more.is_empty() {
                line = format!("{line}: {}", more.join("; "));
            }
            lines.push(line);
        }
    }

    fn list_rest(&self, lines: &mut Vec<String>) {
        let plan = self.plan;
        if !plan.over_quota.is_empty() {
            lines.push(String::new());
            lines.push(
                "Owners with more API clients than they could create, all of them imported:"
                    .to_owned(),
            );
            let over = plan.over_quota.iter();
            listed(
                lines,
                over.map(|(owner, count)| format!("{owner}: {count}")),
            );
        }
        if !plan.dropped.is_empty() {
            lines.push(String::new());
            lines.push("Grants that are left out:".to_owned());
            let dropped = plan.dropped.iter().map(|grant| {
                let id = |id: Option<String>| id.unwrap_or_else(|| "?".to_owned());
                format!(
                    "client {} on site {}: {}",
                    id(grant.client.map(|id| id.to_string())),
                    id(grant.site.map(|id| id.to_string())),
                    match grant.why {
                        WhyDropped::NoClient => "there is no such client",
                        WhyDropped::NoSite => "there is no such site",
                        WhyDropped::UnknownRole => "its role is unknown",
                    }
                )
            });
            listed(lines, dropped);
        }
        if !plan.notes.is_empty() {
            lines.push(String::new());
            lines.push("Not taken over as it is:".to_owned());
            listed(lines, plan.notes.iter().map(note_text));
        }
    }

    fn list_differences(&self, lines: &mut Vec<String>) {
        let found: Vec<&Difference> = self.differences().collect();
        if found.is_empty() && !self.is_comparison {
            return;
        }
        lines.push(String::new());
        if self.is_comparison {
            let (wider, narrower) = self.comparison.counts();
            lines.push(format!(
                "Compared {}: {wider} wider than HitKeep's, {narrower} narrower",
                counted(self.comparison.compared, "answer")
            ));
        } else {
            lines.push("Grants that give another role than in HitKeep:".to_owned());
        }
        if found.is_empty() {
            return;
        }
        lines.push(format!(
            "{:<36}  {:<36}  {:<11}  {:<7}  {:<7}  {:<8}  RULES",
            "CLIENT", "SITE", "WHERE", "HITKEEP", "HERE", ""
        ));
        lines.extend(found.into_iter().map(|found| {
            let causes: Vec<&str> = found.causes.iter().map(|cause| cause.as_str()).collect();
            format!(
                "{:<36}  {:<36}  {:<11}  {:<7}  {:<7}  {:<8}  {}",
                found.client.to_string(),
                place(found.place).1,
                found.surface.as_str(),
                found.hitkeep.as_str(),
                found.ours.as_str(),
                direction(found),
                causes.join(", ")
            )
        }));
    }
}

/// The result of taking an import back, or of a dry run.
pub(super) struct UndoReport<'r> {
    pub(super) undo: &'r Undo,
    /// The revision without the clients; `None` for a dry run.
    pub(super) revision: Option<Revision>,
}

impl UndoReport<'_> {
    pub(super) fn as_json(&self) -> Value {
        let client = |client: &UndoneClient| {
            json!({
                "id": client.id.to_string(),
                "name": client.name,
                "owner": client.owner.to_string(),
            })
        };
        let deleted = self.undo.deleted_here.iter();
        json!({
            "applied": self.revision.is_some(),
            "revision": self.revision.map(|revision| revision.0),
            "removed": self.undo.removed.iter().map(client).collect::<Vec<_>>(),
            "kept": self.undo.kept.iter().map(client).collect::<Vec<_>>(),
            "deleted_here": deleted.map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    pub(super) fn as_text(&self) -> String {
        let undo = self.undo;
        let mut lines = vec![format!(
            "Imported API clients: {} as they were imported, {} changed here, {} deleted here",
            undo.removed.len(),
            undo.kept.len(),
            undo.deleted_here.len()
        )];
        if !undo.kept.is_empty() {
            lines.push(String::new());
            lines.push("Changed, rotated, revoked or reactivated here, so they stay:".to_owned());
            lines.extend(undo.kept.iter().map(|client| {
                format!(
                    "{}  {:<41}  {}",
                    client.id,
                    client.owner.to_string(),
                    client.name
                )
            }));
        }
        lines.push(String::new());
        lines.push(match self.revision {
            Some(revision) => format!(
                "Removed {}, as revision {} of the database.",
                counted(undo.removed.len(), "API client"),
                revision.0
            ),
            None => "This was a dry run: nothing was changed. Remove with --apply.".to_owned(),
        });
        lines.join("\n")
    }
}

/// How many clients have each fate.
fn counts(rows: &[PlannedRow]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.fate.as_str()).or_default() += 1;
    }
    counts
}

fn row(row: &PlannedRow) -> Value {
    let mut json = json!({
        "id": row.id.map(|id| id.to_string()),
        "name": row.name,
        "owner": row.owner.map(|owner| owner.to_string()),
        "fate": row.fate.as_str(),
        "changes": row.changes,
        "remarks": row.remarks,
    });
    if let Fate::Refused(reason) = &row.fate {
        json["reason"] = reason.code().into();
        json["explanation"] = reason.explain().into();
    }
    json
}

fn difference(found: &Difference) -> Value {
    let (kind, _) = place(found.place);
    let site = match found.place {
        Place::Site(site) => Some(site.to_string()),
        Place::OtherSites | Place::Token | Place::Instance => None,
    };
    let rules = found.causes.iter().map(|cause| cause.as_str());
    json!({
        "client_id": found.client.to_string(),
        "client_name": found.name,
        "owner": found.owner.to_string(),
        "place": kind,
        "site_id": site,
        "surface": found.surface.as_str(),
        "hitkeep": found.hitkeep.as_str(),
        "here": found.ours.as_str(),
        "direction": direction(found),
        "rules": rules.collect::<Vec<_>>(),
    })
}

fn direction(found: &Difference) -> &'static str {
    if found.is_wider() {
        "wider"
    } else {
        "narrower"
    }
}

/// A word for programs, and a text for people.
fn place(place: Place) -> (&'static str, String) {
    match place {
        Place::Site(site) => ("site", site.to_string()),
        Place::OtherSites => ("other_sites", "every other site".to_owned()),
        Place::Token => ("token", "the token itself".to_owned()),
        Place::Instance => ("instance", "the instance".to_owned()),
    }
}

fn note(note: &Note) -> Value {
    let (kind, about) = match note {
        Note::UnreadableRow(table) => ("unreadable_row", (*table).to_owned()),
        Note::Dangling(table, ids) => ("dangling_row", format!("{table} {ids}")),
        Note::ShadowUser(user) => ("shadow_user", user.to_string()),
        Note::UnknownRole(table, ids) => ("unknown_role", format!("{table} {ids}")),
        Note::LegacyOwner(site, user) => ("legacy_owner", format!("{site} {user}")),
        Note::LeftOut(table, _) => ("table_left_out", (*table).to_owned()),
    };
    json!({ "kind": kind, "about": about })
}

fn note_text(note: &Note) -> String {
    match note {
        Note::UnreadableRow(table) => format!("a row of {table} without readable ids is left out"),
        Note::Dangling(table, ids) => {
            format!("a row of {table} refers to something that is not there: {ids}")
        }
        Note::ShadowUser(user) => {
            format!("user {user} is left of a broken-off change of an e-mail address")
        }
        Note::UnknownRole(table, ids) => format!("a row of {table} has an unknown role: {ids}"),
        Note::LegacyOwner(site, user) => {
            format!("user {user} owns site {site} without a membership, and becomes its owner")
        }
        Note::LeftOut(table, why) => format!("{table} is not used: {why}"),
    }
}

fn explained(remark: &str) -> &str {
    match remark {
        "over_quota" => "its owner has more than it could create",
        "too_many_grants" => "it has more grants than a client could be given",
        "rotated_here" => "its token was rotated here",
        "changed_here" => "it was changed here",
        "rotation_withheld" => {
            "it has another token in HitKeep, and the one of the last import still works here"
        }
        "revoked_here" => "it is revoked here",
        "conflict_kept" => "both sides changed it, and this one counts",
        "conflict_taken" => "both sides changed it, and HitKeep's counts",
        other => other,
    }
}

/// Lists some, and says how many more there are.
fn listed(lines: &mut Vec<String>, all: impl ExactSizeIterator<Item = String>) {
    let more = all.len().saturating_sub(MAX_LISTED);
    lines.extend(all.take(MAX_LISTED).map(|line| format!("  {line}")));
    if more > 0 {
        lines.push(format!("  and {more} more, which --json lists"));
    }
}

fn rfc3339(time: Timestamp) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn minutes(time: Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M:%SZ").to_string()
}
