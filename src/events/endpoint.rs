//! The address of a receiver.

use std::{fmt, net::IpAddr};

use http::Uri;

/// Whether events may be sent without TLS to another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only to this machine.
    Loopback,
    /// To any.
    Anywhere,
}

/// The URL that events are sent to. Its path and query may be secret, and are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    is_encrypted: bool,
}

/// Why a text is no URL to send events to. It is not repeated, since it may contain a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// It is not a URL with a scheme and a host.
    #[error("must be a URL such as https://example.com/events")]
    Malformed,
    /// It has a port that does not exist.
    #[error("must have a port from 1 to 65535, or none")]
    Port,
    /// It has a user name or a password.
    #[error("must not contain a user or a password: the signature authenticates events")]
    Credentials,
    /// It is not encrypted, and the receiver is on another machine.
    #[error(
        "must begin with https://, since its host is not this machine; \
         --events-webhook-allow-http lets it be http://"
    )]
    NotEncrypted,
}

impl Endpoint {
    /// Parses a URL.
    ///
    /// # Errors
    /// If events must not be sent there.
    pub fn parse(text: &str, plain: PlainHttp) -> Result<Self, BadEndpoint> {
        let uri: Uri = text.parse().or(Err(BadEndpoint::Malformed))?;
        let authority = uri.authority().ok_or(BadEndpoint::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(BadEndpoint::Credentials);
        }
        if authority.host().is_empty() {
            return Err(BadEndpoint::Malformed);
        }
        // A URL without a port may have the colon all the same.
        let port = authority.as_str().strip_prefix(authority.host());
        let port = port.map_or("", |port| port.trim_start_matches(':'));
        if !port.is_empty() && !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(BadEndpoint::Port);
        }
        let is_encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(BadEndpoint::Malformed),
        };
        let is_allowed = plain == PlainHttp::Anywhere || is_loopback(authority.host());
        if !is_encrypted && !is_allowed {
            return Err(BadEndpoint::NotEncrypted);
        }
        Ok(Self { uri, is_encrypted })
    }

    pub(super) const fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether events are sent over TLS.
    pub const fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }
}

/// The scheme, the host and the port.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        let authority = self.uri.authority().map_or("", |named| named.as_str());
        write!(f, "{scheme}://{authority}")
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// Whether a host is certainly this machine. The name `localhost` is, by RFC 6761.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_leave_this_machine_only_encrypted() {
        use BadEndpoint::{Credentials, Malformed, NotEncrypted, Port};

        for (text, refused) in [
            ("https://example.com/events?key=1", None),
            ("https://192.0.2.1:8443", None),
            ("http://localhost:1/x", None),
            ("http://LOCALHOST", None),
            ("http://127.0.0.2:80/", None),
            ("http://[::1]:80/", None),
            ("http://example.com/", Some(NotEncrypted)),
            ("http://localhost.example.com/", Some(NotEncrypted)),
            ("http://192.0.2.1/", Some(NotEncrypted)),
            ("https://user:word@example.com/", Some(Credentials)),
            ("https://example.com:65535/", None),
            ("https://example.com:/", None),
            ("https://example.com:0/", Some(Port)),
            ("https://example.com:65536/", Some(Port)),
            ("https://[::1]:99999/", Some(Port)),
            ("ftp://example.com/", Some(Malformed)),
            ("example.com", Some(Malformed)),
            ("/events", Some(Malformed)),
            ("", Some(Malformed)),
        ] {
            let parsed = Endpoint::parse(text, PlainHttp::Loopback);
            assert_eq!(parsed.err(), refused, "{text}");
        }
        assert!(Endpoint::parse("http://example.com/", PlainHttp::Anywhere).is_ok());
    }

    #[test]
    fn only_the_host_is_shown() {
        let text = "https://example.com:444/secret?key=secret";
        let endpoint = Endpoint::parse(text, PlainHttp::Loopback).unwrap();
        assert_eq!(endpoint.to_string(), "https://example.com:444");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(https://example.com:444)");
    }
}
