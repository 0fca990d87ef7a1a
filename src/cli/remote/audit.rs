//! `audit`: reads the audit trail.

use super::{
    MAX_PAGE_BYTES, Server, owner_text, print_response, table, time_text, to_owner, to_time,
};
use crate::{
    cli::{Failure, USAGE, counted, print_error, progress::Progress},
    config::{
        Moment,
        remote::{AuditCommand, ListAuditArgs},
    },
    domain::clock::Clock,
    pb::{self, audit_service_client::AuditServiceClient},
    system::SystemClock,
};

/// Events of one page, and so of one call.
const PAGE_SIZE: u32 = 500;

pub(in crate::cli) async fn run(command: &AuditCommand) -> Result<(), Failure> {
    let AuditCommand::List(args) = command;
    list(args).await
}

async fn list(args: &ListAuditArgs) -> Result<(), Failure> {
    let (start, end) = (time("--since", args.since)?, time("--until", args.until)?);
    let progress = Progress::of("listing events");
    let server = Server::connect(&args.server).await?;
    let mut service =
        AuditServiceClient::new(server.channel()).max_decoding_message_size(MAX_PAGE_BYTES);
    let mut all = pb::ListAuditEventsResponse::default();
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    loop {
        let missing = u32::try_from(limit - all.events.len()).unwrap_or(PAGE_SIZE);
        let request = server.request(pb::ListAuditEventsRequest {
            client_id: args.client.map(|id| id.to_string()).unwrap_or_default(),
            owner: args.owner.owner().map(to_owner),
            actor_user_id: args.actor.map(|id| id.to_string()).unwrap_or_default(),
            action: args.action.clone().unwrap_or_default(),
            start_time: start,
            end_time: end,
            page_size: missing.min(PAGE_SIZE).cast_signed(),
            page_token: std::mem::take(&mut all.next_page_token),
        });
        let page = service
            .list_audit_events(request)
            .await
            .map_err(|status| server.failure(&status))?
            .into_inner();
        all.events.extend(page.events);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || all.events.len() >= limit {
            break;
        }
        let so_far = counted(all.events.len(), "event");
        progress.say(&format!("listing events: {so_far} so far"));
    }
    drop(progress);
    print_response(&args.server, "ListAuditEventsResponse", &all, || {
        if all.events.is_empty() {
            return "There are no such events.".to_owned();
        }
        let rows: Vec<_> = all.events.iter().map(row).collect();
        let headings = [
            "TIME", "ACTION", "CLIENT", "NAME", "OWNER", "ACTOR", "CHANGES",
        ];
        table(headings, &rows)
    })?;
    // JSON says it with its next_page_token.
    if !args.server.output.json && !all.next_page_token.is_empty() {
        // No time to go on from is named: all events of one change have the same.
        let events = counted(args.limit, "event");
        print_error(&format!(
            "The list ends after {events}, and there are older ones: raise --limit."
        ));
    }
    Ok(())
}

fn row(event: &pb::AuditEvent) -> [String; 7] {
    let actor = event.actor.as_ref().map(|actor| actor.user_id.clone());
    let changes = event.changes.iter().map(|change| {
        let (before, after) = (&change.before, &change.after);
        format!("{}: {before:?} → {after:?}", change.field)
    });
    [
        time_text(event.event_time.as_ref()),
        event.action.clone(),
        event.client_id.clone(),
        event.client_name.clone(),
        owner_text(event.owner.as_ref()),
        actor.unwrap_or_default(),
        changes.collect::<Vec<_>>().join(", "),
    ]
}

/// A time that lies back, by this machine's clock.
fn time(option: &str, moment: Option<Moment>) -> Result<Option<prost_types::Timestamp>, Failure> {
    let Some(moment) = moment else {
        return Ok(None);
    };
    let time = moment.before(SystemClock::default().now());
    let time = time.ok_or_else(|| Failure {
        why: format!("{option} is too long ago"),
        code: USAGE,
    })?;
    Ok(Some(to_time(time)))
}
