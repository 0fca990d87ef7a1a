//! Conversions of the calls that answer an incident.

use std::fmt;

use super::reader::{Parsed, Reader};
use crate::{
    domain::{
        audit::Actor,
        client::{LeakOrigin, Selection},
        token::{LegacyToken, StoredHash, Token, TokenKind, TokenScheme},
    },
    grpc::error::ApiError,
    pb::{self, report_leak_request::Leaked},
};

/// What was reported as leaked. Its `Debug` shows no hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::grpc) enum LeakedHash {
    /// The hash of an API client's token.
    Client(StoredHash),
    /// The hash of a service account's token.
    Account([u8; 32]),
    /// A hash of either, named by itself, of any scheme.
    Any([u8; 32]),
}

impl fmt::Debug for LeakedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client(..)",
            Self::Account(_) => "Account(..)",
            Self::Any(_) => "Any(..)",
        })
    }
}

impl LeakedHash {
    /// The bytes as they are stored.
    pub(in crate::grpc) const fn bytes(&self) -> &[u8; 32] {
        match self {
            Self::Client(hash) => hash.bytes(),
            Self::Account(bytes) | Self::Any(bytes) => bytes,
        }
    }

    /// The scheme, if it is determined.
    pub(in crate::grpc) const fn scheme(&self) -> Option<TokenScheme> {
        match self {
            Self::Client(hash) => Some(hash.scheme()),
            Self::Account(_) | Self::Any(_) => None,
        }
    }
}

/// A validated report of a leak.
#[derive(Debug)]
pub(in crate::grpc) struct LeakReport {
    pub(in crate::grpc) actor: Option<Actor>,
    /// `None` for a text that is no token.
    pub(in crate::grpc) leaked: Option<LeakedHash>,
    pub(in crate::grpc) origin: LeakOrigin,
}

/// A validated request to revoke many clients.
#[derive(Debug)]
pub(in crate::grpc) struct RevokeAll {
    pub(in crate::grpc) actor: Actor,
    pub(in crate::grpc) selection: Selection,
    pub(in crate::grpc) validate_only: bool,
}

pub(in crate::grpc) fn report(request: pb::ReportLeakRequest) -> Result<LeakReport, ApiError> {
    let mut reader = Reader::default();
    let leaked = match request.leaked {
        Some(Leaked::Token(text)) if !text.is_empty() => Ok(of_token(&text)),
        Some(Leaked::TokenHash(text)) if !text.is_empty() => of_hash(&mut reader, &text).map(Some),
        _ => Err(reader.violation("token", "is required: the token, or its token_hash")),
    };
    let actor = request.actor.map(|actor| reader.actor(Some(actor)));
    let source = reader.parsed("source", LeakOrigin::check_source(&request.source));
    let url = reader.parsed("url", LeakOrigin::check_url(&request.url));
    reader.finish(|| {
        source?;
        url?;
        Ok(LeakReport {
            actor: actor.transpose()?,
            leaked: leaked?,
            origin: LeakOrigin::new(&request.source, &request.url),
        })
    })
}

fn of_token(text: &str) -> Option<LeakedHash> {
    if let Ok(token) = Token::parse(text) {
        let hash = token.hash();
        return Some(match token.kind() {
            TokenKind::ServiceAccount => LeakedHash::Account(hash.0),
            TokenKind::Personal | TokenKind::Team => LeakedHash::Client(hash.into()),
        });
    }
    let legacy = LegacyToken::parse(text).ok()?;
    Some(LeakedHash::Client(legacy.hash().into()))
}

fn of_hash(reader: &mut Reader, text: &str) -> Parsed<LeakedHash> {
    let hash = blake3::Hash::from_hex(text).or(Err("must be 64 hexadecimal digits"));
    let hash = reader.parsed("token_hash", hash)?;
    Ok(LeakedHash::Any(hash.into()))
}

pub(in crate::grpc) fn revoke_all(
    request: pb::RevokeApiClientsRequest,
) -> Result<RevokeAll, ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let is_selective = request.owner.is_some()
        || !request.site_id.is_empty()
        || !request.created_by_user_id.is_empty();
    if !is_selective {
        reader.violation(
            "owner",
            "is required, or a site_id, or a created_by_user_id",
        );
    }
    let owner = reader.optional_owner("owner", request.owner);
    let site = reader.optional_id("site_id", &request.site_id);
    let created_by = reader.optional_id("created_by_user_id", &request.created_by_user_id);
    reader.finish(|| {
        Ok(RevokeAll {
            actor: actor?,
            selection: Selection {
                owner: owner?,
                site: site?,
                created_by: created_by?,
            },
            validate_only: request.validate_only,
        })
    })
}
