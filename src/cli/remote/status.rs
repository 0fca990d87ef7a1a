//! `status`: the state of a server, as far as the caller may see it.

use std::time::Duration;

use serde_json::{Value, json};
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
    let index = Section::read(&server, index)?;
    let directory = DirectoryServiceClient::new(server.channel())
        .get_directory_status(server.request(pb::GetDirectoryStatusRequest {}))
        .await;
    let directory = Section::read(&server, directory)?;
    let events = AuditServiceClient::new(server.channel())
        .get_event_delivery_status(server.request(pb::GetEventDeliveryStatusRequest {}))
        .await;
    let events = Section::read(&server, events)?;
    if args.output.json {
        let status = json!({
            "health": health,
            "index": index.json("GetIndexStatusResponse"),
            "directory": directory.json("GetDirectoryStatusResponse"),
            "events": events.json("GetEventDeliveryStatusResponse"),
        });
        print(&status.to_string())?;
    } else {
        print(&format!(
            "{} is {health}\n\nINDEX\n{}\n\nDIRECTORY\n{}\n\nEVENTS\n{}",
            args.server,
            index.text(describe),
            directory.text(directory::describe),
            events.text(describe_events),
        ))?;
    }
    let problems = [index.problem(), directory.problem(), events.problem()];
    match problems.into_iter().flatten().next() {
        Some(problem) => Err(Failure::new(format_args!(
            "not all could be read: {problem}"
        ))),
        None => Ok(()),
    }
}

/// What a server says of one part of its state.
enum Section<T> {
    Read(T),
    /// The caller lacks the permission for it, or the server does not have it.
    NotShown,
    /// The server cannot read it at present, because of this problem.
    Unreadable(String),
}

impl<T: prost::Message> Section<T> {
    /// What a server answered. Without a database, it knows a part of its state, and that is what
    /// someone who looks for the cause needs.
    fn read(
        server: &Server<'_>,
        answer: Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<Self, Failure> {
        let status = match answer {
            Ok(answer) => return Ok(Self::Read(answer.into_inner())),
            Err(status) => status,
        };
        match status.code() {
            // A replica has neither directory nor events, and an older server no status of events.
            Code::PermissionDenied | Code::Unimplemented => Ok(Self::NotShown),
            Code::Unavailable | Code::DeadlineExceeded => {
                Ok(Self::Unreadable(server.problem(&status)))
            }
            _ => Err(server.failure(&status)),
        }
    }

    fn json(&self, name: &str) -> Option<Value> {
        match self {
            Self::Read(message) => Some(as_json(name, message)),
            Self::NotShown | Self::Unreadable(_) => None,
        }
    }

    fn text(&self, describe: impl FnOnce(&T) -> String) -> String {
        match self {
            Self::Read(message) => describe(message),
            Self::NotShown => {
                "the caller may not see it, or the server does not have it".to_owned()
            }
            Self::Unreadable(problem) => format!("cannot be read: {problem}"),
        }
    }

    fn problem(&self) -> Option<&str> {
        match self {
            Self::Unreadable(problem) => Some(problem),
            Self::Read(_) | Self::NotShown => None,
        }
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
