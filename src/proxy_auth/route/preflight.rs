//! CORS preflights: the requests by which a browser asks whether a page may call another
//! origin. It sends no credentials with them (Fetch, section 3.2), so a route that is
//! called from other origins has to let them pass to its upstream, which answers them.

/// What a route does with a preflight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// It needs a token, as any other request.
    #[default]
    Checked,
    /// It passes without one, and in nobody's name.
    Passes,
}

/// What is seen of a request's headers, of which all names are to be shown to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct PreflightSigns {
    origin: bool,
    requested_method: bool,
}

impl PreflightSigns {
    /// Shows it a header, its name in any case.
    pub const fn see(&mut self, name: &[u8]) {
        self.origin |= name.eq_ignore_ascii_case(b"origin");
        self.requested_method |= name.eq_ignore_ascii_case(b"access-control-request-method");
    }

    /// Whether a request with that method is a preflight.
    pub fn are_of_preflight(self, method: &str) -> bool {
        method == "OPTIONS" && self.origin && self.requested_method
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_has_a_method_and_two_headers() {
        let signs = |names: &[&str]| {
            let mut signs = PreflightSigns::default();
            for name in names {
                signs.see(name.as_bytes());
            }
            signs
        };
        let both = signs(&["Origin", "x", "access-control-REQUEST-method"]);
        assert!(both.are_of_preflight("OPTIONS"));
        for method in ["GET", "POST", "options", "OPTIONS ", ""] {
            assert!(!both.are_of_preflight(method), "{method}");
        }
        for names in [
            &[][..],
            &["origin"],
            &["access-control-request-method"],
            &["origins", "access-control-request-method"],
        ] {
            assert!(!signs(names).are_of_preflight("OPTIONS"), "{names:?}");
        }
    }
}
