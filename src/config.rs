//! The command line and the environment, and nothing but: every option is also
//! an environment variable, and each room gets its `Options` filled from here.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

mod folders;
mod values;

use crate::{
    dev::postgres::{self, Durability},
    domain::{
        caller::{CallerName, CallerPermission},
        certificate::CertificateName,
        id::{ClientId, SiteId},
    },
    grpc,
    replica::{self, usage},
    server::{
        self,
        listeners::{Address, BadAddress},
        pulse::Patience,
        tls,
    },
    store::{self, DatabaseUrl, MalformedUrl},
    telemetry::{self, settings::Settings},
};

use folders::data_folder;
pub use folders::{NoHome, cache_folder};
use values::{
    a_second_or_longer, at_least_one, given, one_for_each_core, permission, some_time,
    ten_milliseconds_or_longer, yes_or_no,
};

/// Where everything listens unless told otherwise.
const LISTEN: &str = "127.0.0.1:50051";
/// Where `dev` listens for HTTP, and where it does when somebody else does there.
const DEV_HTTP: [&str; 2] = ["127.0.0.1:50052", "127.0.0.1:0"];

/// Issues, manages and introspects HitKeep's API client tokens over gRPC.
#[derive(Debug, Parser)]
#[command(name = "hitkeep-auth", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// What to log, such as info, or `hitkeep_auth=debug`
    #[arg(
        long,
        global = true,
        env = "HITKEEP_AUTH_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log: String,
    /// How to write log lines; auto is text on a terminal and JSON otherwise
    #[arg(
        long,
        global = true,
        env = "HITKEEP_AUTH_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    log_format: telemetry::LogFormat,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try it: a private Postgres, demo data, and the service, with nothing set up
    Dev(DevArgs),
    /// Run the service against a Postgres
    Serve(Box<ServeArgs>),
    /// Apply the migrations to a Postgres, and say which
    Migrate(MigrateArgs),
    /// Manage the callers of the service
    ServiceAccount(ServiceAccountArgs),
    /// Say what the service answers about a token, and why
    ///
    /// Without a client's id, the token is read from standard input, so that it is in
    /// no list of processes and in no shell's history.
    Explain(ExplainArgs),
    /// Ask a running server whether it serves; exits with 0 or 1
    Healthcheck(HealthcheckArgs),
}

/// Where Postgres is.
#[derive(Args)]
pub struct DatabaseArgs {
    /// The Postgres to use, as `postgres://USER:PASSWORD@HOST/DATABASE`
    #[arg(
        long,
        env = "HITKEEP_AUTH_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: String,
}

impl std::fmt::Debug for DatabaseArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // There is a password in the URL.
        f.write_str("DatabaseArgs")
    }
}

/// Whether a program reads the output.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// Print JSON, for programs
    #[arg(long, env = "HITKEEP_AUTH_JSON", value_parser = yes_or_no)]
    pub json: bool,
}

