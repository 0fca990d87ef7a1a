//! The part of Envoy's API that its check needs, by Envoy's packages.

use std::fmt;

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

/// What a route says, and none of what the client or another filter does.
impl fmt::Debug for service::auth::v3::AttributeContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttributeContext")
            .field("context_extensions", &self.context_extensions)
            .finish_non_exhaustive()
    }
}

/// A token is in its headers, and may be in its path or body as well.
impl fmt::Debug for service::auth::v3::attribute_context::HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for config::core::v3::HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderValue")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
