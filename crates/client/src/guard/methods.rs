//! What the methods of a gRPC server need of a token.

use std::{collections::HashMap, fmt, sync::Arc};

use hitkeep_auth_domain::{
    access::PermissionCheck,
    id::SiteId,
    proxy_auth::route::{Need, PathAmbiguity},
    role::{InstancePermission, SitePermission},
};
use http::{Extensions, HeaderMap};

use super::{question, token_of};
use crate::{
    authenticator::Authenticator,
    error::{Error, Misconfigured},
    principal::Principal,
};

/// What the methods of a gRPC server need: those with a name of their own first, then those of
/// a service, then all others. A method that is not named at all is refused.
///
/// Health checks and server reflection need nothing, unless they are named: they are asked by
/// programs that have no token, such as load balancers.
///
/// ```
/// use hitkeep_auth_client::{SitePermission, guard::{MethodPolicy, Methods}};
///
/// # fn methods() -> Result<Methods, hitkeep_auth_client::guard::BadMethod> {
/// Methods::default()
///     .method("/hits.v1.HitService/List", MethodPolicy::active())?
///     .service("/hits.v1.AboutService", MethodPolicy::public())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Methods {
    named: HashMap<Box<str>, MethodPolicy>,
    others: Option<MethodPolicy>,
}

/// What a method needs of a token.
#[derive(Clone)]
pub struct MethodPolicy(Kind);

type FindSite = dyn Fn(&HeaderMap) -> Option<SiteId> + Send + Sync;

#[derive(Clone)]
enum Kind {
    Public,
    Active,
    Instance(InstancePermission),
    Site(SitePermission, Arc<FindSite>),
    HumanOnly,
}

/// The name of a method or service is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMethod {
    /// A method's.
    #[error("a method is named /SERVICE/METHOD")]
    Method,
    /// A service's.
    #[error("a service is named /SERVICE")]
    Service,
}

/// Services that are asked by programs without a token.
const EXEMPT: [&str; 3] = [
    "/grpc.health.v1.Health",
    "/grpc.reflection.v1.ServerReflection",
    "/grpc.reflection.v1alpha.ServerReflection",
];

impl MethodPolicy {
    /// Everything passes, without a principal.
    pub const fn public() -> Self {
        Self(Kind::Public)
    }

    /// The token has to work. The method itself can ask for more:
    /// [`Principal::require`] with what is in its message.
    pub const fn active() -> Self {
        Self(Kind::Active)
    }

    /// The token has to carry a permission on the instance.
    pub const fn on_instance(permission: InstancePermission) -> Self {
        Self(Kind::Instance(permission))
    }

    /// The token has to carry a permission on the site that `find` finds in the metadata. A
    /// layer does not see messages. If it finds none, that is [`Error::AmbiguousPath`].
    pub fn on_site_of(
        permission: SitePermission,
        find: impl Fn(&HeaderMap) -> Option<SiteId> + Send + Sync + 'static,
    ) -> Self {
        Self(Kind::Site(permission, Arc::new(find)))
    }

    /// No token is enough, whatever its role.
    pub const fn human_only() -> Self {
        Self(Kind::HumanOnly)
    }

    async fn authorize(
        &self,
        by: &Authenticator,
        metadata: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<Principal>, Error> {
        if matches!(self.0, Kind::Public) {
            return Ok(None);
        }
        let token = match token_of(metadata) {
            Err(Error::NoToken) => return Err(Error::NoToken),
            token => token,
        };
        let need = match &self.0 {
            Kind::Public | Kind::Active => Need::Active,
            Kind::Instance(permission) => Need::Permission(PermissionCheck::Instance(*permission)),
            Kind::Site(permission, find) => {
                let site = find(metadata).ok_or(Error::AmbiguousPath(PathAmbiguity::Site))?;
                Need::Permission(PermissionCheck::Site {
                    site,
                    permission: *permission,
                })
            }
            Kind::HumanOnly => Need::Human,
        };
        let question = question(token?, extensions);
        by.satisfy(question, need).await.map(Some)
    }
}

impl Methods {
    /// Says what a method needs, such as `/hits.v1.HitService/List`.
    ///
    /// # Errors
    /// If that is no method's name.
    pub fn method(mut self, name: &str, policy: MethodPolicy) -> Result<Self, BadMethod> {
        let parts = name.strip_prefix('/').and_then(|rest| rest.split_once('/'));
        match parts {
            Some((service, method))
                if !service.is_empty() && !method.is_empty() && !method.contains('/') =>
            {
                self.named.insert(name.into(), policy);
                Ok(self)
            }
            _ => Err(BadMethod::Method),
        }
    }

