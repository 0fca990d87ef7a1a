//! Who a request is for, and which clients it is about: from the path, and from headers
//! that only the caller sets.

use std::net::IpAddr;

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use http::HeaderMap;

use super::reply::Refused;
use crate::{
    calls::credentials,
    domain::{
        access::Owner,
        audit::{Actor, MAX_USER_AGENT},
        id::ClientId,
        token::without_tokens,
    },
    grpc::{
        convert::reader::{Parsed, Reader},
        dashboard::OwnerScope,
    },
    http::HttpState,
};

/// The header with the person's id.
const ACTOR: &str = "x-hitkeep-actor";
/// The header with the address of the person's request.
const ACTOR_IP: &str = "x-hitkeep-actor-ip";
/// The header with the user agent of the person's request.
const ACTOR_USER_AGENT: &str = "x-hitkeep-actor-user-agent";

/// The owner whose clients a request is about.
#[derive(Debug)]
pub(super) struct Scope(pub(super) OwnerScope);

/// The same, with one of the owner's clients.
#[derive(Debug)]
pub(super) struct OnOneClient {
    pub(super) scope: OwnerScope,
    pub(super) client: ClientId,
}

impl FromRequestParts<HttpState> for Scope {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, Refused> {
        let path = path(parts, state).await;
        let mut reader = Reader::default();
        let scope = scope(&mut reader, parts, &path);
        Ok(reader.finish(|| scope.map(Self))?)
    }
}

impl FromRequestParts<HttpState> for OnOneClient {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, Refused> {
        let path = path(parts, state).await;
        let mut reader = Reader::default();
        let scope = scope(&mut reader, parts, &path);
        let client = reader.id("the API client's id", &path.client);
        Ok(reader.finish(|| {
            Ok(Self {
                scope: scope?,
                client: client?,
            })
        })?)
    }
}

/// The ids in the path; what is not UTF-8 is empty, and thus no id.
#[derive(Debug, Default)]
struct PathIds {
    /// None on the routes of a person's own clients.
    team: Option<String>,
    client: String,
}

async fn path(parts: &mut Parts, state: &HttpState) -> PathIds {
    let mut ids = PathIds {
        team: parts
            .uri
            .path()
            .starts_with("/api/user/teams/")
            .then(String::new),
        client: String::new(),
    };
    if let Ok(found) = RawPathParams::from_request_parts(parts, state).await {
        for (name, id) in &found {
            match name {
                "team" => ids.team = Some(id.to_owned()),
                _ => id.clone_into(&mut ids.client),
            }
        }
    }
    ids
}

fn scope(reader: &mut Reader, parts: &Parts, path: &PathIds) -> Parsed<OwnerScope> {
    let actor = actor(reader, &parts.headers);
    let team = path.team.as_deref();
    let team = team.map(|team| reader.id("the team's id", team).map(Owner::Team));
    let actor = actor?;
    let owner = team.unwrap_or(Ok(Owner::User(actor.user)))?;
    Ok(OwnerScope {
        extensions: parts.extensions.clone(),
        actor,
        owner,
    })
}

/// The person. Each header may occur once only: of two values, one may be the end client's.
fn actor(reader: &mut Reader, headers: &HeaderMap) -> Parsed<Actor> {
    let user = header(reader, headers, ACTOR).and_then(|id| reader.id(ACTOR, &id));
    let ip_address = header(reader, headers, ACTOR_IP).and_then(|text| {
        if text.is_empty() {
            return Ok(None);
        }
        let parsed = text.parse::<IpAddr>();
        let parsed = parsed.or(Err("must be an IPv4 or IPv6 address"));
        reader.parsed(ACTOR_IP, parsed).map(Some)
    });
    let user_agent = header(reader, headers, ACTOR_USER_AGENT);
    Ok(Actor {
        user: user?,
        ip_address: ip_address?,
        user_agent: presentable(&user_agent?),
    })
}

/// A header's value, trimmed; empty if it is absent.
fn header(reader: &mut Reader, headers: &HeaderMap, name: &str) -> Parsed<String> {
    if !headers.contains_key(name) {
        return Ok(String::new());
    }
    let Some(value) = credentials::once(headers, name) else {
        return Err(reader.violation(name, "must occur once"));
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    Ok(text.trim().to_owned())
}

/// A user agent as the audit trail takes it. It is the end client's own text, which must not
/// decide whether a client can be revoked, so it is truncated and cleaned, never refused. It is
/// truncated last: what is left of a token that is cut through would not be recognised.
fn presentable(user_agent: &str) -> String {
    let redacted = without_tokens(user_agent);
    let cleaned = redacted
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    cleaned.take(MAX_USER_AGENT).collect()
}
