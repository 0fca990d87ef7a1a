//! What a proxy's route needs of a token: read from the settings that an operator
//! gives the route, and then, for each request, from its path.
//!
//! A [`Route`] is read strictly, because a setting that is not understood must not
//! leave a route open: an unknown setting, such as a misspelt `permision`, is a
//! mistake like any other. Reading one allocates nothing, so it is done for each
//! request, and there is nothing to keep in step with a proxy's configuration.

mod mistake;
mod path;
mod preflight;

pub use mistake::{Mistake, NeedError, Shown, Unclear};
pub use path::{NormalPath, PathMistake, SitePath, origin_form};
pub use preflight::{Preflight, PreflightSigns};

use uuid::Uuid;

use crate::domain::{
    access::PermissionCheck,
    id::SiteId,
    role::{InstancePermission, SitePermission},
};

/// The settings of a route, by name.
pub const PERMISSION: &str = "permission";
/// See [`PERMISSION`].
pub const SITE_ID: &str = "site_id";
/// See [`PERMISSION`].
pub const SITE_PATH: &str = "site_path";

/// See [`PERMISSION`].
pub const PREFLIGHT: &str = "preflight";
/// The names of all settings.
pub const SETTINGS: [&str; 4] = [PERMISSION, SITE_ID, SITE_PATH, PREFLIGHT];
/// The one value of [`PREFLIGHT`].
const PASS: &str = "pass";

/// A UUID's text: five groups with hyphens between them.
const UUID_LENGTH: usize = 36;

/// All that the settings of a route say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings<'s> {
    /// What the route needs of a token.
    pub route: Route<'s>,
    /// Whether a CORS preflight needs a token, too.
    pub preflight: Preflight,
}

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

impl<'s> Settings<'s> {
    /// Reads the settings of a route, in any order.
    ///
    /// # Errors
    /// The first mistake that there is.
    pub fn read<I>(settings: I) -> Result<Self, Mistake>
    where
        I: IntoIterator<Item = (&'s str, &'s str)>,
    {
        let (mut permission, mut site_id, mut site_path) = (None, None, None);
        let mut preflight = None;
        for (name, value) in settings {
            let (name, place) = match name {
                PERMISSION => (PERMISSION, &mut permission),
                SITE_ID => (SITE_ID, &mut site_id),
                SITE_PATH => (SITE_PATH, &mut site_path),
                PREFLIGHT => (PREFLIGHT, &mut preflight),
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
        let preflight = match preflight {
            None => Preflight::Checked,
            Some(PASS) => Preflight::Passes,
            Some(other) => return Err(Mistake::PreflightUnknown(Shown::new(other))),
        };
        let route = Route::of(permission, place)?;
        Ok(Self { route, preflight })
    }
}

impl<'s> Route<'s> {
    /// Reads a route from its settings, where the method of a request is not known.
    ///
    /// # Errors
    /// The first mistake that there is. That preflights are to pass is one.
    pub fn read<I>(settings: I) -> Result<Self, Mistake>
    where
        I: IntoIterator<Item = (&'s str, &'s str)>,
    {
        match Settings::read(settings)? {
            Settings {
                route,
                preflight: Preflight::Checked,
            } => Ok(route),
            Settings {
                preflight: Preflight::Passes,
                ..
            } => Err(Mistake::MethodUntold),
        }
    }

    fn of(permission: Option<&str>, place: Option<Place<'s>>) -> Result<Self, Mistake> {
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
        self.template().is_some()
    }

    const fn template(&self) -> Option<SitePath<'s>> {
        match self {
            Self::ActiveOn(Place::InPath(template)) | Self::Site(_, Place::InPath(template)) => {
                Some(*template)
            }
            Self::ActiveOn(Place::Fixed(_))
            | Self::Site(_, Place::Fixed(_))
            | Self::Active
            | Self::Instance(_) => None,
        }
    }

    /// Whether a header's value may tell two paths that a program has joined, the
    /// client's and the proxy's. A blank is in no request's target. A comma may be in
    /// one; but if what follows it is a path that came to this route, or none in its
    /// normal form, then it is open which of both is meant.
    pub fn may_be_joined(&self, told: &str) -> bool {
        let Some(template) = self.template() else {
            return false;
        };
        let is_path = |(at, _)| {
            let rest = origin_form(&told[at + 1..]);
            let path = NormalPath::read(rest);
            rest.starts_with('/') && path.is_none_or(|path| template.find(path).is_some())
        };
        told.contains([' ', '\t']) || told.match_indices(',').any(is_path)
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
                "there is no setting \"permision\", only permission, site_id, site_path and \
                 preflight",
            ),
            (
                &[("Permission", "site.view")],
                "there is no setting \"Permission\", only permission, site_id, site_path and \
                 preflight",
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
    fn a_preflight_passes_only_where_the_method_is_known() {
        let settings = |value| [("preflight", value), ("permission", "instance.view_audit")];
        let all = Settings::read(settings("pass")).unwrap();
        assert_eq!(all.preflight, Preflight::Passes);
        assert_eq!(all.route, Route::Instance(InstancePermission::ViewAudit));
        assert_eq!(Route::read(settings("pass")), Err(Mistake::MethodUntold));
        let checked = Settings::read([("site_id", SITE)]).unwrap();
        assert_eq!(checked.preflight, Preflight::Checked);
        for other in ["Pass", "true", "pass "] {
            let unknown = Mistake::PreflightUnknown(Shown::new(other));
            assert_eq!(Settings::read(settings(other)), Err(unknown));
        }
        assert_eq!(
            Settings::read(settings("")),
            Err(Mistake::Empty("preflight"))
        );
    }

    #[test]
    fn two_paths_that_were_joined_are_not_one() {
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
