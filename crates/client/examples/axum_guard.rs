//! A server with axum whose routes need tokens of HitKeep.
//!
//! ```console
//! $ hitkeep-auth dev          # prints the token of a service account
//! $ HITKEEP_AUTH_CALLER_TOKEN=hks_… cargo run -p hitkeep-auth-client --features axum --example axum_guard
//! $ curl -H "authorization: Bearer hkp_…" http://127.0.0.1:8080/api/me
//! ```

use axum::{
    Router,
    extract::{FromRef, Path},
    routing::get,
};
use hitkeep_auth_client::{
    Authenticator, CallerToken, Client, Error, InstancePermission, PermissionCheck, Principal,
    SiteId, SitePermission,
    guard::{HttpGuardLayer, PathError, Policy},
};

#[derive(Clone)]
struct Server {
    authenticator: Authenticator,
}

/// For extractors on routes without a guard.
impl FromRef<Server> for Authenticator {
    fn from_ref(server: &Server) -> Self {
        server.authenticator.clone()
    }
}

/// The routes.
pub fn routes(authenticator: Authenticator) -> Result<Router, PathError> {
    let guard = |policy| HttpGuardLayer::new(authenticator.clone(), policy);
    let on_site = Policy::on_site(SitePermission::View, "/api/sites/{site_id}/**")?;
    let sites = Router::new()
        .route("/{site_id}/stats", get(stats))
        .route_layer(guard(on_site));
    let system = get(system).layer(guard(Policy::on_instance(InstancePermission::ViewSystem)));
    Ok(Router::new()
        .nest("/api/sites", sites)
        .route("/api/system", system)
        .route("/api/passkeys", get(passkeys).layer(guard(Policy::human_only())))
        // These ask by themselves.
        .route("/api/me", get(me))
        .route("/api/hello", get(hello))
        .route("/api/goals/{site_id}", get(goals))
        .with_state(Server { authenticator }))
}

async fn stats(Path(site): Path<SiteIdText>, principal: Principal) -> String {
    format!("{} sees {site}", principal.client_id())
}

async fn system(principal: Principal) -> String {
    format!("{} is {}", principal.client_id(), principal.instance_role())
}

async fn passkeys() -> &'static str {
    "only people come here"
}

async fn me(principal: Principal) -> String {
    principal.owner().to_string()
}

/// Also without a token.
async fn hello(principal: Option<Principal>) -> String {
    let name = principal.as_ref().map_or("nobody", Principal::client_name);
    format!("hello {name}")
}

/// A permission that depends on more than the path.
async fn goals(Path(site): Path<SiteIdText>, principal: Principal) -> Result<String, Error> {
    let permission = SitePermission::ManageGoals;
    match site.parse::<SiteId>() {
        Ok(site) => principal.require(PermissionCheck::Site { site, permission })?,
        Err(_) => return Ok("that is no site".to_owned()),
    }
    Ok("may change them".to_owned())
}

type SiteIdText = String;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[expect(clippy::disallowed_methods, reason = "it is a program of its own")]
    let token = std::env::var("HITKEEP_AUTH_CALLER_TOKEN")?;
    let client = Client::builder("http://127.0.0.1:50051")
        .caller_token(CallerToken::new(&token)?)
        // Only on one machine: it would be readable on a network.
        .allow_plaintext()
        .build()?;
    let routes = routes(Authenticator::cached(&client, 10_000))?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(listener, routes).await?;
    Ok(())
}
