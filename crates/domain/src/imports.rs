//! API clients that come from another program's database: what is kept of them beside the
//! client itself, so that a later import can tell which side changed.

use std::collections::BTreeMap;

use super::{
    Timestamp,
    access::Owner,
    audit::Event,
    client::{Activation, ApiClient, Draft, Expiry},
    directory::{Directory, order::ChangePosition},
    id::{ClientId, UserId},
    token::{LegacyHash, StoredHash, TokenScheme},
};

/// The domain separation of the digests (BLAKE3's derive-key mode).
const DIGEST_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 imported client v1";

/// Parses the hash of a token as HitKeep stores it: 64 lower-case hexadecimal digits. Other
/// spellings of a digit are not accepted, since HitKeep would not find them either.
pub fn parse_hash(text: &str) -> Option<LegacyHash> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(pair[0])? * 16 + digit(pair[1])?;
    }
    Some(LegacyHash(hash))
}

/// A digest of everything that an import writes of a client, apart from its token and its
/// revocation, which are compared by themselves. What only this service has is no part of it:
/// the addresses from which tokens work, and the time from which on they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowDigest(pub [u8; 32]);

impl RowDigest {
    /// The digest of a client with these fields.
    pub fn of(draft: &Draft) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
        let mut add = |part: &[u8]| {
            // The length prefix keeps adjacent parts apart.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        match draft.delegated.owner() {
            Owner::User(id) => {
                add(b"user");
                add(id.uuid().as_bytes());
            }
            Owner::Team(id) => {
                add(b"team");
                add(id.uuid().as_bytes());
            }
        }
        add(draft.name.as_str().as_bytes());
        add(draft.description.as_str().as_bytes());
        add(draft.delegated.instance_role().as_str().as_bytes());
        match draft.expiry {
            Expiry::Never => add(b"never"),
            Expiry::At(time) => add(&time.timestamp_micros().to_le_bytes()),
        }
        for (site, role) in draft.delegated.grants() {
            add(site.uuid().as_bytes());
            add(role.as_str().as_bytes());
        }
        Self(hasher.finalize().into())
    }

    /// The digest of a client as it is stored here.
    pub fn of_client(client: &ApiClient) -> Self {
        Self::of(&draft_of(client))
    }
}

/// The fields of a stored client that an import compares.
pub fn draft_of(client: &ApiClient) -> Draft {
    Draft {
        delegated: client.delegated.clone(),
        name: client.name.clone(),
        description: client.description.clone(),
        expiry: client.expiry,
        sources: client.sources.clone(),
        activation: client.activation,
    }
}

/// The state of a client in the other program, as of the last import that took it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportRecord {
    /// The digest of its fields.
    pub digest: RowDigest,
    /// The hash of its token.
    pub token: LegacyHash,
    /// When it was revoked, if an import took that revocation over and it has not been lifted
    /// since; `None` for a revocation of this service's own.
    pub revoke_time: Option<Timestamp>,
    /// The time of the snapshot that it was taken from.
    pub snapshot_time: Timestamp,
}

/// A client of this service, with what imports need to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownClient {
    /// The client as it is stored.
    pub client: ApiClient,
    /// The hash of its newest token; `None` if the token was removed by hand.
    pub newest_token: Option<StoredHash>,
    /// `None` if it did not come from an import.
    pub record: Option<ImportRecord>,
}

/// A client as the other program has it, with all its references known to the directory.
#[derive(Clone, Debug)]
pub struct ForeignClient {
    /// The same id as in the other program.
    pub id: ClientId,
    /// Owner, roles, name, description and expiry.
    pub draft: Draft,
    /// The hash of its only token.
    pub token: LegacyHash,
    /// When it was revoked; `None` unless it is.
    pub revoke_time: Option<Timestamp>,
    /// The user that created it, if the other program knows.
    pub created_by: Option<UserId>,
    /// When it was created.
    pub create_time: Timestamp,
    /// When it was last changed or used; the other program does not tell the two apart.
    pub update_time: Timestamp,
    /// When its token was last used.
    pub last_used: Option<Timestamp>,
}

