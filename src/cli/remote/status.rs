//! `status`: the state of a server, as far as the caller may see it.

use std::time::Duration;

use serde_json::json;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{Server, as_json, directory, table, time_text};
use crate::{
    cli::{Failure, print},
    config::remote::ServerArgs,
    pb::{
        self, audit_service_client::AuditServiceClient,
        directory_service_client::DirectoryServiceClient,
        introspection_service_client::IntrospectionServiceClient,
    },
};

pub(in crate::cli) async fn run(args: &ServerArgs) -> Result<(), Failure> {
    let server = Server::connect(args).await?;
    let health = HealthClient::new(server.channel())
        .check(server.request(HealthCheckRequest::default()))
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    let health = health.status().as_str_name();
    let index = IntrospectionServiceClient::new(server.channel())
        .get_index_status(server.request(pb::GetIndexStatusRequest {}))
        .await;
    let index = permitted(&server, index)?;
    let directory = DirectoryServiceClient::new(server.channel())
        .get_directory_status(server.request(pb::GetDirectoryStatusRequest {}))
        .await;
    let directory = permitted(&server, directory)?;
    let events = AuditServiceClient::new(server.channel())
        .get_event_delivery_status(server.request(pb::GetEventDeliveryStatusRequest {}))
        .await;
    let events = permitted(&server, events)?;
    if args.output.json {
        let index = index.map(|index| as_json("GetIndexStatusResponse", &index));
        let directory =
            directory.map(|directory| as_json("GetDirectoryStatusResponse", &directory));
        let events = events.map(|events| as_json("GetEventDeliveryStatusResponse", &events));
        let status = json!({
            "health": health, "index": index, "directory": directory, "events": events,
        });
        return print(&status.to_string());
    }
    let mut text = format!("{} is {health}\n\nINDEX\n", args.server);
    text.push_str(&index.map_or_else(|| NOT_SHOWN.to_owned(), |index| describe(&index)));
    text.push_str("\n\nDIRECTORY\n");
    let directory = directory.as_ref().map(directory::describe);
    text.push_str(&directory.unwrap_or_else(|| NOT_SHOWN.to_owned()));
    text.push_str("\n\nEVENTS\n");
    let events = events.as_ref().map(describe_events);
    text.push_str(&events.unwrap_or_else(|| NOT_SHOWN.to_owned()));
    print(&text)
}

const NOT_SHOWN: &str = "the caller may not see it, or the server does not have it";

/// The response, or None if the caller lacks the permission for it, or the server does not
/// have it.
fn permitted<T>(
    server: &Server<'_>,
    answer: Result<tonic::Response<T>, tonic::Status>,
) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        // A replica has neither directory nor events, and an older server no status of events.
        Err(status) if [Code::PermissionDenied, Code::Unimplemented].contains(&status.code()) => {
            Ok(None)
        }
        Err(status) => Err(server.failure(&status)),
    }
}

fn describe_events(events: &pb::GetEventDeliveryStatusResponse) -> String {
    let delivered = match (events.writing, events.delivering) {
        _ if events.stopped => "stopped: the receiver answered 410 Gone",
        (_, true) => "by a server",
        (true, false) => "by no server at present",
        (false, false) => "off: no server has a webhook, so no events are written",
    };
    let age = events.oldest_pending_age;
    let age = age.and_then(|age| Duration::try_from(age).ok());
    let age = age.map_or_else(String::new, |age| {
        let seconds = Duration::from_secs(age.as_secs());
        format!(", the oldest for {}", humantime::format_duration(seconds))
    });
    let mut text = format!(
        "delivered         {delivered}\nwaiting           {}{age}\ndead              {}",
        events.pending, events.dead
    );
    if events.dead == 0 {
        return text;
    }
    let rows: Vec<_> = events.latest_dead_events.iter().map(dead_row).collect();
    let headings = ["DIED", "TYPE", "CLIENT", "ATTEMPTS", "LAST ERROR"];
    text.push_str("\n\n");
    text.push_str(&table(headings, &rows));
    text
}

fn dead_row(event: &pb::DeadEvent) -> [String; 5] {
    [
        time_text(event.dead_time.as_ref()),
        // The beginning is that of all.
        event
            .r#type
            .rsplit('.')
            .next()
            .unwrap_or_default()
            .to_owned(),
        event.client_id.clone(),
        event.attempts.to_string(),
        event.last_error.clone(),
    ]
}

fn describe(index: &pb::GetIndexStatusResponse) -> String {
    let time = |duration: Option<prost_types::Duration>| {
        let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
        duration.map_or_else(String::new, |duration| format!("{duration:.1?}"))
    };
    let database = if index.database_reachable {
        "answers"
    } else {
        "does not answer"
    };
    let notifications = if index.listening {
        "arrive"
    } else {
        "do not arrive: changes are polled"
    };
    let staleness = time(index.staleness);
    [
        ("revision", index.revision.to_string()),
        (
            "staleness",
            format!("{staleness} of at most {}", time(index.max_staleness)),
        ),
        ("API clients", index.api_clients.to_string()),
        ("database", database.to_owned()),
        ("notifications", notifications.to_owned()),
        ("failed queries", index.failures.to_string()),
    ]
    .map(|(name, value)| format!("{name:<18}{value}"))
    .join("\n")
}
