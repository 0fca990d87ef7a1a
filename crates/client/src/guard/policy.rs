//! What a route needs of a token.

use std::{fmt, sync::Arc};

use hitkeep_auth_domain::{
    access::PermissionCheck,
    id::SiteId,
    proxy_auth::route::{
        Admits, Need, PathAmbiguity, PathError, Preflight, Route, RouteSettings, SitePath,
        SiteSource,
    },
    role::{InstancePermission, SitePermission},
};
use http::request::Parts;

use super::{question, token_of};
use crate::{authenticator::Authenticator, error::Error, principal::Principal};

/// What a route needs of a token.
///
/// ```
/// use hitkeep_auth_client::{InstancePermission, SitePermission, guard::Policy};
///
/// # fn policies() -> Result<(), hitkeep_auth_client::guard::PathError> {
/// // The figures of the site that the path names.
/// Policy::on_site(SitePermission::View, "/api/sites/{site_id}/stats")?;
/// Policy::on_instance(InstancePermission::ViewAudit);
/// // Any token that works.
/// Policy::active();
/// // No token: only people, who have a session, and whose requests do not come here.
/// Policy::human_only();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Policy(Kind);

#[derive(Clone)]
enum Kind {
    Active,
    Optional,
    Instance(InstancePermission),
    Site(SitePermission, SiteOf),
    HumanOnly,
}

type FindSite = dyn Fn(&Parts) -> Option<SiteId> + Send + Sync;

#[derive(Clone)]
enum SiteOf {
    /// A template that was read once.
    Template(Arc<str>),
    Found(Arc<FindSite>),
}

impl Policy {
    /// The token has to work.
    pub const fn active() -> Self {
        Self(Kind::Active)
    }

    /// Requests without any token pass, without a principal. A token that is there has to work.
    pub const fn optional() -> Self {
        Self(Kind::Optional)
    }

    /// The token has to carry a permission on the instance.
    pub const fn on_instance(permission: InstancePermission) -> Self {
        Self(Kind::Instance(permission))
    }

    /// The token has to carry a permission on the site that the path names. In the template,
    /// `{site_id}` is the segment with the site, `*` is any segment, and `**` the rest, such as
    /// in `/api/sites/{site_id}/**`.
    ///
    /// Only paths in normal form are accepted, since others may lead the program behind to
    /// another site. A path that does not match the template is [`Error::Misconfigured`].
    ///
    /// # Errors
    /// If the template matches nothing.
    pub fn on_site(permission: SitePermission, template: &str) -> Result<Self, PathError> {
        SitePath::read(template)?;
        let site = SiteOf::Template(template.into());
        Ok(Self(Kind::Site(permission, site)))
    }

    /// The token has to carry a permission on the site that `find` finds in the request. If it
    /// finds none, that is [`Error::AmbiguousPath`].
    pub fn on_site_of(
        permission: SitePermission,
        find: impl Fn(&Parts) -> Option<SiteId> + Send + Sync + 'static,
    ) -> Self {
        Self(Kind::Site(permission, SiteOf::Found(Arc::new(find))))
    }

    /// No token is enough, whatever its role.
    pub const fn human_only() -> Self {
        Self(Kind::HumanOnly)
    }

    /// Lets a request pass, or says why not. `None`: it passes without a token.
    ///
    /// # Errors
    /// Those of [`Authenticator::check`], and those of what the path or the policy says.
    pub async fn authorize(
        &self,
        by: &Authenticator,
        parts: &Parts,
    ) -> Result<Option<Principal>, Error> {
        let token = match (token_of(&parts.headers), &self.0) {
            (Err(Error::NoToken), Kind::Optional) => return Ok(None),
            (Err(Error::NoToken), _) => return Err(Error::NoToken),
            (token, _) => token,
        };
        // As the service's own endpoints do: the path first, and then the token.
        let need = self.need(parts)?;
        let question = question(token?, &parts.extensions);
        by.satisfy(question, need).await.map(Some)
    }

    fn need(&self, parts: &Parts) -> Result<Need, Error> {
        Ok(match &self.0 {
            Kind::Active | Kind::Optional => Need::Active,
            Kind::HumanOnly => Need::Human,
            Kind::Instance(permission) => Need::Permission(PermissionCheck::Instance(*permission)),
            Kind::Site(permission, SiteOf::Found(find)) => {
                let site = find(parts).ok_or(Error::AmbiguousPath(PathAmbiguity::Site))?;
                Need::Permission(PermissionCheck::Site {
                    site,
                    permission: *permission,
                })
            }
            Kind::Site(permission, SiteOf::Template(template)) => {
                let template = SitePath::read(template).expect("it was read before");
                let settings = RouteSettings {
                    route: Route::Site(*permission, SiteSource::InPath(template)),
                    preflight: Preflight::Checked,
                    admits: Admits::Tokens,
                };
                settings.need(Some(path(parts)))?
            }
        })
    }
}

/// The path that the client sent: axum's nested routers cut it.
fn path(parts: &Parts) -> &str {
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
        return original.0.path();
    }
    parts.uri.path()
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Active => f.write_str("Active"),
            Kind::Optional => f.write_str("Optional"),
            Kind::Instance(permission) => write!(f, "{permission}"),
            Kind::Site(permission, SiteOf::Template(site)) => write!(f, "{permission} on {site}"),
            Kind::Site(permission, SiteOf::Found(_)) => write!(f, "{permission} on a site"),
            Kind::HumanOnly => f.write_str("HumanOnly"),
        }
    }
}
