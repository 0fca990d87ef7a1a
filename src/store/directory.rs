//! The directory: changes in order, the replacement of the whole as one
//! difference, and how large it is.
//!
//! Everything is set-based: a run of changes of one kind is one statement, so
//! that a full batch does not hold the write lock for a thousand round trips.

use std::collections::BTreeMap;

use diesel::{
    pg::Pg,
    prelude::*,
    query_builder::{BoxedSqlQuery, SqlQuery},
    sql_types::{Array, BigInt, Bool, Nullable, Text, Uuid as SqlUuid},
};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

use super::{
    IsCollision, Snapshot, Transaction,
    error::StoreError,
    schema::{api_clients, directory_state},
    types,
};
use crate::domain::{
    access::Owner,
    audit::{Action, Event, FieldChange},
    directory::{Directory, DirectoryChange, Removal, Site, SiteMember, Team, TeamMember, User},
};

/// A replacement may be large; the usual limit is for requests.
const REPLACE_TIMEOUT: &str = "SET LOCAL statement_timeout = '120s'";

/// Why the directory was not changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Changes name things that do not exist at their point of the batch.
    #[error("a change names something unknown")]
    Unknown(Vec<UnknownReference>),
    /// A replacement would remove too much.
    #[error("the replacement would remove {} of {} {}", .0.removed, .0.known, .0.kind)]
    MassRemoval(Removal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A change that names something unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownReference {
    /// The change's place in the batch.
    pub index: usize,
    /// The field that names it, such as `user_id`.
    pub field: &'static str,
    /// What it names.
    pub id: Uuid,
}

/// How many rows there are now that were not there, or had another content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rows that are new.
    pub added: u32,
    /// Rows with a new content.
    pub changed: u32,
    /// Rows that are gone.
    pub removed: u32,
}

/// How large the directory is, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The highest sequence applied.
    pub applied_sequence: Option<u64>,
    /// How many users.
    pub users: u32,
    /// How many teams.
    pub teams: u32,
    /// How many sites.
    pub sites: u32,
    /// How many memberships, in teams and on sites.
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
    /// How large the directory is, and how far.
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

impl Transaction {
    /// The highest sequence applied so far.
    pub async fn applied_sequence(&mut self) -> Result<Option<u64>, StoreError> {
        let applied: Option<i64> = directory_state::table
            .select(directory_state::applied_sequence)
            .first(self.connection())
            .await?;
        applied.map(sequence).transpose()
    }

    /// Takes note of the highest sequence applied.
    pub async fn set_applied_sequence(&mut self, sequence: u64) -> Result<(), StoreError> {
        let sequence = i64::try_from(sequence).ok();
        let sequence = sequence.ok_or_else(|| {
            StoreError::Inconsistent("a sequence that Postgres cannot hold".to_owned())
        })?;
        let rows = diesel::update(directory_state::table)
            .set(directory_state::applied_sequence.eq(sequence))
            .execute(self.connection())
            .await?;
        types::expect_rows("noting a sequence", rows, 1)
    }

