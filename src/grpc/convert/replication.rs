//! Conversions of `ReplicationService`: what a server sends, and what a replica reads.
//!
//! A replica judges tokens by what it reads here, so nothing is guessed: a client with
//! anything that this version does not know becomes unreadable, and its tokens are not
//! judged. What no version sends is an error, and ends the replication.

use uuid::Uuid;

pub(crate) mod report;
#[cfg(test)]
mod tests;

use super::{
    reader::{Parsed, Reader},
    to_instance_role, to_site_role, to_timestamp,
};
use crate::{
    domain::{
        Position, Revision, Timestamp,
        access::{EffectiveAccess, Owner, SiteGrants},
        caller::{CallerName, CallerPermission, ReplacedToken, ServiceAccount},
        client::Expiry,
        id::{ClientId, ReplicaId, ServiceAccountId, SiteId, TeamId, UserId},
        index::{Callers, Client, Known},
        introspection::{BaseState, ResolvedClient, TokenStanding},
        role::{InstanceRole, SiteRole},
        token::{StoredHash, TokenHash, TokenHint, TokenScheme},
    },
    grpc::error::ApiError,
    pb,
};

/// What a replica may do with the accounts that are sent to it.
const PERMISSIONS: [CallerPermission; 2] =
    [CallerPermission::Introspect, CallerPermission::Replicate];

/// A set of features, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features(u64);

impl Features {
    /// The features that a replica of this version enforces.
    pub(crate) const ENFORCED: Self = Self(1 << pb::ReplicationFeature::HitkeepTokens as u32);

    /// Those of a message. `None` if one has a number that no version of this protocol can
    /// give it.
    fn of(numbers: &[i32]) -> Option<Self> {
        numbers.iter().try_fold(Self::default(), |set, number| {
            let bit = 1_u64.checked_shl(u32::try_from(*number).ok()?)?;
            Some(Self(set.0 | bit))
        })
    }

    /// Whether these are all of `needed`, and maybe more.
    const fn cover(self, needed: Self) -> bool {
        needed.0 & !self.0 == 0
    }

    /// Those that a replica must enforce to judge the tokens of a client. A new restriction
    /// of clients needs a feature here.
    fn needed_by(client: &Client) -> Self {
        let mut hashes = client.standings().map(|(hash, _)| hash);
        if hashes.any(|hash| hash.scheme() == TokenScheme::HitkeepSha256) {
            Self(1 << pb::ReplicationFeature::HitkeepTokens as u32)
        } else {
            Self(0)
        }
    }

    pub(crate) fn numbers(self) -> Vec<i32> {
        let bits = (0..64).filter(|bit| self.0 & (1_u64 << bit) != 0);
        bits.collect()
    }
}

/// A validated start.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct Start {
    pub(in crate::grpc) replica: ReplicaId,
    pub(in crate::grpc) position: Option<Position>,
    pub(in crate::grpc) audience: Audience,
}

/// What a replica wants to have.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct Audience {
    /// The features that it enforces.
    pub(in crate::grpc) enforces: Features,
    pub(in crate::grpc) without_names: bool,
}

pub(in crate::grpc) fn start(start: &pb::ReplicationStart) -> Result<Start, ApiError> {
    let mut reader = Reader::default();
    let replica = replica_id(&mut reader, "start.replica_id", &start.replica_id);
    let position = start.position.as_ref().map(|sent| {
        let read = read_position(sent).ok_or("needs 16 bytes of database_id and of nonce");
        reader.parsed("start.position", read)
    });
    let enforces = if start.features.contains(&0) {
        Err(reader.violation("start.features", "must not be unspecified"))
    } else {
        let read = Features::of(&start.features).ok_or("is no feature");
        reader.parsed("start.features", read)
    };
    reader.finish(|| {
        Ok(Start {
            replica: replica?,
            position: position.transpose()?,
            audience: Audience {
                enforces: enforces?,
                without_names: start.without_names,
            },
        })
    })
}

fn replica_id(reader: &mut Reader, field: &str, text: &str) -> Parsed<ReplicaId> {
    reader.id(field, text)
}

pub(crate) fn to_position(position: Position) -> pb::Position {
    pb::Position {
        database_id: to_bytes(position.database),
        revision: position.revision.0,
        nonce: to_bytes(position.nonce),
    }
}

fn read_position(position: &pb::Position) -> Option<Position> {
    Some(Position {
        database: read_uuid(&position.database_id)?,
        revision: Revision(position.revision),
        nonce: read_uuid(&position.nonce)?,
    })
}

