//! The bodies of requests, as HitKeep's dashboard sends them: JSON objects without unknown
//! fields, in which null is the same as an absent field.

use std::{error::Error, fmt, marker::PhantomData};

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
};
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body_util::LengthLimitError;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::error::Category;

use super::reply::Refused;
use crate::{
    domain::{
        access::{Delegated, MAX_GRANTS, Owner, SiteGrants},
        client::{Activation, Description, Draft, Expiry, Name, Replacement, Revocation},
        role::InstanceRole,
        source::AllowedSources,
    },
    grpc::{
        convert::reader::{Parsed, Reader},
        error::{ApiError, Violation},
    },
    http::HttpState,
};

/// The size limit of a body, as HitKeep's. 100 grants take a hundredth of it.
const MAX_BODY: usize = 1024 * 1024;
/// The longest name of an unknown field that is repeated. A token is longer.
const MAX_REPEATED: usize = 32;

/// A JSON object of that form.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<HttpState> for Json<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &HttpState) -> Result<Self, Refused> {
        let (head, body) = request.into_parts();
        if !is_json(&head.headers) {
            return Err(Refused::NotJson);
        }
        let bytes = to_bytes(body, MAX_BODY).await.map_err(|error| {
            let source = error.source();
            if source.is_some_and(<dyn Error>::is::<LengthLimitError>) {
                bad_body("is larger than 1 MiB")
            } else {
                bad_body("broke off")
            }
        })?;
        match serde_json::from_slice(&bytes) {
            Ok(Object(read)) => Ok(Self(read)),
            Err(error) => {
                Err(bad_body(format!("is not as expected: {}", described(&error))).into())
            }
        }
    }
}

/// Whether the body says that it is JSON, or says nothing, as HitKeep asks for nothing.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let kind = kind.to_str().unwrap_or_default().split(';').next();
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn bad_body(description: impl Into<String>) -> ApiError {
    ApiError::InvalidFields(vec![Violation {
        field: "the body".to_owned(),
        description: description.into(),
    }])
}

/// What a parser says of a body, without what it quotes of it: that may be a token, which
/// belongs into no reply and no log.
fn described(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if error.classify() != Category::Data {
        // About the syntax, with no word of the body in it.
        return text;
    }
    // Behind the last of these is what this module expects, and where.
    let (found, rest) = match text.rsplit_once(", expected ") {
        Some((found, expected)) => (found, format!(", expected {expected}")),
        None => (
            &*text,
            format!(" at line {} column {}", error.line(), error.column()),
        ),
    };
    let mut parts = found.split(['`', '"']);
    let kind = parts.next().unwrap_or_default().trim();
    let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
    match parts.next() {
        Some(field)
            if kind.ends_with(" field")
                && field.len() <= MAX_REPEATED
                && field.chars().all(is_plain) =>
        {
            format!("{kind} `{field}`{rest}")
        }
        _ => format!("{kind}{rest}"),
    }
}

/// A JSON object. A derived struct would be read from an array as well.
#[derive(Debug)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Map(PhantomData))
    }
}

/// A client that is to be created.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    name: Option<String>,
    description: Option<String>,
    instance_role: Option<String>,
    expires_at: Option<String>,
    site_roles: Option<Vec<Object<SiteRoleBody>>>,
}

/// The new values of a client.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplaceBody {
    name: Option<String>,
    description: Option<String>,
    instance_role: Option<String>,
    expires_at: Option<String>,
    revoked: Option<bool>,
    site_roles: Option<Vec<Object<SiteRoleBody>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteRoleBody {
    site_id: Option<String>,
    role: Option<String>,
}