impl KnownClient {
    /// Whether it is as the last import left it. The other program knows no restrictions, so one
    /// with any got them here.
    pub fn is_as_imported(&self) -> bool {
        self.record.is_some_and(|record| {
            RowDigest::of_client(&self.client) == record.digest
                && self.newest_token == Some(record.token.into())
                && self.client.revoke_time == record.revoke_time
                && self.client.sources.is_everywhere()
                && self.client.activation == Activation::AtOnce
        })
    }
}

impl ForeignClient {
    /// The client to insert.
    pub fn to_client(&self) -> ApiClient {
        ApiClient {
            id: self.id,
            delegated: self.draft.delegated.clone(),
            name: self.draft.name.clone(),
            description: self.draft.description.clone(),
            expiry: self.draft.expiry,
            sources: self.draft.sources.clone(),
            activation: self.draft.activation,
            revoke_time: self.revoke_time,
            created_by: self.created_by,
            create_time: self.create_time,
            update_time: self.update_time,
            last_used: self.last_used,
            token_hint: self.token.hint(),
            token_scheme: Some(TokenScheme::HitkeepSha256),
        }
    }

    /// What to remember of it.
    pub fn record(&self, snapshot_time: Timestamp) -> ImportRecord {
        ImportRecord {
            digest: RowDigest::of(&self.draft),
            token: self.token,
            revoke_time: self.revoke_time,
            snapshot_time,
        }
    }
}

/// What the database has, as far as an import depends on it.
#[derive(Clone, Debug, Default)]
pub struct ImportState {
    /// The time by the database's clock.
    pub now: Timestamp,
    /// The time of the newest snapshot that was imported; `None` before the first.
    pub last_snapshot: Option<Timestamp>,
    /// The directory.
    pub directory: Directory,
    /// The newest change of the directory, and the one that the last import made.
    pub directory_changed: ChangePosition,
    /// The newest change of the directory that came from an import.
    pub directory_imported: ChangePosition,
    /// Every client that was imported, or has the id of one that is about to be.
    pub known: BTreeMap<ClientId, KnownClient>,
    /// What is remembered of every client that was imported, deleted ones included.
    pub records: BTreeMap<ClientId, ImportRecord>,
    /// The clients that have one of the tokens that are about to be imported, replaced tokens
    /// included.
    pub holders: BTreeMap<LegacyHash, ClientId>,
    /// How many clients each owner has.
    pub owned: BTreeMap<Owner, u32>,
}

/// A client whose row changes.
#[derive(Clone, Debug)]
pub struct ClientUpdate {
    /// The client before.
    pub old: ApiClient,
    /// The client after.
    pub new: ApiClient,
}

/// What an import writes, all of it in one transaction.
#[derive(Clone, Debug, Default)]
pub struct ImportWrites {
    /// The time of the snapshot.
    pub snapshot_time: Timestamp,
    /// The directory, if it is to be replaced.
    pub directory: Option<Directory>,
    /// New clients.
    pub creates: Vec<ForeignClient>,
    /// Clients whose fields change.
    pub updates: Vec<ClientUpdate>,
    /// New tokens of existing clients, whose previous tokens end.
    pub rotations: Vec<(ClientId, LegacyHash)>,
    /// When tokens of existing clients were used in HitKeep, if that was later than here.
    pub last_used: Vec<(ClientId, Timestamp)>,
    /// What to remember.
    pub records: Vec<(ClientId, ImportRecord)>,
    /// The events to record.
    pub events: Vec<Event>,
}

impl ImportWrites {
    /// Whether nothing but the time of the snapshot changes.
    pub const fn is_empty(&self) -> bool {
        self.directory.is_none()
            && self.creates.is_empty()
            && self.updates.is_empty()
            && self.rotations.is_empty()
            && self.last_used.is_empty()
            && self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_one_spelling_and_a_hint_of_six_digits() {
        let text = "1a7674".to_owned() + &"0f".repeat(29);
        let hash = parse_hash(&text).unwrap();
        assert_eq!((hash.0[0], hash.0[3]), (0x1a, 0x0f));
        assert_eq!(hash.hint().0, "sha256_1a7674");
        for refused in [
            String::new(),
            text[1..].to_owned(),
            text.clone() + "0",
            text.to_uppercase(),
            text.replace("1a", "1g"),
            text.replace("1a", "é"),
            text.replace("1a", "+1"),
        ] {
            assert_eq!(parse_hash(&refused), None, "{refused:?}");
        }
    }
}
