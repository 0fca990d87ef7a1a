//! What a proxy's route requires of a token: parsed from the settings that an operator
//! gives the route, and then, for each request, from its path.
//!
//! Parsing a [`Route`] is strict, because a misunderstood setting must not leave a route
//! open: an unknown setting, such as a misspelt `permision`, is an error. Parsing does not
//! allocate, so it happens for each request, and no state has to be kept in sync with a
//! proxy's configuration.

mod admits;
mod error;
mod path;
mod preflight;

pub use admits::Admits;
pub use error::{NeedError, PathAmbiguity, QuotedValue, RouteError};
pub use path::{NormalPath, PathError, SitePath, origin_form};
pub use preflight::{Preflight, PreflightHeaders};

use uuid::Uuid;

use crate::{
    access::{Decision, EffectiveAccess, PermissionCheck},
    id::SiteId,
    role::{InstancePermission, SitePermission},
};

/// The permission that the token must have.
pub const PERMISSION: &str = "permission";
/// The site, if it is the same for all requests.
pub const SITE_ID: &str = "site_id";
/// The template that finds the site in the request's path.
pub const SITE_PATH: &str = "site_path";

/// How to treat CORS preflights; see [`Preflight`].
pub const PREFLIGHT: &str = "preflight";
/// Whether the route is closed to all tokens; see [`Admits`].
pub const HUMAN_ONLY: &str = "human_only";
/// The names of all settings.
pub const SETTINGS: [&str; 5] = [PERMISSION, SITE_ID, SITE_PATH, PREFLIGHT, HUMAN_ONLY];
/// The only value of [`PREFLIGHT`].
const PASS: &str = "pass";

/// The length of a UUID as five groups with hyphens.
const UUID_LENGTH: usize = 36;

/// A route's parsed settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSettings<'s> {
    /// What the route requires of a token.
    pub route: Route<'s>,
    /// Whether a CORS preflight needs a token as well.
    pub preflight: Preflight,
    /// Whether a token can pass at all.
    pub admits: Admits,
}

/// What a route requires of a token. The type rules out invalid combinations, such as a
/// `site.*` permission without a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'s> {
    /// An active token.
    Active,
    /// An active token; the upstream gets its role on the site, if it has one.
    ActiveOn(SiteSource<'s>),
    /// A permission on a site.
    Site(SitePermission, SiteSource<'s>),
    /// A permission on the instance.
    Instance(InstancePermission),
}

/// How a request's site is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteSource<'s> {
    /// It is the same for all requests.
    Fixed(SiteId),
    /// It is in the request's path.
    InPath(SitePath<'s>),
}

/// What one request requires of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// An active token.
    Active,
    /// An active token; the upstream gets its role on the site, if it has one.
    ActiveOn(SiteId),
    /// A permission.
    Permission(PermissionCheck),
    /// A person: no token is enough.
    Human,
}

impl<'s> RouteSettings<'s> {
    /// Parses a route's settings, in any order.
    ///
    /// # Errors
    /// The first error found.
    pub fn read<I>(settings: I) -> Result<Self, RouteError>
    where
        I: IntoIterator<Item = (&'s str, &'s str)>,
    {
        let (mut permission, mut site_id, mut site_path) = (None, None, None);
        let (mut preflight, mut human_only) = (None, None);
        for (name, value) in settings {
            let (name, source) = match name {
                PERMISSION => (PERMISSION, &mut permission),
                SITE_ID => (SITE_ID, &mut site_id),
                SITE_PATH => (SITE_PATH, &mut site_path),
                PREFLIGHT => (PREFLIGHT, &mut preflight),
                HUMAN_ONLY => (HUMAN_ONLY, &mut human_only),
                _ => return Err(RouteError::UnknownSetting(QuotedValue::new(name))),
            };
            if value.is_empty() {
                return Err(RouteError::Empty(name));
            }
            if source.replace(value).is_some() {
                return Err(RouteError::SetTwice(name));
            }
        }
        let source = match (site_id, site_path) {
            (None, None) => None,
            (Some(id), None) => {
                Some(SiteSource::Fixed(site(id.as_bytes()).ok_or_else(|| {
                    RouteError::SiteMalformed(QuotedValue::new(id))
                })?))
            }
            (None, Some(template)) => {
                let malformed =
                    |wrong| RouteError::PathMalformed(QuotedValue::new(template), wrong);
                Some(SiteSource::InPath(
                    SitePath::read(template).map_err(malformed)?,
                ))
            }
            (Some(_), Some(_)) => return Err(RouteError::SiteTwice),
        };
        let preflight = match preflight {
            None => Preflight::Checked,
            Some(PASS) => Preflight::Passes,
            Some(other) => return Err(RouteError::PreflightUnknown(QuotedValue::new(other))),
        };
        let admits = human_only.map_or(Ok(Admits::default()), Admits::read)?;
        let route = Route::of(permission, source)?;
        Ok(Self {
            route,
            preflight,
            admits,
        })
    }