impl CreateBody {
    /// The client to create for that owner. Whether the expiry is in the future is decided
    /// when it is created.
    pub(super) fn draft(self, owner: Owner) -> Result<Draft, ApiError> {
        let mut reader = Reader::default();
        let name = Name::from_caller(self.name.as_deref().unwrap_or_default());
        let name = reader.parsed("name", name);
        let description = Description::from_caller(trimmed(self.description.as_deref()));
        let description = reader.parsed("description", description);
        let role = instance_role(&mut reader, owner, self.instance_role.as_deref())
            .map(|role| role.unwrap_or(InstanceRole::User));
        let expiry = expiry(&mut reader, self.expires_at.as_deref());
        let grants = grants(&mut reader, self.site_roles, MAX_GRANTS);
        reader.finish(|| {
            let (instance_role, grants) = (role?, grants?);
            let delegated = match owner {
                Owner::User(user) => Delegated::Personal {
                    user,
                    instance_role,
                    grants,
                },
                Owner::Team(team) => Delegated::Team { team, grants },
            };
            Ok(Draft {
                delegated,
                name: name?,
                description: description?,
                expiry: expiry?,
                // The dashboard does not know these.
                sources: AllowedSources::default(),
                activation: Activation::AtOnce,
            })
        })
    }
}

impl ReplaceBody {
    /// The replacement for a client of that owner. An absent expiry is none, and absent
    /// site roles are none.
    pub(super) fn replacement(self, owner: Owner) -> Result<Replacement, ApiError> {
        let mut reader = Reader::default();
        // A page sends back what it was shown: what an import brought must not keep a client
        // from being revoked, even if there is a token in its name. What is new is checked when
        // it is compared with the client.
        let name = Name::parse(self.name.as_deref().unwrap_or_default());
        let name = reader.parsed("name", name);
        let description = Description::parse(trimmed(self.description.as_deref()));
        let description = reader.parsed("description", description);
        let role = instance_role(&mut reader, owner, self.instance_role.as_deref());
        let role = match (role, owner) {
            (Ok(None), Owner::User(_)) => reader.required("instance_role", None),
            (role, _) => role.map(|role| role.unwrap_or(InstanceRole::User)),
        };
        let expiry = expiry(&mut reader, self.expires_at.as_deref());
        // As many as the body has room for, which are refused later unless they are the client's.
        let grants = grants(&mut reader, self.site_roles, usize::MAX);
        reader.finish(|| {
            Ok(Replacement {
                name: name?,
                description: description?,
                instance_role: role?,
                grants: grants?,
                expiry: expiry?,
                revocation: match self.revoked {
                    None => Revocation::Kept,
                    Some(true) => Revocation::Revoked,
                    Some(false) => Revocation::Lifted,
                },
            })
        })
    }
}

/// HitKeep trims descriptions.
fn trimmed(text: Option<&str>) -> &str {
    text.unwrap_or_default().trim()
}

/// None if there is no role, or an empty one. A team's client has none but the default.
fn instance_role(
    reader: &mut Reader,
    owner: Owner,
    text: Option<&str>,
) -> Parsed<Option<InstanceRole>> {
    let field = "instance_role";
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let role = text.parse().or(Err("must be user, admin or owner"));
    let role = reader.parsed(field, role)?;
    match (owner, role) {
        (Owner::Team(_), InstanceRole::Admin | InstanceRole::Owner) => {
            Err(reader.violation(field, "must be user for a team's API client"))
        }
        _ => Ok(Some(role)),
    }
}

fn expiry(reader: &mut Reader, text: Option<&str>) -> Parsed<Expiry> {
    let time = text.map(|text| reader.rfc3339("expires_at", text));
    Ok(Expiry::from(time.transpose()?))
}

fn grants(
    reader: &mut Reader,
    site_roles: Option<Vec<Object<SiteRoleBody>>>,
    limit: usize,
) -> Parsed<SiteGrants> {
    let grants = site_roles.unwrap_or_default();
    let pairs = grants.iter().map(|Object(SiteRoleBody { site_id, role })| {
        let site = site_id.as_deref().unwrap_or_default();
        (site, role.as_deref().unwrap_or_default())
    });
    reader.grants("site_roles", pairs, limit, |reader, field, role| {
        let role = role
            .parse()
            .or(Err("must be viewer, editor, admin or owner"));
        reader.parsed(field, role)
    })
}
