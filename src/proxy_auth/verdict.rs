//! What a proxy is told about a request that it asks about: let it pass, and as whom;
//! or refuse it, and how.
//!
//! Every kind of proxy gets the same answer, made here. The end client learns whether
//! its token is good enough and nothing else: not why a token does not work, and not
//! what is wrong with a route.

use std::borrow::Cow;

use uuid::Uuid;

use super::route::{Mistake, NeedError, Unclear};
use crate::domain::{
    access::{EffectiveAccess, Owner, PermissionCheck},
    id::{ClientId, SiteId},
    introspection::ResolvedClient,
    role::{InstanceRole, SiteRole},
};

/// The headers that tell a request's upstream as whom it comes, in their order.
pub const CLIENT_ID: &str = "x-hitkeep-client-id";
/// See [`CLIENT_ID`].
pub const INSTANCE_ROLE: &str = "x-hitkeep-instance-role";
/// See [`CLIENT_ID`].
pub const OWNER: &str = "x-hitkeep-owner";
/// See [`CLIENT_ID`].
pub const SITE_ID: &str = "x-hitkeep-site-id";
/// See [`CLIENT_ID`].
pub const SITE_ROLE: &str = "x-hitkeep-site-role";
/// The headers by which some frameworks let a request say that its method is another one.
/// A preflight passes without a token because of its method, so they do not pass with it.
pub const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];
/// In it, Envoy is told over HTTP which headers of a request do not pass with it.
const ENVOY_REMOVES: &str = "x-envoy-auth-headers-to-remove";
/// What the names of all these headers begin with.
const PREFIX: &[u8] = b"x-hitkeep-";

/// The length of an owner's text: its kind, a colon, and its id.
const OWNER_LENGTH: usize = 5 + 36;
/// After how many seconds a client may try again that could not be answered.
const RETRY_AFTER: &str = "1";

/// The answer to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request may pass.
    Allowed(Pass),
    /// It is a preflight and may pass, as nobody.
    Preflight,
    /// It may not.
    Refused(Refused),
}

/// As whom a request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The token's client.
    pub client: ClientId,
    /// The client's owner.
    pub owner: Owner,
    /// The client's effective role on the instance.
    pub instance_role: InstanceRole,
    /// The site that the request is about, and the client's effective role there,
    /// where it has one.
    pub site: Option<(SiteId, SiteRole)>,
}

/// Why a request may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It shows no token.
    NoToken,
    /// Its token does not work, whyever.
    Inactive,
    /// Its token works, and lacks this.
    NotEnough(PermissionCheck),
    /// It cannot be told whether its token works.
    CannotTell,
    /// The route has a mistake.
    Misconfigured(Mistake),
    /// The path does not say for sure which site it is about.
    UnclearPath(Unclear),
}

/// An answer in the terms of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, their names in lower case.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body: JSON, or nothing.
    pub body: Cow<'static, str>,
}

impl Pass {
    /// As whom a token of that client passes, for a request about that site.
    pub fn of(client: &ResolvedClient, site: Option<SiteId>) -> Self {
        let EffectiveAccess {
            instance_role,
            grants,
        } = &client.access;
        Self {
            client: client.client,
            owner: client.owner,
            instance_role: *instance_role,
            site: site.and_then(|site| Some((site, grants.get(site)?))),
        }
    }

    /// The headers that tell of it, in the order of their names.
    pub fn headers(&self) -> Vec<(&'static str, Cow<'static, str>)> {
        let mut headers = Vec::with_capacity(5);
        self.each_header(|name, value| headers.push((name, value.to_owned().into())));
        headers
    }