/// What `dev` takes.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// The address to listen on
    #[arg(long, env = "HITKEEP_AUTH_LISTEN", default_value = LISTEN, value_name = "ADDRESS")]
    pub listen: Address,
    /// The address to listen on for HTTP [default: 127.0.0.1:50052, or a free port if that is taken]
    #[arg(long, env = "HITKEEP_AUTH_HTTP_LISTEN", value_name = "ADDRESS")]
    http_listen: Option<String>,
    /// The folder of the private Postgres and the demo tokens [default: in the user's data folder]
    #[arg(long, env = "HITKEEP_AUTH_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// The folder with initdb and postgres [default: the newest that is found]
    #[arg(long, env = "HITKEEP_AUTH_POSTGRES_BIN", value_name = "FOLDER")]
    pub postgres_bin: Option<PathBuf>,
    /// Whether a program reads the output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What `serve` takes.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// The addresses to listen on, as HOST:PORT or unix:PATH; may be given several times, or with
    /// commas between them
    #[arg(long, env = "HITKEEP_AUTH_LISTEN", default_value = LISTEN, value_delimiter = ',', value_name = "ADDRESS")]
    pub listen: Vec<Address>,
    /// TLS for callers.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The address to listen on for HTTP: introspection, proxies, probes and metrics [default: none]
    #[arg(long, env = "HITKEEP_AUTH_HTTP_LISTEN", value_name = "ADDRESS")]
    http_listen: Option<String>,
    /// Connections to Postgres at most
    #[arg(long, env = "HITKEEP_AUTH_POOL_SIZE", default_value_t = 16, value_parser = at_least_one, value_name = "N")]
    pool_size: usize,
    /// API clients that one owner may have, inactive ones included
    #[arg(
        long,
        env = "HITKEEP_AUTH_MAX_CLIENTS_PER_OWNER",
        default_value_t = 100,
        value_name = "N"
    )]
    max_clients_per_owner: u32,
    /// How long callers may keep an answer of Introspect at most
    #[arg(long, env = "HITKEEP_AUTH_MAX_CACHE_AGE", default_value = "5s", value_parser = humantime::parse_duration, value_name = "TIME")]
    max_cache_age: Duration,
    /// How old the index may be and still answer that a token is active: from 1s
    #[arg(long, env = "HITKEEP_AUTH_MAX_STALENESS", default_value = "10s", value_parser = a_second_or_longer, value_name = "TIME")]
    max_staleness: Duration,
    /// How often to ask Postgres for changes that no notification told of: from 10ms
    #[arg(long, env = "HITKEEP_AUTH_POLL_INTERVAL", default_value = "250ms", value_parser = ten_milliseconds_or_longer, value_name = "TIME")]
    poll_interval: Duration,
    /// How often in a second to ask Postgres on behalf of tokens that are unknown
    #[arg(long, env = "HITKEEP_AUTH_MAX_LOOKUPS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    max_lookups: u32,
    /// How often the uses of API clients are written; a crash can lose those since the last time
    #[arg(long, env = "HITKEEP_AUTH_USAGE_FLUSH_INTERVAL", default_value = "5s", value_parser = some_time, value_name = "TIME")]
    usage_flush_interval: Duration,
    /// How long a call may take at most
    #[arg(long, env = "HITKEEP_AUTH_REQUEST_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    request_timeout: Duration,
    /// How long calls under way have to finish when the server is told to stop
    #[arg(long, env = "HITKEEP_AUTH_DRAIN_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    drain_timeout: Duration,
    /// Introspections that have to wait, at once, over all connections
    #[arg(long, env = "HITKEEP_AUTH_MAX_INTROSPECTIONS", default_value_t = 4096, value_parser = at_least_one, value_name = "N")]
    max_introspections: usize,
    /// Other calls under way at once, over all connections
    #[arg(long, env = "HITKEEP_AUTH_MAX_CALLS", default_value_t = 256, value_parser = at_least_one, value_name = "N")]
    max_calls: usize,
    /// Connections at once, on each of the two listeners; one more is closed
    #[arg(long, env = "HITKEEP_AUTH_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = at_least_one, value_name = "N")]
    max_connections: usize,
    /// Threads that speak to callers; 0 shares the others [default: cores]
    #[arg(long, env = "HITKEEP_AUTH_THREADS", value_name = "N")]
    threads: Option<usize>,
}

/// TLS for callers that connect over TCP.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// The server's certificate and those that lead to its authority, in PEM: with it, TCP is TLS
    #[arg(long, env = "HITKEEP_AUTH_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<OsString>,
    /// The certificate's key, in PEM, not encrypted
    #[arg(long, env = "HITKEEP_AUTH_TLS_KEY", value_name = "FILE")]
    tls_key: Option<OsString>,
    /// The authorities that sign callers' certificates, in PEM: with it, callers may show one
    #[arg(long, env = "HITKEEP_AUTH_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<OsString>,
    /// Encrypt the HTTP listener too, with the same certificate
    #[arg(long, env = "HITKEEP_AUTH_HTTP_TLS", value_parser = yes_or_no)]
    pub http_tls: bool,
    /// How often to see whether these files were replaced; SIGHUP has it done at once
    #[arg(long, env = "HITKEEP_AUTH_TLS_POLL_INTERVAL", default_value = "5s", value_parser = ten_milliseconds_or_longer, value_name = "TIME")]
    pub tls_poll_interval: Duration,
}

