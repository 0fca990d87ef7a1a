//! The generated code of `proto/`, and by hand what the generator must not
//! write: the `Debug` of messages that carry a token or the id of a write.

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

tonic::include_proto!("hitkeep.auth.v1");

/// The part of Envoy's API that its check needs, by Envoy's packages.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod service {
        pub mod auth {
            pub mod v3 {
                tonic::include_proto!("envoy.service.auth.v3");
            }
        }
    }
    pub mod r#type {
        pub mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
}

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

/// What a route says, and none of what the client or another filter does.
impl fmt::Debug for envoy::service::auth::v3::AttributeContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttributeContext")
            .field("context_extensions", &self.context_extensions)
            .finish_non_exhaustive()
    }
}

/// A token is in its headers, and may be in its path or body as well.
impl fmt::Debug for envoy::service::auth::v3::attribute_context::HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for envoy::config::core::v3::HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderValue")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
