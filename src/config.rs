//! The command line and the environment. Every option has an environment variable, and the
//! `Options` of each module are filled from here.

use std::{path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub mod clients;
mod connections;
mod database;
#[cfg(feature = "dev")]
mod dev;
mod environment;
mod healthcheck;
mod import;
mod moment;
pub mod remote;
mod secrets;
mod values;

use crate::{
    domain::{
        Timestamp,
        caller::{CallerName, CallerPermission},
        certificate::CertificateName,
        client::Expiry,
        id::{ClientId, SiteId},
    },
    grpc,
    replica::{self, usage},
    server,
    store::{self, Standbys},
    telemetry::{self, settings::ExportSettings},
    transport::{listeners::Address, tls},
};

use clients::ClientArgs;
use connections::ConnectionArgs;
pub use database::{DatabaseArgs, DatabaseUrlError, DatabaseUrlFile};
#[cfg(feature = "dev")]
pub use dev::{DevArgs, NoHome};
pub use healthcheck::{HealthcheckArgs, Probe};
pub use import::{HitKeepArgs, ImportArgs, ImportCommand, UndoArgs};
pub use moment::{Grant, Moment};
use remote::{AuditArgs, DirectoryArgs, IntrospectArgs, ServerArgs};
pub use secrets::SecretError;
use values::{
    at_least_a_second, at_least_one, at_least_ten_milliseconds, available_cores, boolean, moment,
    non_zero_duration, permission,
};

/// The default of `--listen`.
const LISTEN: &str = "127.0.0.1:50051";
/// The position of common options in the help, after a command's own.
const COMMON_OPTIONS_ORDER: usize = 500;

/// Issues, manages and introspects HitKeep's API client tokens over gRPC.
#[derive(Debug, Parser)]
#[command(name = "hitkeep-auth", version, arg_required_else_help = true)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// Log filter, such as info or `hitkeep_auth=debug`
    #[arg(
        long,
        global = true,
        env = "HITKEEP_AUTH_LOG",
        default_value = "info",
        display_order = COMMON_OPTIONS_ORDER,
        value_name = "FILTER"
    )]
    log: String,
    /// Log format; auto means text on a terminal and JSON otherwise
    #[arg(
        long,
        global = true,
        env = "HITKEEP_AUTH_LOG_FORMAT",
        value_enum,
        default_value_t,
        display_order = COMMON_OPTIONS_ORDER,
        value_name = "FORMAT"
    )]
    log_format: telemetry::LogFormat,
}

/// A command with its options.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try it: start a private Postgres, demo data and the service, with no setup
    #[cfg(feature = "dev")]
    Dev(DevArgs),
    /// Run the service against a Postgres database
    Serve(Box<ServeArgs>),
    /// Apply pending migrations to the database, and list them
    Migrate(MigrateArgs),
    /// Manage service accounts: the programs that may call the service
    ServiceAccount(ServiceAccountArgs),
    /// Explain what the service answers about a token, and why
    ///
    /// Unless a client id is given, the token is read from standard input, so that it
    /// appears neither in the process list nor in the shell history.
    Explain(ExplainArgs),
    /// Manage API clients on a running server
    Client(ClientArgs),
    /// Ask a running server whether a token is good, and for what
    ///
    /// The token is read from standard input, so that it appears neither in the process list
    /// nor in the shell history.
    Introspect(IntrospectArgs),
    /// Read the audit trail of a running server
    Audit(AuditArgs),
    /// Show or change the directory of a running server
    Directory(DirectoryArgs),
    /// Show the health, the index and the directory of a running server
    Status(ServerArgs),
    /// Take API clients over from HitKeep's own database, or take that back
    Import(ImportArgs),
    /// Check whether a running server is alive, or ready to serve; exits with 0 or 1
    Healthcheck(HealthcheckArgs),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of all commands into a folder
    Man {
        /// The folder, which must exist
        folder: PathBuf,
    },
}