/// Options for TLS that make no sense together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HalfTls {
    /// One of the two is missing.
    #[error("--tls-cert and --tls-key belong together: give both, or neither")]
    Pair,
    /// Without TLS nobody shows a certificate.
    #[error("--tls-client-ca needs --tls-cert and --tls-key: certificates are shown over TLS")]
    OnlyAuthorities,
    /// There is nothing to encrypt it with.
    #[error("--http-tls needs --tls-cert and --tls-key")]
    OnlyHttp,
}

impl TlsArgs {
    /// The files; none where connections are not encrypted.
    ///
    /// # Errors
    /// Where some are missing.
    pub fn files(&self) -> Result<Option<tls::Files>, HalfTls> {
        let path = |file: &Option<OsString>| given(file.as_ref()).map(PathBuf::from);
        let client_authorities = path(&self.tls_client_ca);
        match (path(&self.tls_cert), path(&self.tls_key)) {
            (Some(certificate), Some(key)) => Ok(Some(tls::Files {
                certificate,
                key,
                client_authorities,
            })),
            (None, None) if client_authorities.is_some() => Err(HalfTls::OnlyAuthorities),
            (None, None) if self.http_tls => Err(HalfTls::OnlyHttp),
            (None, None) => Ok(None),
            _ => Err(HalfTls::Pair),
        }
    }
}

/// What `migrate` takes.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Where Postgres is.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Whether a program reads the output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What `explain` takes.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The client whose newest token it is about [default: a token from standard input]
    pub client: Option<ClientId>,
    /// Whether the token may do that, such as site.view
    #[arg(long, env = "HITKEEP_AUTH_PERMISSION", value_name = "PERMISSION")]
    pub permission: Option<String>,
    /// The site on which a site.* permission is asked for
    #[arg(
        long,
        env = "HITKEEP_AUTH_SITE",
        value_name = "ID",
        requires = "permission"
    )]
    pub site: Option<SiteId>,
    /// Where Postgres is.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Whether a program reads the output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What `service-account` takes.
#[derive(Debug, Args)]
pub struct ServiceAccountArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ServiceAccountCommand,
}

/// The commands of `service-account`.
#[derive(Debug, Subcommand)]
pub enum ServiceAccountCommand {
    /// Make a service account, and print its token, once
    Create {
        /// 1 to 63 lower-case letters, digits, dots, hyphens and underscores
        name: CallerName,
        /// What it may ask for, separated by commas: introspect, manage, directory, audit, replicate
        #[arg(
            long,
            env = "HITKEEP_AUTH_ALLOW",
            required = true,
            value_delimiter = ',',
            value_parser = permission,
            value_name = "PERMISSIONS"
        )]
        allow: Vec<CallerPermission>,
        /// A name in certificates that it is known by too, as dns:NAME or spiffe://…; may be given
        /// several times, or with commas between them
        #[arg(
            long,
            env = "HITKEEP_AUTH_CERTIFICATE_NAME",
            value_delimiter = ',',
            value_name = "NAME"
        )]
        certificate_name: Vec<CertificateName>,
        /// Where Postgres is.
        #[command(flatten)]
        database: DatabaseArgs,
        /// Whether a program reads the output.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List the service accounts, revoked ones included
    List {
        /// Where Postgres is.
        #[command(flatten)]
        database: DatabaseArgs,
        /// Whether a program reads the output.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Revoke a service account: its token stops working
    Revoke {
        /// The name of the account
        name: CallerName,
        /// Where Postgres is.
        #[command(flatten)]
        database: DatabaseArgs,
        /// Whether a program reads the output.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// What `healthcheck` takes.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// The address that the server listens on, as it was told; of several the first is asked
    #[arg(long, env = "HITKEEP_AUTH_LISTEN", default_value = LISTEN, value_delimiter = ',', value_name = "ADDRESS")]
    listen: Vec<Address>,
    /// The server's certificate: with it, TLS is spoken over TCP. It is not looked into
    #[arg(long, env = "HITKEEP_AUTH_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<OsString>,
    /// How long to wait for the answer
    #[arg(long, env = "HITKEEP_AUTH_HEALTHCHECK_TIMEOUT", default_value = "3s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub timeout: Duration,
}

impl Cli {
    /// What to log, and how, and what to export: only the service exports.
    pub fn telemetry(&self) -> telemetry::Options {
        let export = match self.command {
            Command::Dev(_) | Command::Serve(_) => Settings::read(|name| {
                let value = std::env::var_os(name)?;
                Some(value.to_string_lossy().into_owned())
            }),
            _ => Settings::default(),
        };
        telemetry::Options {
            filter: self.log.log.clone(),
            format: self.log.log_format,
            export,
        }
    }
}

impl DatabaseArgs {
    /// Where Postgres is.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn url(&self) -> Result<DatabaseUrl, MalformedUrl> {
        DatabaseUrl::parse(&self.database_url)
    }

    /// A store for a command that does one thing.
    pub fn store(&self) -> Result<store::Options, MalformedUrl> {
        Ok(store::Options {
            pool_size: 1,
            ..store::Options::new(self.url()?)
        })
    }
}

