//! Last uses and daily counts of API clients, which every server writes in batches. They
//! bypass [`Store::transaction`] and the write lock, because no answer depends on them: no
//! revision is stamped, and no client's row changes.

use std::{collections::BTreeSet, ops::Range};

use chrono::NaiveDate;
use diesel::{
    pg::Pg,
    prelude::*,
    query_builder::{BoxedSqlQuery, SqlQuery},
    sql_types::{Array, BigInt, Date, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{
    Snapshot, Store, connection::Connection, error::StoreError, schema::api_client_usage_days,
    types,
};
use crate::domain::{
    Timestamp,
    id::{ClientId, ReplicaId},
    usage::{Batch, Day, DayUsage, Outcome, PendingUsage},
};

/// The most clients that one statement writes.
pub const CLIENTS_PER_STATEMENT: usize = 5000;
/// The most replicas that one trim removes.
const REPLICAS_PER_TRIM: i64 = 1000;
/// The most rows that one trim removes.
const DAYS_PER_TRIM: i64 = 10_000;
/// The advisory lock that serialises the flushes of servers; an arbitrary number unique to
/// this service.
pub const FLUSH_LOCK: i64 = 7_201_148_302_467_196;

/// Writes a chunk of a batch, and returns the clients that it skipped.
///
/// The advisory lock serialises servers, so that they never wait for each other's rows. The
/// statement does not wait for deletions of clients either: it skips locked clients, and
/// deleted ones are absent. It locks a client without a usage row against deletion, so that
/// no foreign key can fail.
const FLUSH: &str = "
    WITH turn AS MATERIALIZED (
        SELECT pg_advisory_xact_lock($1)
    ), chunk AS MATERIALIZED (
        SELECT client_id, last_used_time
        FROM turn, unnest($2, $3) AS chunk (client_id, last_used_time)
    ),";
/// What both kinds of batches do with the chunk. A count that is full stays full: an overflow
/// would fail the statement, and with it every later one that has the same client.
const WRITE_CHUNK: &str = "
    known AS MATERIALIZED (
        SELECT usage.client_id FROM chunk JOIN api_client_usage AS usage USING (client_id)
        FOR NO KEY UPDATE OF usage SKIP LOCKED
    ), others AS MATERIALIZED (
        SELECT client_id FROM chunk WHERE client_id NOT IN (SELECT client_id FROM known)
    ), fresh AS MATERIALIZED (
        SELECT client.id AS client_id FROM others JOIN api_clients AS client ON client.id = client_id
        WHERE NOT EXISTS (SELECT FROM api_client_usage AS usage WHERE usage.client_id = client.id)
        FOR KEY SHARE OF client SKIP LOCKED
    ), reached AS MATERIALIZED (
        SELECT client_id FROM known UNION ALL SELECT client_id FROM fresh
    ), used AS (
        INSERT INTO api_client_usage AS known (client_id, last_used_time)
        SELECT client_id, last_used_time FROM chunk JOIN reached USING (client_id)
        ON CONFLICT (client_id) DO UPDATE
        SET last_used_time = GREATEST(known.last_used_time, excluded.last_used_time)
    ), counted AS (
        INSERT INTO api_client_usage_days AS known (client_id, day, outcome, count)
        SELECT client_id, day, outcome, count
        FROM unnest($4, $5, $6, $7) AS counted (client_id, day, outcome, count)
            JOIN reached USING (client_id)
        ON CONFLICT (client_id, day, outcome) DO UPDATE
        SET count = LEAST(known.count, 9223372036854775807 - excluded.count) + excluded.count
    )
    SELECT client_id FROM others JOIN api_clients AS client ON client.id = client_id
    WHERE client_id NOT IN (SELECT client_id FROM fresh)";

/// Writes a batch of a replica elsewhere, as above, unless it was written before. Two
/// attempts at the same time write the same row of `replica_usage`, one after the other.
const REPORT: &str = "
    WITH turn AS MATERIALIZED (
        SELECT pg_advisory_xact_lock($1)
    ), first AS MATERIALIZED (
        INSERT INTO replica_usage AS known (replica_id, batch, update_time)
        SELECT $8, $9, now() FROM turn
        ON CONFLICT (replica_id) DO UPDATE
        SET batch = excluded.batch, update_time = excluded.update_time
        WHERE known.batch < excluded.batch
        RETURNING replica_id
    ), chunk AS MATERIALIZED (
        SELECT client_id, last_used_time
        FROM first, unnest($2, $3) AS chunk (client_id, last_used_time)
    ),";

/// Removes replicas that reported nothing since a time.
const FORGET_REPLICAS: &str = "
    DELETE FROM replica_usage WHERE replica_id IN (
        SELECT replica_id FROM replica_usage WHERE update_time < $1
        LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// Removes counts before a day, and skips those that another server is removing.
const TRIM: &str = "
    DELETE FROM api_client_usage_days WHERE (client_id, day, outcome) IN (
        SELECT client_id, day, outcome FROM api_client_usage_days WHERE day < $1
        ORDER BY day LIMIT $2 FOR UPDATE SKIP LOCKED)";

#[derive(QueryableByName)]
struct SkippedRow {
    #[diesel(sql_type = SqlUuid)]
    client_id: Uuid,
}

/// A chunk of a batch, as columns.
#[derive(Default)]
struct Columns {
    clients: Vec<Uuid>,
    last_used: Vec<Option<Timestamp>>,
    counted: Vec<Uuid>,
    days: Vec<NaiveDate>,
    outcomes: Vec<&'static str>,
    counts: Vec<i64>,
}

impl Columns {
    fn add(&mut self, client: ClientId, pending: &PendingUsage) {
        self.clients.push(client.uuid());
        self.last_used.push(pending.last_used());
        for count in pending.counts() {
            self.counted.push(client.uuid());
            self.days.push(count.day.date());
            self.outcomes.push(count.outcome.as_str());
            let many = i64::try_from(count.count.get());
            self.counts.push(many.unwrap_or(i64::MAX));
        }
    }

    /// Binds the lock and the chunk to a statement.
    fn bound_to(self, sql: String) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
        diesel::sql_query(sql)
            .into_boxed::<Pg>()
            .bind::<BigInt, _>(FLUSH_LOCK)
            .bind::<Array<SqlUuid>, _>(self.clients)
            .bind::<Array<Nullable<Timestamptz>>, _>(self.last_used)
            .bind::<Array<SqlUuid>, _>(self.counted)
            .bind::<Array<Date>, _>(self.days)
            .bind::<Array<Text>, _>(self.outcomes)
            .bind::<Array<BigInt>, _>(self.counts)
    }
}

impl Store {
    /// Writes a batch in atomic chunks, and removes what was written from it. A last use
    /// never moves back, and counts are added to the stored ones. Deleted clients are
    /// dropped.
    ///
    /// The rest of the batch is to be retried: everything after a failure, and clients that
    /// are just being deleted. If the connection breaks between the commit of a chunk and
    /// the reply, that chunk counts twice.
    pub async fn flush_usage(&self, batch: &mut Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut lease = self.take("flush_usage").await?;
        let mut last = None;
        loop {
            let mut columns = Columns::default();
            let mut chunk = Vec::new();
            for (client, pending) in batch.after(last).take(CLIENTS_PER_STATEMENT) {
                columns.add(*client, pending);
                chunk.push(*client);
            }
            let Some(end) = chunk.last() else { break };
            last = Some(*end);
            let skipped = flush(lease.start(), columns).await?;
            for client in chunk {
                if !skipped.contains(&client) {
                    batch.remove(client);
                }
            }
        }
        lease.finish();
        Ok(())
    }

    /// Writes a batch of at most [`CLIENTS_PER_STATEMENT`] clients that a replica elsewhere
    /// counted, unless a batch of it with this number or a higher one was written before.
    /// Returns the clients that are just being deleted, whose part was not written and is to
    /// be written later.
    ///
    /// # Errors
    /// If the batch is not written, or it is unknown whether it is. It may be sent again in
    /// either case.
    pub async fn report_usage(
        &self,
        replica: ReplicaId,
        number: u64,
        batch: &Batch,
    ) -> Result<Batch, StoreError> {
        let too_large = || StoreError::Inconsistent(format!("batch {number}"));
        let number = i64::try_from(number).ok().ok_or_else(too_large)?;
        let mut columns = Columns::default();
        for (client, pending) in batch.after(None) {
            columns.add(*client, pending);
        }
        let mut lease = self.take("report_usage").await?;
        let skipped: Vec<SkippedRow> = columns
            .bound_to(format!("{REPORT}{WRITE_CHUNK}"))
            .bind::<SqlUuid, _>(replica.uuid())
            .bind::<BigInt, _>(number)
            .load(lease.start())
            .await?;
        lease.finish();
        let mut rest = batch.clone();
        let skipped = clients_of(skipped);
        for (client, _) in batch.after(None) {
            if !skipped.contains(client) {
                rest.remove(*client);
            }
        }
        Ok(rest)
    }

    /// Removes what is known of replicas that reported nothing since that time.
    pub async fn forget_replicas(&self, before: Timestamp) -> Result<(), StoreError> {
        let mut lease = self.take("forget_replicas").await?;
        diesel::sql_query(FORGET_REPLICAS)
            .bind::<Timestamptz, _>(before)
            .bind::<BigInt, _>(REPLICAS_PER_TRIM)
            .execute(lease.start())
            .await?;
        lease.finish();
        Ok(())
    }

    /// Removes up to 10,000 counts of days before that one.
    pub async fn trim_usage(&self, before: Day) -> Result<Trimmed, StoreError> {
        let mut lease = self.take("trim_usage").await?;
        let removed = diesel::sql_query(TRIM)
            .bind::<Date, _>(before.date())
            .bind::<BigInt, _>(DAYS_PER_TRIM)
            .execute(lease.start())
            .await?;
        lease.finish();
        Ok(
            if i64::try_from(removed).is_ok_and(|removed| removed < DAYS_PER_TRIM) {
                Trimmed::All
            } else {
                Trimmed::Some
            },
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trimmed {
    /// Nothing is left to remove.
    All,
    /// The limit was reached, and more may be left.
    Some,
}

/// Writes a chunk. Returns the clients that were skipped.
async fn flush(
    connection: &mut Connection,
    columns: Columns,
) -> Result<BTreeSet<ClientId>, StoreError> {
    let statement = columns.bound_to(format!("{FLUSH}{WRITE_CHUNK}"));
    Ok(clients_of(statement.load(connection).await?))
}

fn clients_of(rows: Vec<SkippedRow>) -> BTreeSet<ClientId> {
    let client = |row: SkippedRow| ClientId::from_uuid(row.client_id);
    rows.into_iter().map(client).collect()
}

impl Snapshot {
    /// Reads a client's daily counts, oldest first; days without uses are omitted.
    pub async fn usage_days(
        &mut self,
        client: ClientId,
        days: Range<Day>,
    ) -> Result<Vec<DayUsage>, StoreError> {
        let rows: Vec<(NaiveDate, String, i64)> = api_client_usage_days::table
            .filter(api_client_usage_days::client_id.eq(client.uuid()))
            .filter(api_client_usage_days::day.ge(days.start.date()))
            .filter(api_client_usage_days::day.lt(days.end.date()))
            .order(api_client_usage_days::day)
            .select((
                api_client_usage_days::day,
                api_client_usage_days::outcome,
                api_client_usage_days::count,
            ))
            .load(self.connection())
            .await?;
        let mut usage: Vec<DayUsage> = Vec::new();
        for (date, outcome, count) in rows {
            let day = Day::from_date(date);
            let outcome: Outcome = types::word(&outcome)?;
            let negative = || StoreError::Inconsistent(format!("{count} uses of client {client}"));
            let count = u64::try_from(count).ok().ok_or_else(negative)?;
            match usage.last_mut() {
                Some(last) if last.day == day => last.add(outcome, count),
                _ => {
                    let mut first = DayUsage::new(day);
                    first.add(outcome, count);
                    usage.push(first);
                }
            }
        }
        Ok(usage)
    }
}