/// The output format.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// Print JSON instead of text
    #[arg(long, env = "HITKEEP_AUTH_JSON", value_parser = boolean)]
    pub json: bool,
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The database URL.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// How often to check whether --database-url-file was replaced; SIGHUP checks at once
    #[arg(long, env = "HITKEEP_AUTH_SECRET_POLL_INTERVAL", default_value = "5s", value_parser = at_least_ten_milliseconds, value_name = "TIME")]
    pub secret_poll_interval: Duration,
    /// Addresses to listen on for gRPC, as HOST:PORT or unix:PATH; repeat the option, or separate
    /// them by commas. All addresses of a host name are used
    #[arg(long, env = "HITKEEP_AUTH_LISTEN", default_value = LISTEN, value_delimiter = ',', value_name = "ADDRESS")]
    pub listen: Vec<Address>,
    /// TLS for callers.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Addresses to listen on for HTTP: introspection, forward auth, probes, metrics [default: none]
    #[arg(
        long,
        env = "HITKEEP_AUTH_HTTP_LISTEN",
        value_delimiter = ',',
        value_name = "ADDRESS"
    )]
    pub http_listen: Vec<Address>,
    /// Offer the routes of HitKeep's dashboard on the HTTP listener, which has to be there
    #[arg(long, env = "HITKEEP_AUTH_HITKEEP_REST", value_parser = boolean)]
    hitkeep_rest: bool,
    /// Maximum number of connections to Postgres in the pool; up to three more follow changes
    #[arg(long, env = "HITKEEP_AUTH_POOL_SIZE", default_value_t = 16, value_parser = at_least_one, value_name = "N")]
    pool_size: usize,
    /// Maximum number of API clients per owner, including inactive ones
    #[arg(
        long,
        env = "HITKEEP_AUTH_MAX_CLIENTS_PER_OWNER",
        default_value_t = 100,
        value_name = "N"
    )]
    max_clients_per_owner: u32,
    /// How long callers may cache an answer from Introspect; 0s forbids it
    #[arg(long, env = "HITKEEP_AUTH_MAX_CACHE_AGE", default_value = "5s", value_parser = humantime::parse_duration, value_name = "TIME")]
    max_cache_age: Duration,
    #[command(flatten)]
    legacy_tokens: LegacyTokenArgs,
    /// How stale the index may be and still report a token as active; at least 1s
    #[arg(long, env = "HITKEEP_AUTH_MAX_STALENESS", default_value = "10s", value_parser = at_least_a_second, value_name = "TIME")]
    max_staleness: Duration,
    /// Serve from a standby if no server accepts writes; its replay lag counts as staleness, by
    /// the primary's clock, so the clocks of both have to agree
    #[arg(long, env = "HITKEEP_AUTH_ALLOW_STANDBY")]
    allow_standby: bool,
    /// How often to poll Postgres for changes whose notification was lost; at least 10ms
    #[arg(long, env = "HITKEEP_AUTH_POLL_INTERVAL", default_value = "250ms", value_parser = at_least_ten_milliseconds, value_name = "TIME")]
    poll_interval: Duration,
    /// How many times a second to query Postgres because of unknown tokens; 1 to 1000
    #[arg(long, env = "HITKEEP_AUTH_MAX_LOOKUPS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    max_lookups: u32,
    /// How often usage counts of API clients are written; a crash loses those since the last write
    #[arg(long, env = "HITKEEP_AUTH_USAGE_FLUSH_INTERVAL", default_value = "5s", value_parser = non_zero_duration, value_name = "TIME")]
    usage_flush_interval: Duration,
    /// Deadline for calls whose caller sets no shorter one
    #[arg(long, env = "HITKEEP_AUTH_REQUEST_TIMEOUT", default_value = "10s", value_parser = non_zero_duration, value_name = "TIME")]
    request_timeout: Duration,
    /// How long to accept connections on shutdown while health reports that it does not
    /// serve, so that load balancers notice; --drain-timeout begins after it
    #[arg(long, env = "HITKEEP_AUTH_DRAIN_DELAY", default_value = "0s", value_parser = humantime::parse_duration, value_name = "TIME")]
    drain_delay: Duration,
    /// How long calls in progress may take to finish on shutdown before they are cut off
    #[arg(long, env = "HITKEEP_AUTH_DRAIN_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    drain_timeout: Duration,
    /// Limit on introspections that are waiting, over all connections; more are refused
    #[arg(long, env = "HITKEEP_AUTH_MAX_INTROSPECTIONS", default_value_t = 4096, value_parser = at_least_one, value_name = "N")]
    max_introspections: usize,
    /// Limit on other calls in progress, over all connections; more are refused. Once calls have
    /// been waiting for Postgres for a second, 4 reads and 4 writes for each connection to it
    #[arg(long, env = "HITKEEP_AUTH_MAX_CALLS", default_value_t = 256, value_parser = at_least_one, value_name = "N")]
    max_calls: usize,
    #[command(flatten)]
    connections: ConnectionArgs,
    /// Threads dedicated to callers' connections; 0 uses the shared runtime [default: cores]
    #[arg(long, env = "HITKEEP_AUTH_THREADS", value_name = "N")]
    threads: Option<usize>,
}

