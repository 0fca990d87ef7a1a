//! What is measured of a server: its calls by the names of their methods, and, each
//! time that somebody reads the metrics, how far its index follows the database.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

use super::hot;
use crate::{
    pb,
    replica::{Replica, View},
    store::Store,
    telemetry::metrics::{Hot, Metrics},
};

/// A method that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// The full name of its service.
    pub(super) service: &'static str,
    /// Its own.
    pub(super) name: &'static str,
    /// Whether it answers with a stream.
    pub(super) streams: bool,
    /// Set for introspections. There are so many of them, and they take so little
    /// time, that only some are timed.
    pub(super) hot: Option<Hot>,
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
                        hot: Hot::ALL.into_iter().find(|call| hot::path(*call) == path),
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
    pub(super) fn of(path: &str) -> Self {
        METHODS.get(path).copied().unwrap_or(UNKNOWN)
    }
}

/// What the calls are called that are counted apart.
pub(super) fn name_hot(metrics: &Metrics) {
    metrics.name_hot(Hot::ALL.map(|call| {
        let Method { service, name, .. } = Method::of(hot::path(call));
        (service, name)
    }));
}

/// A code's name, as documents write it.
pub(super) const fn name(code: Code) -> &'static str {
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

/// Shows the index, the feed and the pool in the metrics.
pub(super) fn observe(metrics: &Metrics, replica: &Replica, store: &Store) {
    observe_index(metrics, replica);
    observe_feed(metrics, replica);
    observe_pool(metrics, store);
}

// Counts are exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn float(count: usize) -> f64 {
    count as f64
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

// The replica holds the metrics: were it held here, neither would ever end. What does
// not need it is there until the last export.
fn observe_index(metrics: &Metrics, replica: &Replica) {
    let glance = replica.glance();
    let of_view = |name, unit, what, value: fn(&View) -> f64| {
        let glance = glance.clone();
        // None until there is an index.
        metrics.gauge(name, unit, what, move || {
            Some(value(&glance.replica()?.view().ok()?))
        });
    };
    of_view(
        "hitkeep_auth.index.revision",
        "",
        "The revision that answers are based on.",
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        |view| view.index().revision.0 as f64,
    );
    of_view(
        "hitkeep_auth.index.clients",
        "{client}",
        "API clients in the index.",
        |view| float(view.index().clients()),
    );
    of_view(
        "hitkeep_auth.index.staleness",
        "s",
        "How long ago the index was last known to be complete.",
        |view| view.staleness.as_secs_f64(),
    );
    let of = glance.clone();
    metrics.gauge(
        "hitkeep_auth.index.ready",
        "",
        "1 where introspection can answer, 0 where the index is not loaded or too old.",
        move || Some(flag(of.replica()?.require_fresh().is_ok())),
    );
    let max_staleness = replica.options().max_staleness.as_secs_f64();
    metrics.gauge(
        "hitkeep_auth.index.max_staleness",
        "s",
        "The staleness from which on no token is answered as active.",
        move || Some(max_staleness),
    );
}

fn observe_feed(metrics: &Metrics, replica: &Replica) {
    let glance = replica.glance();
    metrics.gauge(
        "hitkeep_auth.feed.listening",
        "",
        "1 where Postgres tells of changes, 0 where only polling finds them.",
        move || Some(flag(glance.replica()?.is_listening())),
    );
    let progress = replica.progress();
    metrics.gauge(
        "hitkeep_auth.database.reachable",
        "",
        "1 where Postgres answered when it was asked last.",
        move || Some(flag(progress.borrow().reaches_database())),
    );
    let progress = replica.progress();
    metrics.counter(
        "hitkeep_auth.feed.failures",
        "{failure}",
        "How many times Postgres could not be asked for changes.",
        move || progress.borrow().failures,
    );
    let max_lookups = f64::from(replica.options().max_lookups);
    metrics.gauge(
        "hitkeep_auth.lookups.limit",
        "",
        "How many times in a second Postgres may be asked on behalf of unknown tokens.",
        move || Some(max_lookups),
    );
}

/// By OpenTelemetry's conventions for pools.
fn observe_pool(metrics: &Metrics, store: &Store) {
    let of = store.clone();
    metrics.up_down(
        "db.client.connection.count",
        "{connection}",
        "Connections to Postgres in the pool.",
        "db.client.connection.state",
        move || {
            let pool = of.pool_status();
            let used = pool.connections.saturating_sub(pool.idle);
            [("idle", signed(pool.idle)), ("used", signed(used))]
        },
    );
    let of = store.clone();
    metrics.up_down_alone(
        "db.client.connection.max",
        "{connection}",
        "Connections to Postgres that the pool may have.",
        move || signed(of.pool_status().at_most),
    );
    let of = store.clone();
    metrics.up_down_alone(
        "db.client.connection.pending_requests",
        "{request}",
        "Those who wait for a connection.",
        move || signed(of.pool_status().waiting),
    );
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
            hot: (name == "Introspect").then_some(Hot::Introspect),
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
