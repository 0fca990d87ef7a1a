//! Replaces the whole directory in one transaction.

use diesel::sql_types::{Array, BigInt, Uuid as SqlUuid};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

use super::{
    DirectoryDifference, DirectoryError,
    rows::{pairs, single},
};
use crate::{
    domain::directory::{Directory, Removal},
    store::{Transaction, types},
};

/// A replacement may be large, and the default timeout is for small requests.
const REPLACE_TIMEOUT: &str = "SET LOCAL statement_timeout = '120s'";

impl Transaction {
    /// Replaces the directory, and returns the difference. All references of the new
    /// directory must be to entities in it.
    pub async fn replace_directory(
        &mut self,
        new: &Directory,
        allow_mass_removal: bool,
    ) -> Result<DirectoryDifference, DirectoryError> {
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

        // Sites leave a team before it is removed, and memberships are removed before their
        // users, teams and sites, so that no cascade removes a row uncounted.
        let mut total = DirectoryDifference::default();
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
        Ok(total)
    }

    /// Counts the rows of a table that are not in `kept`.
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

    /// The ids in a table that are not in `kept`.
    async fn lost(&mut self, table: &str, kept: &[Uuid]) -> Result<Vec<Uuid>, DirectoryError> {
        let sql = format!(
            "SELECT old.id FROM {table} AS old WHERE NOT EXISTS \
             (SELECT FROM unnest($1) AS new (id) WHERE new.id = old.id)"
        );
        self.ids(&sql, kept).await
    }
}