/// How long tokens that HitKeep issued are accepted.
#[derive(Clone, Copy, Debug, Args)]
pub struct LegacyTokenArgs {
    /// When tokens that HitKeep issued, and that were imported, stop working, as a time or a date
    /// in UTC [default: never]
    #[arg(long, env = "HITKEEP_AUTH_ACCEPT_LEGACY_UNTIL", value_parser = moment, value_name = "TIME")]
    accept_legacy_until: Option<Timestamp>,
}

impl LegacyTokenArgs {
    /// Until when legacy tokens are accepted.
    pub fn until(self) -> Expiry {
        self.accept_legacy_until.into()
    }
}

/// `--hitkeep-rest` without a listener for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--hitkeep-rest needs --http-listen: the routes are served over HTTP")]
pub struct RestWithoutHttp;

/// TLS for callers that connect over TCP.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Server certificate chain (PEM); turns TLS on for every TCP address
    #[arg(long, env = "HITKEEP_AUTH_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM, unencrypted)
    #[arg(long, env = "HITKEEP_AUTH_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// CA certificates for client certificates (PEM); lets callers authenticate with one
    #[arg(long, env = "HITKEEP_AUTH_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Use TLS on the HTTP listener as well, with the same certificate
    #[arg(long, env = "HITKEEP_AUTH_HTTP_TLS", value_parser = boolean)]
    pub http_tls: bool,
    /// How often to check whether the TLS files were replaced; SIGHUP checks at once
    #[arg(long, env = "HITKEEP_AUTH_TLS_POLL_INTERVAL", default_value = "5s", value_parser = at_least_ten_milliseconds, value_name = "TIME")]
    pub tls_poll_interval: Duration,
}

/// TLS options that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsArgsError {
    /// The certificate or its key is missing.
    #[error("--tls-cert and --tls-key belong together: give both, or neither")]
    IncompletePair,
    /// Client certificates need TLS.
    #[error("--tls-client-ca needs --tls-cert and --tls-key: certificates are shown over TLS")]
    ClientCaWithoutTls,
    /// TLS for HTTP needs a certificate.
    #[error("--http-tls needs --tls-cert and --tls-key")]
    HttpWithoutTls,
}

impl TlsArgs {
    /// The TLS files; `None` if connections are not encrypted.
    ///
    /// # Errors
    /// If an option is missing that another one needs.
    pub fn files(&self) -> Result<Option<tls::Files>, TlsArgsError> {
        let client_authorities = self.tls_client_ca.clone();
        match (self.tls_cert.clone(), self.tls_key.clone()) {
            (Some(certificate), Some(key)) => Ok(Some(tls::Files {
                certificate,
                key,
                client_authorities,
            })),
            (None, None) if client_authorities.is_some() => Err(TlsArgsError::ClientCaWithoutTls),
            (None, None) if self.http_tls => Err(TlsArgsError::HttpWithoutTls),
            (None, None) => Ok(None),
            _ => Err(TlsArgsError::IncompletePair),
        }
    }
}

/// Options of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The database URL.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Id of a client, to explain its newest token [default: read a token from standard input]
    pub client: Option<ClientId>,
    /// Permission to check, such as site.view
    #[arg(long, env = "HITKEEP_AUTH_PERMISSION", value_name = "PERMISSION")]
    pub permission: Option<String>,
    /// Site to check a site.* permission on
    #[arg(
        long,
        env = "HITKEEP_AUTH_SITE",
        value_name = "ID",
        requires = "permission"
    )]
    pub site: Option<SiteId>,
    /// The cut-off of the servers.
    #[command(flatten)]
    pub legacy_tokens: LegacyTokenArgs,
    /// The database URL.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `service-account`.
