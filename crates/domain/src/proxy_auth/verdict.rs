//! The answer to a proxy: whether a request may pass and with which identity, or how it is
//! refused.
//!
//! All kinds of proxies get the same answer. The end client learns whether its token is
//! sufficient and nothing else: neither why a token is inactive, nor what is wrong with a
//! route.

use std::borrow::Cow;

use uuid::Uuid;

use super::route::{NeedError, PathAmbiguity, RouteError};
use crate::{
    access::{EffectiveAccess, Owner, PermissionCheck},
    id::{ClientId, SiteId},
    introspection::ResolvedClient,
    role::{InstanceRole, SiteRole},
};

/// The client's id, for the upstream. The constants are in the order in which they are sent.
pub const CLIENT_ID: &str = "x-hitkeep-client-id";
/// The client's role on the instance, for the upstream.
pub const INSTANCE_ROLE: &str = "x-hitkeep-instance-role";
/// The client's owner, as `user:ID` or `team:ID`, for the upstream.
pub const OWNER: &str = "x-hitkeep-owner";
/// The site that the request is about, for the upstream.
pub const SITE_ID: &str = "x-hitkeep-site-id";
/// The client's role on that site, for the upstream.
pub const SITE_ROLE: &str = "x-hitkeep-site-role";
/// Headers by which some frameworks override a request's method. A preflight passes without
/// a token because of its method, so these headers are removed from it.
pub const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];
/// Lists for Envoy, over HTTP, the request headers to remove before the upstream.
const ENVOY_REMOVES: &str = "x-envoy-auth-headers-to-remove";
/// The common prefix of the headers for the upstream.
const PREFIX: &[u8] = b"x-hitkeep-";

/// The length of an owner's text: kind, colon and id.
const OWNER_LENGTH: usize = 5 + 36;
/// The value of `retry-after`, in seconds, if no answer is available.
const RETRY_AFTER: &str = "1";

/// The answer to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request may pass, with this identity.
    Allowed(Pass),
    /// The request is a preflight and may pass, without an identity.
    Preflight,
    /// The request may not pass.
    Refused(Refused),
}

/// The identity with which a request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Identifies the token's client.
    pub client: ClientId,
    /// The user or team that the client belongs to.
    pub owner: Owner,
    /// The client's effective role on the instance.
    pub instance_role: InstanceRole,
    /// The site that the request is about, with the client's effective role there, if it has
    /// one.
    pub site: Option<(SiteId, SiteRole)>,
}

/// Why a request may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It carries no token.
    NoToken,
    /// Its token is inactive, for whatever reason.
    Inactive,
    /// Its token is active, and lacks this permission.
    PermissionDenied(PermissionCheck),
    /// Its token is active, and only people may pass.
    HumanOnly,
    /// The state of its token cannot be determined at present.
    Unanswerable,
    /// The route's configuration is wrong.
    Misconfigured(RouteError),
    /// The path does not clearly identify a site.
    AmbiguousPath(PathAmbiguity),
}

/// An answer in HTTP terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// A JSON object, or empty.
    pub body: Cow<'static, str>,
}

impl Pass {
    /// The identity of a token of that client, for a request about that site.
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

    /// The headers for the upstream, ordered by name.
    pub fn headers(&self) -> Vec<(&'static str, Cow<'static, str>)> {
        let mut headers = Vec::with_capacity(5);
        self.each_header(|name, value| headers.push((name, value.to_owned().into())));
        headers
    }

    /// Calls `emit` for each header, ordered by name.
    pub fn each_header(&self, mut emit: impl FnMut(&'static str, &str)) {
        let mut buffer = Uuid::encode_buffer();
        emit(
            CLIENT_ID,
            self.client.uuid().hyphenated().encode_lower(&mut buffer),
        );
        emit(INSTANCE_ROLE, self.instance_role.as_str());
        let (kind, owner) = match self.owner {
            Owner::User(id) => ("user:", id.uuid()),
            Owner::Team(id) => ("team:", id.uuid()),
        };
        let mut text = [0; OWNER_LENGTH];
        let (first, second) = text.split_at_mut(kind.len());
        first.copy_from_slice(kind.as_bytes());
        owner.hyphenated().encode_lower(second);
        emit(
            OWNER,
            std::str::from_utf8(&text).expect("both parts are ASCII"),
        );
        if let Some((site, role)) = self.site {
            emit(SITE_ID, site.uuid().hyphenated().encode_lower(&mut buffer));
            emit(SITE_ROLE, role.as_str());
        }
    }

    /// Whether this header, with its name in lower case, is set for the upstream.
    pub fn sets(&self, name: &[u8]) -> bool {
        let (client, role, owner) = (CLIENT_ID, INSTANCE_ROLE, OWNER);
        [client, role, owner].iter().any(|n| n.as_bytes() == name)
            || self.site.is_some() && [SITE_ID, SITE_ROLE].iter().any(|n| n.as_bytes() == name)
    }
}

/// Whether only the check may set this header. Case does not matter, and many programs do
/// not distinguish `-` from `_` in names, so neither does this.
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
            NeedError::Client(unclear) => Self::AmbiguousPath(unclear),
        }
    }
}

