//! The fast path for `Introspect`, `IntrospectStream` and Envoy's `Check`: below the router
//! and its layers, for calls that can be answered at once and with success. Others put these
//! calls in front of every request they serve, so they pay for nothing that they do not need.
//!
//! Everything else takes the slow path, through the router, as if this one did not exist. So
//! there is one place for each refusal. What is answered is decided in the same place for
//! both: [`grpc::introspection`](crate::grpc::introspection).

mod body;
pub mod check;
pub(crate) mod dispatch;
mod introspect;
mod stream;
mod unary;
mod wire;

pub(crate) use body::{ReplyBody, append, response};
pub(crate) use stream::introspect_stream;