    /// Parses a route's settings if the method of a request is not known.
    ///
    /// # Errors
    /// The first error found. A `preflight` setting is one, because it needs the method.
    pub fn read_without_method<I>(settings: I) -> Result<Self, RouteError>
    where
        I: IntoIterator<Item = (&'s str, &'s str)>,
    {
        let settings = Self::read(settings)?;
        match settings.preflight {
            Preflight::Checked => Ok(settings),
            Preflight::Passes => Err(RouteError::MethodUnknown),
        }
    }

    /// The requirement of a request. `target` is the request target, a path and perhaps a
    /// query; `None` if the proxy does not send it. On a route for people alone, it is a
    /// person, but what the route and the path say besides must be right as well.
    ///
    /// # Errors
    /// If the path does not clearly identify the site.
    pub fn need(&self, target: Option<&str>) -> Result<Need, NeedError> {
        let need = self.route.need(target)?;
        Ok(match self.admits {
            Admits::Tokens => need,
            Admits::HumansOnly => Need::Human,
        })
    }
}

impl<'s> Route<'s> {
    fn of(permission: Option<&str>, source: Option<SiteSource<'s>>) -> Result<Self, RouteError> {
        let Some(permission) = permission else {
            return Ok(source.map_or(Self::Active, Self::ActiveOn));
        };
        if let Ok(permission) = permission.parse() {
            let source = source.ok_or(RouteError::SiteMissing(permission))?;
            return Ok(Self::Site(permission, source));
        }
        match (permission.parse(), source) {
            (Ok(permission), None) => Ok(Self::Instance(permission)),
            (Ok(permission), Some(_)) => Err(RouteError::SiteUnexpected(permission)),
            (Err(_), _) => Err(RouteError::UnknownPermission(QuotedValue::new(permission))),
        }
    }

    /// Whether the requirement depends on the request's path.
    pub const fn reads_path(&self) -> bool {
        self.template().is_some()
    }

    const fn template(&self) -> Option<SitePath<'s>> {
        match self {
            Self::ActiveOn(SiteSource::InPath(template))
            | Self::Site(_, SiteSource::InPath(template)) => Some(*template),
            Self::ActiveOn(SiteSource::Fixed(_))
            | Self::Site(_, SiteSource::Fixed(_))
            | Self::Active
            | Self::Instance(_) => None,
        }
    }

    /// Whether a header's value may be two paths that a program joined, the client's and the
    /// proxy's. No request target has a space. A comma may be part of one; but if the text
    /// after it is a path that matches this route, or is not in normal form, it is ambiguous
    /// which of the two is meant.
    pub fn may_be_joined(&self, value: &str) -> bool {
        let Some(template) = self.template() else {
            return false;
        };
        let is_path = |(at, _)| {
            let rest = origin_form(&value[at + 1..]);
            let path = NormalPath::read(rest);
            rest.starts_with('/') && path.is_none_or(|path| template.find(path).is_some())
        };
        value.contains([' ', '\t']) || value.match_indices(',').any(is_path)
    }

    /// The requirement of a request on a token.
    fn need(&self, target: Option<&str>) -> Result<Need, NeedError> {
        Ok(match self {
            Self::Active => Need::Active,
            Self::ActiveOn(source) => Need::ActiveOn(source.site(target)?),
            Self::Site(permission, source) => Need::Permission(PermissionCheck::Site {
                site: source.site(target)?,
                permission: *permission,
            }),
            Self::Instance(permission) => Need::Permission(PermissionCheck::Instance(*permission)),
        })
    }
}

impl SiteSource<'_> {
    fn site(&self, target: Option<&str>) -> Result<SiteId, NeedError> {
        let template = match self {
            Self::Fixed(site) => return Ok(*site),
            Self::InPath(template) => template,
        };
        let shown = || QuotedValue::new(template.as_str());
        let target = target.ok_or_else(|| NeedError::Route(RouteError::PathMissing(shown())))?;
        let path = NormalPath::read(target).ok_or(NeedError::Client(PathAmbiguity::Path))?;
        let found = template.find(path);
        let found = found.ok_or_else(|| NeedError::Route(RouteError::PathUnmatched(shown())))?;
        site(found).ok_or(NeedError::Client(PathAmbiguity::Site))
    }
}

impl Need {
    /// The decision on an active token with that access; `None` if any active token will do.
    pub fn decide(self, access: &EffectiveAccess) -> Option<Decision> {
        match self {
            Self::Active | Self::ActiveOn(_) => None,
            Self::Permission(check) => Some(access.decide(&check)),
            Self::Human => Some(Decision::RoleTooLow),
        }
    }

