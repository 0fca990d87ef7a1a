//! The generated code of `proto/`, and by hand what the generator must not
//! write: the `Debug` of messages that carry a token or the id of a write.
//!
//! A program that calls the service needs the clients and the messages. The feature `server`
//! adds the servers, and the part of Envoy's API that is served.

#![forbid(unsafe_code)]
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::str_to_string,
    reason = "generated; not every lint fires in every version of the generator"
)]

use std::fmt;

mod codec;
#[cfg(feature = "server")]
pub mod envoy;

tonic::include_proto!("hitkeep.auth.v1");

/// All of `proto/` with what it imports, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("descriptor");

impl fmt::Debug for IntrospectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectRequest")
            .field("check", &self.check)
            .field("at_least_revision", &self.at_least_revision)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BatchIntrospectItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchIntrospectItem")
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CreateApiClientRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateApiClientRequest")
            .field("actor", &self.actor)
            .field("api_client", &self.api_client)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RotateApiClientRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotateApiClientRequest")
            .field("actor", &self.actor)
            .field("id", &self.id)
            .field("overlap", &self.overlap)
            .field("etag", &self.etag)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CreateApiClientResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateApiClientResponse")
            .field("api_client", &self.api_client)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RotateApiClientResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotateApiClientResponse")
            .field("api_client", &self.api_client)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ReportLeakRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportLeakRequest")
            .field("actor", &self.actor)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for report_leak_request::Leaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaked")
    }
}
