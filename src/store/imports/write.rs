//! What an import writes, in statements for many clients at once.

use diesel::{
    prelude::*,
    query_builder::{BoxedSqlQuery, SqlQuery},
    sql_types::{Array, Binary, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

use super::TIMEOUTS;
use crate::{
    domain::{
        Timestamp,
        client::ApiClient,
        directory::order::AcceptedChange,
        id::{ClientId, UserId},
        imports::{ForeignClient, ImportRecord, ImportWrites},
        token::LegacyHash,
    },
    store::{
        Transaction,
        directory::{self, DirectoryDifference, DirectoryError},
        error::StoreError,
        schema::{api_client_imports, api_clients, import_state},
        types,
    },
};

const ROWS_PER_STATEMENT: usize = 5000;

const INSERT_CLIENTS: &str = "
    INSERT INTO api_clients (id, owner_user_id, owner_team_id, name, description, instance_role,
        expire_time, revoke_time, created_by_user_id, create_time, update_time)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
const UPDATE_CLIENTS: &str = "
    UPDATE api_clients AS old SET name = new.name, description = new.description,
        instance_role = new.instance_role, expire_time = new.expire_time,
        revoke_time = new.revoke_time, update_time = new.update_time
    FROM unnest($1, $2, $3, $4, $5, $6, $7)
        AS new (id, name, description, instance_role, expire_time, revoke_time, update_time)
    WHERE old.id = new.id";
const DELETE_GRANTS: &str = "DELETE FROM api_client_grants WHERE client_id = ANY($1)";
const INSERT_GRANTS: &str = "
    INSERT INTO api_client_grants (client_id, site_id, role) SELECT * FROM unnest($1, $2, $3)";
/// An overlap never outlives the expiry, even if the expiry is later moved back again.
const END_OVERLAPS: &str = "
    UPDATE api_client_tokens AS token SET end_time = expire_time FROM api_clients AS client
    WHERE client.id = ANY($1) AND client_id = client.id AND token.end_time > expire_time";
const END_TOKENS: &str = "
    UPDATE api_client_tokens SET end_time = $2
    WHERE client_id = ANY($1) AND (end_time IS NULL OR end_time > $2)";
const INSERT_TOKENS: &str = "
    INSERT INTO api_client_tokens (client_id, hash, hint, scheme, create_time)
    SELECT client_id, hash, hint, 'hitkeep_sha256', create_time
    FROM unnest($1, $2, $3, $4) AS new (client_id, hash, hint, create_time)";
const PUT_LAST_USED: &str = "
    INSERT INTO api_client_usage AS known (client_id, last_used_time)
    SELECT * FROM unnest($1, $2) AS new (client_id, last_used_time) ORDER BY client_id
    ON CONFLICT (client_id) DO UPDATE
    SET last_used_time = GREATEST(known.last_used_time, excluded.last_used_time)";
const PUT_RECORDS: &str = "
    INSERT INTO api_client_imports (client_id, row_digest, token_hash, revoke_time, snapshot_time)
    SELECT * FROM unnest($1, $2, $3, $4, $5)
    ON CONFLICT (client_id) DO UPDATE SET row_digest = excluded.row_digest,
        token_hash = excluded.token_hash, revoke_time = excluded.revoke_time,
        snapshot_time = excluded.snapshot_time";

type Bound<'q> = BoxedSqlQuery<'q, diesel::pg::Pg, SqlQuery>;

fn statement(sql: &str) -> Bound<'_> {
    diesel::sql_query(sql).into_boxed()
}

impl Transaction {
    /// Writes an import. `step` is called with how many of all clients are written.
    ///
    /// # Errors
    /// If a row is not as it was planned, or the database fails.
    pub async fn write_import(
        &mut self,
        writes: &ImportWrites,
        step: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<DirectoryDifference, DirectoryError> {
        let difference = match &writes.directory {
            // The plan has decided on mass removals, under this very lock.
            Some(directory) => self.replace_directory(directory, true).await?,
            None => DirectoryDifference::default(),
        };
        self.connection().batch_execute(TIMEOUTS).await?;
        self.update_imported(writes).await?;
        let all = writes.creates.len();
        for (number, clients) in writes.creates.chunks(ROWS_PER_STATEMENT).enumerate() {
            step(number * ROWS_PER_STATEMENT, all);
            self.create_imported(clients).await?;
        }
        for records in writes.records.chunks(ROWS_PER_STATEMENT) {
            self.put_records(records).await?;
        }
        self.record_all(writes.events.clone()).await?;
        let fresh = writes.creates.iter();
        let fresh = fresh.filter_map(|client| Some((client.id, client.last_used?)));
        let mut used: Vec<_> = fresh.chain(writes.last_used.iter().copied()).collect();
        // In the order in which others lock them. Late, since it may wait for a flush.
        used.sort_unstable();
        for used in used.chunks(ROWS_PER_STATEMENT) {
            let (ids, times): (Vec<Uuid>, Vec<Timestamp>) =
                used.iter().map(|(id, time)| (id.uuid(), *time)).unzip();
            statement(PUT_LAST_USED)
                .bind::<Array<SqlUuid>, _>(ids)
                .bind::<Array<Timestamptz>, _>(times)
                .execute(self.connection())
                .await?;
        }
        step(all, all);
        Ok(difference)
    }

    /// Records up to which snapshot imports have come, and that the directory came with it if
    /// it was replaced.
    pub async fn record_import(
        &mut self,
        snapshot_time: Timestamp,
        replaced: Option<AcceptedChange>,
    ) -> Result<(), StoreError> {
        let rows = diesel::update(import_state::table)
            .set(import_state::snapshot_time.eq(snapshot_time))
            .execute(self.connection())
            .await?;
        types::expect_rows("recording an import", rows, 1)?;
        if let Some(change) = replaced {
            let progress = self.record_applied(change).await?;
            let rows = diesel::update(import_state::table)
                .set(import_state::directory_changed.eq(directory::stored(progress.changed.0)?))
                .execute(self.connection())
                .await?;
            types::expect_rows("recording an imported directory", rows, 1)?;
        }
        Ok(())
    }

    /// Removes imported clients, and forgets that they were imported. Others keep their records.
    pub async fn remove_imported(&mut self, clients: &[ClientId]) -> Result<(), StoreError> {
        for clients in clients.chunks(ROWS_PER_STATEMENT) {
            let ids: Vec<Uuid> = clients.iter().map(|id| id.uuid()).collect();
            let rows = diesel::delete(api_clients::table.filter(api_clients::id.eq_any(&ids)))
                .execute(self.connection())
                .await?;
            types::expect_rows("removing imported clients", rows, ids.len())?;
            let records = api_client_imports::table;
            let rows = diesel::delete(records.filter(api_client_imports::client_id.eq_any(&ids)))
                .execute(self.connection())
                .await?;
            types::expect_rows("forgetting imported clients", rows, ids.len())?;
        }
        let left: i64 = api_client_imports::table
            .count()
            .get_result(self.connection())
            .await?;
        if left == 0 {
            let none: Option<Timestamp> = None;
            let rows = diesel::update(import_state::table)
                .set(import_state::snapshot_time.eq(none))
                .execute(self.connection())
                .await?;
            types::expect_rows("forgetting the last import", rows, 1)?;
        }
        Ok(())
    }

    async fn update_imported(&mut self, writes: &ImportWrites) -> Result<(), StoreError> {
        for updates in writes.updates.chunks(ROWS_PER_STATEMENT) {
            let new: Vec<&ApiClient> = updates.iter().map(|update| &update.new).collect();
            let ids: Vec<Uuid> = new.iter().map(|client| client.id.uuid()).collect();
            let texts = |text: fn(&ApiClient) -> &str| -> Vec<&str> {
                new.iter().map(|client| text(client)).collect()
            };
            let times = |time: fn(&ApiClient) -> Option<Timestamp>| -> Vec<Option<Timestamp>> {
                new.iter().map(|client| time(client)).collect()
            };
            let rows = statement(UPDATE_CLIENTS)
                .bind::<Array<SqlUuid>, _>(ids.clone())
                .bind::<Array<Text>, _>(texts(|client| client.name.as_str()))
                .bind::<Array<Text>, _>(texts(|client| client.description.as_str()))
                .bind::<Array<Text>, _>(texts(|client| client.delegated.instance_role().as_str()))
                .bind::<Array<Nullable<Timestamptz>>, _>(times(|client| client.expiry.time()))
                .bind::<Array<Nullable<Timestamptz>>, _>(times(|client| client.revoke_time))
                .bind::<Array<Timestamptz>, _>(
                    new.iter()
                        .map(|client| client.update_time)
                        .collect::<Vec<_>>(),
                )
                .execute(self.connection())
                .await?;
            types::expect_rows("updating imported clients", rows, ids.len())?;
            statement(END_OVERLAPS)
                .bind::<Array<SqlUuid>, _>(ids)
                .execute(self.connection())
                .await?;
            let regranted = updates
                .iter()
                .filter(|update| update.old.delegated.grants() != update.new.delegated.grants());
            let regranted: Vec<&ApiClient> = regranted.map(|update| &update.new).collect();
            let ids: Vec<Uuid> = regranted.iter().map(|client| client.id.uuid()).collect();
            statement(DELETE_GRANTS)
                .bind::<Array<SqlUuid>, _>(ids)
                .execute(self.connection())
                .await?;
            self.put_grants(&regranted).await?;
        }
        let now = self.now;
        for rotations in writes.rotations.chunks(ROWS_PER_STATEMENT) {
            let ids: Vec<Uuid> = rotations.iter().map(|(id, _)| id.uuid()).collect();
            statement(END_TOKENS)
                .bind::<Array<SqlUuid>, _>(ids)
                .bind::<Timestamptz, _>(now)
                .execute(self.connection())
                .await?;
            let tokens = rotations.iter().map(|(id, hash)| (*id, *hash, now));
            self.put_tokens(tokens.collect()).await?;
        }
        Ok(())
    }

    async fn create_imported(&mut self, clients: &[ForeignClient]) -> Result<(), StoreError> {
        let new: Vec<ApiClient> = clients.iter().map(ForeignClient::to_client).collect();
        let owners: Vec<_> = { new.iter() }
            .map(|client| types::owner_columns(client.delegated.owner()))
            .collect();
        let (users, teams): (Vec<Option<Uuid>>, Vec<Option<Uuid>>) = owners.into_iter().unzip();
        let texts = |text: fn(&ApiClient) -> &str| -> Vec<&str> { new.iter().map(text).collect() };
        let times = |time: fn(&ApiClient) -> Option<Timestamp>| -> Vec<Option<Timestamp>> {
            new.iter().map(time).collect()
        };
        let creators: Vec<Option<Uuid>> = { new.iter() }
            .map(|client| client.created_by.map(UserId::uuid))
            .collect();
        let rows = statement(INSERT_CLIENTS)
            .bind::<Array<SqlUuid>, _>(
                new.iter()
                    .map(|client| client.id.uuid())
                    .collect::<Vec<_>>(),
            )
            .bind::<Array<Nullable<SqlUuid>>, _>(users)
            .bind::<Array<Nullable<SqlUuid>>, _>(teams)
            .bind::<Array<Text>, _>(texts(|client| client.name.as_str()))
            .bind::<Array<Text>, _>(texts(|client| client.description.as_str()))
            .bind::<Array<Text>, _>(texts(|client| client.delegated.instance_role().as_str()))
            .bind::<Array<Nullable<Timestamptz>>, _>(times(|client| client.expiry.time()))
            .bind::<Array<Nullable<Timestamptz>>, _>(times(|client| client.revoke_time))
            .bind::<Array<Nullable<SqlUuid>>, _>(creators)
            .bind::<Array<Nullable<Timestamptz>>, _>(times(|client| Some(client.create_time)))
            .bind::<Array<Nullable<Timestamptz>>, _>(times(|client| Some(client.update_time)))
            .execute(self.connection())
            .await?;
        types::expect_rows("inserting imported clients", rows, new.len())?;
        self.put_grants(&new.iter().collect::<Vec<_>>()).await?;
        let tokens = clients.iter();
        let tokens = tokens.map(|client| (client.id, client.token, client.create_time));
        self.put_tokens(tokens.collect()).await
    }

    async fn put_grants(&mut self, clients: &[&ApiClient]) -> Result<(), StoreError> {
        let (mut ids, mut sites, mut roles) = (Vec::new(), Vec::new(), Vec::new());
        for client in clients {
            for (site, role) in client.delegated.grants() {
                ids.push(client.id.uuid());
                sites.push(site.uuid());
                roles.push(role.as_str());
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        let count = ids.len();
        let rows = statement(INSERT_GRANTS)
            .bind::<Array<SqlUuid>, _>(ids)
            .bind::<Array<SqlUuid>, _>(sites)
            .bind::<Array<Text>, _>(roles)
            .execute(self.connection())
            .await?;
        types::expect_rows("inserting imported grants", rows, count)
    }

    async fn put_tokens(
        &mut self,
        tokens: Vec<(ClientId, LegacyHash, Timestamp)>,
    ) -> Result<(), StoreError> {
        let count = tokens.len();
        let (mut ids, mut hashes) = (Vec::new(), Vec::new());
        let (mut hints, mut times) = (Vec::new(), Vec::new());
        for (id, hash, time) in &tokens {
            ids.push(id.uuid());
            hashes.push(&hash.0[..]);
            hints.push(hash.hint().0);
            times.push(*time);
        }
        let rows = statement(INSERT_TOKENS)
            .bind::<Array<SqlUuid>, _>(ids)
            .bind::<Array<Binary>, _>(hashes)
            .bind::<Array<Text>, _>(hints)
            .bind::<Array<Timestamptz>, _>(times)
            .execute(self.connection())
            .await?;
        types::expect_rows("inserting imported tokens", rows, count)
    }

    async fn put_records(
        &mut self,
        records: &[(ClientId, ImportRecord)],
    ) -> Result<(), StoreError> {
        let (mut ids, mut digests, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        let (mut revocations, mut times) = (Vec::new(), Vec::new());
        for (id, record) in records {
            ids.push(id.uuid());
            digests.push(&record.digest.0[..]);
            tokens.push(&record.token.0[..]);
            revocations.push(record.revoke_time);
            times.push(record.snapshot_time);
        }
        let rows = statement(PUT_RECORDS)
            .bind::<Array<SqlUuid>, _>(ids)
            .bind::<Array<Binary>, _>(digests)
            .bind::<Array<Binary>, _>(tokens)
            .bind::<Array<Nullable<Timestamptz>>, _>(revocations)
            .bind::<Array<Timestamptz>, _>(times)
            .execute(self.connection())
            .await?;
        types::expect_rows("recording imported clients", rows, records.len())
    }
}
