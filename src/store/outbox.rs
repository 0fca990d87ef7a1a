//! The outbox of events about API clients: written in the transaction of the change, and read
//! and emptied by the process that delivers.
//!
//! Nothing is written while nothing is delivered: a deliverer says until when events are to
//! be written, and moves that time on. So the outbox is bounded without anyone to empty it.

use chrono::TimeDelta;
use diesel::{
    OptionalExtension, QueryableByName,
    sql_types::{Array, BigInt, Bool, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Store, Transaction, connection::Connection, error::StoreError, types};
use crate::domain::{
    Timestamp, access::Owner, audit::Event, event::EventType, token::may_contain_token,
};
mod lease;
mod noticed;
pub mod status;

pub use lease::Hold;
pub use noticed::REPORTED_AT_ONCE;

/// For how long after its creation an event is tried, counted from then on even if others of
/// the same client are in its way; after that it is dead. Events are written for as long
/// after the last sign of a deliverer.
pub const TRIED_FOR: TimeDelta = TimeDelta::days(3);
/// For how long after its creation an event that is dead is kept.
pub const KEPT_FOR: TimeDelta = TimeDelta::days(30);
/// The most rows of one statement, which takes them as arrays.
const ROWS_PER_INSERT: usize = 5000;
/// The most rows that one statement of a trim changes.
const ROWS_PER_TRIM: i64 = 10_000;
/// The longest stored error, in characters.
const MAX_ERROR: usize = 200;

/// In the order of the arrays, which is that of the sequence.
const INSERT: &str = "
    INSERT INTO event_outbox
        (sequence, id, client_id, event_type, data, create_time, next_attempt_time, try_until)
    SELECT $7 + place, id, client_id, event_type, data, $5, $5, $6
    FROM unnest($1, $2, $3, $4) WITH ORDINALITY
        AS event (id, client_id, event_type, data, place)
    ORDER BY place";
/// Finds the oldest event of each client, if its next attempt is due.
const DUE: &str = "
    SELECT sequence, id, client_id, event_type, data, create_time, try_until, attempts
    FROM event_outbox AS event
    WHERE dead_time IS NULL AND next_attempt_time <= $1 AND client_id <> ALL ($2)
        AND NOT EXISTS (
            SELECT FROM event_outbox AS earlier
            WHERE earlier.client_id = event.client_id AND earlier.sequence < event.sequence
                AND earlier.dead_time IS NULL)
    ORDER BY next_attempt_time, sequence LIMIT $3";
/// With the event's id, since a database that took over may have given its number to another one.
const DELIVERED: &str = "DELETE FROM event_outbox WHERE sequence = $1 AND id = $2";
/// Records a failure. The client's later events wait for the next attempt too, so that they
/// are not looked at in vain; if the event is dead, they are next.
const FAILED: &str = "
    WITH failed AS (
        UPDATE event_outbox
        SET attempts = $2, next_attempt_time = $3, last_error = $4, dead_time = $5
        WHERE sequence = $1 AND id = $6 RETURNING client_id
    )
    UPDATE event_outbox SET next_attempt_time = $3
    WHERE client_id = (SELECT client_id FROM failed) AND sequence > $1
        AND dead_time IS NULL AND next_attempt_time < $3";
const BACKLOG: &str = "
    SELECT (SELECT count(*) FROM event_outbox WHERE dead_time IS NULL) AS pending,
        (SELECT count(*) FROM event_outbox WHERE dead_time IS NOT NULL) AS dead,
        (SELECT min(create_time) FROM event_outbox WHERE dead_time IS NULL) AS oldest,
        coalesce((SELECT stop_time IS NOT NULL FROM event_delivery), false) AS is_stopped";
const BURY: &str = "
    UPDATE event_outbox SET dead_time = $1
    WHERE sequence = ANY (ARRAY(
        SELECT sequence FROM event_outbox WHERE dead_time IS NULL AND try_until <= $1
        ORDER BY try_until LIMIT $2 FOR UPDATE SKIP LOCKED))";
const FORGET: &str = "
    DELETE FROM event_outbox WHERE sequence = ANY (ARRAY(
        SELECT sequence FROM event_outbox WHERE dead_time IS NOT NULL AND create_time <= $1
        ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED))";

/// Draws the next numbers, under the write lock, and returns the last of them; none if nothing is
/// delivered. Above those of all events that are there, also where the row is missing or of
/// another day than they are.
const NUMBERS: &str = "
    INSERT INTO event_numbers AS known (last_sequence)
    SELECT coalesce(max(sequence), 0) + $1 FROM event_outbox
    HAVING EXISTS (SELECT FROM event_delivery WHERE active_until > $2)
    ON CONFLICT (singleton) DO UPDATE
    SET last_sequence = greatest(known.last_sequence + $1, excluded.last_sequence)
    RETURNING last_sequence";

/// An event about an API client, before it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct OutgoingEvent {
    event_type: EventType,
    client: Uuid,
    client_name: String,
    owner: Owner,
    /// What else is said about it, by the names of the fields.
    details: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, QueryableByName)]
