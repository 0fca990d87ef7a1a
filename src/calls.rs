//! What every call has, over gRPC and over HTTP, on the fast path and beside it: a method, a
//! deadline, credentials of its caller, a record of how it ended.

pub(crate) mod credentials;
pub(crate) mod deadline;
pub(crate) mod gather;
pub(crate) mod method;
pub(crate) mod record;
