//! The command line and the environment. Every option has an environment variable, and the
//! `Options` of each module are filled from here.

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub mod clients;
mod connections;
mod database;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod environment;
mod events;
mod healthcheck;
mod import;
mod moment;
pub mod remote;
mod replica;
mod secrets;
mod serving;
mod values;
mod words;

use crate::{
    domain::{
        caller::{CallerName, CallerPermission},
        certificate::CertificateName,
        client::Overlap,
        id::{ClientId, SiteId},
        token::without_tokens,
    },
    server,
    store::{self, Standbys},
    telemetry::{self, settings::ExportSettings},
};

use clients::ClientArgs;
pub use database::{DatabaseArgs, DatabaseUrlError, DatabaseUrlFile};
#[cfg(feature = "dev")]
pub use dev::{DevArgs, NoHome};
pub use doctor::DoctorArgs;
pub use events::{EventsArgs, EventsError};
pub use healthcheck::{HealthcheckArgs, Probe};
pub use import::{HitKeepArgs, ImportArgs, ImportCommand, UndoArgs};
pub use moment::{Grant, Moment};
use remote::{AuditArgs, DirectoryArgs, IntrospectArgs, ServerArgs};
pub use replica::{ReplicaArgs, UpstreamError};
pub use secrets::SecretError;
pub use serving::{GrpcWebArgsError, LegacyTokenArgs, ServingArgs, TlsArgs, TlsArgsError};
use values::{at_least_one, at_least_ten_milliseconds, boolean, overlap};

/// The default of `--listen`.
const LISTEN: &str = "127.0.0.1:50051";
/// The position of common options in the help, after a command's own.
const COMMON_OPTIONS_ORDER: usize = 500;

/// Issues, manages and introspects HitKeep's API client tokens over gRPC.
#[derive(Debug, Parser)]
#[command(
    name = "hitkeep-auth",
    version,
    arg_required_else_help = true,
    disable_help_flag = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    log: LogArgs,
    /// Print help that fits on a terminal; `hitkeep-auth help COMMAND` prints all of it
    #[arg(
        id = "help",
        long,
        short,
        global = true,
        action = clap::ArgAction::HelpShort,
        display_order = COMMON_OPTIONS_ORDER + 1
    )]
    _help: Option<bool>,
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

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try it: start a private Postgres, demo data and the service, with no setup
    #[cfg(feature = "dev")]
    Dev(DevArgs),
    /// Run the service against a Postgres database
    Serve(Box<ServeArgs>),
    /// Answer introspections from a copy of another server's index, without a database
    Replica(Box<ReplicaArgs>),
    /// Apply pending migrations to the database, and list them
    Migrate(MigrateArgs),
    /// Check what `serve` needs: options, database, certificates, ports, limits
    ///
    /// Takes the options and variables of `serve`, and changes nothing. Exits with 1 if something
    /// keeps a server from working, and with 0 otherwise, also if there are warnings.
    Doctor(Box<DoctorArgs>),
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
        /// The folder, which is made if there is none
        folder: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// Print JSON instead of text
    #[arg(long, env = "HITKEEP_AUTH_JSON", value_parser = boolean)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// How often to check whether --database-url-file was replaced; SIGHUP checks at once
    #[arg(long, env = "HITKEEP_AUTH_SECRET_POLL_INTERVAL", default_value = "5s", value_parser = at_least_ten_milliseconds, value_name = "TIME")]
    pub secret_poll_interval: Duration,
    /// The options of every process that answers.
    #[command(flatten)]
    pub serving: ServingArgs,
    /// The webhook that events are delivered to.
    #[command(flatten)]
    pub events: EventsArgs,
    /// Offer the routes of HitKeep's dashboard on the HTTP listener, which has to be there
    #[arg(long, env = "HITKEEP_AUTH_HITKEEP_REST", value_parser = boolean)]
    hitkeep_rest: bool,
    /// Maximum number of connections to Postgres in the pool; up to four more follow changes
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
    /// Serve from a standby if no server accepts writes; its replay lag counts as staleness, by
    /// the primary's clock, so the clocks of both have to agree
    #[arg(long, env = "HITKEEP_AUTH_ALLOW_STANDBY", value_parser = boolean)]
    allow_standby: bool,
    /// How often to poll Postgres for changes whose notification was lost; at least 10ms
    #[arg(long, env = "HITKEEP_AUTH_POLL_INTERVAL", default_value = "250ms", value_parser = at_least_ten_milliseconds, value_name = "TIME")]
    poll_interval: Duration,
    /// How many times a second to query Postgres because of unknown tokens; 1 to 1000
    #[arg(long, env = "HITKEEP_AUTH_MAX_LOOKUPS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    max_lookups: u32,
    /// Limit on other calls in progress, over all connections; more are refused. Once calls have
    /// been waiting for Postgres for a second, 4 reads and 4 writes for each connection to it
    #[arg(long, env = "HITKEEP_AUTH_MAX_CALLS", default_value_t = 256, value_parser = at_least_one, value_name = "N")]
    max_calls: usize,
}

/// An option of the server without another one that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerArgsError {
    #[error("--hitkeep-rest needs --http-listen: the routes are served over HTTP")]
    RestWithoutHttp,
    #[error(transparent)]
    GrpcWeb(#[from] GrpcWebArgsError),
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Id of a client, to explain its newest token [default: read a token from standard input]
    pub client: Option<ClientId>,
    /// Permission to check, such as site.view
    #[arg(long, env = "HITKEEP_AUTH_EXPLAIN_PERMISSION", value_parser = words::permission(), hide_possible_values = true, value_name = "PERMISSION")]
    pub permission: Option<String>,
    /// Site to check a site.* permission on
    #[arg(
        long,
        env = "HITKEEP_AUTH_EXPLAIN_SITE",
        value_name = "ID",
        requires = "permission"
    )]
    pub site: Option<SiteId>,
    /// Address that the token is presented from, for API clients that allow only some
    #[arg(long, env = "HITKEEP_AUTH_EXPLAIN_SOURCE_IP", value_name = "ADDRESS")]
    pub source_ip: Option<IpAddr>,
    #[command(flatten)]
    pub legacy_tokens: LegacyTokenArgs,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct ServiceAccountArgs {
    #[command(subcommand)]
    pub command: ServiceAccountCommand,
}

