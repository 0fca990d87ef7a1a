//! What Check is compared with: a handler that does nothing, made with tonic as
//! everybody writes it.

use hitkeep_auth::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, OkHttpResponse,
    authorization_server::{Authorization, AuthorizationServer},
    check_response::HttpResponse,
};
use tokio::runtime;
use tonic::{Request, Response, Status, transport::Server};

use crate::support::comparison;

/// A server to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As everybody writes it.
    Tonic,
    /// The same on a runtime of one thread.
    Tuned,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Tonic, Self::Tuned];

    /// What it is, in a table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Tonic => "tonic, empty handler",
            Self::Tuned => "tonic, empty handler, one thread",
        }
    }

    /// What it is called on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tonic => "empty-handler",
            Self::Tuned => "tuned-empty-handler",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Is that server, until the one that started it is gone.
    pub fn be(self) {
        let mut builder = match self {
            Self::Tonic => runtime::Builder::new_multi_thread(),
            Self::Tuned => runtime::Builder::new_current_thread(),
        };
        let runtime = builder.worker_threads(1).enable_all().build();
        let server = Server::builder().add_service(AuthorizationServer::new(Empty));
        runtime
            .expect("a runtime starts")
            .block_on(comparison::serve(server));
    }
}

struct Empty;

#[tonic::async_trait]
impl Authorization for Empty {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse {
            status: Some(tonic_types::pb::Status::default()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
            dynamic_metadata: None,
        }))
    }
}
