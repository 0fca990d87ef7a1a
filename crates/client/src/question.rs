//! What is asked about a token.

use std::{fmt, net::IpAddr};

use hitkeep_auth_domain::{Revision, access::PermissionCheck, source::Source};

/// Longer than any token; such a text is not worth a question.
const MAX_TOKEN_BYTES: usize = 4096;

/// A question about a token.
///
/// ```
/// use hitkeep_auth_client::{PermissionCheck, Question, Revision, SitePermission};
///
/// # fn about(token: &str, site: hitkeep_auth_client::SiteId) -> Question<'_> {
/// Question::about(token)
///     .permission(PermissionCheck::Site { site, permission: SitePermission::View })
///     .at_least(Revision(17))
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Question<'q> {
    pub(crate) token: &'q str,
    pub(crate) permission: Option<PermissionCheck>,
    pub(crate) at_least: Option<Revision>,
    pub(crate) source: Option<IpAddr>,
}

impl<'q> Question<'q> {
    /// Whose token this is, and whether it works. White space around it does not matter.
    pub const fn about(token: &'q str) -> Self {
        Self {
            token,
            permission: None,
            at_least: None,
            source: None,
        }
    }

    /// Also whether it carries a permission.
    #[must_use]
    pub const fn permission(mut self, check: PermissionCheck) -> Self {
        self.permission = Some(check);
        self
    }

    /// The answer must be based on that revision or a later one, such as that of a change
    /// which the asking program made. One that is not reached in time is
    /// [`Error::Unavailable`](crate::Error::Unavailable).
    #[must_use]
    pub const fn at_least(mut self, revision: Revision) -> Self {
        self.at_least = Some(revision);
        self
    }

    /// The request comes from that address. Without it, a token that works from some addresses
    /// only does not work. It must be one that the asking program is sure of, such as that of
    /// the connection, and not what the end client says of itself.
    #[must_use]
    pub const fn from(mut self, address: IpAddr) -> Self {
        self.source = Some(address.to_canonical());
        self
    }

    pub(crate) fn domain_source(&self) -> Source<'static> {
        self.source.map_or(Source::Unknown, Source::Address)
    }

    /// The text that may be a token. An error if it cannot be one.
    pub(crate) fn text(&self) -> Result<&'q str, NotAToken> {
        let text = self.token.trim();
        if text.is_empty() {
            return Err(NotAToken::Missing);
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err(NotAToken::TooLong);
        }
        Ok(text)
    }
}

/// A text that is no token, whatever the service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAToken {
    Missing,
    TooLong,
}

impl fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("permission", &self.permission)
            .field("at_least", &self.at_least)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