#[derive(Debug, Args)]
pub struct ServiceAccountArgs {
    /// The command to run.
    #[command(subcommand)]
    pub command: ServiceAccountCommand,
}

/// A command of `service-account`.
#[derive(Debug, Subcommand)]
pub enum ServiceAccountCommand {
    /// Create a service account, and print its token, which is shown only this once
    Create {
        /// Name of the account: 1 to 63 lower-case letters, digits, dots, hyphens and underscores
        name: CallerName,
        /// Permissions, separated by commas: introspect, manage, directory, audit, replicate
        #[arg(
            long,
            env = "HITKEEP_AUTH_ALLOW",
            required = true,
            value_delimiter = ',',
            value_parser = permission,
            value_name = "PERMISSIONS"
        )]
        allow: Vec<CallerPermission>,
        /// Name in a client certificate that also authenticates the account, as dns:NAME or
        /// spiffe://…; repeat the option, or separate names by commas
        #[arg(
            long,
            env = "HITKEEP_AUTH_CERTIFICATE_NAME",
            value_delimiter = ',',
            value_name = "NAME"
        )]
        certificate_name: Vec<CertificateName>,
        /// The database URL.
        #[command(flatten)]
        database: DatabaseArgs,
        /// The output format.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List the service accounts, including revoked ones
    List {
        /// The database URL.
        #[command(flatten)]
        database: DatabaseArgs,
        /// The output format.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Revoke a service account; its token stops working
    Revoke {
        /// Name of the account
        name: CallerName,
        /// The database URL.
        #[command(flatten)]
        database: DatabaseArgs,
        /// The output format.
        #[command(flatten)]
        output: OutputArgs,
    },
}

impl Cli {
    /// Parses the command line and the environment. Exits the process if they are invalid or
    /// only ask for help.
    pub fn read() -> Self {
        let command = environment::ignoring_empty_variables(Self::command());
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    /// The options of telemetry. Only the service exports it.
    pub fn telemetry(&self) -> telemetry::Options {
        let serves = match self.command {
            #[cfg(feature = "dev")]
            Command::Dev(_) => true,
            Command::Serve(_) => true,
            _ => false,
        };
        let export = if serves {
            ExportSettings::read(|name| {
                let value = std::env::var_os(name)?;
                Some(value.to_string_lossy().into_owned())
            })
        } else {
            ExportSettings::default()
        };
        telemetry::Options {
            filter: self.log.log.clone(),
            format: self.log.log_format,
            export,
        }
    }
}

impl ServeArgs {
    /// The options of the store.
    pub fn store(&self) -> Result<store::StoreOptions, DatabaseUrlError> {
        let pool_size = self.pool_size;
        let standbys = if self.allow_standby {
            Standbys::Allowed
        } else {
            Standbys::Refused
        };
        Ok(store::StoreOptions {
            pool_size,
            standbys,
            ..store::StoreOptions::new(self.database.url()?)
        })
    }

    /// The options of the server.
    ///
    /// # Errors
    /// If an option is missing that another one needs.
    pub fn server(&self) -> Result<server::Options, RestWithoutHttp> {
        if self.hitkeep_rest && self.http_listen.is_empty() {
            return Err(RestWithoutHttp);
        }
        Ok(self.connections.set(server::Options {
            grpc: grpc::Options {
                max_clients_per_owner: self.max_clients_per_owner,
                max_cache_age: self.max_cache_age,
                legacy_tokens_until: self.legacy_tokens.until(),
                hitkeep_rest: self.hitkeep_rest,
            },
            replica: replica::ReplicaOptions {
                max_staleness: self.max_staleness,
                poll_interval: self.poll_interval,
                max_lookups: self.max_lookups,
                usage: usage::UsageOptions {
                    flush_interval: self.usage_flush_interval,
                },
                ..replica::ReplicaOptions::default()
            },
            request_timeout: self.request_timeout,
            drain_delay: self.drain_delay,
            drain_timeout: self.drain_timeout,
            max_introspections: self.max_introspections,
            max_calls: self.max_calls,
            threads: self.threads.unwrap_or_else(available_cores),
            ..server::Options::default()
        }))
    }
}