pub struct OutboxEvent {
    /// The place in the order of all events.
    #[diesel(sql_type = BigInt)]
    pub sequence: i64,
    /// Identifies the event; if an audit event tells of the same change, it has the same id.
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    pub client_id: Uuid,
    /// The attribute `type` of the `CloudEvent`.
    #[diesel(sql_type = Text)]
    pub event_type: String,
    #[diesel(sql_type = Jsonb)]
    pub data: Value,
    /// When the change was committed.
    #[diesel(sql_type = Timestamptz)]
    pub create_time: Timestamp,
    /// From when on a failure is the last one.
    #[diesel(sql_type = Timestamptz)]
    pub try_until: Timestamp,
    /// How many attempts to deliver it have failed.
    #[diesel(sql_type = BigInt)]
    pub attempts: i64,
}

#[derive(Clone, Copy, Debug)]
pub struct FailedAttempt<'f> {
    /// How many attempts have failed by now.
    pub attempts: i64,
    /// When the next one is due.
    pub next: Timestamp,
    /// The class of the error; at most 200 characters are kept.
    pub error: &'f str,
    /// When the event died, if it did: it is not tried again.
    pub dead: Option<Timestamp>,
}

/// What is in the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, QueryableByName)]
pub struct Backlog {
    /// Events that are to be delivered.
    #[diesel(sql_type = BigInt)]
    pub pending: i64,
    /// Events that were tried for too long.
    #[diesel(sql_type = BigInt)]
    pub dead: i64,
    /// When the oldest of the pending events was created.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub oldest: Option<Timestamp>,
    /// Whether the receiver said that it is gone.
    #[diesel(sql_type = Bool)]
    pub is_stopped: bool,
}

#[derive(QueryableByName)]
struct NumberRow {
    #[diesel(sql_type = BigInt)]
    last_sequence: i64,
}

/// The values of events by columns.
#[derive(Default)]
struct Columns {
    ids: Vec<Uuid>,
    clients: Vec<Uuid>,
    event_types: Vec<&'static str>,
    data: Vec<Value>,
}

impl OutgoingEvent {
    /// The event that an audited operation causes, if any.
    pub(super) fn of(event: &Event) -> Option<Self> {
        let event_type = EventType::of(event.action)?;
        let after = |field: &str| {
            let change = event.changes.iter().find(|change| change.field == field)?;
            Some(change.after.clone()).filter(|after| !after.is_empty())
        };
        let mut details = Map::new();
        for field in match event_type {
            EventType::Created => &["expire_time"][..],
            EventType::Rotated => &["overlap_end_time"],
            _ => &[],
        } {
            if let Some(value) = after(field) {
                details.insert((*field).to_owned(), value.into());
            }
        }
        Some(Self {
            event_type,
            client: event.subject,
            client_name: event.subject_name.clone(),
            owner: event.owner?,
            details,
        })
    }
}

impl Transaction {
    /// Writes events to the outbox that no audit event of this transaction causes.
    async fn send_events(&mut self, events: Vec<OutgoingEvent>) -> Result<(), StoreError> {
        let with_id = |event| (self.next_event_id().uuid(), event);
        let events = events.into_iter().map(with_id).collect();
        self.put_events(events).await
    }

