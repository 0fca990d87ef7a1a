//! The directory: ordered changes, replacement as a whole, and its status.
//!
//! All writes are set-based: a run of changes of one kind is one statement, so that a full
//! batch does not hold the write lock for a thousand round trips.

use std::collections::HashSet;

use diesel::{
    prelude::*,
    sql_types::{BigInt, Nullable},
};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{
    IsCollision, Snapshot, Store, Transaction,
    connection::Connection,
    error::StoreError,
    schema::{directory_order, directory_state},
    statement::Statement,
    types,
};
use crate::domain::directory::{
    Directory, DirectoryChange, Removal,
    order::{AcceptedChange, ChangePosition, DirectoryProgress},
};

mod replace;
mod rows;

use rows::{pairs, single};

/// Why the directory was not changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Changes refer to entities that do not exist at their point of the batch.
    #[error("a change names something unknown")]
    Unknown(Vec<UnknownReference>),
    /// The replacement would remove too many entities of one kind.
    #[error("the replacement would remove {} of {} {}", .0.removed, .0.known, .0.kind)]
    MassRemoval(Removal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(diesel::QueryableByName)]
struct PlaceRow {
    #[diesel(sql_type = BigInt)]
    last_place: i64,
}

/// A change's reference to an unknown entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownReference {
    /// The index of the change in the batch.
    pub index: usize,
    /// The field with the reference, such as `put_site.team_id`.
    pub field: &'static str,
    pub id: Uuid,
}

/// Counts of the rows that a write added, changed and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryDifference {
    pub added: u32,
    /// Updated rows, without those that stayed equal.
    pub changed: u32,
    pub removed: u32,
}

/// The size and the progress of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The highest applied sequence; `None` before the first.
    pub applied_sequence: Option<u64>,
    pub users: u32,
    pub teams: u32,
    pub sites: u32,
    /// The number of memberships in teams and on sites.
    pub memberships: u32,
}

impl From<diesel::result::Error> for DirectoryError {
    fn from(error: diesel::result::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl IsCollision for DirectoryError {
    fn is_collision(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_collision())
    }
}

impl Snapshot {
    /// Reads the size and the progress of the directory.
    pub async fn directory_status(&mut self) -> Result<Status, StoreError> {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = Nullable<BigInt>)]
            applied_sequence: Option<i64>,
            #[diesel(sql_type = BigInt)]
            users: i64,
            #[diesel(sql_type = BigInt)]
            teams: i64,
            #[diesel(sql_type = BigInt)]
            sites: i64,
            #[diesel(sql_type = BigInt)]
            memberships: i64,
        }
        let sql = "SELECT (SELECT applied_sequence FROM directory_state), \
                   (SELECT count(*) FROM users) AS users, \
                   (SELECT count(*) FROM teams) AS teams, \
                   (SELECT count(*) FROM sites) AS sites, \
                   (SELECT count(*) FROM team_members) + (SELECT count(*) FROM site_members) \
                       AS memberships";
        let row: Row = diesel::sql_query(sql).get_result(self.connection()).await?;
        Ok(Status {
            applied_sequence: row.applied_sequence.map(sequence).transpose()?,
            users: types::count(row.users)?,
            teams: types::count(row.teams)?,
            sites: types::count(row.sites)?,
            memberships: types::count(row.memberships)?,
        })
    }
}

impl Store {
    /// Assigns a replacement of the directory its place in the order of changes: all changes
    /// applied later are newer. Neither waits for writes nor blocks them.
    pub async fn begin_replacement(&self) -> Result<ChangePosition, StoreError> {
        let begun = async |mut connection: &mut Connection| {
            Statement("UPDATE directory_order SET last_place = last_place + 1 RETURNING last_place")
                .get_result(&mut connection)
                .await
        };
        let (lease, row): (_, PlaceRow) = self.start("begin_replacement", begun).await?;
        lease.finish();
        place(row.last_place)
    }
}

impl Transaction {
    /// Reads which changes are applied.
    pub async fn directory_progress(&mut self) -> Result<DirectoryProgress, StoreError> {
        progress(self.connection()).await
    }

