//! The properties that are seen to hold after every step, by name. A planted
//! fault says which of them it breaks, so that none is there for show.

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
    /// An actor sees and manages those clients that section 4 says.
    Authority,
    /// The clients and their content are what calls and directory made of them.
    Content,
    /// A working token may do exactly what section 3 says, and ends when it
    /// says.
    Verdict,
    /// A token works until there is a reason why not, and the first one is
    /// told.
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
    /// A change of the directory that names something unknown is told from one
    /// that does not.
    Reference,
    /// A replacement of the directory is refused exactly where it would remove more than half
    /// of something without being allowed to.
    MassRemoval,
}

/// A property that did not hold.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Which.
    pub(crate) rule: Rule,
    /// How.
    pub(crate) story: String,
}
