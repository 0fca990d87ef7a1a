//! Which process delivers events, and until when they are written.

use diesel::sql_types::{Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::TRIED_FOR;
use crate::{
    domain::Timestamp,
    store::{Store, connection::Connection, error::StoreError},
};

/// Takes the delivery over if no other process has it, or keeps it. If events were not
/// written until now, they are from now on, and what expired before is not reported. A stop was
/// that of another process, whose receiver may be another one: it is over.
///
/// Also where the row is missing, as after a copy of some of the tables.
const HOLD: &str = "
    INSERT INTO event_delivery AS known (holder, held_until, active_since, active_until)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (singleton) DO UPDATE SET holder = $1, held_until = $2,
        active_since = CASE WHEN known.active_until > $3 THEN known.active_since ELSE $3 END,
        active_until = $4, stop_time = NULL
    WHERE known.holder IS NULL OR known.holder = $1 OR known.held_until <= $3";
const RELEASE: &str = "
    UPDATE event_delivery SET holder = NULL, held_until = NULL WHERE holder = $1";
/// Changes nothing once another process has taken over.
const STOP: &str = "
    UPDATE event_delivery SET holder = NULL, held_until = NULL, stop_time = $2 WHERE holder = $1";
/// Lets events be written from now on, whether or not a process delivers already. A stop is
/// lifted, as by [`HOLD`].
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
    /// Another process delivers.
    Other,
}

impl Store {
    /// Has events written from now on, for [`TRIED_FOR`] at least: a process that will deliver
    /// calls this before it takes calls, so that the first changes have their events as well.
    ///
    /// It is among the first things that a process does, before a feed calibrates the clock.
    pub async fn begin_events(&self) -> Result<(), StoreError> {
        self.calibrate_clock().await?;
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
                .execute(connection)
                .await
        };
        // Safe to retry on another connection, like all statements here: a repetition changes
        // nothing more.
        let (lease, rows) = self.start("hold_event_delivery", hold).await?;
        lease.finish();
        Ok(if rows > 0 { Hold::Held } else { Hold::Other })
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

    /// Gives the delivery of events back because the receiver is gone, and notes that. It is over
    /// as soon as another process takes the delivery, which may have another receiver.
    pub async fn stop_events(&self, holder: Uuid) -> Result<(), StoreError> {
        let now = self.clock.now();
        let stop = async |connection: &mut Connection| {
            diesel::sql_query(STOP)
                .bind::<SqlUuid, _>(holder)
                .bind::<Timestamptz, _>(now)
                .execute(connection)
                .await
        };
        let (lease, _) = self.start("stop_events", stop).await?;
        lease.finish();
        Ok(())
    }
}
