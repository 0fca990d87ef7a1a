//! The commands that call a running server over gRPC: connections, errors and output.

use std::fmt::Write as _;

use hyper_util::rt::TokioIo;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt;

pub(super) mod audit;
mod client_text;
pub(super) mod clients;
pub(super) mod directory;
mod incident;
pub(super) mod introspect;
mod remedy;
pub(super) mod status;

use super::{Failure, print};
use crate::{
    config::remote::{ServerAddress, ServerArgs},
    domain::{Timestamp, access::Owner, id::UserId},
    pb,
    store::error::causes,
    transport::listeners::Address,
};
use remedy::remedy;

/// What to do about a server that does not answer.
const ANOTHER: &str =
    "check that it is running there, or name another one with --server or HITKEEP_AUTH_SERVER";

/// The largest page of a list that is accepted. 500 imported clients with some hundred grants
/// each, or 500 events with long user agents, are more than gRPC's default of 4 MiB.
pub(super) const MAX_PAGE_BYTES: usize = 16 * 1024 * 1024;

/// A connection to a server, and the token to call it with.
pub(super) struct Server<'a> {
    args: &'a ServerArgs,
    channel: Channel,
    authorization: MetadataValue<Ascii>,
}

impl<'a> Server<'a> {
    /// Connects to the server.
    ///
    /// # Errors
    /// If there is no token, or the server cannot be reached.
    pub(super) async fn connect(args: &'a ServerArgs) -> Result<Self, Failure> {
        let token = args.token()?;
        // The value itself is a secret, and so not part of the message.
        let authorization: Option<MetadataValue<Ascii>> = format!("Bearer {token}").parse().ok();
        let mut authorization = authorization
            .ok_or_else(|| Failure::new("the caller's token has characters that no token has"))?;
        authorization.set_sensitive(true);
        let channel = tokio::time::timeout(args.timeout, channel(args)).await;
        let late = || {
            let time = humantime::format_duration(args.timeout);
            Failure::new(format_args!(
                "the server at {} did not answer within {time}, the --timeout\n  {ANOTHER}",
                args.server
            ))
        };
        Ok(Self {
            args,
            channel: channel.ok().ok_or_else(late)??,
            authorization,
        })
    }

    /// The channel, for a client of one of the services.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A request with the caller's token and the deadline.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.args.timeout);
        request
            .metadata_mut()
            .insert("authorization", self.authorization.clone());
        request
    }

    /// The reason of a failed call and what is wrong, in one line.
    fn problem(&self, status: &Status) -> String {
        match status.get_error_details().error_info() {
            Some(info) => format!("{}: {}", info.reason, status.message()),
            None => format!(
                "the server at {} failed: {}",
                self.args.server,
                without_reason(status)
            ),
        }
    }

    /// What a failed call says to a person: the reason, what is wrong, and what to do.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        let details = status.get_error_details();
        let mut why = self.problem(status);
        let Some(info) = details.error_info() else {
            return Failure::new(why);
        };
        if let Some(request) = details.bad_request() {
            for violation in &request.field_violations {
                let line = format!("{} {}", violation.field, violation.description);
                if !status.message().contains(&line) {
                    // Writing to a String does not fail.
                    let _infallible = write!(why, "\n  {line}");
                }
            }
        }
        if let Some(remedy) = remedy(&info.reason) {
            let _infallible = write!(why, "\n  {remedy}");
        }
        Failure::new(why)
    }
}

/// The description of a failure that is not the service's own, such as a lost connection.
fn without_reason(status: &Status) -> String {
    let code = status.code();
    let causes = std::error::Error::source(status).map(causes);
    match causes.filter(|causes| !causes.is_empty()) {
        Some(causes) if code == Code::Unavailable => causes,
        _ if status.message().is_empty() => format!("{code}"),
        _ => format!("{} ({code})", status.message()),
    }
}

async fn channel(args: &ServerArgs) -> Result<Channel, Failure> {
    let failed = |error: tonic::transport::Error| {
        let causes = causes(&error);
        Failure::new(format_args!(
            "the server at {} does not answer: {causes}\n  {ANOTHER}",
            args.server
        ))
    };
    // A deadline ends with the headers of a response, and its rest may never come.
    let endpoint = |uri: String| {
        let endpoint = Endpoint::from_shared(uri).map_err(failed)?;
        Ok::<_, Failure>(alive(endpoint, args))
    };
    match &args.server {
        ServerAddress::Plain(Address::Tcp(address)) => {
            let endpoint = endpoint(format!("http://{address}"))?;
            endpoint.connect().await.map_err(failed)
        }
        ServerAddress::Plain(Address::Unix(path)) => {
            let path = path.clone();
            let connect = tower::service_fn(move |_: http::Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            let endpoint = alive(Endpoint::from_static("http://localhost"), args);
            endpoint
                .connect_with_connector(connect)
                .await
                .map_err(failed)
        }
        ServerAddress::Tls(address) => {
            let tls = match &args.server_ca {
                Some(file) => {
                    let pem = std::fs::read(file).map_err(|why| {
                        Failure::new(format_args!("{} cannot be read: {why}", file.display()))
                    })?;
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
                }
                None => ClientTlsConfig::new().with_native_roots(),
            };
            let endpoint = endpoint(format!("https://{address}"))?;
            let endpoint = endpoint.tls_config(tls).map_err(failed)?;
            endpoint.connect().await.map_err(failed)
        }
    }
}

/// With pings, so that a connection ends if the server is silent for as long as a call may take.
fn alive(endpoint: Endpoint, args: &ServerArgs) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(args.timeout)
        .keep_alive_timeout(args.timeout)
}

