//! The values of gRPC's headers.

use http::HeaderValue;

pub(super) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
pub(super) const GRPC_ENCODING: &str = "grpc-encoding";
pub(super) const OK: HeaderValue = HeaderValue::from_static("0");
