//! The settings of a database URL that this service parses instead of tokio-postgres.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{SslMode, TargetSessionAttrs},
};

use super::MalformedUrl;
use crate::store::tls::{Authorities, Encryption, HostnameCheck};

/// libpq settings that are ignored, with the values for which that is correct; an empty list
/// stands for any value. An empty setting counts as unset.
const HARMLESS: [(&str, &[&str]); 9] = [
    ("client_encoding", &["utf8", "utf-8", "unicode"]),
    ("fallback_application_name", &[]),
    ("gssencmode", &["disable", "prefer"]),
    ("gsslib", &[]),
    ("krbsrvname", &[]),
    ("ssl_max_protocol_version", &["tlsv1.3"]),
    ("ssl_min_protocol_version", &["tlsv1", "tlsv1.1", "tlsv1.2"]),
    ("sslcompression", &["0"]),
    ("sslsni", &["1"]),
];
/// The settings that an error may name. Other text in the position of a setting may be the
/// rest of a password.
const PRINTABLE: [&str; 42] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "user",
];

#[derive(Default)]
pub(super) struct Settings<'u> {
    mode: Option<Cow<'u, str>>,
    authorities: Option<Cow<'u, str>>,
    certificate: Option<Cow<'u, str>>,
    key: Option<Cow<'u, str>>,
    target: Option<Cow<'u, str>>,
    user_timeout: Option<Cow<'u, str>>,
    is_idle_given: bool,
}

enum Handled {
    /// It is parsed here, or ignored.
    Here,
    /// It is passed to tokio-postgres, under another name if given.
    ByDriver(Option<&'static str>),
}

impl<'u> Settings<'u> {
    /// Stores a setting of this type, and checks that tokio-postgres accepts any other.
    fn take(&mut self, key: &str, value: Cow<'u, str>) -> Result<Handled, MalformedUrl> {
        let place = match key {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.authorities,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            "target_session_attrs" => &mut self.target,
            "tcp_user_timeout" => &mut self.user_timeout,
            _ => return self.pass_on(key, &value),
        };
        // As in libpq, an empty value means unset.
        *place = Some(value).filter(|value| !value.is_empty());
        Ok(Handled::Here)
    }

    fn pass_on(&mut self, key: &str, value: &str) -> Result<Handled, MalformedUrl> {
        self.is_idle_given |= key == "keepalives_idle";
        let named = PRINTABLE.iter().find(|named| **named == key).copied();
        let harmless = HARMLESS.iter().find(|(harmless, _)| *harmless == key);
        let is_harmless = harmless.is_some_and(|(_, values)| {
            values.is_empty() || values.contains(&&*value.to_lowercase())
        });
        if is_harmless || (named.is_some() && value.is_empty()) {
            return Ok(Handled::Here);
        }
        let other_name = (key == "keepalives_count").then_some("keepalives_retries");
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        let alone = format!("{}='{quoted}'", other_name.unwrap_or(key));
        if key == "passfile" {
            return Err(MalformedUrl::PassFile);
        }
        if alone.parse::<Config>().is_err() {
            return Err(named.map_or(MalformedUrl::Unreadable, MalformedUrl::Setting));
        }
        Ok(Handled::ByDriver(other_name))
    }

    /// `tcp_user_timeout`, which is in milliseconds; zero means unset.
    pub(super) fn user_timeout(&self) -> Result<Option<Duration>, MalformedUrl> {
        let Some(given) = self.user_timeout.as_deref() else {
            return Ok(None);
        };
        let bad = MalformedUrl::Setting("tcp_user_timeout");
        let milliseconds: i64 = given.trim().parse().or(Err(bad))?;
        let milliseconds = u64::try_from(milliseconds).unwrap_or_default();
        Ok(Some(Duration::from_millis(milliseconds)).filter(|timeout| !timeout.is_zero()))
    }

    /// Whether `keepalives_idle` is set.
    pub(super) const fn is_idle_given(&self) -> bool {
        self.is_idle_given
    }

