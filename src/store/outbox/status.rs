//! The state of the delivery of events, for operators.

use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::{
    domain::Timestamp,
    store::{Snapshot, error::StoreError},
};

/// How many dead events are shown, the latest ones.
const SHOWN_DEAD: i64 = 10;

/// Also where the row of the delivery is missing, as after a copy of some of the tables.
const STATE: &str = "
    SELECT coalesce(active_until > $1, false) AS is_writing,
        coalesce(held_until > $1, false) AND stop_time IS NULL AS is_delivering,
        stop_time IS NOT NULL AS is_stopped,
        (SELECT count(*) FROM event_outbox WHERE dead_time IS NULL) AS pending,
        (SELECT min(create_time) FROM event_outbox WHERE dead_time IS NULL) AS oldest,
        (SELECT count(*) FROM event_outbox WHERE dead_time IS NOT NULL) AS dead
    FROM (VALUES (true)) AS one (singleton) LEFT JOIN event_delivery USING (singleton)";
const LATEST_DEAD: &str = "
    SELECT id, event_type, client_id, create_time, dead_time, attempts, last_error
    FROM event_outbox WHERE dead_time IS NOT NULL
    ORDER BY dead_time DESC, sequence DESC LIMIT $1";

/// The state of the delivery, of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryStatus {
    /// Who delivers, and how much is left.
    pub state: DeliveryState,
    /// The events that died last, newest first, at most ten.
    pub latest_dead: Vec<DeadEvent>,
}

/// Who delivers, and how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, diesel::QueryableByName)]
pub struct DeliveryState {
    #[diesel(sql_type = Bool)]
    pub is_writing: bool,
    #[diesel(sql_type = Bool)]
    pub is_delivering: bool,
    /// Whether the receiver said that it is gone.
    #[diesel(sql_type = Bool)]
    pub is_stopped: bool,
    /// Events that are to be delivered.
    #[diesel(sql_type = BigInt)]
    pub pending: i64,
    /// When the oldest of them was created.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub oldest: Option<Timestamp>,
    /// Events that were tried for too long.
    #[diesel(sql_type = BigInt)]
    pub dead: i64,
}

/// An event that was tried for too long.
#[derive(Clone, Debug, PartialEq, diesel::QueryableByName)]
pub struct DeadEvent {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Text)]
    pub event_type: String,
    #[diesel(sql_type = SqlUuid)]
    pub client_id: Uuid,
    /// When the change was committed.
    #[diesel(sql_type = Timestamptz)]
    pub create_time: Timestamp,
    /// When it was given up.
    #[diesel(sql_type = Timestamptz)]
    pub dead_time: Timestamp,
    /// How many attempts have failed.
    #[diesel(sql_type = BigInt)]
    pub attempts: i64,
    /// The class of the last one's error.
    #[diesel(sql_type = Text)]
    pub last_error: String,
}

impl Snapshot {
    /// Reads the state of the delivery of events.
    pub async fn event_delivery(&mut self) -> Result<DeliveryStatus, StoreError> {
        let now = self.now;
        let state = diesel::sql_query(STATE)
            .bind::<Timestamptz, _>(now)
            .get_result(self.connection())
            .await?;
        let latest_dead = diesel::sql_query(LATEST_DEAD)
            .bind::<BigInt, _>(SHOWN_DEAD)
            .get_results(self.connection())
            .await?;
        Ok(DeliveryStatus { state, latest_dead })
    }
}