    /// Writes events to the outbox, unless nothing is delivered.
    pub(super) async fn put_events(
        &mut self,
        events: Vec<(Uuid, OutgoingEvent)>,
    ) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let now = self.now;
        let many = i64::try_from(events.len()).unwrap_or(i64::MAX);
        let drawn: Option<NumberRow> = diesel::sql_query(NUMBERS)
            .bind::<BigInt, _>(many)
            .bind::<Timestamptz, _>(now)
            .get_result(self.connection())
            .await
            .optional()?;
        let Some(drawn) = drawn else {
            return Ok(());
        };
        // The last number that was given before.
        let mut before = drawn.last_sequence - many;
        let mut events = events.into_iter();
        while events.len() > 0 {
            let mut columns = Columns::default();
            for (id, event) in events.by_ref().take(ROWS_PER_INSERT) {
                columns.ids.push(id);
                columns.clients.push(event.client);
                columns.event_types.push(event.event_type.as_str());
                columns.data.push(self.data(event));
            }
            let count = columns.ids.len();
            let inserted = diesel::sql_query(INSERT)
                .bind::<Array<SqlUuid>, _>(columns.ids)
                .bind::<Array<SqlUuid>, _>(columns.clients)
                .bind::<Array<Text>, _>(columns.event_types)
                .bind::<Array<Jsonb>, _>(columns.data)
                .bind::<Timestamptz, _>(now)
                .bind::<Timestamptz, _>(now + TRIED_FOR)
                .bind::<BigInt, _>(before)
                .execute(self.connection())
                .await?;
            types::expect_rows("writing events", inserted, count)?;
            before += i64::try_from(count).unwrap_or(i64::MAX);
        }
        Ok(())
    }

    /// What an event says. Never a token: people can put one into a client's name.
    fn data(&self, event: OutgoingEvent) -> Value {
        let name = if may_contain_token(&event.client_name) {
            String::new()
        } else {
            event.client_name
        };
        let owner = match event.owner {
            Owner::User(id) => ("user_id", id.to_string()),
            Owner::Team(id) => ("team_id", id.to_string()),
        };
        let mut data = Map::new();
        let mut add = |field: &str, value: Value| data.insert(field.to_owned(), value);
        add("client_id", event.client.to_string().into());
        add("client_name", name.into());
        add("owner", serde_json::json!({ owner.0: owner.1 }));
        if let Some(actor) = &self.provenance.actor {
            add("actor_user_id", actor.user.to_string().into());
        }
        if !self.provenance.caller.is_empty() {
            add("caller", self.provenance.caller.clone().into());
        }
        data.extend(event.details);
        Value::Object(data)
    }
}

impl Store {
    /// Finds events that are due: of each client the oldest one, and none of those that are
    /// busy.
    pub async fn due_events(
        &self,
        busy: &[Uuid],
        limit: usize,
    ) -> Result<Vec<OutboxEvent>, StoreError> {
        let now = self.clock.now();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let find = async |connection: &mut Connection| {
            diesel::sql_query(DUE)
                .bind::<Timestamptz, _>(now)
                .bind::<Array<SqlUuid>, _>(busy)
                .bind::<BigInt, _>(limit)
                .load(connection)
                .await
        };
        let (lease, events) = self.start("due_events", find).await?;
        lease.finish();
        Ok(events)
    }

    /// Removes an event that was delivered.
    pub async fn event_delivered(&self, event: &OutboxEvent) -> Result<(), StoreError> {
        let remove = async |connection: &mut Connection| {
            diesel::sql_query(DELIVERED)
                .bind::<BigInt, _>(event.sequence)
                .bind::<SqlUuid, _>(event.id)
                .execute(connection)
                .await
        };
        let (lease, _) = self.start("event_delivered", remove).await?;
        lease.finish();
        Ok(())
    }

    /// Records that an event could not be delivered.
    pub async fn event_failed(
        &self,
        event: &OutboxEvent,
        failed: FailedAttempt<'_>,
    ) -> Result<(), StoreError> {
        let error: String = failed.error.chars().take(MAX_ERROR).collect();
        let record = async |connection: &mut Connection| {
            diesel::sql_query(FAILED)
                .bind::<BigInt, _>(event.sequence)
                .bind::<BigInt, _>(failed.attempts)
                .bind::<Timestamptz, _>(failed.next)
                .bind::<Text, _>(&error)
                .bind::<Nullable<Timestamptz>, _>(failed.dead)
                .bind::<SqlUuid, _>(event.id)
                .execute(connection)
                .await
        };
        let (lease, _) = self.start("event_failed", record).await?;
        lease.finish();
        Ok(())
    }

    pub async fn event_backlog(&self) -> Result<Backlog, StoreError> {
        let read = async |connection: &mut Connection| {
            diesel::sql_query(BACKLOG).get_result(connection).await
        };
        let (lease, backlog) = self.start("event_backlog", read).await?;
        lease.finish();
        Ok(backlog)
    }

    /// Declares dead what is older than [`TRIED_FOR`], tried or not, and removes what is dead and
    /// older than [`KEPT_FOR`], up to 10,000 events each. Also for a time in which nothing is delivered.
    pub async fn trim_events(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let bury = async |connection: &mut Connection| {
            diesel::sql_query(BURY)
                .bind::<Timestamptz, _>(now)
                .bind::<BigInt, _>(ROWS_PER_TRIM)
                .execute(connection)
                .await
        };
        let (mut lease, _) = self.start("trim_events", bury).await?;
        diesel::sql_query(FORGET)
            .bind::<Timestamptz, _>(now - KEPT_FOR)
            .bind::<BigInt, _>(ROWS_PER_TRIM)
            .execute(lease.start())
            .await?;
        noticed::forget(lease.start(), now).await?;
        lease.finish();
        Ok(())
    }
}