    /// Applies changes in their order. Fails as a whole where one of them names
    /// what does not exist at its point of the batch.
    pub async fn apply_changes(
        &mut self,
        changes: &[DirectoryChange],
    ) -> Result<(), DirectoryError> {
        let mut first = 0;
        for run in changes.chunk_by(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b)) {
            self.apply_run(first, run).await?;
            first += run.len();
        }
        Ok(())
    }

    /// Applies changes of one kind. The last of several puts of one thing wins,
    /// as it would one by one.
    async fn apply_run(
        &mut self,
        first: usize,
        run: &[DirectoryChange],
    ) -> Result<(), DirectoryError> {
        use DirectoryChange as Change;

        let mut references = References::new(first);
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
            references.add(change);
        }
        references.check(self).await?;
        let difference = match run.first() {
            None => return Ok(()),
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
        self.touch_if(difference);
        Ok(())
    }

    /// Makes the directory what is given, and says how it differed. What the
    /// parts of the new directory refer to must be in it.
    pub async fn replace_directory(
        &mut self,
        new: &Directory,
        allow_mass_removal: bool,
    ) -> Result<Difference, DirectoryError> {
        self.connection().batch_execute(REPLACE_TIMEOUT).await?;
        let user_ids: Vec<Uuid> = new.users.iter().map(|user| user.id.uuid()).collect();
        let team_ids: Vec<Uuid> = new.teams.iter().map(|team| team.id.uuid()).collect();
        let site_ids: Vec<Uuid> = new.sites.iter().map(|site| site.id.uuid()).collect();
        let kinds = [
            ("users", &user_ids),
            ("teams", &team_ids),
            ("sites", &site_ids),
        ];
        for (kind, ids) in kinds {
            let removal = self.removal(kind, ids).await?;
            if removal.is_mass_removal() && !allow_mass_removal {
                return Err(DirectoryError::MassRemoval(removal));
            }
        }

        // Sites leave a team before it is removed, memberships go before what
        // they belong to: so each row is counted as what happened to it, and none
        // is swept away by a cascade.
        let mut total = Difference::default();
        let members = new.team_members.iter();
        let (teams, users) = members.map(|m| (m.team.uuid(), m.user.uuid())).unzip();
        let delete = "DELETE FROM team_members AS old WHERE NOT EXISTS (SELECT FROM \
                      unnest($1, $2) AS new (team_id, user_id) \
                      WHERE new.team_id = old.team_id AND new.user_id = old.user_id)";
        total += self.remove(pairs(delete, teams, users)).await?;
        let members = new.site_members.iter();
        let (sites, users) = members.map(|m| (m.site.uuid(), m.user.uuid())).unzip();
        let delete = "DELETE FROM site_members AS old WHERE NOT EXISTS (SELECT FROM \
                      unnest($1, $2) AS new (site_id, user_id) \
                      WHERE new.site_id = old.site_id AND new.user_id = old.user_id)";
        total += self.remove(pairs(delete, sites, users)).await?;
        total += self.put_users(&new.users).await?;
        total += self.put_teams(&new.teams).await?;
        total += self.put_sites(&new.sites).await?;
        let lost_users = self.lost("users", &user_ids).await?;
        let lost_teams = self.lost("teams", &team_ids).await?;
        let lost_sites = self.lost("sites", &site_ids).await?;
        self.delete_clients_of(&lost_users, &lost_teams).await?;
        for (table, lost) in [
            ("sites", lost_sites),
            ("teams", lost_teams),
            ("users", lost_users),
        ] {
            let delete = format!("DELETE FROM {table} WHERE id = ANY($1)");
            total += self.remove(single(&delete, lost)).await?;
        }
        total += self.put_team_members(&new.team_members).await?;
        total += self.put_site_members(&new.site_members).await?;
        self.touch_if(total);
        Ok(total)
    }

    fn touch_if(&mut self, difference: Difference) {
        if difference != Difference::default() {
            self.touch();
        }
    }

    async fn put_users(&mut self, rows: &[User]) -> Result<Difference, DirectoryError> {
        let rows = last_of_each(rows, |user| user.id);
        let ids: Vec<Uuid> = rows.iter().map(|user| user.id.uuid()).collect();
        let roles: Vec<&str> = rows
            .iter()
            .map(|user| user.instance_role.as_str())
            .collect();
        let disabled: Vec<bool> = rows.iter().map(|user| user.disabled).collect();
        let put = "INSERT INTO users AS old (id, instance_role, disabled) \
                   SELECT * FROM unnest($1, $2, $3) \
                   ON CONFLICT (id) DO UPDATE \
                   SET instance_role = excluded.instance_role, disabled = excluded.disabled \
                   WHERE (old.instance_role, old.disabled) \
                       IS DISTINCT FROM (excluded.instance_role, excluded.disabled)";
        let put = diesel::sql_query(counted(put))
            .bind::<Array<SqlUuid>, _>(ids)
            .bind::<Array<Text>, _>(roles)
            .bind::<Array<Bool>, _>(disabled);
        difference(&put.get_result(self.connection()).await?)
    }

    async fn put_teams(&mut self, rows: &[Team]) -> Result<Difference, DirectoryError> {
        let rows = last_of_each(rows, |team| team.id);
        let ids: Vec<Uuid> = rows.iter().map(|team| team.id.uuid()).collect();
        let archived: Vec<bool> = rows.iter().map(|team| team.archived).collect();
        let put = "INSERT INTO teams AS old (id, archived) SELECT * FROM unnest($1, $2) \
                   ON CONFLICT (id) DO UPDATE SET archived = excluded.archived \
                   WHERE old.archived <> excluded.archived";
        let put = diesel::sql_query(counted(put))
            .bind::<Array<SqlUuid>, _>(ids)
            .bind::<Array<Bool>, _>(archived);
        difference(&put.get_result(self.connection()).await?)
    }

    async fn put_sites(&mut self, rows: &[Site]) -> Result<Difference, DirectoryError> {
        let rows = last_of_each(rows, |site| site.id);
        let (ids, teams) = rows
            .iter()
            .map(|site| (site.id.uuid(), site.team.uuid()))
            .unzip();
        let put = "INSERT INTO sites AS old (id, team_id) SELECT * FROM unnest($1, $2) \
                   ON CONFLICT (id) DO UPDATE SET team_id = excluded.team_id \
                   WHERE old.team_id <> excluded.team_id";
        let put = pairs(&counted(put), ids, teams);
        difference(&put.get_result(self.connection()).await?)
    }

    async fn put_team_members(
        &mut self,
        rows: &[TeamMember],
    ) -> Result<Difference, DirectoryError> {
        let rows = last_of_each(rows, |member| (member.team, member.user));
        let (teams, users) = rows.iter().map(|m| (m.team.uuid(), m.user.uuid())).unzip();
        let roles: Vec<&str> = rows.iter().map(|member| member.role.as_str()).collect();
        let put = "INSERT INTO team_members AS old (team_id, user_id, role) \
                   SELECT * FROM unnest($1, $2, $3) \
                   ON CONFLICT (team_id, user_id) DO UPDATE SET role = excluded.role \
                   WHERE old.role <> excluded.role";
        let put = pairs(&counted(put), teams, users).bind::<Array<Text>, _>(roles);
        difference(&put.get_result(self.connection()).await?)
    }

    async fn put_site_members(
        &mut self,
        rows: &[SiteMember],
    ) -> Result<Difference, DirectoryError> {
        let rows = last_of_each(rows, |member| (member.site, member.user));
        let (sites, users) = rows.iter().map(|m| (m.site.uuid(), m.user.uuid())).unzip();
        let roles: Vec<&str> = rows.iter().map(|member| member.role.as_str()).collect();
        let put = "INSERT INTO site_members AS old (site_id, user_id, role) \
                   SELECT * FROM unnest($1, $2, $3) \
                   ON CONFLICT (site_id, user_id) DO UPDATE SET role = excluded.role \
                   WHERE old.role <> excluded.role";
        let put = pairs(&counted(put), sites, users).bind::<Array<Text>, _>(roles);
        difference(&put.get_result(self.connection()).await?)
    }

    /// Runs a deletion.
    async fn remove(&mut self, query: BoundQuery<'_>) -> Result<Difference, DirectoryError> {
        let removed = query.execute(self.connection()).await?;
        let too_many = || StoreError::Inconsistent(format!("{removed} rows"));
        let removed = u32::try_from(removed).ok().ok_or_else(too_many)?;
        Ok(Difference {
            removed,
            ..Difference::default()
        })
    }

    /// How many rows of a table are not among the given ones.
    async fn removal(
        &mut self,
        kind: &'static str,
        kept: &[Uuid],
    ) -> Result<Removal, DirectoryError> {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            known: i64,
            #[diesel(sql_type = BigInt)]
            kept: i64,
        }
        let sql = format!(
            "SELECT count(*) AS known, count(new.id) AS kept \
             FROM {kind} AS old LEFT JOIN unnest($1) AS new (id) ON new.id = old.id"
        );
        let row: Row = diesel::sql_query(sql)
            .bind::<Array<SqlUuid>, _>(kept)
            .get_result(self.connection())
            .await?;
        let removed = types::count(row.known - row.kept)?;
        Ok(Removal {
            kind,
            known: types::count(row.known)?,
            removed,
        })
    }

    /// The ids in a table that are not among the given ones.
    async fn lost(&mut self, table: &str, kept: &[Uuid]) -> Result<Vec<Uuid>, DirectoryError> {
        let sql = format!(
            "SELECT old.id FROM {table} AS old WHERE NOT EXISTS \
             (SELECT FROM unnest($1) AS new (id) WHERE new.id = old.id)"
        );
        self.ids(&sql, kept).await
    }

    /// Of the given ids, those that are not in a table.
    async fn unknown(&mut self, table: &str, ids: &[Uuid]) -> Result<Vec<Uuid>, DirectoryError> {
        let sql = format!(
            "SELECT DISTINCT new.id FROM unnest($1) AS new (id) WHERE NOT EXISTS \
             (SELECT FROM {table} AS old WHERE old.id = new.id)"
        );
        self.ids(&sql, ids).await
    }

    async fn ids(&mut self, sql: &str, given: &[Uuid]) -> Result<Vec<Uuid>, DirectoryError> {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = SqlUuid)]
            id: Uuid,
        }
        let rows: Vec<Row> = diesel::sql_query(sql)
            .bind::<Array<SqlUuid>, _>(given)
            .load(self.connection())
            .await?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    /// Deletes the clients of owners that are about to be deleted, and tells the
    /// audit trail of each.
    async fn delete_clients_of(
        &mut self,
        users: &[Uuid],
        teams: &[Uuid],
    ) -> Result<(), DirectoryError> {
        if users.is_empty() && teams.is_empty() {
            return Ok(());
        }
        let owned = api_clients::owner_user_id
            .eq_any(users)
            .or(api_clients::owner_team_id.eq_any(teams))
            .assume_not_null();
        let gone: Vec<(Uuid, String, Option<Uuid>, Option<Uuid>)> =
            diesel::delete(api_clients::table.filter(owned))
                .returning((
                    api_clients::id,
                    api_clients::name,
                    api_clients::owner_user_id,
                    api_clients::owner_team_id,
                ))
                .get_results(self.connection())
                .await?;
        if gone.is_empty() {
            return Ok(());
        }
        self.touch();
        let event = |(id, name, user, team)| {
            let owner: Owner = types::owner(user, team)?;
            Ok(Event {
                action: Action::ClientDeleted,
                subject: id,
                subject_name: name,
                owner: Some(owner),
                changes: vec![FieldChange::new("owner", &owner.to_string(), "deleted")],
            })
        };
        let events = gone
            .into_iter()
            .map(event)
            .collect::<Result<_, StoreError>>()?;
        Ok(self.record_all(events).await?)
    }
}