    /// Tells each of its headers, in the order of their names.
    pub fn each_header(&self, mut tell: impl FnMut(&'static str, &str)) {
        let mut buffer = Uuid::encode_buffer();
        tell(
            CLIENT_ID,
            self.client.uuid().hyphenated().encode_lower(&mut buffer),
        );
        tell(INSTANCE_ROLE, self.instance_role.as_str());
        let (kind, owner) = match self.owner {
            Owner::User(id) => ("user:", id.uuid()),
            Owner::Team(id) => ("team:", id.uuid()),
        };
        let mut text = [0; OWNER_LENGTH];
        let (first, second) = text.split_at_mut(kind.len());
        first.copy_from_slice(kind.as_bytes());
        owner.hyphenated().encode_lower(second);
        tell(
            OWNER,
            std::str::from_utf8(&text).expect("both parts are ASCII"),
        );
        if let Some((site, role)) = self.site {
            tell(SITE_ID, site.uuid().hyphenated().encode_lower(&mut buffer));
            tell(SITE_ROLE, role.as_str());
        }
    }

    /// Whether it has something to say in that header, whose name is in lower case.
    pub fn sets(&self, name: &[u8]) -> bool {
        let (client, role, owner) = (CLIENT_ID, INSTANCE_ROLE, OWNER);
        [client, role, owner].iter().any(|n| n.as_bytes() == name)
            || self.site.is_some() && [SITE_ID, SITE_ROLE].iter().any(|n| n.as_bytes() == name)
    }
}

/// Whether a header, its name in any case, is one that only the check may set. Many
/// programs make no difference between `-` and `_` in names, and so none is made here.
pub fn is_reserved(name: &[u8]) -> bool {
    let canonical = |byte: &u8| match byte {
        b'_' => b'-',
        other => other.to_ascii_lowercase(),
    };
    let start = name.get(..PREFIX.len());
    start.is_some_and(|start| start.iter().map(canonical).eq(PREFIX.iter().copied()))
}

impl From<NeedError> for Refused {
    fn from(error: NeedError) -> Self {
        match error {
            NeedError::Route(mistake) => Self::Misconfigured(mistake),
            NeedError::Client(unclear) => Self::UnclearPath(unclear),
        }
    }
}

impl Verdict {
    /// The verdict in the terms of HTTP. What is allowed has the status 200 and no
    /// body, and its headers are for the upstream.
    pub fn answer(&self) -> Answer {
        match self {
            Self::Allowed(pass) => Answer {
                status: 200,
                headers: pass.headers(),
                body: Cow::Borrowed(""),
            },
            Self::Preflight => Answer {
                status: 200,
                headers: vec![(ENVOY_REMOVES, METHOD_OVERRIDES.join(",").into())],
                body: Cow::Borrowed(""),
            },
            Self::Refused(refused) => refused.answer(),
        }
    }
}

impl Refused {
    /// The refusal in the terms of HTTP, as the end client gets it.
    pub fn answer(&self) -> Answer {
        let (status, body) = self.status_and_body();
        let mut headers = vec![
            ("cache-control", "no-store".into()),
            ("content-type", "application/json".into()),
        ];
        match self {
            Self::NoToken => headers.push(("www-authenticate", "Bearer realm=\"hitkeep\"".into())),
            Self::Inactive => headers.push((
                "www-authenticate",
                "Bearer realm=\"hitkeep\", error=\"invalid_token\"".into(),
            )),
            Self::NotEnough(check) => headers.push((
                "www-authenticate",
                format!(
                    "Bearer realm=\"hitkeep\", error=\"insufficient_scope\", scope=\"{}\"",
                    check.permission()
                )
                .into(),
            )),
            Self::CannotTell => headers.push(("retry-after", RETRY_AFTER.into())),
            Self::Misconfigured(_) | Self::UnclearPath(_) => {}
        }
        Answer {
            status,
            headers,
            body: body.into(),
        }
    }

