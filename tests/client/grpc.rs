//! The layer for gRPC servers, in the example.

use hitkeep_auth_client::Authenticator;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint, Server},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::{
    calls::client_of,
    http::NOBODYS,
    service::{OTHER_SITE, SITE, Service},
    tonic_guard::{
        Hits,
        hits::{CountRequest, CountResponse, HitServiceServer},
        methods,
    },
};

/// A running server. It ends with the test.
struct Program {
    channel: Channel,
    server: JoinHandle<()>,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Program {
    async fn start(authenticator: Authenticator) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let guard =
            hitkeep_auth_client::guard::GrpcGuardLayer::new(authenticator, methods().unwrap());
        let (_reporter, health) = tonic_health::server::health_reporter();
        let serving = Server::builder()
            .layer(guard)
            .add_service(HitServiceServer::new(Hits))
            .add_service(health)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serving.await.unwrap() });
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        Self {
            channel: endpoint.unwrap().connect_lazy(),
            server,
        }
    }

    /// Calls a method about a site, with that metadata.
    async fn call(
        &self,
        method: &str,
        site: &str,
        metadata: &[(&'static str, &str)],
    ) -> Result<u64, Status> {
        let mut request = Request::new(CountRequest {
            site_id: site.to_owned(),
        });
        for (name, value) in metadata {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path: PathAndQuery = format!("/hits.v1.HitService/{method}").parse().unwrap();
        let codec = ProstCodec::<CountRequest, CountResponse>::default();
        let answered = grpc.unary(request, path, codec).await?;
        Ok(answered.into_inner().hits)
    }
}

#[tokio::test]
async fn methods_need_what_is_said_of_them() {
    let service = Service::start(&[]).await;
    let works = service.client().await;
    let bearer = format!("Bearer {}", works.token);
    let client = client_of(&service.address, &service.caller);
    let program = Program::start(Authenticator::cached(&client, 100)).await;
    let good = [("authorization", &*bearer)];
    assert_eq!(program.call("Count", SITE, &good).await.unwrap(), 42);
    let key = [("x-api-key", &*works.token)];
    assert_eq!(program.call("Count", SITE, &key).await.unwrap(), 42);
    for (method, site, metadata, code) in [
        ("Count", OTHER_SITE, &good[..], Code::PermissionDenied),
        ("Count", SITE, &[], Code::Unauthenticated),
        (
            "Count",
            SITE,
            &[("x-api-key", NOBODYS)],
            Code::Unauthenticated,
        ),
        ("Reset", SITE, &good, Code::PermissionDenied),
        // Nothing is said of it, so that it is refused before anybody looks for it.
        ("Delete", SITE, &good, Code::Internal),
    ] {
        let refused = program.call(method, site, metadata).await.unwrap_err();
        assert_eq!(refused.code(), code, "{method}: {refused}");
        assert!(!refused.message().is_empty());
    }
    // Programs that have no token ask for the health.
    let mut health = HealthClient::new(program.channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();

    let (_stopped, _log) = service.stop().await;
    let unknown = program.call("Count", SITE, &[("x-api-key", NOBODYS)]).await;
    let unknown = unknown.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable);
    assert_eq!(unknown.metadata().get("retry-after").unwrap(), "1");
    assert!(unknown.get_details_retry_info().is_some());
}
