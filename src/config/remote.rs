//! Options of the commands that call a running server.

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Subcommand};

use super::{
    LISTEN, OutputArgs,
    moment::Moment,
    secrets::{SecretError, SecretFile},
    values::non_zero_duration,
    words,
};
use crate::{
    domain::{
        access::Owner,
        id::{ClientId, SiteId, TeamId, UserId},
    },
    transport::listeners::Address,
};

/// The variable with the caller's token. It is no option, since a command line can be read by
/// every user of the machine.
const TOKEN: &str = "HITKEEP_AUTH_TOKEN";

/// The server to call, and who calls it.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Server to call, as HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(long, env = "HITKEEP_AUTH_SERVER", default_value = LISTEN, value_name = "ADDRESS")]
    pub server: ServerAddress,
    /// File with the certificates of the authorities that the server's must be signed by, in PEM
    /// [default: the system's authorities]
    #[arg(long, env = "HITKEEP_AUTH_SERVER_CA", value_name = "FILE")]
    pub server_ca: Option<PathBuf>,
    /// File that holds the token of the calling service account and nothing else [default: the
    /// token in the variable `HITKEEP_AUTH_TOKEN`]
    #[arg(long, env = "HITKEEP_AUTH_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How long a call may take
    #[arg(long, env = "HITKEEP_AUTH_TIMEOUT", default_value = "10s", value_parser = non_zero_duration, value_name = "TIME")]
    pub timeout: Duration,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// Without TLS, over TCP or a Unix socket.
    Plain(Address),
    /// Over TLS, at a host and a port.
    Tls(String),
}

/// The text is not the address of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be HOST:PORT, http://HOST:PORT, https://HOST:PORT, or unix: and a path")]
pub struct BadServerAddress;

impl FromStr for ServerAddress {
    type Err = BadServerAddress;

    fn from_str(text: &str) -> Result<Self, BadServerAddress> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let address: Option<Address> = rest.parse().ok().or_else(|| match scheme {
            Some("http") => with_port(rest, 80),
            Some("https") => with_port(rest, 443),
            _ => None,
        });
        match (scheme, address) {
            // unix:///path is divided at the same place.
            (Some("unix:" | "unix"), _) => {
                text.parse().map(Self::Plain).ok().ok_or(BadServerAddress)
            }
            (None | Some("http"), Some(address)) => Ok(Self::Plain(address)),
            (Some("https"), Some(Address::Tcp(address))) => Ok(Self::Tls(address)),
            _ => Err(BadServerAddress),
        }
    }
}

/// The address of a host with that port, if the port is all that it lacks. Only a scheme says
/// which one is meant: a name alone is more likely a mistake.
fn with_port(host: &str, port: u16) -> Option<Address> {
    if host.contains(['/', '?', '#', '@']) {
        return None;
    }
    let address: Address = format!("{host}:{port}").parse().ok()?;
    matches!(address, Address::Tcp(_)).then_some(address)
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(address) => address.fmt(f),
            Self::Tls(address) => write!(f, "https://{address}"),
        }
    }
}

/// Why there is no token to call with.
#[derive(Debug, thiserror::Error)]
pub enum CallerTokenError {
    /// Neither the variable nor the file is given.
    #[error(
        "there is no token to call the server with: set {TOKEN}, or give a file with \
         --token-file; `hitkeep-auth service-account create` makes one"
    )]
    Missing,
    #[error("there is no token to call the server with: {0}")]
    File(SecretError),
}

impl ServerArgs {
    /// The token of the calling service account. Blocks on the file system.
    ///
    /// # Errors
    /// If there is none.
    pub fn token(&self) -> Result<String, CallerTokenError> {
        if let Some(path) = self.token_file.clone() {
            return SecretFile::new(path).read().map_err(CallerTokenError::File);
        }
        let given = std::env::var_os(TOKEN).unwrap_or_default();
        let given = given.to_string_lossy();
        let token = Some(given.trim().to_owned()).filter(|token| !token.is_empty());
        token.ok_or(CallerTokenError::Missing)
    }
}

/// The owner of API clients; none unless a command requires one.
#[derive(Debug, Args)]
pub struct OwnerArgs {
    /// User that owns the API clients
    #[arg(long, env = "HITKEEP_AUTH_USER", value_name = "USER")]
    user: Option<UserId>,
    /// Team that owns the API clients
    #[arg(
        long,
        env = "HITKEEP_AUTH_TEAM",
        conflicts_with = "user",
        value_name = "TEAM"
    )]
    team: Option<TeamId>,
}

impl OwnerArgs {
    pub fn owner(&self) -> Option<Owner> {
        self.user.map(Owner::User).or(self.team.map(Owner::Team))
    }
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    pub command: AuditCommand,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List audit events, newest first
    List(Box<ListAuditArgs>),
}