#[derive(Debug, Subcommand)]
pub enum ServiceAccountCommand {
    /// Create a service account, and print its token, which is shown only this once
    #[command(
        override_usage = "hitkeep-auth service-account create [OPTIONS] --allow <PERMISSIONS> <DATABASE> <NAME>"
    )]
    Create {
        /// Name of the account: 1 to 63 lower-case letters, digits, dots, hyphens and underscores
        name: CallerName,
        /// Permissions, separated by commas: introspect, manage, directory, audit, replicate
        #[arg(
            long,
            env = "HITKEEP_AUTH_ALLOW",
            required = true,
            value_delimiter = ',',
            value_parser = words::caller_permission(),
            hide_possible_values = true,
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
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List the service accounts, including revoked ones
    List {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Give a service account a new token, and print it; the old one ends
    #[command(override_usage = "hitkeep-auth service-account rotate [OPTIONS] <DATABASE> <NAME>")]
    Rotate {
        /// Name of the account
        name: CallerName,
        /// How long the old token still works, such as 1h; at most 7 days
        #[arg(long, env = "HITKEEP_AUTH_OVERLAP", default_value = "0s", value_parser = overlap, value_name = "TIME")]
        overlap: Overlap,
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Revoke a service account; its tokens stop working
    #[command(override_usage = "hitkeep-auth service-account revoke [OPTIONS] <DATABASE> <NAME>")]
    Revoke {
        /// Name of the account
        name: CallerName,
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// The options that `--help` shows of the commands that have too many for two screens; `help`
/// shows all of them.
const IN_SHORT_HELP: [&str; 17] = [
    "database_url",
    "database_url_file",
    "upstream",
    "upstream_token",
    "upstream_token_file",
    "listen",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "http_listen",
    "events_webhook",
    "events_webhook_file",
    "max_staleness",
    "drain_timeout",
    "json",
    "help",
    "version",
];

/// The same command, with an overview of its options for `--help` if it is one that serves.
fn with_short_help(command: clap::Command) -> clap::Command {
    if !["serve", "replica", "doctor"].contains(&command.get_name()) {
        return command;
    }
    command.mut_args(|argument| {
        let is_shown = IN_SHORT_HELP.contains(&argument.get_id().as_str());
        argument.hide_short_help(!is_shown)
    })
}

/// Prints what clap says of the command line, and exits as clap does. An error repeats what it
/// cannot read, which may be a token that belongs elsewhere: then it is printed without that, and
/// without colours.
#[expect(clippy::exit, reason = "clap exits in the same place")]
fn exit_with(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    let redacted = without_tokens(&text);
    // Help and the version, which go to standard output, are printed as they are.
    if !error.use_stderr() || redacted == text {
        error.exit();
    }
    // If stderr is closed, there is nowhere to report it.
    drop(write!(io::stderr().lock(), "{redacted}"));
    std::process::exit(error.exit_code())
}

impl Cli {
    /// Parses the command line and the environment. Exits the process if they are invalid or
    /// only ask for help.
    pub fn read() -> Self {
        let command = environment::ignoring_empty_variables(Self::command());
        let command = command.mut_subcommands(with_short_help);
        let read = command
            .try_get_matches()
            .and_then(|matches| Self::from_arg_matches(&matches));
        read.unwrap_or_else(|error| exit_with(&error))
    }

    /// The options of telemetry. Only the service exports it.
    pub fn telemetry(&self) -> telemetry::TelemetryOptions {
        let serves = match self.command {
            #[cfg(feature = "dev")]
            Command::Dev(_) => true,
            Command::Serve(_) | Command::Replica(_) => true,
            _ => false,
        };
        let export = if serves {
            export_settings()
        } else {
            ExportSettings::default()
        };
        telemetry::TelemetryOptions {
            filter: self.log.log.clone(),
            format: self.log.log_format,
            // As https://no-color.org has it; clap does the same.
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            export,
        }
    }
}

/// The settings of what a server exports, from OpenTelemetry's variables.
pub fn export_settings() -> ExportSettings {
    ExportSettings::read(|name| {
        let value = std::env::var_os(name)?;
        Some(value.to_string_lossy().into_owned())
    })
}

impl ServeArgs {
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

    /// Whether the database may be a standby, which takes no writes.
    pub const fn allows_standby(&self) -> bool {
        self.allow_standby
    }

    /// The maximum number of connections in the pool.
    pub const fn pool_size(&self) -> usize {
        self.pool_size
    }

    /// The options of the server.
    ///
    /// # Errors
    /// If an option is missing that another one needs.
    pub fn server(&self) -> Result<server::Options, ServerArgsError> {
        if self.hitkeep_rest && self.serving.http_listen.is_empty() {
            return Err(ServerArgsError::RestWithoutHttp);
        }
        let mut options = self.serving.server()?;
        options.grpc.max_clients_per_owner = self.max_clients_per_owner;
        options.grpc.hitkeep_rest = self.hitkeep_rest;
        options.index.poll_interval = self.poll_interval;
        options.index.max_lookups = self.max_lookups;
        options.max_calls = self.max_calls;
        Ok(options)
    }
}
