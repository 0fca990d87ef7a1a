//! Errors in a route's configuration, for its operator, and in a request's path.

use super::path::PathError;
use crate::{
    role::{InstancePermission, SitePermission},
    token::may_contain_token,
};

/// The most characters of a value that a message repeats.
const MAX_SHOWN: usize = 100;

/// What is wrong with a route's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RouteError {
    /// The setting does not exist.
    #[error(
        "there is no setting {0}, only permission, site_id, site_path, preflight and human_only"
    )]
    UnknownSetting(QuotedValue),
    /// The setting has two values.
    #[error("{0} is set twice")]
    SetTwice(&'static str),
    /// The setting has no value, perhaps because a variable was not substituted.
    #[error("{0} is empty: leave it out where it is not needed")]
    Empty(&'static str),
    /// The permission does not exist.
    #[error("there is no permission {0}")]
    UnknownPermission(QuotedValue),
    /// A `site.*` permission needs a site.
    #[error("the permission {0} needs a site: set site_id or site_path")]
    SiteMissing(SitePermission),
    /// An `instance.*` permission takes no site.
    #[error("the permission {0} is one on the instance: it takes neither site_id nor site_path")]
    SiteUnexpected(InstancePermission),
    /// The site is configured in two ways.
    #[error("site_id and site_path are both set: one of them can name the site")]
    SiteTwice,
    /// The `site_id` is not a UUID.
    #[error("the site_id {0} is not a UUID")]
    SiteMalformed(QuotedValue),
    /// The `site_path` is not a valid template.
    #[error("the site_path {0} {1}")]
    PathMalformed(QuotedValue, PathError),
    /// The request's path is in normal form, but does not match the template.
    #[error("the site_path {0} does not match the path of a request that came to the route")]
    PathUnmatched(QuotedValue),
    /// The route has a `site_path`, and the proxy sends no path.
    #[error("the site_path {0} needs the path of the request, and the proxy does not send it")]
    PathMissing(QuotedValue),
    /// The route has a `site_path`, and the proxy sends two different paths.
    #[error(
        "the proxy sends two different paths of a request: let it set one of the path headers, \
         and clear the others"
    )]
    PathConflict,
    /// The value of `preflight` is unknown.
    #[error("preflight is {0}, and can only be \"pass\"")]
    PreflightUnknown(QuotedValue),
    /// The value of `human_only` is unknown.
    #[error("human_only is {0}, and can only be \"true\" or \"false\"")]
    HumanOnlyUnknown(QuotedValue),
    /// Preflights are to pass, and the proxy does not send the method in a trustworthy way.
    #[error(
        "preflight is set, and the method of a request is not trustworthy here: let the \
         proxy itself pass preflight requests"
    )]
    MethodUnknown,
    /// A setting is in the query of a request whose path follows that of the endpoint. It may
    /// come from the client.
    #[error(
        "{0} is in the query of a request whose path follows /forward-auth/, where it may be \
         the client's: settings go before the path, as in /forward-auth;{0}=…/"
    )]
    SettingOfClient(&'static str),
}

/// A setting's value as messages show it: quoted, and truncated. A value with a token,
/// which an operator put in the wrong place, is not shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuotedValue(String);

impl QuotedValue {
    /// Quotes and truncates the value, or hides it if it may contain a token.
    pub fn new(value: &str) -> Self {
        if may_contain_token(value) {
            return Self("that holds a token".to_owned());
        }
        let mut shown: String = value.chars().take(MAX_SHOWN).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self(format!("{shown:?}"))
    }
}

impl std::fmt::Display for QuotedValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a request's path does not clearly identify a site. The client is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathAmbiguity {
    /// Programs could parse the path differently.
    #[error("the path is not in its normal form")]
    Path,
    /// The site's segment is not a UUID.
    #[error("the path does not name a site by its UUID")]
    Site,
}

/// Why the requirement of a request cannot be determined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NeedError {
    /// The route's configuration is at fault.
    Route(RouteError),
    /// The client is at fault.
    Client(PathAmbiguity),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_auth::route::RouteSettings;

    #[test]
    fn quoted_values_are_short_and_contain_no_token() {
        let long = "x".repeat(MAX_SHOWN + 1);
        let shown = QuotedValue::new(&long).to_string();
        assert_eq!(shown, format!("\"{}…\"", &long[1..]));
        let token = "hkp_00000000000000000000000000000000000000000004Rx6xu";
        let said = RouteSettings::read([("permission", token)]).unwrap_err();
        assert_eq!(
            said.to_string(),
            "there is no permission that holds a token"
        );
    }
}
