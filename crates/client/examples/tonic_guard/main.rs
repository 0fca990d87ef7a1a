//! A gRPC server with tonic whose methods need tokens of HitKeep.
//!
//! ```console
//! $ hitkeep-auth dev          # prints the token of a service account
//! $ HITKEEP_AUTH_CALLER_TOKEN=hks_… cargo run -p hitkeep-auth-client --example tonic_guard
//! ```

use hitkeep_auth_client::{
    Authenticator, CallerToken, Client, Error, InstancePermission, PermissionCheck, Principal,
    SiteId, SitePermission,
    guard::{BadMethod, GrpcGuardLayer, MethodPolicy, Methods},
};
use tonic::{Request, Response, Status, transport::Server};

pub mod hits;

use hits::{CountRequest, CountResponse, HitService, HitServiceServer};

/// What the methods need. Those that nothing is said of are refused.
pub fn methods() -> Result<Methods, BadMethod> {
    let reset = MethodPolicy::on_instance(InstancePermission::RunMaintenance);
    Methods::default()
        .method("/hits.v1.HitService/Count", MethodPolicy::active())?
        .method("/hits.v1.HitService/Reset", reset)
}

/// Counts nothing.
#[derive(Debug)]
pub struct Hits;

#[tonic::async_trait]
impl HitService for Hits {
    /// Which site is needed is in the message, which the layer does not see.
    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<CountResponse>, Status> {
        let principal = request.extensions().get::<Principal>().cloned();
        let principal = principal.ok_or(Error::NoToken)?;
        let Ok(site) = request.get_ref().site_id.parse::<SiteId>() else {
            return Err(Status::invalid_argument("site_id is no UUID"));
        };
        let permission = SitePermission::View;
        principal.require(PermissionCheck::Site { site, permission })?;
        Ok(Response::new(CountResponse { hits: 42 }))
    }

    async fn reset(&self, _: Request<CountRequest>) -> Result<Response<CountResponse>, Status> {
        Ok(Response::new(CountResponse { hits: 0 }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[expect(clippy::disallowed_methods, reason = "it is a program of its own")]
    let token = std::env::var("HITKEEP_AUTH_CALLER_TOKEN")?;
    let client = Client::builder("http://127.0.0.1:50051")
        .caller_token(CallerToken::new(&token)?)
        // Only on one machine: it would be readable on a network.
        .allow_plaintext()
        .build()?;
    let authenticator = Authenticator::cached(&client, 10_000);
    Server::builder()
        .layer(GrpcGuardLayer::new(authenticator, methods()?))
        .add_service(HitServiceServer::new(Hits))
        .serve("127.0.0.1:8081".parse()?)
        .await?;
    Ok(())
}
