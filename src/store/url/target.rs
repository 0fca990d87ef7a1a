//! A parsed database URL: the servers, each with its settings, and the encryption.

use std::time::Duration;

use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use super::{MalformedUrl, settings::Settings};
use crate::store::tls::Encryption;

const DEFAULT_PORT: u16 = 5432;
/// The timeout of connecting to a single server, and to one of several.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SHARED_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout of connecting to one address of a server, or half of the URL's timeout: most
/// servers have one address, or one of each family, and the second needs time as well.
const ADDRESS_TIMEOUT: Duration = Duration::from_millis(1500);
/// The idle time after which TCP keepalives are sent.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// A parsed URL.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::store) struct Target {
    /// The servers in the order of attempts, each with its own settings.
    pub(in crate::store) servers: Vec<Server>,
    pub(in crate::store) encryption: Encryption,
    /// Whether the URL has a `connect_timeout`.
    pub(in crate::store) has_connect_timeout: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub(in crate::store) struct Server {
    pub(in crate::store) config: Config,
    /// The host and port, for display.
    pub(in crate::store) place: String,
    pub(in crate::store) connect_timeout: Duration,
}

impl Target {
    pub(in crate::store) fn parse(text: &str) -> Result<Self, MalformedUrl> {
        let mut settings = Settings::default();
        let is_url = SCHEMES.iter().any(|scheme| text.starts_with(scheme));
        let rest = if is_url {
            settings.take_from_url(text)
        } else {
            settings.take_from_pairs(text)
        };
        let all: Result<Config, _> = rest?.parse();
        let mut all = all.or(Err(MalformedUrl::Unreadable))?;
        let is_stray = |host: &Host| matches!(host, Host::Tcp(host) if host.contains('@'));
        if all.get_hosts().iter().any(is_stray) {
            return Err(MalformedUrl::StrayAt);
        }
        if let Some(timeout) = settings.user_timeout()? {
            all.tcp_user_timeout(timeout);
        }
        if !settings.is_idle_given() {
            all.keepalives_idle(KEEPALIVE_IDLE);
        }
        let mut encryption = settings.encryption()?;
        let count = all.get_hosts().len().max(all.get_hostaddrs().len());
        all.target_session_attrs(settings.target(count)?);
        let is_local = |host: &Host| matches!(host, Host::Unix(_));
        if count > 0 && all.get_hosts().iter().all(is_local) && all.get_hostaddrs().is_empty() {
            // Postgres offers no TLS on Unix sockets.
            encryption.when = SslMode::Disable;
        }
        all.ssl_mode(encryption.when);
        let given = all.get_connect_timeout().copied();
        let given = given.filter(|given| !given.is_zero());
        let default = if count > 1 {
            SHARED_CONNECT_TIMEOUT
        } else {
            CONNECT_TIMEOUT
        };
        let connect_timeout = given.unwrap_or(default);
        all.connect_timeout(given.map_or(ADDRESS_TIMEOUT, |given| given / 2));
        let server = |at| {
            let config = only(&all, at)?;
            Some(Server {
                place: place(&config),
                config,
                connect_timeout,
            })
        };
        let servers: Option<Vec<_>> = (0..count).map(server).collect();
        let servers = servers.filter(|servers| !servers.is_empty());
        Ok(Self {
            servers: servers.ok_or(MalformedUrl::Unreadable)?,
            encryption,
            has_connect_timeout: given.is_some(),
        })
    }

    /// A copy with empty passwords, to compare the rest.
    pub(in crate::store) fn without_passwords(&self) -> Self {
        let mut same = self.clone();
        for server in &mut same.servers {
            // tokio-postgres cannot unset it.
            server.config.password("");
        }
        same
    }

    /// The timeout of all servers together.
    pub(in crate::store) fn connect_timeout(&self) -> Duration {
        self.servers
            .iter()
            .map(|server| server.connect_timeout)
            .sum()
    }

    /// The servers and the database, without credentials, for display.
    pub(in crate::store) fn place(&self) -> String {
        let places: Vec<_> = self.servers.iter().map(|server| &*server.place).collect();
        let config = &self.servers[0].config;
        let database = config.get_dbname().or(config.get_user());
        format!("{}/{}", places.join(","), database.unwrap_or_default())
    }
}