impl ServeArgs {
    /// The address to listen on for HTTP.
    pub fn http_listen(&self) -> Result<Option<Address>, BadAddress> {
        given(self.http_listen.as_ref())
            .map(|address| address.parse())
            .transpose()
    }

    /// How to reach Postgres.
    pub fn store(&self) -> Result<store::Options, MalformedUrl> {
        let pool_size = self.pool_size;
        Ok(store::Options {
            pool_size,
            ..store::Options::new(self.database.url()?)
        })
    }

    /// What the server is set to.
    pub fn server(&self) -> server::Options {
        server::Options {
            grpc: grpc::Options {
                max_clients_per_owner: self.max_clients_per_owner,
                max_cache_age: self.max_cache_age,
            },
            replica: replica::Options {
                max_staleness: self.max_staleness,
                poll_interval: self.poll_interval,
                max_lookups: self.max_lookups,
                usage: usage::Options {
                    flush_interval: self.usage_flush_interval,
                },
                ..replica::Options::default()
            },
            request_timeout: self.request_timeout,
            drain_timeout: self.drain_timeout,
            max_introspections: self.max_introspections,
            max_calls: self.max_calls,
            max_connections: self.max_connections,
            patience: Patience::default(),
            threads: self.threads.unwrap_or_else(one_for_each_core),
        }
    }
}

impl HealthcheckArgs {
    /// Where to ask.
    pub fn address(&self) -> &Address {
        self.listen.first().expect("there is a default")
    }

    /// Whether the server speaks TLS over TCP.
    pub fn is_encrypted(&self) -> bool {
        given(self.tls_cert.as_ref()).is_some()
    }
}

impl DevArgs {
    /// The addresses to listen on for HTTP: the first that is free.
    pub fn http_listen(&self) -> Result<Vec<Address>, BadAddress> {
        match given(self.http_listen.as_ref()) {
            Some(address) => Ok(vec![address.parse()?]),
            None => DEV_HTTP.iter().map(|address| address.parse()).collect(),
        }
    }

    /// The private Postgres to start.
    ///
    /// # Errors
    /// Where no folder is given, and the environment names none.
    pub fn postgres(&self) -> Result<postgres::Options, NoHome> {
        let folder = match &self.data_dir {
            Some(folder) => folder.clone(),
            None => data_folder().ok_or(NoHome)?.join("dev"),
        };
        Ok(postgres::Options {
            folder,
            durability: Durability::Kept,
            programs: self.postgres_bin.clone(),
            cache: cache_folder(),
        })
    }
}