/// The descriptor of a message of this API.
fn descriptor(name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET);
    let pool = pool.expect("the descriptors were made by the build");
    let message = pool.get_message_by_name(&format!("hitkeep.auth.v1.{name}"));
    message.expect("it is a message of this API")
}

/// A message as the proto's JSON, with the proto's own field names, and with every field that
/// has a value by default.
pub(super) fn as_json(name: &str, message: &impl prost::Message) -> serde_json::Value {
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor(name), &*bytes).expect("it was just encoded");
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("every message of this API has a form in JSON")
}

/// A message read from the proto's JSON, with the proto's field names or those of JSON.
///
/// # Errors
/// What is wrong with the JSON.
pub(super) fn from_json<M: prost::Message + Default>(
    name: &str,
    json: serde_json::Value,
) -> Result<M, String> {
    let message = DynamicMessage::deserialize(descriptor(name), json);
    let message = message.map_err(|error| error.to_string())?;
    M::decode(&*prost::Message::encode_to_vec(&message)).map_err(|error| error.to_string())
}

/// Prints a response: as JSON, or as a text for people.
pub(super) fn print_response(
    args: &ServerArgs,
    name: &str,
    message: &impl prost::Message,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if args.output.json {
        print(&as_json(name, message).to_string())
    } else {
        print(&text())
    }
}

/// Columns of text with their headings, each as wide as its longest cell.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let _infallible = write!(line, "{cell:<width$}  ");
        }
        line.trim_end().to_owned()
    };
    let rows = rows
        .iter()
        .map(|row| line(std::array::from_fn(|at| &*row[at])));
    let lines: Vec<_> = std::iter::once(line(headings)).chain(rows).collect();
    lines.join("\n")
}

pub(super) fn to_owner(owner: Owner) -> pb::Owner {
    let owner = match owner {
        Owner::User(user) => pb::owner::Owner::UserId(user.to_string()),
        Owner::Team(team) => pb::owner::Owner::TeamId(team.to_string()),
    };
    pb::Owner { owner: Some(owner) }
}

pub(super) fn owner_text(owner: Option<&pb::Owner>) -> String {
    match owner.and_then(|owner| owner.owner.as_ref()) {
        Some(pb::owner::Owner::UserId(user)) => format!("user:{user}"),
        Some(pb::owner::Owner::TeamId(team)) => format!("team:{team}"),
        None => String::new(),
    }
}

/// An actor in a message, with this program as what it uses.
pub(super) fn to_actor(user: UserId) -> pb::Actor {
    pb::Actor {
        user_id: user.to_string(),
        user_agent: concat!("hitkeep-auth/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..pb::Actor::default()
    }
}

pub(super) fn to_time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

/// A time for people, to the second; empty if there is none.
pub(super) fn time_text(time: Option<&prost_types::Timestamp>) -> String {
    let time = time.and_then(|time| {
        chrono::DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
    });
    time.map(|time| time.format("%Y-%m-%d %H:%M:%SZ").to_string())
        .unwrap_or_default()
}

/// The end of an enum value's name, in lower case: `API_CLIENT_STATE_ACTIVE` is `active`.
pub(super) fn word(name: &str, prefix: &str) -> String {
    let word = name.strip_prefix(prefix).unwrap_or(name);
    word.to_ascii_lowercase().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_names_of_the_proto_and_every_field() {
        let message = pb::ListApiClientsResponse {
            api_clients: vec![pb::ApiClient {
                id: "a".to_owned(),
                owner: Some(pb::Owner {
                    owner: Some(pb::owner::Owner::UserId("u".to_owned())),
                }),
                state: pb::ApiClientState::Active.into(),
                ..pb::ApiClient::default()
            }],
            ..pb::ListApiClientsResponse::default()
        };
        let json = as_json("ListApiClientsResponse", &message);
        assert_eq!(json["next_page_token"], "");
        let client = &json["api_clients"][0];
        assert_eq!(client["state"], "API_CLIENT_STATE_ACTIVE");
        assert_eq!(client["owner"]["user_id"], "u");
        assert_eq!(client["site_grants"], serde_json::json!([]));
        assert!(client["expire_time"].is_null());
        let back: pb::ListApiClientsResponse = from_json("ListApiClientsResponse", json).unwrap();
        assert_eq!(back, message);
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [
            ["é".to_owned(), "x".to_owned()],
            ["long".to_owned(), String::new()],
        ];
        assert_eq!(table(["A", "B"], &rows), "A     B\né     x\nlong");
    }
}