    /// Records that a change was applied, and returns the new progress. Must come last in
    /// its transaction: replacements that begin wait from here to the commit, and are newer.
    pub async fn record_applied(
        &mut self,
        entry: AcceptedChange,
    ) -> Result<DirectoryProgress, StoreError> {
        let now: i64 = diesel::update(directory_order::table)
            .set(directory_order::last_place.eq(directory_order::last_place + 1))
            .returning(directory_order::last_place)
            .get_result(self.connection())
            .await?;
        let progress = entry.applied(place(now)?);
        let rows = diesel::update(directory_order::table)
            .set((
                directory_order::changed.eq(stored(progress.changed.0)?),
                directory_order::unnumbered.eq(stored(progress.unnumbered.0)?),
                directory_order::started_over.eq(stored(progress.started_over.0)?),
            ))
            .execute(self.connection())
            .await?;
        types::expect_rows("recording a place", rows, 1)?;
        let applied = progress.applied_sequence.map(stored).transpose()?;
        let rows = diesel::update(directory_state::table)
            .set(directory_state::applied_sequence.eq(applied))
            .execute(self.connection())
            .await?;
        types::expect_rows("recording a sequence", rows, 1)?;
        Ok(progress)
    }

    /// Applies changes in order. Fails as a whole if some refer to entities that do not
    /// exist at their point of the batch, and returns all such references.
    pub async fn apply_changes(
        &mut self,
        changes: &[DirectoryChange],
    ) -> Result<(), DirectoryError> {
        let mut unknown: Vec<UnknownReference> = Vec::new();
        // The ids that failed changes would have added; references to them are not reported.
        let mut not_made = HashSet::new();
        let mut first = 0;
        for run in changes.chunk_by(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b)) {
            let of_run = References::of(first, run).unknown(self).await?;
            if of_run.is_empty() {
                self.apply_run(run).await?;
            } else {
                // The others are applied all the same, so that the references of later
                // changes can be checked. The caller rolls all of it back.
                let wrong: HashSet<_> = of_run.iter().map(|unknown| unknown.index).collect();
                let (wrong, right): (Vec<_>, Vec<_>) = (first..)
                    .zip(run)
                    .partition(|(index, _)| wrong.contains(index));
                let right: Vec<_> = right.into_iter().map(|(_, change)| *change).collect();
                self.apply_run(&right).await?;
                unknown.extend(of_run.iter().filter(|named| !not_made.contains(&named.id)));
                not_made.extend(wrong.into_iter().filter_map(|(_, change)| match change {
                    DirectoryChange::PutSite(site) => Some(site.id.uuid()),
                    _ => None,
                }));
            }
            first += run.len();
        }
        if unknown.is_empty() {
            Ok(())
        } else {
            Err(DirectoryError::Unknown(unknown))
        }
    }

    /// Applies changes of one kind without unknown references. The last of several puts of
    /// one entity wins, as it would one by one.
    async fn apply_run(&mut self, run: &[DirectoryChange]) -> Result<(), DirectoryError> {
        use DirectoryChange as Change;

        let mut rows = Directory::default();
        let (mut gone, mut gone_pairs) = (Vec::new(), (Vec::new(), Vec::new()));
        for change in run {
            match change {
                Change::PutUser(user) => rows.users.push(*user),
                Change::PutTeam(team) => rows.teams.push(*team),
                Change::PutTeamMember(member) => rows.team_members.push(*member),
                Change::PutSite(site) => rows.sites.push(*site),
                Change::PutSiteMember(member) => rows.site_members.push(*member),
                Change::DeleteUser(id) => gone.push(id.uuid()),
                Change::DeleteTeam(id) => gone.push(id.uuid()),
                Change::DeleteSite(id) => gone.push(id.uuid()),
                Change::DeleteTeamMember(team, user) => {
                    gone_pairs.0.push(team.uuid());
                    gone_pairs.1.push(user.uuid());
                }
                Change::DeleteSiteMember(site, user) => {
                    gone_pairs.0.push(site.uuid());
                    gone_pairs.1.push(user.uuid());
                }
            }
        }
        match run.first() {
            None => DirectoryDifference::default(),
            Some(Change::PutUser(_)) => self.put_users(&rows.users).await?,
            Some(Change::PutTeam(_)) => self.put_teams(&rows.teams).await?,
            Some(Change::PutTeamMember(_)) => self.put_team_members(&rows.team_members).await?,
            Some(Change::PutSite(_)) => self.put_sites(&rows.sites).await?,
            Some(Change::PutSiteMember(_)) => self.put_site_members(&rows.site_members).await?,
            Some(Change::DeleteUser(_)) => {
                self.delete_clients_of(&gone, &[]).await?;
                let delete = "DELETE FROM users WHERE id = ANY($1)";
                self.remove(single(delete, gone)).await?
            }
            Some(Change::DeleteTeam(_)) => {
                self.delete_clients_of(&[], &gone).await?;
                let delete = "DELETE FROM teams WHERE id = ANY($1)";
                self.remove(single(delete, gone)).await?
            }
            Some(Change::DeleteSite(_)) => {
                let delete = "DELETE FROM sites WHERE id = ANY($1)";
                self.remove(single(delete, gone)).await?
            }
            Some(Change::DeleteTeamMember(..)) => {
                let delete = "DELETE FROM team_members WHERE (team_id, user_id) IN \
                              (SELECT * FROM unnest($1, $2))";
                let (teams, users) = gone_pairs;
                self.remove(pairs(delete, teams, users)).await?
            }
            Some(Change::DeleteSiteMember(..)) => {
                let delete = "DELETE FROM site_members WHERE (site_id, user_id) IN \
                              (SELECT * FROM unnest($1, $2))";
                let (sites, users) = gone_pairs;
                self.remove(pairs(delete, sites, users)).await?
            }
        };
        Ok(())
    }
}

