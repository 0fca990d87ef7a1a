//! The gRPC methods: their paths, the permissions that they require, and their message size
//! limits.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, server::NamedService};

use crate::{
    domain::caller::CallerPermission,
    grpc::{Management, Services, replication::Replication},
    pb::{
        self, api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        introspection_service_server::IntrospectionServiceServer,
        replication_service_server::ReplicationServiceServer,
    },
    telemetry::metrics::FastMethod,
};

/// The paths of methods that have a fast path, or limits of their own.
pub(crate) const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
/// Envoy's external authorization.
pub(crate) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// A stream that lasts as long as its caller likes.
pub(crate) const INTROSPECT_STREAM: &str = "/hitkeep.auth.v1.IntrospectionService/IntrospectStream";
/// Many introspections in one message, so it has a size limit of its own.
pub(crate) const BATCH_INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/BatchIntrospect";
/// A stream that lasts as long as its caller likes, like the other one.
pub(crate) const REPLICATE: &str = "/hitkeep.auth.v1.ReplicationService/Replicate";
/// A client stream that our own timeout does not end. It is large, so it has a concurrency
/// limit of its own.
pub(crate) const REPLACE_DIRECTORY: &str = "/hitkeep.auth.v1.DirectoryService/ReplaceDirectory";

/// Up to 10,000 clients in one transaction, so it may take longer than other calls.
pub(crate) const REVOKE_API_CLIENTS: &str = "/hitkeep.auth.v1.ApiClientService/RevokeApiClients";

/// The path of a method that has a fast path.
pub(crate) const fn path_of(call: FastMethod) -> &'static str {
    match call {
        FastMethod::Introspect => INTROSPECT,
        FastMethod::Check => CHECK,
    }
}

/// A method, as metrics and traces name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// The full name of its service.
    pub(crate) service: &'static str,
    /// Without the service.
    pub(crate) name: &'static str,
    /// Whether it streams its responses.
    pub(crate) streams: bool,
    /// Whether its caller streams requests.
    pub(crate) takes_stream: bool,
    /// Set for introspections: these are so frequent and so short that only a sample of
    /// them is timed.
    pub(crate) fast_path: Option<FastMethod>,
}

/// Stands for all methods that do not exist, since callers may send any name.
const UNKNOWN: Method = Method {
    service: "unknown",
    name: "unknown",
    streams: false,
    takes_stream: false,
    fast_path: None,
};

/// The methods by path, from the descriptors that reflection serves.
static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let descriptors = [
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = HashMap::new();
    for descriptors in descriptors {
        let set = FileDescriptorSet::decode(descriptors).expect("it was made by the build");
        for file in set.file {
            for service in &file.service {
                // Leaked once per process, so that metric labels need no allocation.
                let full: &str = format!("{}.{}", file.package(), service.name()).leak();
                for method in &service.method {
                    let path = format!("/{full}/{}", method.name());
                    let method = Method {
                        service: full,
                        name: method.name().to_owned().leak(),
                        streams: method.server_streaming(),
                        takes_stream: method.client_streaming(),
                        fast_path: FastMethod::ALL
                            .into_iter()
                            .find(|call| path_of(*call) == path),
                    };
                    methods.insert(path, method);
                }
            }
        }
    }
    methods
});

impl Method {
    /// The method at a path, or `UNKNOWN`.
    pub(crate) fn of(path: &str) -> Self {
        METHODS.get(path).copied().unwrap_or(UNKNOWN)
    }

    /// Whether there is a method at a path.
    pub(crate) fn exists(path: &str) -> bool {
        METHODS.contains_key(path)
    }

    /// Whether it has one request and one response.
    pub(crate) const fn is_unary(self) -> bool {
        !self.streams && !self.takes_stream
    }
}

/// Marks a call that came to the HTTP listener as gRPC-Web.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverGrpcWeb;

/// What a method requires of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: health.
    Health,
    /// Nothing: reflection.
    Reflection,
    /// An authenticated caller with that permission.
    Permitted(CallerPermission),
    /// An authenticated caller. The method does not exist.
    Authenticated,
}

impl Access {
    /// What the method at that path requires.
    pub(crate) fn of(path: &str) -> Self {
        let service = path
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default();
        match service {
            "grpc.health.v1.Health" => Self::Health,
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
                Self::Reflection
            }
            ApiClientServiceServer::<Management>::NAME => Self::Permitted(CallerPermission::Manage),
            IntrospectionServiceServer::<Services>::NAME
            | AuthorizationServer::<Services>::NAME => {
                Self::Permitted(CallerPermission::Introspect)
            }
            DirectoryServiceServer::<Management>::NAME => {
                Self::Permitted(CallerPermission::Directory)
            }
            AuditServiceServer::<Management>::NAME => Self::Permitted(CallerPermission::Audit),
            ReplicationServiceServer::<Replication>::NAME => {
                Self::Permitted(CallerPermission::Replicate)
            }
            _ => Self::Authenticated,
        }
    }
}

/// The default size limit of a message. A batch of 1,000 changes takes a tenth of it.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// For introspections, which need a token of 53 bytes, a permission and an id.
pub(crate) const MAX_INTROSPECTION_BYTES: usize = 64 * 1024;
/// For batches of 1,000 introspections. With tokens, each takes at most 125 bytes; the rest
/// is for texts that are no tokens, so that one of them seldom fails a whole batch.
pub(crate) const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// For Envoy, which accepts headers of 60 KiB by default, sends the path among them and
/// once more, and may add its peer's certificate.
pub(crate) const MAX_CHECK_BYTES: usize = 256 * 1024;
/// For unauthenticated callers: requests for health and reflection hold a name.
pub(crate) const MAX_OPEN_MESSAGE_BYTES: usize = 4 * 1024;

/// The size limit of a method's messages, in bytes.
pub(crate) fn max_message(path: &str) -> usize {
    match Access::of(path) {
        Access::Health | Access::Reflection => MAX_OPEN_MESSAGE_BYTES,
        Access::Permitted(CallerPermission::Introspect) if path == CHECK => MAX_CHECK_BYTES,
        Access::Permitted(CallerPermission::Introspect) if path == BATCH_INTROSPECT => {
            MAX_BATCH_BYTES
        }
        Access::Permitted(CallerPermission::Introspect) => MAX_INTROSPECTION_BYTES,
        Access::Permitted(_) | Access::Authenticated => MAX_MESSAGE_BYTES,
    }
}

/// A status code's name, as the gRPC documentation writes it.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_by_path() {
        let method = |service, name, streams| Method {
            service,
            name,
            streams,
            takes_stream: streams,
            fast_path: (name == "Introspect").then_some(FastMethod::Introspect),
        };
        let introspection = "hitkeep.auth.v1.IntrospectionService";
        for (path, expected) in [
            (
                "/hitkeep.auth.v1.IntrospectionService/Introspect",
                method(introspection, "Introspect", false),
            ),
            (
                "/hitkeep.auth.v1.IntrospectionService/IntrospectStream",
                method(introspection, "IntrospectStream", true),
            ),
            (
                "/grpc.health.v1.Health/Check",
                method("grpc.health.v1.Health", "Check", false),
            ),
            ("/hitkeep.auth.v1.IntrospectionService/Invent", UNKNOWN),
            ("/", UNKNOWN),
        ] {
            assert_eq!(Method::of(path), expected, "{path}");
        }
    }
}