#[derive(Debug, Args)]
// Who acts, and for which owner, says nothing of whose events are looked for.
#[command(mut_arg("user", |user| user.env("HITKEEP_AUTH_AUDIT_USER")))]
#[command(mut_arg("team", |team| team.env("HITKEEP_AUTH_AUDIT_TEAM")))]
pub struct ListAuditArgs {
    /// Only events of this API client
    #[arg(long, env = "HITKEEP_AUTH_CLIENT", value_name = "ID")]
    pub client: Option<ClientId>,
    #[command(flatten)]
    pub owner: OwnerArgs,
    /// Only changes made on behalf of this user
    #[arg(long, env = "HITKEEP_AUTH_AUDIT_ACTOR", value_name = "USER")]
    pub actor: Option<UserId>,
    /// Only this action, such as `api_client.rotated`
    #[arg(long, env = "HITKEEP_AUTH_ACTION", value_parser = words::action(), hide_possible_values = true, value_name = "ACTION")]
    pub action: Option<String>,
    /// Only events since then, as a time (RFC 3339) or a duration before now, such as 2h
    #[arg(long, env = "HITKEEP_AUTH_SINCE", value_name = "TIME")]
    pub since: Option<Moment>,
    /// Only events before then, as --since
    #[arg(long, env = "HITKEEP_AUTH_UNTIL", value_name = "TIME")]
    pub until: Option<Moment>,
    /// Events to list at most
    #[arg(long, env = "HITKEEP_AUTH_LIMIT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub limit: u32,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct DirectoryArgs {
    #[command(subcommand)]
    pub command: DirectoryCommand,
}

#[derive(Debug, Subcommand)]
pub enum DirectoryCommand {
    /// Show how large the directory is, and which sequence was applied last
    Status(ServerArgs),
    /// Apply changes of users, teams, sites and memberships, all or none
    Apply(ApplyDirectoryArgs),
}

#[derive(Debug, Args)]
pub struct ApplyDirectoryArgs {
    /// File with an `ApplyDirectoryChangesRequest` as JSON, or with the list of its changes; `-`
    /// is standard input
    pub file: PathBuf,
    /// Number of the batch, in place of the file's: it is skipped if one as high was applied
    #[arg(long, env = "HITKEEP_AUTH_SEQUENCE", value_name = "N")]
    pub sequence: Option<u64>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct IntrospectArgs {
    /// Permission to check, such as site.view
    #[arg(long, env = "HITKEEP_AUTH_INTROSPECT_PERMISSION", value_parser = words::permission(), hide_possible_values = true, value_name = "PERMISSION")]
    pub permission: Option<String>,
    /// Site to check a site.* permission on
    #[arg(
        long,
        env = "HITKEEP_AUTH_INTROSPECT_SITE",
        value_name = "ID",
        requires = "permission"
    )]
    pub site: Option<SiteId>,
    /// Address that the token is presented from, for API clients that allow only some
    #[arg(
        long,
        env = "HITKEEP_AUTH_INTROSPECT_SOURCE_IP",
        value_name = "ADDRESS"
    )]
    pub source_ip: Option<IpAddr>,
    /// Answer from this revision of the database or a later one
    #[arg(long, env = "HITKEEP_AUTH_AT_LEAST_REVISION", value_name = "N")]
    pub at_least_revision: Option<u64>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_as_grpc_names_them() {
        let tcp = |text: &str| ServerAddress::Plain(Address::Tcp(text.to_owned()));
        let unix = |text: &str| ServerAddress::Plain(Address::Unix(text.into()));
        for (text, expected) in [
            ("localhost:50051", Some(tcp("localhost:50051"))),
            ("http://[::1]:1", Some(tcp("[::1]:1"))),
            ("http://a:1/", Some(tcp("a:1"))),
            (
                "https://a.example:443",
                Some(ServerAddress::Tls("a.example:443".to_owned())),
            ),
            // The port of the scheme, if there is a scheme.
            (
                "https://a.example",
                Some(ServerAddress::Tls("a.example:443".to_owned())),
            ),
            (
                "https://[::1]/",
                Some(ServerAddress::Tls("[::1]:443".to_owned())),
            ),
            ("http://a.example", Some(tcp("a.example:80"))),
            ("a.example", None),
            ("a.example/", None),
            ("https://", None),
            ("https://::1", None),
            ("https://a:", None),
            ("https://a:port", None),
            ("https://a/path", None),
            ("https://user@a", None),
            ("http://unix:", None),
            ("://a:1", None),
            ("unix:/run/a.sock", Some(unix("/run/a.sock"))),
            ("unix:///run/a.sock", Some(unix("/run/a.sock"))),
            ("https://unix:/run/a.sock", None),
            ("ftp://a:1", None),
            ("a", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }
}
