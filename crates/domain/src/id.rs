//! Ids: UUIDs as lower-case text, with one type for each kind of resource, so that a
//! site's id cannot be passed for a user's. New ids are UUIDs of version 7 (RFC 9562), made from the
//! given time and randomness.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use super::{Timestamp, clock::Entropy};

/// The text is not a UUID in canonical lower-case form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a UUID in lower-case text")]
pub struct MalformedId;

const TEXT_LENGTH: usize = 36;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that is known to identify a resource of this kind.
            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            /// The UUID without its kind.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// Generates a new id.
            pub fn mint(now: Timestamp, entropy: &dyn Entropy) -> Self {
                Self(mint(now, entropy))
            }
        }

        impl FromStr for $name {
            type Err = MalformedId;

            fn from_str(text: &str) -> Result<Self, MalformedId> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Identifies an API client.
    ClientId
}
id! {
    /// Identifies a user; HitKeep assigns it.
    UserId
}
id! {
    /// Identifies a team; HitKeep assigns it.
    TeamId
}
id! {
    /// Identifies a site; HitKeep assigns it.
    SiteId
}
id! {
    /// Identifies a service account.
    ServiceAccountId
}
id! {
    /// Identifies a process that answers from a copy of the index, from its start to its end.
    ReplicaId
}
id! {
    /// Identifies an audit event.
    EventId
}

impl EventId {
    /// The next id, for a later event of the same time.
    #[must_use]
    pub const fn successor(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128().wrapping_add(1)))
    }
}

id! {
    /// Identifies a request that came without an id of its own.
    RequestId
}

/// Accepts the canonical form only: other programs compare ids as text, and two spellings
/// of one id would not be equal there.
pub(super) fn parse(text: &str) -> Result<Uuid, MalformedId> {
    let canonical = text.len() == TEXT_LENGTH && !text.bytes().any(|b| b.is_ascii_uppercase());
    if !canonical {
        return Err(MalformedId);
    }
    Uuid::try_parse(text).or(Err(MalformedId))
}

fn mint(now: Timestamp, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0; 10];
    entropy.fill(&mut random);
    // Only a broken clock is before 1970, and the id is unique even then.
    let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_parses() {
        let canonical = "0192f0c1-7a3b-7c4d-8e5f-0123456789ab";
        assert_eq!(canonical.parse::<UserId>().unwrap().to_string(), canonical);
        for refused in [
            "",
            "x",
            "0192F0C1-7A3B-7C4D-8E5F-0123456789AB",
            "0192f0c17a3b7c4d8e5f0123456789ab",
            "{0192f0c1-7a3b-7c4d-8e5f-0123456789ab}",
            "urn:uuid:0192f0c1-7a3b-7c4d-8e5f-0123456789ab",
            "0192f0c1-7a3b-7c4d-8e5f-0123456789ag",
            " 0192f0c1-7a3b-7c4d-8e5f-0123456789ab",
        ] {
            assert_eq!(refused.parse::<UserId>(), Err(MalformedId), "{refused:?}");
        }
    }
}
