//! The settings of a database URL that are read here, and not by tokio-postgres: how
//! they are found among the others, and what they mean together.

use std::{borrow::Cow, path::PathBuf};

use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use super::MalformedUrl;
use crate::store::tls::{Authorities, Encryption, Names};

/// The settings that are read here.
#[derive(Default)]
pub(super) struct Settings<'u> {
    mode: Option<Cow<'u, str>>,
    authorities: Option<Cow<'u, str>>,
    certificate: Option<Cow<'u, str>>,
    key: Option<Cow<'u, str>>,
    target: Option<Cow<'u, str>>,
}

impl<'u> Settings<'u> {
    /// Keeps a setting that is one of these; false where it is not.
    fn take(&mut self, key: &str, value: Cow<'u, str>) -> bool {
        let place = match key {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.authorities,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            "target_session_attrs" => &mut self.target,
            _ => return false,
        };
        // As libpq has it: what is empty is not set.
        *place = Some(value).filter(|value| !value.is_empty());
        true
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
    pub(super) fn take_from_url(&mut self, url: &'u str) -> Option<String> {
        // A password may have a question mark in it.
        let behind_credentials = url.find('@').unwrap_or(0);
        let Some(query) = url[behind_credentials..].find('?') else {
            return Some(url.to_owned());
        };
        let (url, query) = url.split_at(behind_credentials + query);
        let mut rest = Vec::new();
        for setting in query[1..].split('&').filter(|setting| !setting.is_empty()) {
            let (key, value) = setting.split_once('=')?;
            let value = percent_decoded(value)?;
            if !self.take(&percent_decoded(key)?, value) {
                rest.push(setting);
            }
        }
        Some(if rest.is_empty() {
            url.to_owned()
        } else {
            format!("{url}?{}", rest.join("&"))
        })
    }

    /// Settings in the key=value form, without those that are read here.
    pub(super) fn take_from_pairs(&mut self, text: &'u str) -> Option<String> {
        let mut others = String::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=')?;
            let (value, length) = value(after.trim_start())?;
            let after = &after.trim_start()[length..];
            let pair = &rest[..rest.len() - after.len()];
            if !self.take(key.trim(), value.into()) {
                others.push_str(pair);
                others.push(' ');
            }
            rest = after.trim_start();
        }
        Some(others)
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