    /// The site that the request is about, if any.
    pub const fn site(self) -> Option<SiteId> {
        match self {
            Self::ActiveOn(site) | Self::Permission(PermissionCheck::Site { site, .. }) => {
                Some(site)
            }
            Self::Active | Self::Human | Self::Permission(PermissionCheck::Instance(_)) => None,
        }
    }
}

/// Parses a site's id in upper or lower case, which are equal (RFC 9562). Other spellings
/// that some programs accept are refused: without hyphens, in braces, or as a URN.
fn site(text: &[u8]) -> Option<SiteId> {
    let id = (text.len() == UUID_LENGTH).then(|| Uuid::try_parse_ascii(text).ok())??;
    Some(SiteId::from_uuid(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = "01930000-0000-7000-8000-0000000000ab";

    fn read<'s>(settings: &[(&'s str, &'s str)]) -> Result<Route<'s>, String> {
        let read = RouteSettings::read_without_method(settings.iter().copied());
        let route = read.map(|settings| settings.route);
        route.map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn routes_parse_from_their_settings() {
        let fixed = SiteSource::Fixed(SITE.parse().unwrap());
        let template = SiteSource::InPath(SitePath::read("/s/{site_id}").unwrap());
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
    fn every_error_is_reported() {
        for (settings, said) in [
            (
                &[("permision", "site.view")][..],
                "there is no setting \"permision\", only permission, site_id, site_path, \
                 preflight and human_only",
            ),
            (
                &[("Permission", "site.view")],
                "there is no setting \"Permission\", only permission, site_id, site_path, \
                 preflight and human_only",
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
    fn preflights_pass_only_if_the_method_is_known() {
        let settings = |value| [("preflight", value), ("permission", "instance.view_audit")];
        let all = RouteSettings::read(settings("pass")).unwrap();
        assert_eq!(all.preflight, Preflight::Passes);
        assert_eq!(all.route, Route::Instance(InstancePermission::ViewAudit));
        assert_eq!(
            RouteSettings::read_without_method(settings("pass")),
            Err(RouteError::MethodUnknown)
        );
        let checked = RouteSettings::read([("site_id", SITE)]).unwrap();
        assert_eq!(checked.preflight, Preflight::Checked);
        for other in ["Pass", "true", "pass "] {
            let unknown = RouteError::PreflightUnknown(QuotedValue::new(other));
            assert_eq!(RouteSettings::read(settings(other)), Err(unknown));
        }
        assert_eq!(
            RouteSettings::read(settings("")),
            Err(RouteError::Empty("preflight"))
        );
    }

    #[test]
    fn joined_paths_are_detected() {
        let route = read(&[("site_path", "/s/{site_id}/**")]).unwrap();
        for joined in [
            "/s/a/x, /s/b/x",
            "/s/a/x,/s/b/x",
            "/s/a/x?q,/s/b/x",
            "/s/a/x?q, /t",
            "/s/a?q,https://host/s/b",
            "/s/a?q,/x,/s/b?q",
            "/s/a?q,/s//b",
            "/s/a?q,/s/%62",
            "/s/a\t",
        ] {
            assert!(route.may_be_joined(joined), "{joined}");
        }
        for one in [
            "/s/a/x",
            "/s/a,b",
            "/s/a/x?pages=/a,/b",
            "/s/a/x?fields=a,b",
            "/s/a/x?next=https://h/a,https://h/b",
        ] {
            assert!(!route.may_be_joined(one), "{one}");
        }
        let fixed = read(&[("site_id", SITE)]).unwrap();
        assert!(!fixed.may_be_joined("/s/a,/s/b"));
    }

    #[test]
    fn need_follows_from_route_and_path() {
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
        assert_eq!(need.site(), Some(site));
        for other in [
            &SITE.replace('-', ""),
            "new",
            &format!("urn:uuid:{SITE}"),
            &SITE[1..],
        ] {
            let need = route.need(Some(&path(other)));
            assert_eq!(need, Err(NeedError::Client(PathAmbiguity::Site)), "{other}");
        }
        let template = || QuotedValue::new("/s/{site_id}/**");
        let unmatched = NeedError::Route(RouteError::PathUnmatched(template()));
        assert_eq!(route.need(Some("/t")), Err(unmatched));
        let missing = NeedError::Route(RouteError::PathMissing(template()));
        assert_eq!(route.need(None), Err(missing));
        let unclear = NeedError::Client(PathAmbiguity::Path);
        assert_eq!(route.need(Some("")), Err(unclear));
        // The route does not depend on the path, so it is not parsed.
        assert_eq!(Route::Active.need(Some("//")), Ok(Need::Active));
    }
}