/// What the changes of one run refer to, in each of three tables.
struct References {
    next: usize,
    users: Vec<(usize, &'static str, Uuid)>,
    teams: Vec<(usize, &'static str, Uuid)>,
    sites: Vec<(usize, &'static str, Uuid)>,
}

impl References {
    const fn new(first: usize) -> Self {
        Self {
            next: first,
            users: Vec::new(),
            teams: Vec::new(),
            sites: Vec::new(),
        }
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

    async fn check(self, transaction: &mut Transaction) -> Result<(), DirectoryError> {
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
        if found.is_empty() {
            Ok(())
        } else {
            Err(DirectoryError::Unknown(found))
        }
    }
}

#[derive(diesel::QueryableByName)]
struct PutRow {
    #[diesel(sql_type = BigInt)]
    added: i64,
    #[diesel(sql_type = BigInt)]
    changed: i64,
}

/// Counts what an upsert did: a row that it made has no deleting transaction.
fn counted(put: &str) -> String {
    format!(
        "WITH put AS ({put} RETURNING (old.xmax = 0) AS added) \
         SELECT count(*) FILTER (WHERE added) AS added, \
                count(*) FILTER (WHERE NOT added) AS changed FROM put"
    )
}

fn difference(row: &PutRow) -> Result<Difference, DirectoryError> {
    let (added, changed) = (types::count(row.added)?, types::count(row.changed)?);
    Ok(Difference {
        added,
        changed,
        removed: 0,
    })
}

type BoundQuery<'q> = BoxedSqlQuery<'q, Pg, SqlQuery>;

/// A statement with one list of ids.
fn single(sql: &str, ids: Vec<Uuid>) -> BoundQuery<'static> {
    diesel::sql_query(sql)
        .into_boxed()
        .bind::<Array<SqlUuid>, _>(ids)
}

/// A statement with two lists of ids of the same length.
fn pairs(sql: &str, first: Vec<Uuid>, second: Vec<Uuid>) -> BoundQuery<'static> {
    single(sql, first).bind::<Array<SqlUuid>, _>(second)
}

/// One row of each key, the last one given: what putting them one after the
/// other comes to.
fn last_of_each<T: Copy, K: Ord>(rows: &[T], key: fn(&T) -> K) -> Vec<T> {
    let by_key: BTreeMap<K, T> = rows.iter().map(|row| (key(row), *row)).collect();
    by_key.into_values().collect()
}

fn sequence(stored: i64) -> Result<u64, StoreError> {
    let negative = || StoreError::Inconsistent(format!("sequence {stored}"));
    u64::try_from(stored).ok().ok_or_else(negative)
}

impl std::ops::AddAssign for Difference {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
    }
}
