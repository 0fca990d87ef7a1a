//! Which process delivers events, and until when they are written.

use diesel::{
    QueryableByName,
    sql_types::{Bool, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::TRIED_FOR;
use crate::{
    domain::Timestamp,
    store::{Store, connection::Connection, error::StoreError},
};

/// Takes the delivery over if no other process has it, or keeps it. If events were not
/// written until now, they are from now on, and what expired before is not reported.
///
/// Also where the row is missing, as after a copy of some of the tables.
const HOLD: &str = "
    INSERT INTO event_delivery AS known (holder, held_until, active_since, active_until)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (singleton) DO UPDATE SET holder = $1, held_until = $2,
        active_since = CASE WHEN known.stop_time IS NOT NULL OR known.active_until > $3
                            THEN known.active_since ELSE $3 END,
        active_until = CASE WHEN known.stop_time IS NULL THEN $4 ELSE known.active_until END
    WHERE known.holder IS NULL OR known.holder = $1 OR known.held_until <= $3
    RETURNING stop_time IS NOT NULL AS is_stopped";
const RELEASE: &str = "
    UPDATE event_delivery SET holder = NULL, held_until = NULL WHERE holder = $1";
const STOP: &str = "UPDATE event_delivery SET stop_time = coalesce(stop_time, $1)";
const RESUME: &str = "UPDATE event_delivery SET stop_time = NULL WHERE stop_time IS NOT NULL";
/// Lets events be written from now on, whether or not a process delivers already. A stop is
/// lifted, as by [`RESUME`].
const BEGIN: &str = "
    INSERT INTO event_delivery AS known (active_since, active_until) VALUES ($1, $2)
    ON CONFLICT (singleton) DO UPDATE SET stop_time = NULL,
        active_since = CASE WHEN known.active_until > $1 THEN known.active_since ELSE $1 END,
        active_until = $2";

/// How a process stands to the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// This process delivers.
    Held,
    /// This process would deliver, but the receiver is gone, and said so.
    Stopped,
    /// Another process delivers.
    Other,
}

#[derive(QueryableByName)]
struct HoldRow {
    #[diesel(sql_type = Bool)]
    is_stopped: bool,
}

impl Store {
    /// Has events written from now on, for [`TRIED_FOR`] at least: a process that will deliver
    /// calls this before it takes calls, so that the first changes have their events as well.
    pub async fn begin_events(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let begin = async |connection: &mut Connection| {
            diesel::sql_query(BEGIN)
                .bind::<Timestamptz, _>(now)
                .bind::<Timestamptz, _>(now + TRIED_FOR)
                .execute(connection)
                .await
        };
        let (lease, _) = self.start("begin_events", begin).await?;
        lease.finish();
        Ok(())
    }

    /// Takes over the delivery of events until that time, or keeps it, unless another process
    /// has it.
    pub async fn hold_event_delivery(
        &self,
        holder: Uuid,
        until: Timestamp,
    ) -> Result<Hold, StoreError> {
        let now = self.clock.now();
        let hold = async |connection: &mut Connection| {
            diesel::sql_query(HOLD)
                .bind::<SqlUuid, _>(holder)
                .bind::<Timestamptz, _>(until)
                .bind::<Timestamptz, _>(now)
                .bind::<Timestamptz, _>(now + TRIED_FOR)
                .load::<HoldRow>(connection)
                .await
        };
        // Safe to retry on another connection, like all statements here: a repetition changes
        // nothing more.
        let (lease, rows) = self.start("hold_event_delivery", hold).await?;
        lease.finish();
        Ok(match rows.as_slice().first() {
            Some(HoldRow { is_stopped: false }) => Hold::Held,
            Some(HoldRow { is_stopped: true }) => Hold::Stopped,
            None => Hold::Other,
        })
    }

    /// Gives the delivery of events to the next process that wants it.
    pub async fn release_event_delivery(&self, holder: Uuid) -> Result<(), StoreError> {
        let release = async |connection: &mut Connection| {
            diesel::sql_query(RELEASE)
                .bind::<SqlUuid, _>(holder)
                .execute(connection)
                .await
        };
        let (lease, _) = self.start("release_event_delivery", release).await?;
        lease.finish();
        Ok(())
    }

    /// Ends the delivery of events, by all processes, until [`Self::resume_events`].
    pub async fn stop_events(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let stop = async |connection: &mut Connection| {
            diesel::sql_query(STOP)
                .bind::<Timestamptz, _>(now)
                .execute(connection)
                .await
        };
        let (lease, _) = self.start("stop_events", stop).await?;
        lease.finish();
        Ok(())
    }

    /// Lets events be delivered again after [`Self::stop_events`].
    pub async fn resume_events(&self) -> Result<(), StoreError> {
        let resume =
            async |connection: &mut Connection| diesel::sql_query(RESUME).execute(connection).await;
        let (lease, _) = self.start("resume_events", resume).await?;
        lease.finish();
        Ok(())
    }
}
