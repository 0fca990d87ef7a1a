//! `status`: the state of a server, as far as the caller may see it.

use std::time::Duration;

use serde_json::json;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{Server, as_json, directory};
use crate::{
    cli::{Failure, print},
    config::remote::ServerArgs,
    pb::{
        self, directory_service_client::DirectoryServiceClient,
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
    if args.output.json {
        let index = index.map(|index| as_json("GetIndexStatusResponse", &index));
        let directory =
            directory.map(|directory| as_json("GetDirectoryStatusResponse", &directory));
        let status = json!({ "health": health, "index": index, "directory": directory });
        return print(&status.to_string());
    }
    let mut text = format!("{} is {health}\n\nINDEX\n", args.server);
    text.push_str(&index.map_or_else(|| NOT_SHOWN.to_owned(), |index| describe(&index)));
    text.push_str("\n\nDIRECTORY\n");
    let directory = directory.as_ref().map(directory::describe);
    text.push_str(&directory.unwrap_or_else(|| NOT_SHOWN.to_owned()));
    print(&text)
}

const NOT_SHOWN: &str = "the caller may not see it, or a replica does not have it";

/// The response, or None if the caller lacks the permission for it, or the server does not
/// have it.
fn permitted<T>(
    server: &Server<'_>,
    answer: Result<tonic::Response<T>, tonic::Status>,
) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        // A replica has no directory.
        Err(status) if [Code::PermissionDenied, Code::Unimplemented].contains(&status.code()) => {
            Ok(None)
        }
        Err(status) => Err(server.failure(&status)),
    }
}

fn describe(index: &pb::GetIndexStatusResponse) -> String {
    let time = |duration: Option<prost_types::Duration>| {
        let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
        duration.map_or_else(String::new, |duration| format!("{duration:.1?}"))
    };
    format!(
        "revision          {}\nstaleness         {} of at most {}\nAPI clients       {}\ndatabase  \
                 {}\nnotifications     {}\nfailed queries    {}",
        index.revision,
        time(index.staleness),
        time(index.max_staleness),
        index.api_clients,
        if index.database_reachable {
            "answers"
        } else {
            "does not answer"
        },
        if index.listening {
            "arrive"
        } else {
            "do not arrive: changes are polled"
        },
        index.failures,
    )
}
