//! The verdict on a token and everything that goes with it, by the code that answers.

use hitkeep_auth::domain::{
    Timestamp,
    client::Expiry,
    introspection::{InactiveReason, ResolvedClient, Subject},
};

/// A working token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Active {
    /// Its client.
    pub(crate) client: ResolvedClient,
    /// When it ends by itself: the client's expiry, or an overlap's end.
    pub(crate) ends: Expiry,
}

/// The verdict at a moment.
pub(crate) fn judge(subject: Subject, now: Timestamp) -> Result<Active, InactiveReason> {
    let (token, client) = subject.resolve();
    let ends = client.evaluate(token, now)?;
    Ok(Active { client, ends })
}
