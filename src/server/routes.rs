//! The router: the services behind their layers.

use std::sync::Arc;

use axum::{
    middleware::{from_fn, from_fn_with_state},
    routing::{post, post_service},
};
use tonic::service::Routes;

use super::{auth, directory, layers};
use crate::{
    calls::method::{
        BATCH_INTROSPECT, INTROSPECT_STREAM, MAX_BATCH_BYTES, MAX_CHECK_BYTES,
        MAX_INTROSPECTION_BYTES, MAX_MESSAGE_BYTES, MAX_OPEN_MESSAGE_BYTES,
    },
    fastpath,
    grpc::{
        Management, Services,
        replication::{Replication, UsageDestination},
    },
    pb::{
        self, api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        introspection_service_server::IntrospectionServiceServer,
        replication_service_server::ReplicationServiceServer,
    },
};

/// The services behind their layers; without management if there is no database. A layer that is added later wraps those before it.
pub(super) fn router(
    management: Option<Arc<Management>>,
    services: &Arc<Services>,
    reports: Arc<dyn UsageDestination>,
    limits: Arc<layers::Limits>,
    health: tonic_health::pb::health_server::HealthServer<
        impl tonic_health::pb::health_server::Health,
    >,
) -> axum::Router {
    // grpcurl and Python's grpcio still use v1alpha.
    let valid = "the descriptors were made by the build";
    let v1 = reflection(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    let v1 = v1.build_v1().expect(valid);
    let v1alpha = reflection(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET);
    let v1alpha = v1alpha.build_v1alpha().expect(valid);
    let (v1, v1alpha) = (
        v1.max_decoding_message_size(MAX_OPEN_MESSAGE_BYTES),
        v1alpha.max_decoding_message_size(MAX_OPEN_MESSAGE_BYTES),
    );
    let introspect_stream = post(fastpath::introspect_stream).with_state(Arc::clone(services));
    let introspection = IntrospectionServiceServer::from_arc(Arc::clone(services));
    // The same service, with another limit, which is not one of a method in tonic.
    let batches = introspection
        .clone()
        .max_decoding_message_size(MAX_BATCH_BYTES);
    let authorization = AuthorizationServer::from_arc(Arc::clone(services));
    let replication = Replication::new(Arc::clone(services), reports);
    let replication = ReplicationServiceServer::new(replication);
    let routes = Routes::builder().routes();
    let has_management = management.is_some();
    let routes = match management {
        Some(management) => add_management(routes, management),
        None => routes,
    };
    let router = routes
        .add_service(introspection.max_decoding_message_size(MAX_INTROSPECTION_BYTES))
        .add_service(authorization.max_decoding_message_size(MAX_CHECK_BYTES))
        .add_service(replication.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(health.max_decoding_message_size(MAX_OPEN_MESSAGE_BYTES))
        .add_service(v1)
        .add_service(v1alpha)
        .into_axum_router()
        .route(INTROSPECT_STREAM, introspect_stream)
        .route(BATCH_INTROSPECT, post_service(batches))
        // Next to the services, since it completes errors of tonic itself.
        .layer(from_fn(layers::complete_errors))
        // Inside of authentication, in which calls with invented tokens wait for the index.
        .layer(from_fn_with_state(limits.replacements(), directory::limit))
        .layer(from_fn_with_state(Arc::clone(services), auth::authenticate));
    let router = if has_management {
        router
    } else {
        // Outside of authentication: a replica does not know the callers of management.
        router.layer(from_fn(layers::refuse_management))
    };
    router
        // Outside of authentication: no caller may call them.
        .layer(from_fn(layers::refuse_web_streams))
        // Outside of authentication, which may have to wait too.
        .layer(from_fn_with_state(services.request_timeout(), layers::deadline))
        // Outside of the deadline: a call that is shed has not begun.
        .layer(from_fn_with_state(limits, layers::shed))
        .layer(from_fn(layers::catch_panic))
        // Before any other check, since the request may not be gRPC at all.
        .layer(from_fn(layers::require_grpc))
        // Around everything that may fail, so that every response has a request id, and
        // every failure is logged, counted and traced.
        .layer(from_fn_with_state(Arc::clone(services), layers::trace))
        .layer(from_fn(layers::answer_envoy))
}

/// Adds the services that need a database.
fn add_management(routes: Routes, management: Arc<Management>) -> Routes {
    let api_clients = ApiClientServiceServer::from_arc(Arc::clone(&management));
    let directory = DirectoryServiceServer::from_arc(Arc::clone(&management));
    let audit = AuditServiceServer::from_arc(management);
    routes
        .add_service(api_clients.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(directory.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(audit.max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// One version of the reflection service, which also lists the other version; by default it
/// lists only itself.
fn reflection(other_version: &'static [u8]) -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(other_version)
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // With these, a client can print the details of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
