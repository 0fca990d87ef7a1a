//! What a proxy's route needs of a token: read from the settings that an operator
//! gives the route, and then, for each request, from its path.
//!
//! A [`Route`] is read strictly, because a setting that is not understood must not
//! leave a route open: an unknown setting, such as a misspelt `permision`, is a
//! mistake like any other. Reading one allocates nothing, so it is done for each
//! request, and there is nothing to keep in step with a proxy's configuration.

mod path;

pub use path::{NormalPath, PathMistake, SitePath};

use uuid::Uuid;

use super::{
    access::PermissionCheck,
    id::SiteId,
    role::{InstancePermission, SitePermission},
    token::may_contain_token,
};

/// The settings of a route, by name.
pub const PERMISSION: &str = "permission";
/// See [`PERMISSION`].
pub const SITE_ID: &str = "site_id";
/// See [`PERMISSION`].
pub const SITE_PATH: &str = "site_path";

/// The most of a value that a message about it repeats.
const MAX_SHOWN: usize = 100;
/// A UUID's text: five groups with hyphens between them.
const UUID_LENGTH: usize = 36;

/// What a route needs of a token. What cannot be needed cannot be written down,
/// such as a `site.*` permission without a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'s> {
    /// That it works.
    Active,
    /// That it works; its role on the site is told where it has one.
    ActiveOn(Place<'s>),
    /// A permission on a site.
    Site(SitePermission, Place<'s>),
    /// A permission on the instance.
    Instance(InstancePermission),
}

/// Where the site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'s> {
    /// It is always this one.
    Fixed(SiteId),
    /// The request's path names it.
    InPath(SitePath<'s>),
}

/// What one request needs of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// That it works.
    Active,
    /// That it works; its role on the site is told where it has one.
    ActiveOn(SiteId),
    /// A permission.
    Permission(PermissionCheck),
}

/// What is wrong with a route, for its operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Mistake {
    /// A setting that there is not.
    #[error("there is no setting {0}, only permission, site_id and site_path")]
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

impl<'s> Route<'s> {
    /// Reads a route from its settings, in any order.
    ///
    /// # Errors
    /// The first mistake that there is.
    pub fn read<I>(settings: I) -> Result<Self, Mistake>
    where
        I: IntoIterator<Item = (&'s str, &'s str)>,
    {
        let (mut permission, mut site_id, mut site_path) = (None, None, None);
        for (name, value) in settings {
            let (name, place) = match name {
                PERMISSION => (PERMISSION, &mut permission),
                SITE_ID => (SITE_ID, &mut site_id),
                SITE_PATH => (SITE_PATH, &mut site_path),
                _ => return Err(Mistake::UnknownSetting(Shown::new(name))),
            };
            if value.is_empty() {
                return Err(Mistake::Empty(name));
            }
            if place.replace(value).is_some() {
                return Err(Mistake::SetTwice(name));
            }
        }
        let place = match (site_id, site_path) {
            (None, None) => None,
            (Some(id), None) => Some(Place::Fixed(
                site(id.as_bytes()).ok_or_else(|| Mistake::SiteMalformed(Shown::new(id)))?,
            )),
            (None, Some(template)) => {
                let malformed = |wrong| Mistake::PathMalformed(Shown::new(template), wrong);
                Some(Place::InPath(SitePath::read(template).map_err(malformed)?))
            }
            (Some(_), Some(_)) => return Err(Mistake::TwoPlaces),
        };
        let Some(permission) = permission else {
            return Ok(place.map_or(Self::Active, Self::ActiveOn));
        };
        if let Ok(permission) = permission.parse() {
            let place = place.ok_or(Mistake::SiteMissing(permission))?;
            return Ok(Self::Site(permission, place));
        }
        match (permission.parse(), place) {
            (Ok(permission), None) => Ok(Self::Instance(permission)),
            (Ok(permission), Some(_)) => Err(Mistake::SiteTooMuch(permission)),
            (Err(_), _) => Err(Mistake::UnknownPermission(Shown::new(permission))),
        }
    }

    /// Whether it reads the path of a request.
    pub const fn reads_path(&self) -> bool {
        matches!(
            self,
            Self::ActiveOn(Place::InPath(_)) | Self::Site(_, Place::InPath(_))
        )
    }

    /// What a request needs, by its target as its first line has it: the path, and
    /// maybe a query; none where the proxy does not tell it.
    ///
    /// # Errors
    /// Where the path does not say which site it is about.
    pub fn need(&self, target: Option<&str>) -> Result<Need, NeedError> {
        Ok(match self {
            Self::Active => Need::Active,
            Self::ActiveOn(place) => Need::ActiveOn(place.site(target)?),
            Self::Site(permission, place) => Need::Permission(PermissionCheck::Site {
                site: place.site(target)?,
                permission: *permission,
            }),
            Self::Instance(permission) => Need::Permission(PermissionCheck::Instance(*permission)),
        })
    }
}

impl Place<'_> {
    fn site(&self, target: Option<&str>) -> Result<SiteId, NeedError> {
        let template = match self {
            Self::Fixed(site) => return Ok(*site),
            Self::InPath(template) => template,
        };
        let shown = || Shown::new(template.as_str());
        let target = target.ok_or_else(|| NeedError::Route(Mistake::PathUntold(shown())))?;
        let path = NormalPath::read(target).ok_or(NeedError::Client(Unclear::Path))?;
        let found = template.find(path);
        let found = found.ok_or_else(|| NeedError::Route(Mistake::PathUnmatched(shown())))?;
        site(found).ok_or(NeedError::Client(Unclear::Site))
    }
}

