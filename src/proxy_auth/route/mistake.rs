//! What can be wrong with a route, for its operator, and with a request to it.

use super::path::PathMistake;
use crate::domain::{
    role::{InstancePermission, SitePermission},
    token::may_contain_token,
};

/// The most of a value that a message about it repeats.
const MAX_SHOWN: usize = 100;

/// What is wrong with a route, for its operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Mistake {
    /// A setting that there is not.
    #[error("there is no setting {0}, only permission, site_id, site_path and preflight")]
    UnknownSetting(Shown),
    /// One setting, and two values.
    #[error("{0} is set twice")]
    SetTwice(&'static str),
    /// A setting without a value, which may be a variable that was not filled in.
    #[error("{0} is empty: leave it out where it is not needed")]
    Empty(&'static str),
    /// A permission that there is not.
    #[error("there is no permission {0}")]
    UnknownPermission(Shown),
    /// A `site.*` permission, and no site.
    #[error("the permission {0} needs a site: set site_id or site_path")]
    SiteMissing(SitePermission),
    /// An `instance.*` permission, and a site.
    #[error("the permission {0} is one on the instance: it takes neither site_id nor site_path")]
    SiteTooMuch(InstancePermission),
    /// Two places for one site.
    #[error("site_id and site_path are both set: one of them can name the site")]
    TwoPlaces,
    /// The `site_id` is none.
    #[error("the site_id {0} is not a UUID")]
    SiteMalformed(Shown),
    /// The `site_path` cannot be read.
    #[error("the site_path {0} {1}")]
    PathMalformed(Shown, PathMistake),
    /// A request's path that is as it should be, and not as the route says.
    #[error("the site_path {0} does not match the path of a request that came to the route")]
    PathUnmatched(Shown),
    /// The route has a `site_path`, and the proxy tells no path.
    #[error("the site_path {0} needs the path of the request, and the proxy does not tell it")]
    PathUntold(Shown),
    /// The route has a `site_path`, and the proxy tells two paths.
    #[error(
        "the proxy tells the path of a request twice, and differently: let it set one of the \
         headers that tell it, and clear the others"
    )]
    PathToldTwice,
    /// The `preflight` is none.
    #[error("preflight is {0}, and can only be \"pass\"")]
    PreflightUnknown(Shown),
    /// Preflights are to pass, and the proxy does not tell the method so that it can be
    /// believed.
    #[error(
        "preflight is set, and the method of a request is not known for sure here: let the \
         proxy itself pass preflight requests"
    )]
    MethodUntold,
    /// A request whose path follows that of the check has a query that names a setting:
    /// it may be the client's.
    #[error(
        "{0} is in the query of a request whose path follows /forward-auth/, where it may be \
         the client's: settings go before the path, as in /forward-auth;{0}=…/"
    )]
    SettingOfClient(&'static str),
}

/// A value of a setting as a message shows it: quoted, and not all of a long one. A
/// token that somebody put into the wrong place is not shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shown(String);

impl Shown {
    /// Makes a value fit to be shown.
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

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a request's path names no site for sure. It is the client's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// Two programs could read the path differently.
    #[error("the path is not in its normal form")]
    Path,
    /// Where the site should be is something else.
    #[error("the path does not name a site by its UUID")]
    Site,
}

/// Why it cannot be said what a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NeedError {
    /// The route is at fault.
    Route(Mistake),
    /// The client is at fault.
    Client(Unclear),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_auth::route::Route;

    #[test]
    fn what_is_shown_is_short_and_holds_no_token() {
        let long = "x".repeat(MAX_SHOWN + 1);
        let shown = Shown::new(&long).to_string();
        assert_eq!(shown, format!("\"{}…\"", &long[1..]));
        let token = "hkp_00000000000000000000000000000000000000000004Rx6xu";
        let said = Route::read([("permission", token)]).unwrap_err();
        assert_eq!(
            said.to_string(),
            "there is no permission that holds a token"
        );
    }
}
