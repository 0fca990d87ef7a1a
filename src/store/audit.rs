//! The audit trail: written inside a transaction, and listed newest first.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{
    Snapshot, Transaction, error::StoreError, outbox::OutgoingEvent, schema::audit_events, types,
};
use crate::domain::{
    Timestamp,
    access::Owner,
    audit::{Actor, Event, FieldChange, Filter, Provenance, RecordedEvent},
    id::{EventId, UserId},
};

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = audit_events, check_for_backend(diesel::pg::Pg))]
struct Row {
    id: Uuid,
    event_time: Timestamp,
    action: String,
    client_id: Uuid,
    client_name: String,
    owner_user_id: Option<Uuid>,
    owner_team_id: Option<Uuid>,
    actor_user_id: Option<Uuid>,
    actor_ip_address: String,
    actor_user_agent: String,
    caller: String,
    request_id: String,
    changes: serde_json::Value,
}

/// The last event of a page; the next page starts after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCursor {
    /// The event's time, the primary sort key.
    pub time: Timestamp,
    /// The event's id, which breaks ties.
    pub id: EventId,
}

/// Rows per INSERT: Postgres accepts at most 65,535 parameters.
const ROWS_PER_INSERT: usize = 1000;

/// The changes of an event as they are stored.
pub(super) fn changes(event: &Event) -> serde_json::Value {
    let changes = event.changes.iter();
    changes.map(|change| serde_json::json!(change)).collect()
}

async fn insert(transaction: &mut Transaction, events: Vec<Event>) -> Result<(), StoreError> {
    let (now, entropy) = (transaction.now, transaction.entropy());
    let provenance = std::sync::Arc::clone(&transaction.provenance);
    let outgoing: Vec<_> = events.iter().map(OutgoingEvent::of).collect();
    let row = |event: Event| {
        let (owner_user_id, owner_team_id) = event.owner.map_or((None, None), types::owner_columns);
        let actor = provenance.actor.as_ref();
        let address = actor.and_then(|actor| actor.ip_address);
        let changes = changes(&event);
        Row {
            id: EventId::mint(now, &*entropy).uuid(),
            event_time: now,
            action: event.action.as_str().to_owned(),
            client_id: event.subject,
            client_name: event.subject_name,
            owner_user_id,
            owner_team_id,
            actor_user_id: actor.map(|actor| actor.user.uuid()),
            actor_ip_address: address.map(|ip| ip.to_string()).unwrap_or_default(),
            actor_user_agent: actor
                .map(|actor| actor.user_agent.clone())
                .unwrap_or_default(),
            caller: provenance.caller.clone(),
            request_id: provenance.request_id.clone(),
            changes,
        }
    };
    let rows: Vec<Row> = events.into_iter().map(row).collect();
    let outgoing = outgoing.into_iter().zip(&rows);
    let outgoing = outgoing.filter_map(|(event, row)| Some((row.id, event?)));
    let outgoing = outgoing.collect();
    for rows in rows.chunks(ROWS_PER_INSERT) {
        let inserted = diesel::insert_into(audit_events::table)
            .values(rows)
            .execute(transaction.connection())
            .await?;
        types::expect_rows("recording events", inserted, rows.len())?;
    }
    transaction.put_events(outgoing).await
}

impl Transaction {
    /// Writes an event to the audit trail.
    pub async fn record(&mut self, event: Event) -> Result<(), StoreError> {
        self.record_all(vec![event]).await
    }

    /// Writes events to the audit trail.
    pub async fn record_all(&mut self, events: Vec<Event>) -> Result<(), StoreError> {
        insert(self, events).await
    }
}

impl Snapshot {
    /// Lists events, newest first, ties by id.
    pub async fn page_events(
        &mut self,
        filter: &Filter,
        after: Option<EventCursor>,
        limit: u16,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let mut query = audit_events::table
            .select(Row::as_select())
            .order((audit_events::event_time.desc(), audit_events::id.desc()))
            .limit(i64::from(limit))
            .into_boxed();
        if let Some(subject) = filter.subject {
            query = query.filter(audit_events::client_id.eq(subject));
        }
        match filter.owner {
            Some(Owner::User(id)) => {
                query = query.filter(audit_events::owner_user_id.eq(id.uuid()));
            }
            Some(Owner::Team(id)) => {
                query = query.filter(audit_events::owner_team_id.eq(id.uuid()));
            }
            None => {}
        }
        if let Some(actor) = filter.actor {
            query = query.filter(audit_events::actor_user_id.eq(actor.uuid()));
        }
        if let Some(action) = filter.action {
            query = query.filter(audit_events::action.eq(action.as_str()));
        }
        if let Some(start) = filter.start {
            query = query.filter(audit_events::event_time.ge(start));
        }
        if let Some(end) = filter.end {
            query = query.filter(audit_events::event_time.lt(end));
        }
        if let Some(EventCursor { time, id }) = after {
            let older = audit_events::event_time.lt(time);
            let tied = audit_events::event_time
                .eq(time)
                .and(audit_events::id.lt(id.uuid()));
            // Redundant, but a bound that an index scan can use.
            query = query
                .filter(audit_events::event_time.le(time))
                .filter(older.or(tied));
        }
        let rows: Vec<Row> = query.load(self.connection()).await?;
        rows.into_iter().map(Row::into_event).collect()
    }
}

impl Row {
    fn into_event(self) -> Result<RecordedEvent, StoreError> {
        let bad = |what: &str| StoreError::Inconsistent(format!("{what} of event {}", self.id));
        let owner = match (self.owner_user_id, self.owner_team_id) {
            (None, None) => None,
            (user, team) => Some(types::owner(user, team)?),
        };
        let ip_address = match self.actor_ip_address.as_str() {
            "" => None,
            text => Some(text.parse().or(Err(bad("the address")))?),
        };
        let actor = self.actor_user_id.map(|user| Actor {
            user: UserId::from_uuid(user),
            ip_address,
            user_agent: self.actor_user_agent.clone(),
        });
        let changes: Vec<FieldChange> =
            serde_json::from_value(self.changes.clone()).or(Err(bad("the changes")))?;
        Ok(RecordedEvent {
            id: EventId::from_uuid(self.id),
            time: self.event_time,
            event: Event {
                action: types::word(&self.action)?,
                subject: self.client_id,
                subject_name: self.client_name,
                owner,
                changes,
            },
            provenance: Provenance {
                actor,
                caller: self.caller,
                request_id: self.request_id,
            },
        })
    }
}