    pub(super) fn encryption(&self) -> Result<Encryption, MalformedUrl> {
        let authorities = self.authorities.as_deref().map(|given| match given {
            "system" => Authorities::System,
            path => Authorities::File(path.into()),
        });
        let is_system = authorities == Some(Authorities::System);
        let default = if is_system { "verify-full" } else { "prefer" };
        let mode = self.mode.as_deref().unwrap_or(default);
        let (when, hostname_check) = match mode {
            "disable" => (SslMode::Disable, HostnameCheck::Skipped),
            // `allow` tries clear text first, which has no advantage.
            "allow" | "prefer" => (SslMode::Prefer, HostnameCheck::Skipped),
            // As in libpq, `require` with authorities is `verify-ca`.
            "require" | "verify-ca" => (SslMode::Require, HostnameCheck::Skipped),
            "verify-full" => (SslMode::Require, HostnameCheck::Required),
            _ => return Err(MalformedUrl::SslMode),
        };
        if mode.starts_with("verify-") && authorities.is_none() {
            return Err(MalformedUrl::NoAuthorities);
        }
        if is_system && hostname_check != HostnameCheck::Required {
            return Err(MalformedUrl::SystemUnverified);
        }
        let identity = match (self.certificate.as_deref(), self.key.as_deref()) {
            (Some(certificate), Some(key)) => {
                Some((PathBuf::from(certificate), PathBuf::from(key)))
            }
            (None, None) => None,
            _ => return Err(MalformedUrl::HalfIdentity),
        };
        Ok(Encryption {
            when,
            hostname_check,
            authorities,
            identity,
        })
    }

    /// The required role of the server. The default with several servers is the primary, so
    /// that a failover is followed.
    pub(super) fn target(&self, servers: usize) -> Result<TargetSessionAttrs, MalformedUrl> {
        match self.target.as_deref() {
            None if servers > 1 => Ok(TargetSessionAttrs::ReadWrite),
            None | Some("any") => Ok(TargetSessionAttrs::Any),
            Some("read-write" | "primary") => Ok(TargetSessionAttrs::ReadWrite),
            Some(_) => Err(MalformedUrl::NotForWriting),
        }
    }

    /// Parses the settings of a URL, and returns it without those handled here.
    pub(super) fn take_from_url(&mut self, url: &'u str) -> Result<String, MalformedUrl> {
        let unreadable = MalformedUrl::Unreadable;
        // A password may have a question mark in it.
        let behind_credentials = url.find('@').unwrap_or(0);
        let query = url[behind_credentials..].find('?');
        let (url, query) = url.split_at(query.map_or(url.len(), |at| behind_credentials + at));
        if url.matches('@').count() > 1 {
            return Err(MalformedUrl::StrayAt);
        }
        let mut rest = Vec::new();
        let settings = query.trim_start_matches('?').split('&');
        for setting in settings.filter(|setting| !setting.is_empty()) {
            let (key, value) = setting.split_once('=').ok_or(unreadable)?;
            let decoded = percent_decoded(value).ok_or(unreadable)?;
            match self.take(&percent_decoded(key).ok_or(unreadable)?, decoded)? {
                Handled::Here => {}
                Handled::ByDriver(None) => rest.push(Cow::from(setting)),
                Handled::ByDriver(Some(name)) => rest.push(format!("{name}={value}").into()),
            }
        }
        Ok(if rest.is_empty() {
            url.to_owned()
        } else {
            format!("{url}?{}", rest.join("&"))
        })
    }

    /// Parses key=value settings, and returns those not handled here.
    pub(super) fn take_from_pairs(&mut self, text: &'u str) -> Result<String, MalformedUrl> {
        let unreadable = MalformedUrl::Unreadable;
        let mut others = String::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=').ok_or(unreadable)?;
            let (value, length) = value(after.trim_start()).ok_or(unreadable)?;
            let (written, after) = after.trim_start().split_at(length);
            match self.take(key.trim(), value.into())? {
                Handled::Here => {}
                Handled::ByDriver(name) => {
                    others.push_str(name.unwrap_or(key));
                    others.push('=');
                    others.push_str(written);
                    others.push(' ');
                }
            }
            rest = after.trim_start();
        }
        Ok(others)
    }
}

fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        bytes.push(match first {
            b'%' => {
                let (digits, others) = rest.split_at_checked(2)?;
                rest = others;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Parses the value at the start of a text. Returns it unquoted, with the length of its
/// quoted form in bytes.
fn value(text: &str) -> Option<(String, usize)> {
    let mut characters = text.char_indices();
    let quoted = text.starts_with('\'');
    if quoted {
        characters.next();
    }
    let mut value = String::new();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if quoted => return Some((value, at + 1)),
            '\\' => value.push(characters.next()?.1),
            blank if !quoted && blank.is_whitespace() => return Some((value, at)),
            other => value.push(other),
        }
    }
    (!quoted).then_some((value, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_be_quoted() {
        let read =
            |text: &str| value(text).map(|(value, length)| (value, text[length..].to_owned()));
        let is = |value: &str, rest: &str| Some((value.to_owned(), rest.to_owned()));
        assert_eq!(read("a b=c"), is("a", " b=c"));
        assert_eq!(read(r"'it\'s \\ here' b"), is(r"it's \ here", " b"));
        assert_eq!(read(r"a\ b c"), is("a b", " c"));
        assert_eq!(read("''"), is("", ""));
        assert_eq!(read("'a"), None);
        assert_eq!(read("a\\"), None);
    }
}
