//! Callers: the programs that connect to this service, and their permissions.

use super::{
    Timestamp,
    audit::{Action, Event, FieldChange},
    certificate::CertificateName,
    client::{Overlap, rfc3339},
    clock::Entropy,
    id::ServiceAccountId,
    role::string_enum,
    token::{Token, TokenHash, TokenHint, TokenKind},
};

/// The longest name of a service account, in characters.
pub const MAX_CALLER_NAME: usize = 63;

string_enum! {
    /// What a service account may call.
    CallerPermission ("caller permission") {
        /// Introspection, and the endpoints for proxies.
        Introspect = "introspect",
        /// Managing API clients on behalf of an actor.
        Manage = "manage",
        /// Pushing the directory.
        Directory = "directory",
        /// Reading the audit trail.
        Audit = "audit",
        /// Following the change feed.
        Replicate = "replicate",
    }
}

/// A service account's name: 1 to 63 lower-case letters, digits, dots, hyphens and
/// underscores, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerName(String);

/// The text is not a valid name of a service account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a service account's name has 1 to 63 lower-case letters, digits, dots, hyphens and \
     underscores, and begins with a letter or digit"
)]
pub struct BadCallerName;

impl CallerName {
    /// Checks a name.
    pub fn parse(text: &str) -> Result<Self, BadCallerName> {
        let first = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = text.len() <= MAX_CALLER_NAME
            && text.bytes().next().is_some_and(first)
            && text
                .bytes()
                .all(|c| first(c) || matches!(c, b'.' | b'-' | b'_'));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadCallerName)
        }
    }

    /// The validated text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for CallerName {
    type Err = BadCallerName;

    fn from_str(text: &str) -> Result<Self, BadCallerName> {
        Self::parse(text)
    }
}

/// The registered identity of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Assigned on creation; never reused.
    pub id: ServiceAccountId,
    /// Unique among the accounts that are not revoked.
    pub name: CallerName,
    /// The permissions, sorted and without duplicates.
    pub permissions: Vec<CallerPermission>,
    /// The certificate names that identify the caller as well, sorted. A revoked account has
    /// none.
    pub certificate_names: Vec<CertificateName>,
    /// The part of its token that may be shown.
    pub token_hint: TokenHint,
    /// When it was created.
    pub create_time: Timestamp,
    /// When it was revoked; `None` unless it is revoked.
    pub revoke_time: Option<Timestamp>,
    /// The token before its newest one; `None` if that was never replaced.
    pub replaced_token: Option<ReplacedToken>,
}

/// A service account's token that a rotation replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplacedToken {
    /// Its hash.
    pub hash: TokenHash,
    /// When it stops working, or stopped.
    pub ends: Timestamp,
}

impl ReplacedToken {
    /// Whether it still works.
    pub fn works(&self, now: Timestamp) -> bool {
        now < self.ends
    }
}

/// A service account with its newly generated token.
#[derive(Debug)]
pub struct IssuedAccount {
    /// The account after the transition.
    pub account: ServiceAccount,
    /// The event to record.
    pub event: Event,
    /// The plaintext token, which is shown once.
    pub token: Token,
}

impl IssuedAccount {
    /// Lets these certificate names identify the account as well.
    #[must_use]
    pub fn with_certificate_names(mut self, names: &[CertificateName]) -> Self {
        let mut names = names.to_vec();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            let change = FieldChange::new("certificate_names", "", &joined(&names));
            self.event.changes.push(change);
        }
        self.account.certificate_names = names;
        self
    }
}

impl ServiceAccount {
    /// Creates a service account and its token.
    pub fn create(
        name: CallerName,
        permissions: &[CallerPermission],
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> IssuedAccount {
        let mut permissions = permissions.to_vec();
        permissions.sort_unstable();
        permissions.dedup();
        let token = Token::mint(TokenKind::ServiceAccount, entropy);
        let account = Self {
            id: ServiceAccountId::mint(now, entropy),
            name,
            permissions,
            certificate_names: Vec::new(),
            token_hint: token.hint(),
            create_time: now,
            revoke_time: None,
            replaced_token: None,
        };
        let words: Vec<_> = account.permissions.iter().map(|p| p.as_str()).collect();
        let changes = vec![FieldChange::new("permissions", "", &words.join(","))];
        let event = account.event(Action::ServiceAccountCreated, changes);
        IssuedAccount {
            account,
            event,
            token,
        }
    }

    /// Replaces the account's token, of which `old` is the hash. It works until the end of the
    /// overlap, and an earlier one whose overlap is still running ends at once.
    pub fn rotate(
        self,
        old: TokenHash,
        overlap: Overlap,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> IssuedAccount {
        let token = Token::mint(TokenKind::ServiceAccount, entropy);
        let ends = now + overlap.length();
        let changes = vec![
            FieldChange::new("token_hint", &self.token_hint.0, &token.hint().0),
            FieldChange::new("overlap_end_time", "", &rfc3339(ends)),
        ];
        let account = Self {
            token_hint: token.hint(),
            replaced_token: Some(ReplacedToken { hash: old, ends }),
            ..self
        };
        let event = account.event(Action::ServiceAccountRotated, changes);
        IssuedAccount {
            account,
            event,
            token,
        }
    }

    /// Revokes the account, and releases its certificate names.
    pub fn revoke(self, now: Timestamp) -> (Self, Event) {
        let names = joined(&self.certificate_names);
        let account = Self {
            revoke_time: Some(now),
            certificate_names: Vec::new(),
            ..self
        };
        let mut changes = vec![FieldChange::new("revoke_time", "", &rfc3339(now))];
        if !names.is_empty() {
            changes.push(FieldChange::new("certificate_names", &names, ""));
        }
        let event = account.event(Action::ServiceAccountRevoked, changes);
        (account, event)
    }

    /// Whether the account has the permission.
    pub fn may(&self, permission: CallerPermission) -> bool {
        self.permissions.contains(&permission)
    }

    fn event(&self, action: Action, changes: Vec<FieldChange>) -> Event {
        Event {
            action,
            subject: self.id.uuid(),
            subject_name: self.name.as_str().to_owned(),
            owner: None,
            changes,
        }
    }
}

fn joined(names: &[CertificateName]) -> String {
    let names: Vec<_> = names.iter().map(CertificateName::as_str).collect();
    names.join(",")
}
