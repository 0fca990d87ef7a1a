//! What every call has, over gRPC and HTTP, on the fast and the slow path: a method, a
//! deadline, its caller's credentials, a place among the calls in flight, and a record of
//! how it ended.

pub(crate) mod admission;
pub(crate) mod credentials;
pub(crate) mod deadline;
pub(crate) mod message_buffer;
pub(crate) mod method;
pub(crate) mod record;
