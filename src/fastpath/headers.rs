//! The values of gRPC's headers.

use http::{HeaderName, HeaderValue};

pub(super) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
pub(super) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(super) const OK: HeaderValue = HeaderValue::from_static("0");
