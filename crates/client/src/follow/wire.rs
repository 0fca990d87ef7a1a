//! Conversions of `ReplicationService`: what a replica reads, and the few things that it says.
//!
//! A replica judges tokens by what it reads here, so nothing is guessed: a client with
//! anything that this version does not know becomes unreadable, and its tokens are not
//! judged. What no version sends is an error, and ends the replication.

use hitkeep_auth_domain::{
    Position, Revision, Timestamp,
    access::{EffectiveAccess, Owner, SiteGrants},
    caller::{CallerName, CallerPermission, ReplacedToken, ServiceAccount},
    client::{Activation, Expiry},
    id::{ClientId, ReplicaId, ServiceAccountId, SiteId, TeamId, UserId},
    index::{Client, Known},
    introspection::{BaseState, ResolvedClient, Restrictions, TokenStanding},
    role::{InstanceRole, SiteRole},
    source::{AllowedSources, Cidr},
    token::{StoredHash, TokenHash, TokenHint, TokenScheme},
    usage::{Batch, Count, Outcome, RefusalReason},
};
use hitkeep_auth_proto as pb;
use uuid::Uuid;

/// What a replica may do with the accounts that are sent to it.
pub const PERMISSIONS: [CallerPermission; 2] =
    [CallerPermission::Introspect, CallerPermission::Replicate];

/// A set of features, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(
    /// A bit for each.
    pub u64,
);

impl Features {
    const ALLOWED_CIDRS: Self = Self(1 << pb::ReplicationFeature::AllowedCidrs as u32);
    const NOT_BEFORE_TIME: Self = Self(1 << pb::ReplicationFeature::NotBeforeTime as u32);
    /// Tokens that HitKeep itself issued.
    pub const HITKEEP_TOKENS: Self = Self(1 << pb::ReplicationFeature::HitkeepTokens as u32);

    /// The features that a replica of this version enforces.
    pub const ENFORCED: Self = Self::ALLOWED_CIDRS
        .and(Self::NOT_BEFORE_TIME)
        .and(Self::HITKEEP_TOKENS);

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of a message. `None` if one has a number that no version of this protocol can
    /// give it.
    pub fn of(numbers: &[i32]) -> Option<Self> {
        numbers.iter().try_fold(Self::default(), |set, number| {
            let bit = 1_u64.checked_shl(u32::try_from(*number).ok()?)?;
            Some(Self(set.0 | bit))
        })
    }

    /// Whether these are all of `needed`, and maybe more.
    pub const fn cover(self, needed: Self) -> bool {
        needed.0 & !self.0 == 0
    }

    /// Those that a replica must enforce to judge the tokens of a client. A new restriction
    /// of clients needs a feature here.
    pub fn needed_by(client: &Client) -> Self {
        let mut needed = Self::default();
        let mut hashes = client.standings().map(|(hash, _)| hash);
        if hashes.any(|hash| hash.scheme() == TokenScheme::HitkeepSha256) {
            needed = needed.and(Self::HITKEEP_TOKENS);
        }
        if let Known::Resolved(client) = &client.known
            && let Some(restrictions) = &client.restrictions
        {
            let Restrictions {
                sources,
                activation,
            } = &**restrictions;
            if !sources.is_everywhere() {
                needed = needed.and(Self::ALLOWED_CIDRS);
            }
            if *activation != Activation::AtOnce {
                needed = needed.and(Self::NOT_BEFORE_TIME);
            }
        }
        needed
    }

    /// Their numbers.
    pub fn numbers(self) -> Vec<i32> {
        let bits = (0..64).filter(|bit| self.0 & (1_u64 << bit) != 0);
        bits.collect()
    }
}

/// A position as it is sent.
pub fn to_position(position: Position) -> pb::Position {
    pb::Position {
        database_id: to_bytes(position.database),
        revision: position.revision.0,
        nonce: to_bytes(position.nonce),
    }
}

/// Reads a position. `None` if it is none.
pub fn read_position(position: &pb::Position) -> Option<Position> {
    Some(Position {
        database: read_uuid(&position.database_id)?,
        revision: Revision(position.revision),
        nonce: read_uuid(&position.nonce)?,
    })
}

