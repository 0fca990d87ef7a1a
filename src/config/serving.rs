//! Options of every process that answers: where it listens, its limits and timeouts.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use http::HeaderValue;

use super::{
    LISTEN,
    connections::ConnectionArgs,
    environment::notify_socket,
    values::{
        at_least_a_second, at_least_one, at_least_ten_milliseconds, available_cores, boolean,
        moment, non_zero_duration, origin,
    },
};
use crate::{
    domain::{Timestamp, client::Expiry},
    grpc,
    live_index::{self, usage},
    server,
    transport::{listeners::Address, tls},
};

/// Options of every process that answers.
#[derive(Debug, Args)]
pub struct ServingArgs {
    /// Addresses to listen on for gRPC, as HOST:PORT or unix:PATH; repeat the option, or separate
    /// them by commas. All addresses of a host name are used
    #[arg(long, env = "HITKEEP_AUTH_LISTEN", default_value = LISTEN, value_delimiter = ',', value_name = "ADDRESS")]
    pub listen: Vec<Address>,
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
    #[command(flatten)]
    grpc_web: GrpcWebArgs,
    /// How long callers may cache an answer from Introspect; 0s forbids it
    #[arg(long, env = "HITKEEP_AUTH_MAX_CACHE_AGE", default_value = "5s", value_parser = humantime::parse_duration, value_name = "TIME")]
    max_cache_age: Duration,
    /// Proxies that a request passes on its way to the service and that append the address they
    /// were called from to x-forwarded-for; the last one asks for `/forward-auth`, or is Envoy
    /// over gRPC. For API clients with `allowed_cidrs`. 0 does not believe the header
    #[arg(
        long,
        env = "HITKEEP_AUTH_TRUSTED_HOPS",
        default_value_t = 0,
        value_name = "N"
    )]
    trusted_hops: u8,
    #[command(flatten)]
    pub legacy_tokens: LegacyTokenArgs,
    /// How stale the index may be and still report a token as active; at least 1s
    #[arg(long, env = "HITKEEP_AUTH_MAX_STALENESS", default_value = "10s", value_parser = at_least_a_second, value_name = "TIME")]
    max_staleness: Duration,
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
    #[command(flatten)]
    connections: ConnectionArgs,
    /// Threads dedicated to callers' connections; 0 uses the shared runtime [default: cores]
    #[arg(long, env = "HITKEEP_AUTH_THREADS", value_name = "N")]
    threads: Option<usize>,
}

#[derive(Debug, Args)]
struct GrpcWebArgs {
    /// Serve the gRPC services as gRPC-Web on the HTTP listener, which has to be there
    #[arg(long, env = "HITKEEP_AUTH_GRPC_WEB", value_parser = boolean)]
    grpc_web: bool,
    /// Origins whose pages may call by gRPC-Web from a browser, as `https://HOST[:PORT]`; repeat the
    /// option, or separate them by commas [default: none]
    #[arg(
        long,
        env = "HITKEEP_AUTH_GRPC_WEB_ORIGINS",
        value_delimiter = ',',
        value_parser = origin,
        value_name = "ORIGIN"
    )]
    grpc_web_origins: Vec<HeaderValue>,
}

/// Options of gRPC-Web without those that they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrpcWebArgsError {
    #[error("--grpc-web needs --http-listen: it is served over HTTP")]
    WithoutHttp,
    #[error("--grpc-web-origins needs --grpc-web")]
    OriginsAlone,
}

impl GrpcWebArgs {
    /// How gRPC-Web is served, if it is. The origins are kept for as long as the process runs,
    /// as the server is.
    fn options(&self) -> Option<server::GrpcWebOptions> {
        self.grpc_web.then(|| server::GrpcWebOptions {
            origins: self.grpc_web_origins.clone().leak(),
        })
    }
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

impl ServingArgs {
    /// The options of the server, apart from those of a database.
    ///
    /// # Errors
    /// If an option is missing that another one needs.
    pub fn server(&self) -> Result<server::Options, GrpcWebArgsError> {
        let GrpcWebArgs {
            grpc_web,
            grpc_web_origins,
        } = &self.grpc_web;
        if *grpc_web && self.http_listen.is_empty() {
            return Err(GrpcWebArgsError::WithoutHttp);
        }
        if !*grpc_web && !grpc_web_origins.is_empty() {
            return Err(GrpcWebArgsError::OriginsAlone);
        }
        Ok(self.limits())
    }

    /// The same options, without checking that they fit together.
    pub fn limits(&self) -> server::Options {
        self.connections.set(server::Options {
            grpc: grpc::ServiceOptions {
                max_cache_age: self.max_cache_age,
                trusted_hops: self.trusted_hops,
                legacy_tokens_until: self.legacy_tokens.until(),
                ..grpc::ServiceOptions::default()
            },
            index: live_index::IndexOptions {
                max_staleness: self.max_staleness,
                usage: usage::UsageOptions {
                    flush_interval: self.usage_flush_interval,
                },
                ..live_index::IndexOptions::default()
            },
            request_timeout: self.request_timeout,
            drain_delay: self.drain_delay,
            drain_timeout: self.drain_timeout,
            max_introspections: self.max_introspections,
            threads: self.threads.unwrap_or_else(available_cores),
            grpc_web: self.grpc_web.options(),
            notify_socket: notify_socket(),
            ..server::Options::default()
        })
    }
}
