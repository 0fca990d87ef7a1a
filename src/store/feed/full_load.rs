//! The full load: reads all tables that verdicts depend on.

use std::{pin::pin, time::Duration};

use futures_util::{FutureExt, TryStreamExt};
use tokio::time::Instant;
use tokio_postgres::{RowStream, types::ToSql};
use uuid::Uuid;

use super::{
    ANSWER_TIMEOUT, Accounts, COMMIT, Feed, FullLoadSink, State, in_span,
    rows::{self, ClientRow, TokenRow},
    within,
};
use crate::{
    domain::id::{ClientId, SiteId, TeamId, UserId},
    store::error::StoreError,
};

/// The timeout of the first row of each table.
const FIRST_ROW_TIMEOUT: Duration = Duration::from_mins(2);
/// A full load may take longer than the statement timeout of requests, and sorts nothing.
const BEGIN_ALL: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                         SET LOCAL statement_timeout = '30min'; SET LOCAL work_mem = '64MB'; \
                         SET LOCAL jit = off";

impl Feed {
    /// Reads all rows in one snapshot.
    pub async fn read_all(
        &mut self,
        sink: &mut dyn FullLoadSink,
    ) -> Result<(State, Accounts), StoreError> {
        in_span("read_all", self.try_read_all(sink)).await
    }

    async fn try_read_all(
        &mut self,
        sink: &mut dyn FullLoadSink,
    ) -> Result<(State, Accounts), StoreError> {
        let nowhere = Uuid::nil();
        let parameters: [&(dyn ToSql + Sync); 3] = [&nowhere, &0_i64, &nowhere];
        let queries = async {
            let ((), state_row, accounts) = tokio::try_join!(
                self.client.batch_execute(BEGIN_ALL),
                self.client.query_opt(&self.statements.state, &parameters),
                self.client.query(rows::ACCOUNTS, &[]),
            )?;
            Ok((self.state_of(state_row.as_ref())?, accounts))
        };
        let (state, accounts) = within(ANSWER_TIMEOUT, queries).await?;
        self.stream(rows::SITES, |row| {
            let (site, team) = (row.try_get(0)?, row.try_get(1)?);
            sink.site(
                SiteId::from_uuid(site),
                TeamId::from_uuid(team),
                row.try_get(2)?,
            );
            Ok(())
        })
        .await?;
        self.stream(rows::ALL_CLIENTS, |row| ClientRow::deliver(row, sink))
            .await?;
        self.stream(rows::TEAM_MEMBERS, |row| {
            let (team, user) = (row.try_get(0)?, row.try_get(1)?);
            let role = rows::role(row, 2)?;
            sink.team_member(TeamId::from_uuid(team), UserId::from_uuid(user), role);
            Ok(())
        })
        .await?;
        self.stream(rows::SITE_MEMBERS, |row| {
            let (site, user) = (row.try_get(0)?, row.try_get(1)?);
            let role = rows::role(row, 2)?;
            sink.site_member(SiteId::from_uuid(site), UserId::from_uuid(user), role);
            Ok(())
        })
        .await?;
        self.stream(rows::ALL_GRANTS, |row| {
            let (client, site) = (row.try_get(0)?, row.try_get(1)?);
            let role = rows::role(row, 2)?;
            sink.bare_grant(ClientId::from_uuid(client), SiteId::from_uuid(site), role);
            Ok(())
        })
        .await?;
        self.stream(rows::ALL_TOKENS, |row| TokenRow::deliver(row, sink))
            .await?;
        within(ANSWER_TIMEOUT, async {
            Ok(self.client.batch_execute(COMMIT).await?)
        })
        .await?;
        Ok((state, rows::accounts(&accounts)?))
    }

    /// Reads all active service accounts.
    pub async fn read_accounts(&mut self) -> Result<Accounts, StoreError> {
        let queries = async { Ok(self.client.query(rows::ACCOUNTS, &[]).await?) };
        rows::accounts(&within(ANSWER_TIMEOUT, queries).await?)
    }

    async fn stream(
        &self,
        sql: &str,
        mut take: impl FnMut(&tokio_postgres::Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement = within(ANSWER_TIMEOUT, async {
            Ok(self.client.prepare(sql).await?)
        })
        .await?;
        let none: [&(dyn ToSql + Sync); 0] = [];
        let begun = async { Ok(self.client.query_raw(&statement, none).await?) };
        let stream: RowStream = within(FIRST_ROW_TIMEOUT, begun).await?;
        let mut stream = pin!(stream);
        let (mut rows, begun) = (0_u64, Instant::now());
        let mut wait = FIRST_ROW_TIMEOUT;
        loop {
            // Nearly all rows are buffered already, and need no timer.
            let next = match stream.try_next().now_or_never() {
                Some(next) => next?,
                None => within(wait, async { Ok(stream.try_next().await?) }).await?,
            };
            let Some(row) = next else { break };
            take(&row)?;
            rows += 1;
            wait = ANSWER_TIMEOUT;
        }
        let duration_ms = begun.elapsed().as_millis();
        tracing::debug!(rows, duration_ms, "read {rows} rows");
        Ok(())
    }
}