    /// Says what all methods of a service need, such as `/hits.v1.HitService`.
    ///
    /// # Errors
    /// If that is no service's name.
    pub fn service(mut self, name: &str, policy: MethodPolicy) -> Result<Self, BadMethod> {
        match name.strip_prefix('/') {
            Some(service) if !service.is_empty() && !service.contains('/') => {
                self.named.insert(name.into(), policy);
                Ok(self)
            }
            _ => Err(BadMethod::Service),
        }
    }

    /// Says what all methods need that are not named otherwise.
    #[must_use]
    pub fn otherwise(mut self, policy: MethodPolicy) -> Self {
        self.others = Some(policy);
        self
    }

    fn find(&self, method: &str) -> Result<&MethodPolicy, Error> {
        const NOTHING: &MethodPolicy = &MethodPolicy::public();
        let service = method.rsplit_once('/').map_or("", |(service, _)| service);
        let named = self.named.get(method).or_else(|| self.named.get(service));
        let exempt = || EXEMPT.contains(&service).then_some(NOTHING);
        let unnamed = || Error::Misconfigured(Misconfigured::Method(method.into()));
        { named.or_else(exempt) }
            .or(self.others.as_ref())
            .ok_or_else(unnamed)
    }

    /// Lets a call pass, or says why not. `None`: it passes without a token.
    ///
    /// # Errors
    /// Those of [`Authenticator::check`], and [`Error::Misconfigured`].
    pub async fn authorize(
        &self,
        by: &Authenticator,
        method: &str,
        metadata: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<Principal>, Error> {
        self.find(method)?.authorize(by, metadata, extensions).await
    }
}

impl fmt::Debug for MethodPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Public => f.write_str("Public"),
            Kind::Active => f.write_str("Active"),
            Kind::Instance(permission) => write!(f, "{permission}"),
            Kind::Site(permission, _) => write!(f, "{permission} on a site"),
            Kind::HumanOnly => f.write_str("HumanOnly"),
        }
    }
}

impl fmt::Debug for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_map();
        shown.entries(&self.named);
        if let Some(others) = &self.others {
            shown.entry(&"*", others);
        }
        shown.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(methods: &Methods, method: &str) -> String {
        match methods.find(method) {
            Ok(policy) => format!("{policy:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_most_exact_name_counts() {
        let health = "/grpc.health.v1.Health/Check";
        let methods = Methods::default();
        assert_eq!(
            found(&methods, "/a.B/C"),
            "misconfigured: nothing says what /a.B/C needs"
        );
        assert_eq!(found(&methods, health), "Public");
        let methods = methods
            .method("/a.B/C", MethodPolicy::human_only())
            .unwrap()
            .service(
                "/a.B",
                MethodPolicy::on_instance(InstancePermission::ViewAudit),
            )
            .unwrap()
            .otherwise(MethodPolicy::active());
        assert_eq!(found(&methods, "/a.B/C"), "HumanOnly");
        assert_eq!(found(&methods, "/a.B/D"), "instance.view_audit");
        assert_eq!(found(&methods, "/a.B.C/D"), "Active");
        assert_eq!(found(&methods, health), "Public");
        // Unless it is named.
        let methods = methods
            .service("/grpc.health.v1.Health", MethodPolicy::active())
            .unwrap();
        assert_eq!(found(&methods, health), "Active");
    }

    #[test]
    fn names_that_match_nothing_are_refused() {
        for name in ["", "/", "a.B/C", "/a.B", "/a.B/", "//C", "/a.B/C/D", "*"] {
            let added = Methods::default().method(name, MethodPolicy::active());
            assert_eq!(added.map(|_| ()), Err(BadMethod::Method), "{name}");
        }
        for name in ["", "/", "a.B", "/a.B/", "/a.B/*"] {
            let added = Methods::default().service(name, MethodPolicy::active());
            assert_eq!(added.map(|_| ()), Err(BadMethod::Service), "{name}");
        }
    }
}
