//! Conversions of `ReplicationService`: what a server sends. What a replica reads is in
//! `client::follow::wire`, which a program that holds the index uses as well.

pub(crate) mod report;
#[cfg(test)]
mod tests;

use super::{
    reader::{Parsed, Reader},
    to_instance_role, to_site_role, to_timestamp,
};
pub(in crate::grpc) use crate::client::follow::wire::to_position;
use crate::{
    client::follow::wire::{Features, PERMISSIONS, read_client_id, read_position, to_bytes},
    domain::{
        Position,
        access::Owner,
        id::{ClientId, ReplicaId, SiteId},
        index::{Callers, Client, Known},
        introspection::{BaseState, ResolvedClient, TokenStanding},
        role::SiteRole,
        token::{StoredHash, TokenScheme},
    },
    grpc::error::ApiError,
    pb,
};

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
    let restrictions = client.restrictions.as_ref();
    let ranges = restrictions.map(|restrictions| restrictions.sources.iter());
    let starts = restrictions.and_then(|restrictions| restrictions.activation.time());
    pb::SettledClient {
        allowed_cidrs: ranges
            .into_iter()
            .flatten()
            .map(|range| range.to_string())
            .collect(),
        not_before_time: starts.map(to_timestamp),
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
