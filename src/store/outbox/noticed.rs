//! Events that no call causes: a client expires soon or has expired, or a replaced token was
//! used. Each is written once for the moment that it is about, whichever process notices it
//! first, since a row of that moment is inserted with it.

use chrono::TimeDelta;
use diesel::{
    prelude::*,
    sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;
use serde_json::{Map, Value};
use std::sync::Arc;
use uuid::Uuid;

use super::{OutgoingEvent, ROWS_PER_TRIM};
use crate::{
    domain::{
        Timestamp,
        audit::Provenance,
        event::{EXPIRING_WITHIN_DAYS, EventType},
        usage::ReplacedUses,
    },
    store::{Store, Transaction, connection::Connection, error::StoreError, types},
};

/// How long an expiry may be past and still be reported. Longer than events are written
/// without a deliverer, so that no expiry is missed in between.
const EXPIRED_WITHIN: TimeDelta = TimeDelta::days(4);
/// How long what was noticed of an expiry is kept after it.
const NOTICED_FOR: TimeDelta = TimeDelta::days(8);
/// The most clients that one transaction should report: calls wait for it.
pub const REPORTED_AT_ONCE: usize = 500;

/// Finds expiries that are not reported yet: of clients that are not revoked, from the time on
/// at which events were written.
const EXPIRIES: &str = "
    SELECT client.id AS client_id, name, owner_user_id, owner_team_id,
        expire_time AS about_time, expire_time <= $1 AS is_so
    FROM event_delivery, api_clients AS client
    WHERE active_until > $1 AND revoke_time IS NULL
        AND expire_time > $2 AND expire_time <= $3
        AND (expire_time > $1 OR expire_time > active_since)
        AND NOT EXISTS (
            SELECT FROM event_notices AS known
            WHERE known.client_id = client.id AND known.about_time = expire_time
                AND known.event_type = CASE WHEN expire_time <= $1 THEN $4 ELSE $5 END)
    ORDER BY expire_time, client.id LIMIT $6";

/// Finds the clients among the given ones where a rotation has no event yet about a use of
/// what it replaced, nor has a later one. $3 says of each when such a token last worked, and
/// $4 when one was last refused.
///
/// A use belongs to the latest rotation before it; there may have been others since. It
/// belongs to the first one even if the clock that it was read from was slightly behind.
const REPLACED: &str = "
    SELECT client.id AS client_id, name, owner_user_id, owner_team_id, about_time,
        coalesce(worked >= least(about_time, last), false) AS is_so
    FROM event_delivery,
        (SELECT client_id, worked, greatest(worked, refused) AS last
         FROM unnest($2, $3, $4) AS used (client_id, worked, refused)) AS used
        JOIN api_clients AS client ON client.id = used.client_id
        CROSS JOIN LATERAL (
            SELECT coalesce(max(create_time) FILTER (WHERE create_time <= last),
                            min(create_time)) AS about_time
            FROM api_client_tokens WHERE client_id = client.id AND create_time > (
                SELECT min(create_time) FROM api_client_tokens WHERE client_id = client.id)
        ) AS rotation
    WHERE active_until > $1 AND about_time IS NOT NULL AND NOT EXISTS (
        SELECT FROM event_notices AS known
        WHERE known.client_id = client.id AND known.event_type = $5
            AND known.about_time >= rotation.about_time)
    ORDER BY client.id";

/// Notes what is reported, instead of what was noted of the same clients before if $4 says so.
const NOTE: &str = "
    WITH earlier AS (
        DELETE FROM event_notices WHERE $4 AND client_id = ANY ($1) AND event_type = $3
    )
    INSERT INTO event_notices (client_id, event_type, about_time)
    SELECT client_id, $3, about_time FROM unnest($1, $2) AS noted (client_id, about_time)";

const FORGET: &str = "
    DELETE FROM event_notices WHERE (client_id, event_type, about_time) IN (
        SELECT client_id, event_type, about_time FROM event_notices
        WHERE event_type = ANY ($1) AND about_time < $2 LIMIT $3 FOR UPDATE SKIP LOCKED)";

/// Something about a client that is to be reported.
#[derive(Clone, Debug, QueryableByName)]
struct Noticed {
    #[diesel(sql_type = SqlUuid)]
    client_id: Uuid,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    owner_user_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    owner_team_id: Option<Uuid>,
    #[diesel(sql_type = Timestamptz)]
    about_time: Timestamp,
    /// Of an expiry, whether it has come; of a replaced token, whether it worked.
    #[diesel(sql_type = Bool)]
    is_so: bool,
}

/// Presentations of replaced tokens, as columns.
#[derive(Clone, Debug, Default)]
struct Replaced {
    clients: Vec<Uuid>,
    worked: Vec<Option<Timestamp>>,
    refused: Vec<Option<Timestamp>>,
}

impl Noticed {
    fn event(
        &self,
        event_type: EventType,
        details: Map<String, Value>,
    ) -> Result<OutgoingEvent, StoreError> {
        Ok(OutgoingEvent {
            event_type,
            client: self.client_id,
            client_name: self.name.clone(),
            owner: types::owner(self.owner_user_id, self.owner_team_id)?,
            details,
        })
    }
}

impl Store {
    /// Writes events about clients that expire soon, and about those that expired, at most
    /// [`REPORTED_AT_ONCE`]. Returns their number. Takes the write lock only if there are any.
    pub async fn send_expiries(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let look = async |connection: &mut Connection| expiries(connection, now, 1).await;
        let (lease, found) = self.start("send_expiries", look).await?;
        lease.finish();
        if found.is_empty() {
            return Ok(0);
        }
        let body = async |transaction: &mut Transaction| transaction.send_expiries().await;
        Ok(self.transaction(&unprompted(), body).await?.value)
    }

    /// Writes an event for each client whose replaced token was presented, once for each
    /// rotation. Takes the write lock, once, only if there are any: so no more than
    /// [`REPORTED_AT_ONCE`] clients should be given. A repetition changes nothing more.
    ///
    /// # Errors
    /// If they are not written, or it is unknown whether they are: most likely because
    /// another transaction has the write lock for long.
    pub async fn send_replaced(&self, uses: &ReplacedUses) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        let mut replaced = Replaced::default();
        for (client, uses) in uses.iter() {
            replaced.clients.push(client.uuid());
            replaced.worked.push(uses.worked);
            replaced.refused.push(uses.refused);
        }
        let now = self.clock.now();
        let look = async |connection: &mut Connection| replaced.find(connection, now).await;
        let (lease, found) = self.start("send_replaced", look).await?;
        lease.finish();
        if found.is_empty() {
            return Ok(());
        }
        let body = async |transaction: &mut Transaction| transaction.send_replaced(&replaced).await;
        self.transaction(&unprompted(), body).await?;
        Ok(())
    }
}

