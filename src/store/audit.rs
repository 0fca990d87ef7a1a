//! The audit trail: written inside a transaction, and listed newest first.

use diesel::{
    prelude::*,
    sql_types::{Array, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
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
    token::without_tokens,
};

#[derive(Queryable, Selectable)]
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

/// The most rows of one statement. As arrays: rows with a parameter for each of their values
/// take longer to be written down and read again than to be inserted.
const ROWS_PER_INSERT: usize = 5000;

const INSERT: &str = "
    INSERT INTO audit_events (id, action, client_id, client_name, owner_user_id, owner_team_id,
        changes, event_time, actor_user_id, actor_ip_address, actor_user_agent, caller, request_id)
    SELECT id, action, client_id, client_name, owner_user_id, owner_team_id,
        changes, $8, $9, $10, $11, $12, $13
    FROM unnest($1, $2, $3, $4, $5, $6, $7)
        AS event (id, action, client_id, client_name, owner_user_id, owner_team_id, changes)";

/// The changes of an event as they are stored: without tokens, which the name and the
/// description of a client may have from an import.
pub(super) fn changes(event: &Event) -> serde_json::Value {
    let changes = event.changes.iter().map(|change| FieldChange {
        field: change.field.clone(),
        before: without_tokens(&change.before).into_owned(),
        after: without_tokens(&change.after).into_owned(),
    });
    changes.map(|change| serde_json::json!(change)).collect()
}

/// The values of events by columns, of those that differ.
#[derive(Default)]
struct Columns {
    ids: Vec<Uuid>,
    actions: Vec<&'static str>,
    subjects: Vec<Uuid>,
    subject_names: Vec<String>,
    owner_users: Vec<Option<Uuid>>,
    owner_teams: Vec<Option<Uuid>>,
    changes: Vec<serde_json::Value>,
}

impl Columns {
    fn push(&mut self, id: Uuid, event: &Event) {
        let (user, team) = event.owner.map_or((None, None), types::owner_columns);
        self.ids.push(id);
        self.actions.push(event.action.as_str());
        self.subjects.push(event.subject);
        self.changes.push(changes(event));
        let name = without_tokens(&event.subject_name).into_owned();
        self.subject_names.push(name);
        self.owner_users.push(user);
        self.owner_teams.push(team);
    }
}

async fn insert(transaction: &mut Transaction, events: Vec<Event>) -> Result<(), StoreError> {
    let now = transaction.now;
    let provenance = std::sync::Arc::clone(&transaction.provenance);
    let actor = provenance.actor.as_ref();
    let address = actor.and_then(|actor| actor.ip_address);
    let mut outgoing = Vec::new();
    let mut events = events.into_iter();
    while events.len() > 0 {
        let mut columns = Columns::default();
        for event in events.by_ref().take(ROWS_PER_INSERT) {
            let id = transaction.next_event_id().uuid();
            outgoing.extend(OutgoingEvent::of(&event).map(|event| (id, event)));
            columns.push(id, &event);
        }
        let count = columns.ids.len();
        let inserted = diesel::sql_query(INSERT)
            .bind::<Array<SqlUuid>, _>(columns.ids)
            .bind::<Array<Text>, _>(columns.actions)
            .bind::<Array<SqlUuid>, _>(columns.subjects)
            .bind::<Array<Text>, _>(columns.subject_names)
            .bind::<Array<Nullable<SqlUuid>>, _>(columns.owner_users)
            .bind::<Array<Nullable<SqlUuid>>, _>(columns.owner_teams)
            .bind::<Array<Jsonb>, _>(columns.changes)
            .bind::<Timestamptz, _>(now)
            .bind::<Nullable<SqlUuid>, _>(actor.map(|actor| actor.user.uuid()))
            .bind::<Text, _>(address.map(|ip| ip.to_string()).unwrap_or_default())
            .bind::<Text, _>(actor.map_or("", |actor| &actor.user_agent))
            .bind::<Text, _>(&provenance.caller)
            .bind::<Text, _>(&provenance.request_id)
            .execute(transaction.connection())
            .await?;
        types::expect_rows("recording events", inserted, count)?;
    }
    transaction.put_events(outgoing).await
}

impl Transaction {
    /// An id after all those that this transaction got before: its events have one time, so
    /// their ids show their order.
    pub(super) fn next_event_id(&mut self) -> EventId {
        let minted = EventId::mint(self.now, &*self.entropy());
        let id = match self.last_event_id {
            Some(last) if minted <= last => last.successor(),
            _ => minted,
        };
        self.last_event_id = Some(id);
        id
    }

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
