//! The verdict on a token and everything that goes with it, by the code that answers.

use crate::domain::{
    Timestamp,
    client::Expiry,
    introspection::{InactiveReason, ResolvedClient, Subject},
    source::Source,
};

/// A working token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Active {
    /// Its client.
    pub(crate) client: ResolvedClient,
    /// When it ends by itself: the client's expiry, or an overlap's end.
    pub(crate) ends: Expiry,
}

/// The verdict at a moment, for a request from there.
pub(crate) fn judge(
    subject: Subject,
    source: Source<'_>,
    now: Timestamp,
) -> Result<Active, InactiveReason> {
    let (token, client) = subject.resolve();
    let ends = client.evaluate(token, source, now)?;
    Ok(Active { client, ends })
}
