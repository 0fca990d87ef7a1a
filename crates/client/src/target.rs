//! The address of a server.

use std::{fmt, path::PathBuf, str::FromStr};

use http::Uri;

/// The address of a server: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Over TCP.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Whether the connection is encrypted.
        encrypted: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// The text is no address of a server. The text is not repeated: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// It has none of the forms.
    #[error("must be http://HOST:PORT, https://HOST:PORT or unix:PATH")]
    Form,
    /// It has credentials.
    #[error("must not contain credentials")]
    Credentials,
}

const UNIX: &str = "unix:";

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return if path.is_empty() {
                Err(BadTarget::Form)
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let uri: Uri = text.parse().or(Err(BadTarget::Form))?;
        let encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(BadTarget::Form),
        };
        let authority = uri.authority().ok_or(BadTarget::Form)?;
        if authority.as_str().contains('@') {
            return Err(BadTarget::Credentials);
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().ok_or(BadTarget::Form)?;
        let has_path = !matches!(uri.path(), "" | "/") || uri.query().is_some();
        if host.is_empty() || has_path || text.contains('#') {
            return Err(BadTarget::Form);
        }
        Ok(Self::Tcp {
            host,
            port,
            encrypted,
        })
    }
}

impl Target {
    /// Whether connections are encrypted.
    pub const fn is_encrypted(&self) -> bool {
        matches!(
            self,
            Self::Tcp {
                encrypted: true,
                ..
            }
        )
    }

    /// Whether what is sent, a token included, can be read on the way.
    pub const fn is_readable(&self) -> bool {
        matches!(self, Self::Tcp { .. }) && !self.is_encrypted()
    }

    /// What requests name as the server: proxies on the way may go by it.
    pub fn origin(&self) -> Uri {
        match self {
            // A socket's path is no name.
            Self::Unix(_) => Uri::from_static("http://localhost"),
            Self::Tcp { .. } => {
                let text = self.to_string();
                text.parse().expect("it was read from such a text")
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
            Self::Tcp {
                host,
                port,
                encrypted,
            } => {
                let scheme = if *encrypted { "https" } else { "http" };
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]:{port}")
                } else {
                    write!(f, "{scheme}://{host}:{port}")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "http://127.0.0.1:50051",
            "https://auth.example.org:443",
            "http://[::1]:50051",
            "unix:/run/hitkeep-auth/auth.sock",
        ] {
            let target = text.parse::<Target>().unwrap();
            assert_eq!(target.to_string(), text);
            let origin = target.origin().to_string();
            let expected = if text.starts_with("unix:") {
                "http://localhost/".to_owned()
            } else {
                format!("{text}/")
            };
            assert_eq!(origin, expected);
        }
        let slash: Target = "http://auth:1/".parse().unwrap();
        assert_eq!(slash.to_string(), "http://auth:1");
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "unix:",
            "auth:50051",
            "127.0.0.1:50051",
            "http://auth",
            "http://:50051",
            "http://auth:x",
            "http://auth:99999",
            "http://auth:1/path",
            "http://auth:1?query",
            "http://auth:1#fragment",
            "ftp://auth:1",
            "grpc://auth:1",
            "http//auth:1",
        ] {
            assert_eq!(text.parse::<Target>(), Err(BadTarget::Form), "{text}");
        }
        for text in ["http://user:secret@auth:1", "https://token@auth:1"] {
            assert_eq!(text.parse::<Target>(), Err(BadTarget::Credentials));
        }
    }
}
