//! The methods of gRPC that this server has: their paths, what each asks of its caller, and
//! how large its messages may be.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, server::NamedService};

use crate::{
    domain::caller::CallerPermission,
    grpc::Services,
    pb::{
        self, api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        introspection_service_server::IntrospectionServiceServer,
    },
    telemetry::metrics::FastMethod,
};

/// The paths of the calls that have a fast path, or limits of their own.
pub(crate) const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
/// Envoy's question.
pub(crate) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// A stream that goes on for as long as its caller likes.
pub(crate) const INTROSPECT_STREAM: &str = "/hitkeep.auth.v1.IntrospectionService/IntrospectStream";
/// The replacement of the directory: a stream, which our own timeout does not end, and
/// large, so that it has a limit of its own.
pub(crate) const REPLACE_DIRECTORY: &str = "/hitkeep.auth.v1.DirectoryService/ReplaceDirectory";

/// The path of a call that has a fast path.
pub(crate) const fn path_of(call: FastMethod) -> &'static str {
    match call {
        FastMethod::Introspect => INTROSPECT,
        FastMethod::Check => CHECK,
    }
}

/// A method that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// The full name of its service.
    pub(crate) service: &'static str,
    /// Its own.
    pub(crate) name: &'static str,
    /// Whether it answers with a stream.
    pub(crate) streams: bool,
    /// Set for introspections. There are so many of them, and they take so little
    /// time, that only some are timed.
    pub(crate) hot: Option<FastMethod>,
}

/// What is counted where a method does not exist: a caller may name any.
const UNKNOWN: Method = Method {
    service: "unknown",
    name: "unknown",
    streams: false,
    hot: None,
};

/// The methods by their paths, out of the descriptors that reflection shows.
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
                // Once in the life of a process, so that labels cost nothing.
                let full: &str = format!("{}.{}", file.package(), service.name()).leak();
                for method in &service.method {
                    let path = format!("/{full}/{}", method.name());
                    let method = Method {
                        service: full,
                        name: method.name().to_owned().leak(),
                        streams: method.server_streaming(),
                        hot: FastMethod::ALL
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
    /// The method of a path.
    pub(crate) fn of(path: &str) -> Self {
        METHODS.get(path).copied().unwrap_or(UNKNOWN)
    }
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: health.
    Health,
    /// Nothing: reflection.
    Reflection,
    /// A known caller with that permission.
    Permitted(CallerPermission),
    /// A known caller; the method does not exist.
    Known,
}

impl Access {
    /// What the method of that path asks.
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
            ApiClientServiceServer::<Services>::NAME => Self::Permitted(CallerPermission::Manage),
            IntrospectionServiceServer::<Services>::NAME
            | AuthorizationServer::<Services>::NAME => {
                Self::Permitted(CallerPermission::Introspect)
            }
            DirectoryServiceServer::<Services>::NAME => {
                Self::Permitted(CallerPermission::Directory)
            }
            AuditServiceServer::<Services>::NAME => Self::Permitted(CallerPermission::Audit),
            _ => Self::Known,
        }
    }
}

/// The largest message that is read. A batch of 1,000 changes is a tenth of it.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// The largest one of an introspection, which takes a token of 53 bytes, a permission and
/// an id.
pub(crate) const MAX_INTROSPECTION_BYTES: usize = 64 * 1024;
/// The largest one of Envoy's: it takes headers of 60 KiB by default, has the path among
/// them and once more, and may add its peer's certificate.
pub(crate) const MAX_CHECK_BYTES: usize = 256 * 1024;
/// The largest one of a caller who need not be known: what health and reflection are
/// asked for is the name of something.
pub(crate) const MAX_OPEN_MESSAGE_BYTES: usize = 4 * 1024;

/// The largest message of a method, in bytes.
pub(crate) fn max_message(path: &str) -> usize {
    match Access::of(path) {
        Access::Health | Access::Reflection => MAX_OPEN_MESSAGE_BYTES,
        Access::Permitted(CallerPermission::Introspect) if path == CHECK => MAX_CHECK_BYTES,
        Access::Permitted(CallerPermission::Introspect) => MAX_INTROSPECTION_BYTES,
        Access::Permitted(_) | Access::Known => MAX_MESSAGE_BYTES,
    }
}

/// A code's name, as documents write it.
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
    fn methods_are_those_that_there_are() {
        let method = |service, name, streams| Method {
            service,
            name,
            streams,
            hot: (name == "Introspect").then_some(FastMethod::Introspect),
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