/// The settings of one of several servers; `None` if it has no port.
fn only(all: &Config, at: usize) -> Option<Config> {
    let mut one = Config::new();
    match all.get_hosts().get(at) {
        Some(Host::Tcp(host)) => one.host(host),
        Some(Host::Unix(path)) => one.host_path(path),
        None => &mut one,
    };
    if let Some(address) = all.get_hostaddrs().get(at) {
        one.hostaddr(*address);
    }
    // A single port applies to all servers.
    match all.get_ports() {
        [] => one.port(DEFAULT_PORT),
        [port] => one.port(*port),
        ports => one.port(*ports.get(at)?),
    };
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(database) = all.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    if let Some(name) = all.get_application_name() {
        one.application_name(name);
    }
    if let Some(timeout) = all.get_connect_timeout() {
        one.connect_timeout(*timeout);
    }
    if let Some(timeout) = all.get_tcp_user_timeout() {
        one.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = all.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = all.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle())
        .ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .channel_binding(all.get_channel_binding())
        .target_session_attrs(all.get_target_session_attrs());
    Some(one)
}

fn place(config: &Config) -> String {
    let port = config.get_ports().first().unwrap_or(&DEFAULT_PORT);
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Tcp(host)), _) => format!("{host}:{port}"),
        (Some(Host::Unix(path)), _) => format!("{}:{port}", path.display()),
        (None, Some(address)) => format!("{address}:{port}"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::TargetSessionAttrs;

    use super::*;
    use crate::store::tls::{Authorities, HostnameCheck};

    fn read(text: &str) -> Target {
        match Target::parse(text) {
            Ok(target) => target,
            Err(error) => panic!("{text}: {error}"),
        }
    }

    fn refused(text: &str) -> MalformedUrl {
        match Target::parse(text) {
            Ok(target) => panic!("{text}: {}", target.place()),
            Err(error) => error,
        }
    }

    /// The mode, the check of host names, and the authorities of settings.
    fn encryption(settings: &str) -> (SslMode, HostnameCheck, Option<Authorities>) {
        let of_url = read(&format!("postgres://u:p@h/d?{settings}")).encryption;
        let pairs = settings.replace('&', " ").replace("%2F", "/");
        let of_pairs = read(&format!("host=h password='p ?&' {pairs} user=u")).encryption;
        assert_eq!(format!("{of_url:?}"), format!("{of_pairs:?}"), "{settings}");
        (of_url.when, of_url.hostname_check, of_url.authorities)
    }

    #[test]
    fn modes_are_those_of_libpq() {
        use HostnameCheck::{Required, Skipped};
        use SslMode::{Disable, Prefer, Require};

        let file = || Some(Authorities::File("/ca.pem".into()));
        let ca = "sslrootcert=%2Fca.pem";
        for (settings, expected) in [
            ("connect_timeout=1", (Prefer, Skipped, None)),
            ("sslmode=disable", (Disable, Skipped, None)),
            ("sslmode=allow", (Prefer, Skipped, None)),
            ("sslmode=prefer", (Prefer, Skipped, None)),
            ("sslmode=require", (Require, Skipped, None)),
            (ca, (Prefer, Skipped, file())),
            (&format!("sslmode=require&{ca}"), (Require, Skipped, file())),
            (
                &format!("sslmode=verify-ca&{ca}"),
                (Require, Skipped, file()),
            ),
            (
                &format!("{ca}&sslmode=verify-full"),
                (Require, Required, file()),
            ),
            (
                "sslrootcert=system",
                (Require, Required, Some(Authorities::System)),
            ),
        ] {
            assert_eq!(encryption(settings), expected, "{settings}");
        }
        let both = read("postgres://h/d?sslcert=/c%20d.pem&sslkey=/k.pem").encryption;
        assert_eq!(both.identity, Some(("/c d.pem".into(), "/k.pem".into())));
    }

    #[test]
    fn insecure_or_contradictory_settings_are_rejected() {
        for (settings, error) in [
            ("sslmode=verify-full", MalformedUrl::NoAuthorities),
            ("sslmode=verify-ca", MalformedUrl::NoAuthorities),
            (
                "sslmode=verify-ca&sslrootcert=",
                MalformedUrl::NoAuthorities,
            ),
            ("sslmode=required", MalformedUrl::SslMode),
            ("sslmode=Require", MalformedUrl::SslMode),
            (
                "sslmode=require&sslrootcert=system",
                MalformedUrl::SystemUnverified,
            ),
            ("sslcert=c.pem", MalformedUrl::HalfIdentity),
            ("sslkey=k.pem", MalformedUrl::HalfIdentity),
            ("target_session_attrs=standby", MalformedUrl::NotForWriting),
            (
                "target_session_attrs=prefer-standby",
                MalformedUrl::NotForWriting,
            ),
            (
                "target_session_attrs=read-only",
                MalformedUrl::NotForWriting,
            ),
            ("sslcompression=1", MalformedUrl::Setting("sslcompression")),
            ("sslmode", MalformedUrl::Unreadable),
            ("sslmode=%zz", MalformedUrl::Unreadable),
        ] {
            assert_eq!(
                refused(&format!("postgres://u:p@h/d?{settings}")),
                error,
                "{settings}"
            );
        }
        for text in [
            "",
            "h",
            "postgres:///d",
            "user=u",
            "host=h password='p",
            "host=h user=u\\",
        ] {
            assert_eq!(refused(text), MalformedUrl::Unreadable, "{text:?}");
        }
    }

    #[test]
    fn settings_are_parsed_as_by_libpq() {
        // Milliseconds; seconds; a count.
        let config = |settings: &str| {
            let of_url = read(&format!("postgres://u:p@h/d?{settings}"));
            let pairs = settings.replace('&', " ");
            let of_pairs = read(&format!("host=h password=p {pairs} user=u dbname=d"));
            let config = of_url.servers[0].config.clone();
            assert_eq!(config, of_pairs.servers[0].config, "{settings}");
            config
        };
        let seconds = Duration::from_secs;
        let usual = config("");
        assert_eq!(usual.get_tcp_user_timeout(), None);
        assert_eq!(usual.get_keepalives_idle(), KEEPALIVE_IDLE);
        let given = config(
            "tcp_user_timeout=7500&keepalives=1&keepalives_idle=7&keepalives_interval=2&\
             keepalives_count=3",
        );
        assert_eq!(
            given.get_tcp_user_timeout(),
            Some(&seconds(7).saturating_add(seconds(1) / 2))
        );
        assert_eq!(given.get_keepalives_idle(), seconds(7));
        assert_eq!(given.get_keepalives_interval(), Some(seconds(2)));
        assert_eq!(given.get_keepalives_retries(), Some(3));
        assert_eq!(config("tcp_user_timeout=0").get_tcp_user_timeout(), None);
        // Ignored settings.
        for harmless in [
            "gssencmode=prefer",
            "gssencmode=disable&krbsrvname=postgres",
            "sslsni=1&sslcompression=0",
            "client_encoding=UTF8",
            "fallback_application_name=x",
            "ssl_min_protocol_version=TLSv1.2",
        ] {
            assert_eq!(config(harmless), usual, "{harmless}");
        }
        for unset in [
            "postgres://u:p@h/d?sslcrl=&passfile=",
            "host=h user=u password=p sslcrl='' dbname=d passfile=''",
        ] {
            assert_eq!(read(unset).servers[0].config, usual, "{unset}");
        }
        // Settings that must not be ignored silently.
        for (setting, value) in [
            ("gssencmode", "require"),
            ("sslsni", "0"),
            ("client_encoding", "LATIN1"),
            ("ssl_min_protocol_version", "TLSv1.3"),
            ("sslcrl", "revoked.pem"),
            ("sslpassword", "secret"),
            ("require_auth", "scram-sha-256"),
            ("tcp_user_timeout", "7s"),
            ("keepalives_count", "x"),
            ("connect_timeout", "soon"),
            ("channel_binding", "perhaps"),
        ] {
            let error = MalformedUrl::Setting(setting);
            let url = format!("postgres://u:p@h/d?application_name=x&{setting}={value}");
            assert_eq!(refused(&url), error);
            let pairs = format!("host=h user=u {setting} = '{value}'");
            assert_eq!(refused(&pairs), error);
            assert!(error.to_string().contains(setting));
            assert!(!error.to_string().contains(value));
        }
        assert_eq!(
            refused("postgres://u@h/d?passfile=%2Frun%2Fpgpass"),
            MalformedUrl::PassFile
        );
        assert_eq!(refused("host=h passfile=x"), MalformedUrl::PassFile);
        // An unknown name may be a part of a password, and is not quoted.
        for text in [
            "postgres://u:p@h/d?secret=1",
            "host=h password=very secret=1",
        ] {
            assert_eq!(refused(text), MalformedUrl::Unreadable);
        }
    }

    #[test]
    fn a_password_does_not_become_a_host() {
        for text in [
            "postgres://u:p@ss@db/auth",
            "postgres://u:p@ss,word@db/auth?sslmode=require",
            "postgres://u:p@ss/word@db/auth",
            "postgres://u:p@ss%40db/auth",
            "host=ss@db user=u",
        ] {
            assert_eq!(refused(text), MalformedUrl::StrayAt, "{text}");
        }
        for text in [
            "postgres://u:p%40ss@db/auth",
            "postgres://u:p%40ss@db/auth?application_name=a@b",
            "host=db user=u@home password=p@ss dbname=auth",
        ] {
            assert_eq!(read(text).place(), "db:5432/auth", "{text}");
        }
    }

    #[test]
    fn a_second_address_has_time_left() {
        let timeouts = |text: &str| {
            let target = read(text);
            let server = &target.servers[0];
            let of_address = *server.config.get_connect_timeout().unwrap();
            (
                of_address.as_millis(),
                server.connect_timeout.as_secs(),
                target.has_connect_timeout,
            )
        };
        assert_eq!(timeouts("postgres://u@one/d"), (1500, 10, false));
        assert_eq!(timeouts("postgres://u@one,two/d"), (1500, 2, false));
        assert_eq!(
            timeouts("postgres://u@one/d?connect_timeout=7"),
            (3500, 7, true)
        );
        assert_eq!(
            timeouts("postgres://u@one,two/d?connect_timeout=7"),
            (3500, 7, true)
        );
        assert_eq!(
            timeouts("postgres://u@one/d?connect_timeout=0"),
            (1500, 10, false)
        );
    }

    #[test]
    fn each_of_several_servers_has_its_settings() {
        let attributes = |target: &Target| target.servers[0].config.get_target_session_attrs();
        let target = read("postgres://u:p%3F@one:1,two:2,%2Frun%2Fpg/d?application_name=x");
        let places: Vec<_> = target.servers.iter().map(|server| &*server.place).collect();
        assert_eq!(places, ["one:1", "two:2", "/run/pg:5432"]);
        assert_eq!(target.place(), "one:1,two:2,/run/pg:5432/d");
        for Server {
            config,
            connect_timeout,
            ..
        } in &target.servers
        {
            assert_eq!(config.get_hosts().len(), 1);
            assert_eq!(
                (config.get_user(), config.get_dbname()),
                (Some("u"), Some("d"))
            );
            assert_eq!(config.get_password(), Some(&b"p?"[..]));
            assert_eq!(config.get_application_name(), Some("x"));
            assert_eq!(*connect_timeout, SHARED_CONNECT_TIMEOUT);
        }
        // The primary of several; a single server in any role.
        assert_eq!(attributes(&target), TargetSessionAttrs::ReadWrite);
        assert_eq!(
            attributes(&read("postgres://u@one/d")),
            TargetSessionAttrs::Any
        );
        for (wanted, expected) in [
            ("any", TargetSessionAttrs::Any),
            ("primary", TargetSessionAttrs::ReadWrite),
            ("read-write", TargetSessionAttrs::ReadWrite),
        ] {
            let target = read(&format!(
                "host=one,two user=u target_session_attrs={wanted}"
            ));
            assert_eq!(attributes(&target), expected);
        }
        let given = read("postgres://u@one,two/d?connect_timeout=7&sslmode=require");
        assert_eq!(given.servers[1].connect_timeout, Duration::from_secs(7));
        assert_eq!(given.connect_timeout(), Duration::from_secs(14));
        assert_eq!(
            refused("host=a,b,c port=1,2 user=u"),
            MalformedUrl::Unreadable
        );
    }

    #[test]
    fn unix_sockets_are_not_encrypted() {
        let local = read("postgres://u@%2Frun%2Fpg/d?sslmode=require");
        assert_eq!(local.servers[0].config.get_ssl_mode(), SslMode::Disable);
        let mixed = read("postgres://u@%2Frun%2Fpg,h/d?sslmode=require");
        assert_eq!(mixed.servers[1].config.get_ssl_mode(), SslMode::Require);
    }
}
