//! The fast path for `Introspect`, `IntrospectStream` and Envoy's `Check`: below the router
//! and its layers, for calls that can be answered immediately and successfully. Callers put
//! these calls in front of every request that they serve, so the calls pay for nothing that
//! they do not need.
//!
//! Everything else takes the slow path, through the router, so there is one place for each
//! refusal. Both paths get their decisions from
//! [`grpc::introspection`](crate::grpc::introspection).

mod body;
pub mod check;
pub(crate) mod dispatch;
mod headers;
mod introspect;
mod slow;
mod stream;
mod unary;
mod wire;

pub(crate) use body::routed_reply;
pub(crate) use slow::FastPath;
pub(crate) use stream::introspect_stream;
pub(crate) use wire::append_framed;