impl Verdict {
    /// The verdict in HTTP terms. If it allows, the status is 200, the body empty, and the
    /// headers are for the upstream.
    pub fn answer(&self) -> HttpAnswer {
        match self {
            Self::Allowed(pass) => HttpAnswer {
                status: 200,
                headers: pass.headers(),
                body: Cow::Borrowed(""),
            },
            Self::Preflight => HttpAnswer {
                status: 200,
                headers: vec![(ENVOY_REMOVES, METHOD_OVERRIDES.join(",").into())],
                body: Cow::Borrowed(""),
            },
            Self::Refused(refused) => refused.answer(),
        }
    }
}

impl Refused {
    /// The refusal in HTTP terms, for the end client.
    pub fn answer(&self) -> HttpAnswer {
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
            Self::PermissionDenied(check) => headers.push((
                "www-authenticate",
                format!(
                    "Bearer realm=\"hitkeep\", error=\"insufficient_scope\", scope=\"{}\"",
                    check.permission()
                )
                .into(),
            )),
            // RFC 6750 has `scope` name what would be enough: no scope would.
            Self::HumanOnly => headers.push((
                "www-authenticate",
                "Bearer realm=\"hitkeep\", error=\"insufficient_scope\"".into(),
            )),
            Self::Unanswerable => headers.push(("retry-after", RETRY_AFTER.into())),
            Self::Misconfigured(_) | Self::AmbiguousPath(_) => {}
        }
        HttpAnswer {
            status,
            headers,
            body: body.into(),
        }
    }

    /// What is said to the end client in words.
    pub fn description(&self) -> &'static str {
        let (_, body) = self.status_and_body();
        // It is the last member, and has nothing to escape.
        body.rsplit('"').nth(1).unwrap_or_default()
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
            Self::PermissionDenied(_) => (
                403,
                r#"{"error":"insufficient_scope","error_description":"The token does not allow this."}"#,
            ),
            Self::HumanOnly => (
                403,
                r#"{"error":"insufficient_scope","error_description":"No token allows this: it is for people who are signed in."}"#,
            ),
            Self::Unanswerable => (
                503,
                r#"{"error":"temporarily_unavailable","error_description":"It cannot be determined right now whether the token works. Try again."}"#,
            ),
            Self::Misconfigured(_) => (
                500,
                r#"{"error":"server_error","error_description":"The check of this route is misconfigured."}"#,
            ),
            Self::AmbiguousPath(PathAmbiguity::Path) => (
                400,
                r#"{"error":"invalid_request","error_description":"The path is not in its normal form."}"#,
            ),
            Self::AmbiguousPath(PathAmbiguity::Site) => (
                400,
                r#"{"error":"invalid_request","error_description":"The path does not name a site by its UUID."}"#,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::{InstancePermission, SitePermission};

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
    fn allowed_requests_get_identity_headers() {
        let id = "01930000-0000-7000-8000-0000000000ab";
        let answer = Verdict::Allowed(pass(None)).answer();
        let team = Owner::Team(id.parse().unwrap()).to_string();
        let mut expected = vec![
            ("x-hitkeep-client-id", id),
            ("x-hitkeep-instance-role", "user"),
            ("x-hitkeep-owner", &team),
        ];
        let headers = |answer: &HttpAnswer| -> Vec<(&str, String)> {
            let headers = answer.headers.iter();
            headers.map(|(n, v)| (*n, v.to_string())).collect()
        };
        let owned = |expected: &[(&'static str, &str)]| -> Vec<(&str, String)> {
            let headers = expected.iter();
            headers.map(|(n, v)| (*n, (*v).to_owned())).collect()
        };
        assert_eq!((answer.status, &*answer.body), (200, ""));
        assert_eq!(headers(&answer), owned(&expected));
        let site = Some((id.parse().unwrap(), SiteRole::Editor));
        expected.extend([("x-hitkeep-site-id", id), ("x-hitkeep-site-role", "editor")]);
        let answer = Verdict::Allowed(pass(site)).answer();
        assert_eq!(headers(&answer), owned(&expected));
        for (name, _) in &expected {
            assert!(pass(site).sets(name.as_bytes()) && is_reserved(name.as_bytes()));
        }
        assert!(!pass(None).sets(b"x-hitkeep-site-id"));
        assert!(!pass(site).sets(b"x-hitkeep-more"));
    }

    #[test]
    fn reserved_names_match_in_every_spelling() {
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

    /// The status, the error, the challenge, and whether there is a `retry-after`.
    #[test]
    fn refusals_reveal_only_what_the_client_may_know() {
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
                Refused::PermissionDenied(on_site),
                403,
                "insufficient_scope",
                scope("\"site.manage_goals\""),
                None,
            ),
            (
                Refused::PermissionDenied(on_instance),
                403,
                "insufficient_scope",
                scope("\"instance.view_audit\""),
                None,
            ),
            (
                Refused::HumanOnly,
                403,
                "insufficient_scope",
                bearer(", error=\"insufficient_scope\""),
                None,
            ),
            (
                Refused::Unanswerable,
                503,
                "temporarily_unavailable",
                None,
                Some("1"),
            ),
            (
                Refused::Misconfigured(RouteError::SiteTwice),
                500,
                "server_error",
                None,
                None,
            ),
            (
                Refused::AmbiguousPath(PathAmbiguity::Path),
                400,
                "invalid_request",
                None,
                None,
            ),
            (
                Refused::AmbiguousPath(PathAmbiguity::Site),
                400,
                "invalid_request",
                None,
                None,
            ),
        ] {
            let description = refused.description();
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
            assert_eq!(body["error_description"], description);
            assert_eq!(body.as_object().unwrap().len(), 2);
        }
    }
}