impl Need {
    /// The check that answers it; none where any token that works will do.
    pub const fn check(self) -> Option<PermissionCheck> {
        match self {
            Self::Active | Self::ActiveOn(_) => None,
            Self::Permission(check) => Some(check),
        }
    }

    /// The site that the request is about.
    pub const fn site(self) -> Option<SiteId> {
        match self {
            Self::ActiveOn(site) | Self::Permission(PermissionCheck::Site { site, .. }) => {
                Some(site)
            }
            Self::Active | Self::Permission(PermissionCheck::Instance(_)) => None,
        }
    }
}

/// A site's id in upper or lower case (RFC 9562: they are the same), and in no other
/// spelling: not without hyphens, in braces or as a URN, which some programs take.
fn site(text: &[u8]) -> Option<SiteId> {
    let id = (text.len() == UUID_LENGTH).then(|| Uuid::try_parse_ascii(text).ok())??;
    Some(SiteId::from_uuid(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = "01930000-0000-7000-8000-0000000000ab";

    fn read<'s>(settings: &[(&'s str, &'s str)]) -> Result<Route<'s>, String> {
        Route::read(settings.iter().copied()).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn a_route_is_read_from_its_settings() {
        let fixed = Place::Fixed(SITE.parse().unwrap());
        let template = Place::InPath(SitePath::read("/s/{site_id}").unwrap());
        assert_eq!(read(&[]), Ok(Route::Active));
        assert_eq!(read(&[("site_id", SITE)]), Ok(Route::ActiveOn(fixed)));
        assert_eq!(
            read(&[("site_id", &SITE.to_uppercase())]),
            Ok(Route::ActiveOn(fixed))
        );
        assert_eq!(
            read(&[("site_path", "/s/{site_id}"), ("permission", "site.view")]),
            Ok(Route::Site(SitePermission::View, template))
        );
        assert_eq!(
            read(&[("permission", "instance.view_audit")]),
            Ok(Route::Instance(InstancePermission::ViewAudit))
        );
    }

    #[test]
    fn every_mistake_is_named() {
        for (settings, said) in [
            (
                &[("permision", "site.view")][..],
                "there is no setting \"permision\", only permission, site_id and site_path",
            ),
            (
                &[("Permission", "site.view")],
                "there is no setting \"Permission\", only permission, site_id and site_path",
            ),
            (
                &[("permission", "site.view"), ("permission", "site.view")],
                "permission is set twice",
            ),
            (
                &[("permission", "")],
                "permission is empty: leave it out where it is not needed",
            ),
            (
                &[("permission", "site.fly")],
                "there is no permission \"site.fly\"",
            ),
            (
                &[("permission", "site.view ")],
                "there is no permission \"site.view \"",
            ),
            (
                &[("permission", "site.view")],
                "the permission site.view needs a site: set site_id or site_path",
            ),
            (
                &[("permission", "instance.view_audit"), ("site_id", SITE)],
                "the permission instance.view_audit is one on the instance: it takes neither \
                 site_id nor site_path",
            ),
            (
                &[("site_path", "/{site_id}"), ("site_id", SITE)],
                "site_id and site_path are both set: one of them can name the site",
            ),
            (&[("site_id", "x\n")], "the site_id \"x\\n\" is not a UUID"),
            (
                &[("site_id", "0193000000007000800000000000000a")],
                "the site_id \"0193000000007000800000000000000a\" is not a UUID",
            ),
            (
                &[("site_path", "/sites/*")],
                "the site_path \"/sites/*\" has no {site_id}",
            ),
        ] {
            assert_eq!(read(settings), Err(said.to_owned()));
        }
    }

    #[test]
    fn what_is_shown_is_short_and_holds_no_token() {
        let long = "x".repeat(MAX_SHOWN + 1);
        let shown = Shown::new(&long).to_string();
        assert_eq!(shown, format!("\"{}…\"", &long[1..]));
        let token = "hkp_00000000000000000000000000000000000000000004Rx6xu";
        let said = read(&[("permission", token)]).unwrap_err();
        assert_eq!(said, "there is no permission that holds a token");
    }

    #[test]
    fn a_request_needs_what_its_route_and_its_path_say() {
        let route = read(&[
            ("permission", "site.view"),
            ("site_path", "/s/{site_id}/**"),
        ])
        .unwrap();
        let site = SITE.parse().unwrap();
        let check = PermissionCheck::Site {
            site,
            permission: SitePermission::View,
        };
        let need = Need::Permission(check);
        let path = |id: &str| format!("/s/{id}/hits?from=1");
        assert_eq!(route.need(Some(&path(SITE))), Ok(need));
        assert_eq!(route.need(Some(&path(&SITE.to_uppercase()))), Ok(need));
        assert_eq!((need.check(), need.site()), (Some(check), Some(site)));
        for other in [
            &SITE.replace('-', ""),
            "new",
            &format!("urn:uuid:{SITE}"),
            &SITE[1..],
        ] {
            let told = route.need(Some(&path(other)));
            assert_eq!(told, Err(NeedError::Client(Unclear::Site)), "{other}");
        }
        let template = || Shown::new("/s/{site_id}/**");
        let unmatched = NeedError::Route(Mistake::PathUnmatched(template()));
        assert_eq!(route.need(Some("/t")), Err(unmatched));
        let untold = NeedError::Route(Mistake::PathUntold(template()));
        assert_eq!(route.need(None), Err(untold));
        let unclear = NeedError::Client(Unclear::Path);
        assert_eq!(route.need(Some("")), Err(unclear));
        // Where the path is of no account, it is not looked at.
        assert_eq!(Route::Active.need(Some("//")), Ok(Need::Active));
    }
}