impl Transaction {
    async fn send_expiries(&mut self) -> Result<usize, StoreError> {
        let now = self.now;
        let found = expiries(self.connection(), now, REPORTED_AT_ONCE).await?;
        let (past, ahead): (Vec<_>, Vec<_>) =
            found.iter().cloned().partition(|expiry| expiry.is_so);
        for (event_type, expiries) in [(EventType::Expired, past), (EventType::Expiring, ahead)] {
            self.note(event_type, &expiries).await?;
            let event = |expiry: &Noticed| {
                let mut details = Map::new();
                details.insert("expire_time".to_owned(), rfc3339(expiry.about_time));
                expiry.event(event_type, details)
            };
            let events = expiries.iter().map(event).collect::<Result<_, _>>()?;
            self.send_events(events).await?;
        }
        Ok(found.len())
    }

    async fn send_replaced(&mut self, replaced: &Replaced) -> Result<(), StoreError> {
        let now = self.now;
        let found = replaced.find(self.connection(), now).await?;
        self.note(EventType::ReplacedTokenUsed, &found).await?;
        let event = |used: &Noticed| {
            let mut details = Map::new();
            details.insert("rotate_time".to_owned(), rfc3339(used.about_time));
            details.insert("token_worked".to_owned(), used.is_so.into());
            used.event(EventType::ReplacedTokenUsed, details)
        };
        let events = found.iter().map(event).collect::<Result<_, _>>()?;
        self.send_events(events).await
    }

    /// Notes that this is reported. Of rotations, only the latest one matters.
    async fn note(&mut self, event_type: EventType, noticed: &[Noticed]) -> Result<(), StoreError> {
        let clients: Vec<Uuid> = noticed.iter().map(|noticed| noticed.client_id).collect();
        let times: Vec<Timestamp> = noticed.iter().map(|noticed| noticed.about_time).collect();
        let rows = diesel::sql_query(NOTE)
            .bind::<Array<SqlUuid>, _>(&clients)
            .bind::<Array<Timestamptz>, _>(&times)
            .bind::<Text, _>(event_type.as_str())
            .bind::<Bool, _>(event_type == EventType::ReplacedTokenUsed)
            .execute(self.connection())
            .await?;
        types::expect_rows("noting events", rows, noticed.len())
    }
}

impl Replaced {
    async fn find(&self, connection: &mut Connection, now: Timestamp) -> QueryResult<Vec<Noticed>> {
        diesel::sql_query(REPLACED)
            .bind::<Timestamptz, _>(now)
            .bind::<Array<SqlUuid>, _>(&self.clients)
            .bind::<Array<Nullable<Timestamptz>>, _>(&self.worked)
            .bind::<Array<Nullable<Timestamptz>>, _>(&self.refused)
            .bind::<Text, _>(EventType::ReplacedTokenUsed.as_str())
            .load(connection)
            .await
    }
}

/// Finds up to that number of expiries that are not reported yet.
async fn expiries(
    connection: &mut Connection,
    now: Timestamp,
    limit: usize,
) -> QueryResult<Vec<Noticed>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    diesel::sql_query(EXPIRIES)
        .bind::<Timestamptz, _>(now)
        .bind::<Timestamptz, _>(now - EXPIRED_WITHIN)
        .bind::<Timestamptz, _>(now + TimeDelta::days(EXPIRING_WITHIN_DAYS))
        .bind::<Text, _>(EventType::Expired.as_str())
        .bind::<Text, _>(EventType::Expiring.as_str())
        .bind::<BigInt, _>(limit)
        .load(connection)
        .await
}

/// Removes what was noted of expiries of long ago.
pub(super) async fn forget(connection: &mut Connection, now: Timestamp) -> Result<(), StoreError> {
    let types = [EventType::Expiring.as_str(), EventType::Expired.as_str()];
    diesel::sql_query(FORGET)
        .bind::<Array<Text>, _>(&types[..])
        .bind::<Timestamptz, _>(now - NOTICED_FOR)
        .bind::<BigInt, _>(ROWS_PER_TRIM)
        .execute(connection)
        .await?;
    Ok(())
}

/// The origin of an event that no call causes.
fn unprompted() -> Arc<Provenance> {
    Arc::new(Provenance::default())
}

fn rfc3339(time: Timestamp) -> Value {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
        .into()
}
