//! The properties that are seen to hold after every step, by name. "The page" is
//! `docs/access-rules.md`.

/// A property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// (a) What a call hands out, or lets a client do from then on, its actor
    /// holds at that moment.
    HandedOutIsHeld,
    /// (b) What a client may do is within what was delegated to it.
    UsableIsDelegated,
    /// (b) What a personal client may do is within what its owner holds.
    UsableIsHeldByOwner,
    /// (c) What only takes access away, or none, is never refused for lack of
    /// delegation.
    NarrowingIsFree,
    /// A call is allowed unless something speaks against it, and then refused
    /// for that.
    Decision,
    /// An actor sees and manages those clients that the page says.
    Authority,
    /// The clients and their content are what calls and directory made of them.
    Content,
    /// A working token may do exactly what the page says, and ends when it
    /// says.
    Verdict,
    /// A token works until there is a reason why not, and the first one is
    /// returned.
    Reason,
    /// A client is shown in the state that its token's verdict says.
    State,
    /// A team's client is a `user` of the instance.
    TeamClientIsUser,
    /// At most two tokens of a client work at a time.
    TwoTokensAtMost,
    /// An overlap never outlives the client's expiry.
    OverlapEndsWithExpiry,
    /// A client that is revoked again keeps its first `revoke_time`.
    FirstRevokeTime,
    /// The audit trail gets an event of each change, and of nothing else.
    Event,
    /// A client has another etag exactly where it has another content.
    Etag,
    /// A change of the directory that names something unknown is distinguished from one
    /// that does not.
    Reference,
    /// A replacement of the directory is refused exactly where it would remove more than half
    /// of something without being allowed to.
    MassRemoval,
}