    const fn status_and_body(&self) -> (u16, &'static str) {
        match self {
            Self::NoToken => (
                401,
                r#"{"error":"unauthorized","error_description":"The request has no token."}"#,
            ),
            Self::Inactive => (
                401,
                r#"{"error":"invalid_token","error_description":"The token does not work."}"#,
            ),
            Self::NotEnough(_) => (
                403,
                r#"{"error":"insufficient_scope","error_description":"The token does not allow this."}"#,
            ),
            Self::CannotTell => (
                503,
                r#"{"error":"temporarily_unavailable","error_description":"It cannot be told right now whether the token works. Try again."}"#,
            ),
            Self::Misconfigured(_) => (
                500,
                r#"{"error":"server_error","error_description":"The check of this route is misconfigured."}"#,
            ),
            Self::UnclearPath(Unclear::Path) => (
                400,
                r#"{"error":"invalid_request","error_description":"The path is not in its normal form."}"#,
            ),
            Self::UnclearPath(Unclear::Site) => (
                400,
                r#"{"error":"invalid_request","error_description":"The path does not name a site by its UUID."}"#,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::role::{InstancePermission, SitePermission};

    fn pass(site: Option<(SiteId, SiteRole)>) -> Pass {
        let id = "01930000-0000-7000-8000-0000000000ab";
        Pass {
            client: id.parse().unwrap(),
            owner: Owner::Team(id.parse().unwrap()),
            instance_role: InstanceRole::User,
            site,
        }
    }

    #[test]
    fn who_passes_is_told_in_headers() {
        let id = "01930000-0000-7000-8000-0000000000ab";
        let answer = Verdict::Allowed(pass(None)).answer();
        let team = Owner::Team(id.parse().unwrap()).to_string();
        let mut expected = vec![
            ("x-hitkeep-client-id", id),
            ("x-hitkeep-instance-role", "user"),
            ("x-hitkeep-owner", &team),
        ];
        let told = |answer: &Answer| -> Vec<(&str, String)> {
            let headers = answer.headers.iter();
            headers.map(|(n, v)| (*n, v.to_string())).collect()
        };
        let owned = |expected: &[(&'static str, &str)]| -> Vec<(&str, String)> {
            let headers = expected.iter();
            headers.map(|(n, v)| (*n, (*v).to_owned())).collect()
        };
        assert_eq!((answer.status, &*answer.body), (200, ""));
        assert_eq!(told(&answer), owned(&expected));
        let site = Some((id.parse().unwrap(), SiteRole::Editor));
        expected.extend([("x-hitkeep-site-id", id), ("x-hitkeep-site-role", "editor")]);
        let answer = Verdict::Allowed(pass(site)).answer();
        assert_eq!(told(&answer), owned(&expected));
        for (name, _) in &expected {
            assert!(pass(site).sets(name.as_bytes()) && is_reserved(name.as_bytes()));
        }
        assert!(!pass(None).sets(b"x-hitkeep-site-id"));
        assert!(!pass(site).sets(b"x-hitkeep-more"));
    }

    #[test]
    fn reserved_names_are_known_in_every_spelling() {
        for name in [
            "X-HitKeep-Owner",
            "x_hitkeep_owner",
            "x-hitkeep-",
            "x-hitkeep_É",
        ] {
            assert!(is_reserved(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "x-hitkeep",
            "x-hitkee-pp",
            "xx-hitkeep-owner",
            "authorization",
        ] {
            assert!(!is_reserved(name.as_bytes()), "{name}");
        }
    }

    /// Status, error, what the challenge says, and whether to come back.
    #[test]
    fn refusals_say_what_the_client_may_know() {
        let site = "01930000-0000-7000-8000-0000000000ab".parse().unwrap();
        let on_site = PermissionCheck::Site {
            site,
            permission: SitePermission::ManageGoals,
        };
        let on_instance = PermissionCheck::Instance(InstancePermission::ViewAudit);
        let bearer = |rest: &str| Some(format!("Bearer realm=\"hitkeep\"{rest}"));
        let scope = |scope: &str| bearer(&format!(", error=\"insufficient_scope\", scope={scope}"));
        let inactive = bearer(", error=\"invalid_token\"");
        for (refused, status, error, challenge, retry) in [
            (Refused::NoToken, 401, "unauthorized", bearer(""), None),
            (Refused::Inactive, 401, "invalid_token", inactive, None),
            (
                Refused::NotEnough(on_site),
                403,
                "insufficient_scope",
                scope("\"site.manage_goals\""),
                None,
            ),
            (
                Refused::NotEnough(on_instance),
                403,
                "insufficient_scope",
                scope("\"instance.view_audit\""),
                None,
            ),
            (
                Refused::CannotTell,
                503,
                "temporarily_unavailable",
                None,
                Some("1"),
            ),
            (
                Refused::Misconfigured(Mistake::TwoPlaces),
                500,
                "server_error",
                None,
                None,
            ),
            (
                Refused::UnclearPath(Unclear::Path),
                400,
                "invalid_request",
                None,
                None,
            ),
            (
                Refused::UnclearPath(Unclear::Site),
                400,
                "invalid_request",
                None,
                None,
            ),
        ] {
            let answer = Verdict::Refused(refused).answer();
            let header = |name| {
                let found = answer.headers.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| value.to_string())
            };
            assert_eq!(answer.status, status);
            assert_eq!(header("www-authenticate"), challenge);
            assert_eq!(header("retry-after").as_deref(), retry);
            assert_eq!(header("content-type").unwrap(), "application/json");
            assert_eq!(header("cache-control").unwrap(), "no-store");
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(body["error"], error);
            assert!(body["error_description"].is_string());
            assert_eq!(body.as_object().unwrap().len(), 2);
        }
    }
}