/// The references of one run of changes, by table.
struct References {
    next: usize,
    users: Vec<(usize, &'static str, Uuid)>,
    teams: Vec<(usize, &'static str, Uuid)>,
    sites: Vec<(usize, &'static str, Uuid)>,
}

impl References {
    /// The references of a run whose first change has that index in the batch.
    fn of(first: usize, run: &[DirectoryChange]) -> Self {
        let mut references = Self {
            next: first,
            users: Vec::new(),
            teams: Vec::new(),
            sites: Vec::new(),
        };
        for change in run {
            references.add(change);
        }
        references
    }

    fn add(&mut self, change: &DirectoryChange) {
        let index = self.next;
        self.next += 1;
        match change {
            DirectoryChange::PutTeamMember(member) => {
                self.teams
                    .push((index, "put_team_member.team_id", member.team.uuid()));
                self.users
                    .push((index, "put_team_member.user_id", member.user.uuid()));
            }
            DirectoryChange::PutSite(site) => {
                self.teams
                    .push((index, "put_site.team_id", site.team.uuid()));
            }
            DirectoryChange::PutSiteMember(member) => {
                self.sites
                    .push((index, "put_site_member.site_id", member.site.uuid()));
                self.users
                    .push((index, "put_site_member.user_id", member.user.uuid()));
            }
            DirectoryChange::PutUser(_)
            | DirectoryChange::PutTeam(_)
            | DirectoryChange::DeleteUser(_)
            | DirectoryChange::DeleteTeam(_)
            | DirectoryChange::DeleteTeamMember(..)
            | DirectoryChange::DeleteSite(_)
            | DirectoryChange::DeleteSiteMember(..) => {}
        }
    }

    /// The unknown references, in the order of the changes.
    async fn unknown(
        self,
        transaction: &mut Transaction,
    ) -> Result<Vec<UnknownReference>, DirectoryError> {
        let mut found = Vec::new();
        let tables = [
            ("users", self.users),
            ("teams", self.teams),
            ("sites", self.sites),
        ];
        for (table, named) in tables {
            if named.is_empty() {
                continue;
            }
            let ids: Vec<Uuid> = named.iter().map(|(_, _, id)| *id).collect();
            let unknown = transaction.unknown(table, &ids).await?;
            let of_unknown = named.into_iter().filter(|(_, _, id)| unknown.contains(id));
            found.extend(of_unknown.map(|(index, field, id)| UnknownReference {
                index,
                field,
                id,
            }));
        }
        found.sort_by_key(|reference| (reference.index, reference.field));
        Ok(found)
    }
}

pub(super) async fn progress(connection: &mut Connection) -> Result<DirectoryProgress, StoreError> {
    let applied: Option<i64> = directory_state::table
        .select(directory_state::applied_sequence)
        .first(connection)
        .await?;
    let (changed, unnumbered, started_over) = directory_order::table
        .select((
            directory_order::changed,
            directory_order::unnumbered,
            directory_order::started_over,
        ))
        .first(connection)
        .await?;
    Ok(DirectoryProgress {
        applied_sequence: applied.map(sequence).transpose()?,
        changed: place(changed)?,
        unnumbered: place(unnumbered)?,
        started_over: place(started_over)?,
    })
}

pub(super) fn place(stored: i64) -> Result<ChangePosition, StoreError> {
    let negative = || StoreError::Inconsistent(format!("place {stored}"));
    u64::try_from(stored)
        .ok()
        .map(ChangePosition)
        .ok_or_else(negative)
}

pub(super) fn stored(number: u64) -> Result<i64, StoreError> {
    let too_large = || StoreError::Inconsistent("a number that Postgres cannot hold".to_owned());
    i64::try_from(number).ok().ok_or_else(too_large)
}

fn sequence(stored: i64) -> Result<u64, StoreError> {
    let negative = || StoreError::Inconsistent(format!("sequence {stored}"));
    u64::try_from(stored).ok().ok_or_else(negative)
}

impl std::ops::AddAssign for DirectoryDifference {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
    }
}
