//! Conversions of `AuditService`.

use std::fmt::Display;

use super::{reader::Reader, to_duration, to_owner, to_timestamp};
use crate::{
    domain::{
        Timestamp,
        audit::{Action, Actor, FieldChange, Filter, RecordedEvent},
        id::{ClientId, EventId, UserId},
    },
    grpc::{error::ApiError, page},
    pb,
    store::{
        audit::EventCursor,
        outbox::status::{DeadEvent, DeliveryStatus},
    },
};

/// A validated list request.
#[derive(Debug)]
pub(in crate::grpc) struct ListEvents {
    pub(in crate::grpc) filter: Filter,
    pub(in crate::grpc) after: Option<EventCursor>,
    pub(in crate::grpc) limit: u16,
    /// The identity of the list, for its page tokens.
    pub(in crate::grpc) list: String,
}

pub(in crate::grpc) fn list(request: pb::ListAuditEventsRequest) -> Result<ListEvents, ApiError> {
    let mut reader = Reader::default();
    let subject = reader.optional_id::<ClientId>("client_id", &request.client_id);
    let owner = request
        .owner
        .map(|owner| reader.owner("owner", Some(owner)))
        .transpose();
    let actor = reader.optional_id::<UserId>("actor_user_id", &request.actor_user_id);
    let action = Some(request.action).filter(|action| !action.is_empty());
    let action = action.map(|action| {
        let known = || {
            Action::ALL
                .iter()
                .map(|action| action.as_str())
                .collect::<Vec<_>>()
        };
        let problem = || format!("must be one of {}", known().join(", "));
        reader.parsed("action", action.parse::<Action>().ok().ok_or_else(problem))
    });
    let start = reader.optional_bound("start_time", request.start_time);
    let end = reader.optional_bound("end_time", request.end_time);
    if let (Ok(_), Ok(_), Some(first), Some(last)) =
        (start, end, request.start_time, request.end_time)
        && (last.seconds, last.nanos) <= (first.seconds, first.nanos)
    {
        reader.violation("end_time", "must be after start_time");
    }
    let limit = reader.page_size(request.page_size);
    let filter = (|| {
        let subject = subject?.map(ClientId::uuid);
        let action = action.transpose()?;
        Ok(Filter {
            subject,
            owner: owner?,
            actor: actor?,
            action,
            start: start?,
            end: end?,
        })
    })();
    let list = filter.as_ref().map(identity).map_err(|invalid| *invalid);
    let after = reader.page_token(list.as_deref().ok(), &request.page_token);
    reader.finish(|| {
        let after = after?.map(|(time, id)| EventCursor {
            time,
            id: EventId::from_uuid(id),
        });
        Ok(ListEvents {
            filter: filter?,
            after,
            limit: limit?,
            list: list?,
        })
    })
}

/// Everything that selects a list's events. Page tokens are bound to it, also on other
/// servers and in other versions.
fn identity(filter: &Filter) -> String {
    fn text(value: Option<impl Display>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    let Filter {
        subject,
        owner,
        actor,
        action,
        start,
        end,
    } = filter;
    let micros = |time: Option<Timestamp>| text(time.map(|time| time.timestamp_micros()));
    format!(
        "events subject={} owner={} actor={} action={} start={} end={}",
        text(*subject),
        text(*owner),
        text(*actor),
        text(action.map(Action::as_str)),
        micros(*start),
        micros(*end),
    )
}

/// The token of the page after that event.
pub(in crate::grpc) fn page_token(list: &str, last: &RecordedEvent) -> String {
    page::format(list, last.time, last.id.uuid())
}

pub(in crate::grpc) fn to_event(recorded: RecordedEvent) -> pb::AuditEvent {
    let RecordedEvent {
        id,
        time,
        event,
        provenance,
    } = recorded;
    let actor = |actor: Actor| pb::Actor {
        user_id: actor.user.to_string(),
        ip_address: actor
            .ip_address
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
        user_agent: actor.user_agent,
    };
    let change = |change: FieldChange| pb::AuditChange {
        field: change.field,
        before: change.before,
        after: change.after,
    };
    pb::AuditEvent {
        id: id.to_string(),
        event_time: Some(to_timestamp(time)),
        action: event.action.as_str().to_owned(),
        client_id: event.subject.to_string(),
        client_name: event.subject_name,
        owner: event.owner.map(to_owner),
        actor: provenance.actor.map(actor),
        caller: provenance.caller,
        request_id: provenance.request_id,
        changes: event.changes.into_iter().map(change).collect(),
    }
}

/// The state of the delivery of events, read at that moment.
pub(in crate::grpc) fn to_delivery_status(
    status: DeliveryStatus,
    now: Timestamp,
) -> pb::GetEventDeliveryStatusResponse {
    let DeliveryStatus { state, latest_dead } = status;
    pb::GetEventDeliveryStatusResponse {
        writing: state.is_writing,
        delivering: state.is_delivering,
        stopped: state.is_stopped,
        pending: state.pending.cast_unsigned(),
        oldest_pending_age: state.oldest.map(|oldest| to_duration(now - oldest)),
        dead: state.dead.cast_unsigned(),
        latest_dead_events: latest_dead.into_iter().map(to_dead_event).collect(),
    }
}

fn to_dead_event(event: DeadEvent) -> pb::DeadEvent {
    pb::DeadEvent {
        id: event.id.to_string(),
        r#type: event.event_type,
        client_id: event.client_id.to_string(),
        create_time: Some(to_timestamp(event.create_time)),
        dead_time: Some(to_timestamp(event.dead_time)),
        attempts: event.attempts.cast_unsigned(),
        last_error: event.last_error,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{access::Owner, id::TeamId};

    /// A change of these texts invalidates the page tokens of servers of another version.
    #[test]
    fn a_list_is_known_by_all_that_selects_its_events() {
        let id = Uuid::from_u128(0xab);
        let time = |seconds| Timestamp::from_timestamp(seconds, 1000);
        let all = Filter {
            subject: Some(id),
            owner: Some(Owner::Team(TeamId::from_uuid(id))),
            actor: Some(UserId::from_uuid(id)),
            action: Some(Action::ClientRotated),
            start: time(7),
            end: time(8),
        };
        let id = "00000000-0000-0000-0000-0000000000ab";
        assert_eq!(
            identity(&all),
            format!(
                "events subject={id} owner=team:{id} actor={id} action=api_client.rotated \
                 start=7000001 end=8000001"
            )
        );
        assert_eq!(
            identity(&Filter::default()),
            "events subject= owner= actor= action= start= end="
        );
    }
}