/// An id as it is sent.
pub fn to_bytes(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

fn read_uuid(bytes: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(bytes).ok()
}

/// A message that no version of a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server upstream sent {0}")]
pub struct Malformed(
    /// What it is.
    pub &'static str,
);

/// A client with its tokens, as [`Writer`](hitkeep_auth_domain::index::Writer) takes it.
pub type ReadClient = (Known, Vec<(StoredHash, TokenStanding)>);

/// Reads a position.
///
/// # Errors
/// If it is none.
pub fn read_sent_position(sent: Option<&pb::Position>) -> Result<Position, Malformed> {
    sent.and_then(read_position)
        .ok_or(Malformed("no position where one belongs"))
}

/// Reads the id of a client.
///
/// # Errors
/// If it is none.
pub fn read_client_id(bytes: &[u8]) -> Result<ClientId, Malformed> {
    let id = read_uuid(bytes).ok_or(Malformed("an id that is none"))?;
    Ok(ClientId::from_uuid(id))
}

/// Reads a client. It is unreadable if it has anything that this version does not know, or
/// needs a feature that is not among those enforced.
///
/// # Errors
/// If no version sends that.
pub fn read_client(
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
    let ranges = sent.allowed_cidrs.iter().map(|range| range.parse());
    let Ok(ranges) = ranges.collect::<Result<Vec<Cidr>, _>>() else {
        return Ok(None);
    };
    let Ok(sources) = AllowedSources::new(ranges) else {
        return Ok(None);
    };
    let activation = Activation::from(read_time(sent.not_before_time)?);
    Ok(Some(ResolvedClient {
        restrictions: Restrictions::of(sources, activation),
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
///
/// # Errors
/// If it is none.
pub fn read_sent_time(sent: &prost_types::Timestamp) -> Result<Timestamp, Malformed> {
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
///
/// # Errors
/// If no version sends that.
pub fn read_accounts(
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

/// A time as it is sent.
pub fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
    }
}

const fn to_outcome(outcome: Outcome) -> pb::UsageOutcome {
    use pb::UsageOutcome as Sent;

    match outcome {
        Outcome::Used => Sent::Used,
        Outcome::LegacyToken => Sent::LegacyToken,
        Outcome::Refused(RefusalReason::TokenRotated) => Sent::TokenRotated,
        Outcome::Refused(RefusalReason::Revoked) => Sent::Revoked,
        Outcome::Refused(RefusalReason::Expired) => Sent::Expired,
        Outcome::Refused(RefusalReason::OwnerInactive) => Sent::OwnerInactive,
        Outcome::Refused(RefusalReason::NoSiteGrant) => Sent::NoSiteGrant,
        Outcome::Refused(RefusalReason::RoleTooLow) => Sent::RoleTooLow,
        Outcome::Refused(RefusalReason::NotYetActive) => Sent::NotYetActive,
        Outcome::Refused(RefusalReason::SourceNotAllowed) => Sent::SourceNotAllowed,
    }
}

/// The most clients of one report.
pub const MAX_REPORTED: usize = 5000;

/// What a replica counted, as a message: at most [`MAX_REPORTED`] clients, by its own number.
pub fn to_usage_report(replica: ReplicaId, number: u64, usage: &Batch) -> pb::ReportUsageRequest {
    let count = |count: &Count| pb::ReplicatedCount {
        day: count.day.number(),
        outcome: to_outcome(count.outcome).into(),
        count: count.count.get(),
    };
    let clients = usage.after(None);
    let clients = clients.map(|(client, pending)| pb::ReplicatedUsage {
        client_id: to_bytes(client.uuid()),
        last_used_time: pending.last_used().map(to_timestamp),
        counts: pending.counts().iter().map(count).collect(),
        replaced_token_used_time: pending.replaced_token_used().map(to_timestamp),
    });
    pb::ReportUsageRequest {
        replica_id: replica.to_string(),
        number,
        clients: clients.collect(),
    }
}
