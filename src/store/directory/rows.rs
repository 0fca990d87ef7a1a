//! Set-based writes of the directory's rows, each with the counts of its changes.

use std::collections::BTreeMap;

use diesel::{
    pg::Pg,
    prelude::*,
    query_builder::{BoxedSqlQuery, SqlQuery},
    sql_types::{Array, BigInt, Bool, Text, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{DirectoryDifference, DirectoryError};
use crate::{
    domain::{
        access::Owner,
        audit::{Action, Event, FieldChange},
        directory::{Site, SiteMember, Team, TeamMember, User},
    },
    store::{Transaction, error::StoreError, schema::api_clients, types},
};

impl Transaction {
    pub(super) async fn put_users(
        &mut self,
        rows: &[User],
    ) -> Result<DirectoryDifference, DirectoryError> {
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

    pub(super) async fn put_teams(
        &mut self,
        rows: &[Team],
    ) -> Result<DirectoryDifference, DirectoryError> {
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

    pub(super) async fn put_sites(
        &mut self,
        rows: &[Site],
    ) -> Result<DirectoryDifference, DirectoryError> {
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

    pub(super) async fn put_team_members(
        &mut self,
        rows: &[TeamMember],
    ) -> Result<DirectoryDifference, DirectoryError> {
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

    pub(super) async fn put_site_members(
        &mut self,
        rows: &[SiteMember],
    ) -> Result<DirectoryDifference, DirectoryError> {
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

    /// Runs a deletion, and counts its rows.
    pub(super) async fn remove(
        &mut self,
        query: BoundQuery<'_>,
    ) -> Result<DirectoryDifference, DirectoryError> {
        let removed = query.execute(self.connection()).await?;
        let too_many = || StoreError::Inconsistent(format!("{removed} rows"));
        let removed = u32::try_from(removed).ok().ok_or_else(too_many)?;
        Ok(DirectoryDifference {
            removed,
            ..DirectoryDifference::default()
        })
    }

    /// The given ids that are not in a table.
    pub(super) async fn unknown(
        &mut self,
        table: &str,
        ids: &[Uuid],
    ) -> Result<Vec<Uuid>, DirectoryError> {
        let sql = format!(
            "SELECT DISTINCT new.id FROM unnest($1) AS new (id) WHERE NOT EXISTS \
             (SELECT FROM {table} AS old WHERE old.id = new.id)"
        );
        self.ids(&sql, ids).await
    }

    pub(super) async fn ids(
        &mut self,
        sql: &str,
        given: &[Uuid],
    ) -> Result<Vec<Uuid>, DirectoryError> {
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

    /// Deletes the clients of owners that are about to be deleted, with an audit event for
    /// each.
    pub(super) async fn delete_clients_of(
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

#[derive(diesel::QueryableByName)]
struct PutRow {
    #[diesel(sql_type = BigInt)]
    added: i64,
    #[diesel(sql_type = BigInt)]
    changed: i64,
}

/// Wraps an upsert to count its rows; an inserted row has `xmax = 0`.
fn counted(put: &str) -> String {
    format!(
        "WITH put AS ({put} RETURNING (old.xmax = 0) AS added) \
         SELECT count(*) FILTER (WHERE added) AS added, \
                count(*) FILTER (WHERE NOT added) AS changed FROM put"
    )
}

fn difference(row: &PutRow) -> Result<DirectoryDifference, DirectoryError> {
    let (added, changed) = (types::count(row.added)?, types::count(row.changed)?);
    Ok(DirectoryDifference {
        added,
        changed,
        removed: 0,
    })
}

pub(super) type BoundQuery<'q> = BoxedSqlQuery<'q, Pg, SqlQuery>;

/// A statement with one array of ids as its parameter.
pub(super) fn single(sql: &str, ids: Vec<Uuid>) -> BoundQuery<'static> {
    diesel::sql_query(sql)
        .into_boxed()
        .bind::<Array<SqlUuid>, _>(ids)
}

/// A statement with two arrays of ids of the same length as its parameters.
pub(super) fn pairs(sql: &str, first: Vec<Uuid>, second: Vec<Uuid>) -> BoundQuery<'static> {
    single(sql, first).bind::<Array<SqlUuid>, _>(second)
}

/// The last row of each key, as if all were put one by one.
fn last_of_each<T: Copy, K: Ord>(rows: &[T], key: fn(&T) -> K) -> Vec<T> {
    let by_key: BTreeMap<K, T> = rows.iter().map(|row| (key(row), *row)).collect();
    by_key.into_values().collect()
}
