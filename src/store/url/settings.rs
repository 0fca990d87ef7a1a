//! The settings of a database URL that are read here, and not by tokio-postgres: how
//! they are found among the others, and what they mean together.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{SslMode, TargetSessionAttrs},
};

use super::MalformedUrl;
use crate::store::tls::{Authorities, Encryption, Names};

/// Settings of libpq's that make no difference here, with the values that make none:
/// whatever they are, where there are none. What is empty is not set.
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
/// What may be named where it cannot be used. Not all that stands where a setting should
/// be: it may be the rest of a password.
const NAMED: [&str; 42] = [
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

/// The settings that are read here.
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

/// What becomes of a setting.
enum Taken {
    /// It is read here, or makes no difference.
    Here,
    /// tokio-postgres reads it, by that name.
    There(Option<&'static str>),
}

impl<'u> Settings<'u> {
    /// Keeps a setting that is one of these, and sees to it that any other can be read.
    fn take(&mut self, key: &str, value: Cow<'u, str>) -> Result<Taken, MalformedUrl> {
        let place = match key {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.authorities,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            "target_session_attrs" => &mut self.target,
            "tcp_user_timeout" => &mut self.user_timeout,
            _ => return self.leave(key, &value),
        };
        // As libpq has it: what is empty is not set.
        *place = Some(value).filter(|value| !value.is_empty());
        Ok(Taken::Here)
    }

    fn leave(&mut self, key: &str, value: &str) -> Result<Taken, MalformedUrl> {
        self.is_idle_given |= key == "keepalives_idle";
        let named = NAMED.iter().find(|named| **named == key).copied();
        let harmless = HARMLESS.iter().find(|(harmless, _)| *harmless == key);
        let is_harmless = harmless.is_some_and(|(_, values)| {
            values.is_empty() || values.contains(&&*value.to_lowercase())
        });
        if is_harmless || (named.is_some() && value.is_empty()) {
            return Ok(Taken::Here);
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
        Ok(Taken::There(other_name))
    }

    /// How long data may go unacknowledged: in milliseconds here, and nothing said where
    /// there are none.
    pub(super) fn user_timeout(&self) -> Result<Option<Duration>, MalformedUrl> {
        let Some(given) = self.user_timeout.as_deref() else {
            return Ok(None);
        };
        let bad = MalformedUrl::Setting("tcp_user_timeout");
        let milliseconds: i64 = given.trim().parse().or(Err(bad))?;
        let milliseconds = u64::try_from(milliseconds).unwrap_or_default();
        Ok(Some(Duration::from_millis(milliseconds)).filter(|timeout| !timeout.is_zero()))
    }

    /// Whether it is said after how much silence a connection is asked.
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
        let (when, names) = match mode {
            "disable" => (SslMode::Disable, Names::Any),
            // Nothing is gained from trying without it first.
            "allow" | "prefer" => (SslMode::Prefer, Names::Any),
            // With authorities, require is verify-ca; without, anybody will do.
            "require" | "verify-ca" => (SslMode::Require, Names::Any),
            "verify-full" => (SslMode::Require, Names::Checked),
            _ => return Err(MalformedUrl::SslMode),
        };
        if mode.starts_with("verify-") && authorities.is_none() {
            return Err(MalformedUrl::NoAuthorities);
        }
        if is_system && names != Names::Checked {
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
            names,
            authorities,
            identity,
        })
    }

    /// Which servers will do. Of several the one that takes writes is meant, unless
    /// something else is said: so a failover is found.
    pub(super) fn target(&self, servers: usize) -> Result<TargetSessionAttrs, MalformedUrl> {
        match self.target.as_deref() {
            None if servers > 1 => Ok(TargetSessionAttrs::ReadWrite),
            None | Some("any") => Ok(TargetSessionAttrs::Any),
            Some("read-write" | "primary") => Ok(TargetSessionAttrs::ReadWrite),
            Some(_) => Err(MalformedUrl::NotForWriting),
        }
    }

    /// A URL without the settings that are read here.
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
                Taken::Here => {}
                Taken::There(None) => rest.push(Cow::from(setting)),
                Taken::There(Some(name)) => rest.push(format!("{name}={value}").into()),
            }
        }
        Ok(if rest.is_empty() {
            url.to_owned()
        } else {
            format!("{url}?{}", rest.join("&"))
        })
    }

    /// Settings in the key=value form, without those that are read here.
    pub(super) fn take_from_pairs(&mut self, text: &'u str) -> Result<String, MalformedUrl> {
        let unreadable = MalformedUrl::Unreadable;
        let mut others = String::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=').ok_or(unreadable)?;
            let (value, length) = value(after.trim_start()).ok_or(unreadable)?;
            let (written, after) = after.trim_start().split_at(length);
            match self.take(key.trim(), value.into())? {
                Taken::Here => {}
                Taken::There(name) => {
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

/// The value at the beginning of a text, without its quotes and backslashes, and how
/// much of the text it takes.
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
