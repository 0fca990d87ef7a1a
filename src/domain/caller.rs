//! Callers: the programs at the other end of the connection, and what each of
//! them may ask for.

use super::{
    Timestamp,
    audit::{Action, Event, FieldChange},
    certificate::CertificateName,
    clock::Entropy,
    id::ServiceAccountId,
    role::words,
    token::{Token, TokenHint, TokenKind},
};

/// The longest name of a service account.
pub const MAX_CALLER_NAME: usize = 63;

words! {
    /// What a service account may ask for.
    CallerPermission ("caller permission") {
        /// Introspection, and the proxies' checks.
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

/// A service account's name: 1 to 63 lower-case letters, digits, dots, hyphens
/// and underscores, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerName(String);

/// The text cannot be a service account's name.
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

    /// The name.
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

/// A known caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its id.
    pub id: ServiceAccountId,
    /// Its name, its own while it is not revoked.
    pub name: CallerName,
    /// What it may ask for, without repetition.
    pub permissions: Vec<CallerPermission>,
    /// The names in certificates that it is known by too, in their order. None are
    /// left of one that is revoked.
    pub certificate_names: Vec<CertificateName>,
    /// What is shown of its token.
    pub token_hint: TokenHint,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was revoked, where it is.
    pub revoke_time: Option<Timestamp>,
}

/// A service account that was just made, with its token.
#[derive(Debug)]
pub struct IssuedAccount {
    /// The account.
    pub account: ServiceAccount,
    /// What happened.
    pub event: Event,
    /// The secret.
    pub token: Token,
}

impl IssuedAccount {
    /// The same, known by these names in certificates too.
    #[must_use]
    pub fn known_by(mut self, names: &[CertificateName]) -> Self {
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
    /// Makes a service account and its token.
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

    /// Ends it.
    pub fn revoke(self, now: Timestamp) -> (Self, Event) {
        let names = joined(&self.certificate_names);
        let account = Self {
            revoke_time: Some(now),
            certificate_names: Vec::new(),
            ..self
        };
        let time = now.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let mut changes = vec![FieldChange::new("revoke_time", "", &time)];
        if !names.is_empty() {
            changes.push(FieldChange::new("certificate_names", &names, ""));
        }
        let event = account.event(Action::ServiceAccountRevoked, changes);
        (account, event)
    }

    /// Whether it may ask for that.
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
