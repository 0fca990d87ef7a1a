//! The HTTP listener, as programs that speak no gRPC see it.

pub mod client;
mod forward_auth;
mod grpc_web;
mod introspect;
mod limits;
mod probes;
mod rest;