fn to_bytes(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

fn read_uuid(bytes: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(bytes).ok()
}

pub(in crate::grpc) fn to_removed(client: ClientId) -> Vec<u8> {
    to_bytes(client.uuid())
}

/// A client for a replica.
pub(in crate::grpc) fn to_client(client: &Client, audience: Audience) -> pb::ReplicatedClient {
    to_client_with(client, audience, Features::needed_by(client))
}

fn to_client_with(client: &Client, audience: Audience, needs: Features) -> pb::ReplicatedClient {
    use pb::replicated_client::Content;

    let content = match &client.known {
        Known::Resolved(client) if audience.enforces.cover(needs) => {
            Content::Settled(to_settled(client, audience.without_names))
        }
        Known::Resolved(_) | Known::Unreadable(_) => Content::Unreadable(true),
    };
    let token = |(hash, standing): (StoredHash, TokenStanding)| pb::ReplicatedToken {
        hash: hash.bytes().to_vec(),
        scheme: match hash.scheme() {
            TokenScheme::Blake3 => pb::TokenScheme::Blake3,
            TokenScheme::HitkeepSha256 => pb::TokenScheme::HitkeepSha256,
        }
        .into(),
        end_time: standing.end().time().map(to_timestamp),
    };
    pb::ReplicatedClient {
        id: to_bytes(client.known.id().uuid()),
        content: Some(content),
        tokens: client.standings().map(token).collect(),
        needs: needs.numbers(),
    }
}

fn to_settled(client: &ResolvedClient, without_name: bool) -> pb::SettledClient {
    use pb::settled_client::Owner as Sent;

    let owner = match client.owner {
        Owner::User(id) => Sent::UserId(to_bytes(id.uuid())),
        Owner::Team(id) => Sent::TeamId(to_bytes(id.uuid())),
    };
    let state = match client.base_state {
        BaseState::Active => pb::ReplicatedState::Active,
        BaseState::Revoked => pb::ReplicatedState::Revoked,
        BaseState::OwnerInactive => pb::ReplicatedState::OwnerInactive,
    };
    let grant = |(site, role): (&SiteId, &SiteRole)| pb::ReplicatedGrant {
        site_id: to_bytes(site.uuid()),
        role: to_site_role(*role).into(),
    };
    pb::SettledClient {
        owner: Some(owner),
        state: state.into(),
        instance_role: to_instance_role(client.access.instance_role).into(),
        site_grants: client.access.grants.iter().map(grant).collect(),
        expire_time: client.expiry.time().map(to_timestamp),
        name: if without_name {
            String::new()
        } else {
            client.name.to_string()
        },
    }
}

/// The accounts that may call a replica.
pub(in crate::grpc) fn to_accounts(callers: &Callers) -> pb::ReplicatedAccounts {
    let accounts = callers.accounts().filter_map(|(hash, account)| {
        let held = PERMISSIONS.into_iter().filter(|held| account.may(*held));
        let permissions: Vec<_> = held.map(|held| held.as_str().to_owned()).collect();
        let names = account.certificate_names.iter();
        (!permissions.is_empty()).then(|| pb::ReplicatedAccount {
            id: to_bytes(account.id.uuid()),
            name: account.name.as_str().to_owned(),
            permissions,
            token_hash: hash.0.to_vec(),
            certificate_names: names.map(|name| name.as_str().to_owned()).collect(),
            // A field of its own, so that a replica that does not know of the end does not
            // know the token either.
            replaced_token: account
                .replaced_token
                .map(|replaced| pb::ReplacedAccountToken {
                    hash: replaced.hash.0.to_vec(),
                    end_time: Some(to_timestamp(replaced.ends)),
                }),
        })
    });
    pb::ReplicatedAccounts {
        accounts: accounts.collect(),
    }
}

/// A message that no version of a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server upstream sent {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A client with its tokens, as [`Writer`](crate::domain::index::Writer) takes it.
pub(crate) type ReadClient = (Known, Vec<(StoredHash, TokenStanding)>);

pub(crate) fn read_sent_position(sent: Option<&pb::Position>) -> Result<Position, Malformed> {
    sent.and_then(read_position)
        .ok_or(Malformed("no position where one belongs"))
}

pub(crate) fn read_client_id(bytes: &[u8]) -> Result<ClientId, Malformed> {
    let id = read_uuid(bytes).ok_or(Malformed("an id that is none"))?;
    Ok(ClientId::from_uuid(id))
}

/// Reads a client. It is unreadable if it has anything that this version does not know, or
/// needs a feature that is not among those enforced.
pub(crate) fn read_client(
    sent: pb::ReplicatedClient,
    enforced: Features,
) -> Result<ReadClient, Malformed> {
    use pb::replicated_client::Content;

    let id = read_client_id(&sent.id)?;
    let mut is_readable = Features::of(&sent.needs).is_some_and(|needs| enforced.cover(needs));
    let mut tokens = Vec::with_capacity(sent.tokens.len());
    for token in sent.tokens {
        match read_token(token)? {
            Some(token) => tokens.push(token),
            // It cannot be looked up.
            None => is_readable = false,
        }
    }
    let settled = match sent.content {
        Some(Content::Settled(settled)) if is_readable => read_settled(id, settled)?,
        // Also what is none of what this version knows.
        _ => None,
    };
    let known = settled.map_or(Known::Unreadable(id), Known::Resolved);
    Ok((known, tokens))
}

/// `None` if its scheme is unknown to this version.
fn read_token(
    token: pb::ReplicatedToken,
) -> Result<Option<(StoredHash, TokenStanding)>, Malformed> {
    let scheme = match token.scheme() {
        pb::TokenScheme::Blake3 => TokenScheme::Blake3,
        pb::TokenScheme::HitkeepSha256 => TokenScheme::HitkeepSha256,
        pb::TokenScheme::Unspecified => return Ok(None),
    };
    let hash = token
        .hash
        .try_into()
        .or(Err(Malformed("a hash that is none")))?;
    let end = read_time(token.end_time)?;
    Ok(Some((
        StoredHash::new(scheme, hash),
        end.map_or(TokenStanding::Current, TokenStanding::ReplacedUntil),
    )))
}

/// `None` if something of it is unknown to this version.
fn read_settled(
    id: ClientId,
    sent: pb::SettledClient,
) -> Result<Option<ResolvedClient>, Malformed> {
    use pb::settled_client::Owner as Sent;

    let base_state = match sent.state() {
        pb::ReplicatedState::Active => BaseState::Active,
        pb::ReplicatedState::Revoked => BaseState::Revoked,
        pb::ReplicatedState::OwnerInactive => BaseState::OwnerInactive,
        pb::ReplicatedState::Unspecified => return Ok(None),
    };
    let instance_role = match sent.instance_role() {
        pb::InstanceRole::User => InstanceRole::User,
        pb::InstanceRole::Admin => InstanceRole::Admin,
        pb::InstanceRole::Owner => InstanceRole::Owner,
        pb::InstanceRole::Unspecified => return Ok(None),
    };
    let uuid = |bytes: &[u8]| read_uuid(bytes).ok_or(Malformed("an id that is none"));
    let owner = match &sent.owner {
        Some(Sent::UserId(id)) => Owner::User(UserId::from_uuid(uuid(id)?)),
        Some(Sent::TeamId(id)) => Owner::Team(TeamId::from_uuid(uuid(id)?)),
        None => return Ok(None),
    };
    let mut grants = SiteGrants::new();
    for grant in &sent.site_grants {
        let role = match grant.role() {
            pb::SiteRole::Viewer => SiteRole::Viewer,
            pb::SiteRole::Editor => SiteRole::Editor,
            pb::SiteRole::Admin => SiteRole::Admin,
            pb::SiteRole::Owner => SiteRole::Owner,
            pb::SiteRole::Unspecified => return Ok(None),
        };
        grants.insert(SiteId::from_uuid(uuid(&grant.site_id)?), role);
    }
    Ok(Some(ResolvedClient {
        client: id,
        owner,
        base_state,
        access: EffectiveAccess {
            instance_role,
            grants: grants.into_iter().collect(),
        },
        expiry: read_time(sent.expire_time)?.map_or(Expiry::Never, Expiry::At),
        name: sent.name.into_boxed_str(),
    }))
}

fn read_time(sent: Option<prost_types::Timestamp>) -> Result<Option<Timestamp>, Malformed> {
    sent.map(|sent| read_sent_time(&sent)).transpose()
}

/// Reads a time.
pub(crate) fn read_sent_time(sent: &prost_types::Timestamp) -> Result<Timestamp, Malformed> {
    let nanos = u32::try_from(sent.nanos).ok();
    let time = nanos.and_then(|nanos| Timestamp::from_timestamp(sent.seconds, nanos));
    time.ok_or(Malformed("a time that is none"))
}

fn read_replaced_token(sent: pb::ReplacedAccountToken) -> Result<ReplacedToken, Malformed> {
    let hash = sent.hash.try_into();
    let end = sent.end_time.ok_or(Malformed("a token without an end"))?;
    Ok(ReplacedToken {
        hash: TokenHash(hash.or(Err(Malformed("a hash that is none")))?),
        ends: read_sent_time(&end)?,
    })
}

/// Reads the accounts. Permissions that this version does not know give nothing.
pub(crate) fn read_accounts(
    sent: pb::ReplicatedAccounts,
) -> Result<Vec<(TokenHash, ServiceAccount)>, Malformed> {
    let read = |sent: pb::ReplicatedAccount| {
        let hash = sent.token_hash.try_into();
        let id = read_uuid(&sent.id).ok_or(Malformed("an id that is none"))?;
        let mut permissions: Vec<CallerPermission> = sent
            .permissions
            .iter()
            .filter_map(|permission| permission.parse().ok())
            .filter(|permission| PERMISSIONS.contains(permission))
            .collect();
        permissions.sort_unstable();
        permissions.dedup();
        let names = sent.certificate_names.iter().map(|name| name.parse());
        let account = ServiceAccount {
            id: ServiceAccountId::from_uuid(id),
            name: CallerName::parse(&sent.name).or(Err(Malformed("an account without a name")))?,
            permissions,
            certificate_names: names
                .collect::<Result<_, _>>()
                .or(Err(Malformed("a certificate's name that is none")))?,
            // For display to operators, who ask the database.
            token_hint: TokenHint(String::new()),
            create_time: Timestamp::UNIX_EPOCH,
            revoke_time: None,
            replaced_token: sent.replaced_token.map(read_replaced_token).transpose()?,
        };
        let hash = TokenHash(hash.or(Err(Malformed("a hash that is none")))?);
        Ok((hash, account))
    };
    sent.accounts.into_iter().map(read).collect()
}
