//! CORS preflights, by which a browser asks whether a page may call another origin.
//! Browsers send no credentials with them (Fetch, section 3.2), so a route for
//! cross-origin calls must pass them to its upstream, which answers them.

/// How a route treats preflights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// A preflight needs a token, as any other request does.
    #[default]
    Checked,
    /// A preflight passes without a token, and without an identity.
    Passes,
}

/// The preflight headers found in a request. The caller must show it every header name.
#[derive(Clone, Copy, Debug, Default)]
pub struct PreflightHeaders {
    origin: bool,
    requested_method: bool,
}

impl PreflightHeaders {
    /// Takes note of a header; the case of its name does not matter.
    pub const fn see(&mut self, name: &[u8]) {
        self.origin |= name.eq_ignore_ascii_case(b"origin");
        self.requested_method |= name.eq_ignore_ascii_case(b"access-control-request-method");
    }

    /// Whether a request with these headers and this method is a preflight.
    pub fn indicate_preflight(self, method: &str) -> bool {
        method == "OPTIONS" && self.origin && self.requested_method
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_has_a_method_and_two_headers() {
        let signs = |names: &[&str]| {
            let mut signs = PreflightHeaders::default();
            for name in names {
                signs.see(name.as_bytes());
            }
            signs
        };
        let both = signs(&["Origin", "x", "access-control-REQUEST-method"]);
        assert!(both.indicate_preflight("OPTIONS"));
        for method in ["GET", "POST", "options", "OPTIONS ", ""] {
            assert!(!both.indicate_preflight(method), "{method}");
        }
        for names in [
            &[][..],
            &["origin"],
            &["access-control-request-method"],
            &["origins", "access-control-request-method"],
        ] {
            assert!(!signs(names).indicate_preflight("OPTIONS"), "{names:?}");
        }
    }
}
