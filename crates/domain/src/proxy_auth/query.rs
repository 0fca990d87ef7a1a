//! What a proxy asks, whatever its protocol, and the order in which its mistakes count.

use super::{
    credential::Credential,
    route::{Need, NeedError, Preflight, RouteError, RouteSettings},
    verdict::Refused,
};
use crate::{source::Source, token::PresentedToken};

/// A request that a proxy wants authorized.
pub struct AuthorizationQuery<'r> {
    /// The settings of its route.
    pub settings: Result<RouteSettings<'r>, RouteError>,
    /// Whether it is a preflight, judged by what the proxy sends, not the client.
    pub is_preflight: bool,
    /// Its path, with an optional query; None if the proxy does not send it.
    pub target: Option<&'r str>,
    /// The token that it has.
    pub credential: Credential<'r>,
    /// Where it comes from.
    pub source: Source<'r>,
}

/// A query whose fields are valid.
pub enum ParsedQuery {
    /// A preflight that needs no token.
    Preflight,
    /// The need of the route, and the token.
    Judge(Need, PresentedToken),
}

impl AuthorizationQuery<'_> {
    /// Validates the query. A route's mistake comes first, because no request gets past it: an
    /// operator sees it before any client has a token. An unclear path is the client's mistake,
    /// and comes after a missing token.
    pub fn parse(self) -> Result<ParsedQuery, Refused> {
        let settings = self.settings.map_err(Refused::Misconfigured)?;
        if settings.preflight == Preflight::Passes && self.is_preflight {
            return Ok(ParsedQuery::Preflight);
        }
        let need = match settings.need(self.target) {
            Err(NeedError::Route(mistake)) => return Err(Refused::Misconfigured(mistake)),
            need => need,
        };
        let presented = match self.credential {
            Credential::Missing => return Err(Refused::NoToken),
            Credential::Text(text) => PresentedToken::read(text),
            Credential::Several => PresentedToken::Unknown,
        };
        Ok(ParsedQuery::Judge(need?, presented))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::PermissionCheck;

    const SITE: &str = "01930000-0000-7000-8000-0000000000ab";

    fn parsed(
        settings: &[(&'static str, &str)],
        is_preflight: bool,
        target: Option<&str>,
        credential: Credential<'_>,
    ) -> Result<ParsedQuery, Refused> {
        let query = AuthorizationQuery {
            settings: RouteSettings::read(settings.iter().copied()),
            is_preflight,
            target,
            credential,
            source: Source::Unknown,
        };
        query.parse()
    }

    #[test]
    fn the_first_mistake_counts() {
        let by_path = [("site_path", "/s/{site_id}"), ("permission", "site.view")];
        let path = format!("/s/{SITE}");
        let unclear = format!("/s/../s/{SITE}");
        let text = Credential::Text(b"made up");
        let wrong = parsed(&[("x", "y")], true, None, Credential::Missing);
        assert!(matches!(wrong, Err(Refused::Misconfigured(_))));
        let no_path = parsed(&by_path, false, None, Credential::Missing);
        assert!(matches!(no_path, Err(Refused::Misconfigured(_))));
        let no_token = parsed(&by_path, false, Some(&unclear), Credential::Missing);
        assert!(matches!(no_token, Err(Refused::NoToken)));
        let ambiguous = parsed(&by_path, false, Some(&unclear), text);
        assert!(matches!(ambiguous, Err(Refused::AmbiguousPath(_))));
        let judged = parsed(&by_path, false, Some(&path), text);
        assert!(matches!(
            judged,
            Ok(ParsedQuery::Judge(
                Need::Permission(PermissionCheck::Site { .. }),
                PresentedToken::Unknown
            ))
        ));
    }

    #[test]
    fn only_a_route_that_says_so_lets_preflights_pass() {
        let of = |settings: &[_], is_preflight| {
            parsed(settings, is_preflight, Some("/"), Credential::Missing)
        };
        let passes = [("preflight", "pass")];
        assert!(matches!(of(&passes, true), Ok(ParsedQuery::Preflight)));
        assert!(matches!(of(&passes, false), Err(Refused::NoToken)));
        assert!(matches!(of(&[], true), Err(Refused::NoToken)));
    }

    #[test]
    fn what_cannot_be_a_token_is_an_unknown_one() {
        for credential in [Credential::Text(b"\xff"), Credential::Several] {
            let judged = parsed(&[], false, None, credential);
            assert!(matches!(
                judged,
                Ok(ParsedQuery::Judge(Need::Active, PresentedToken::Unknown))
            ));
        }
    }
}
