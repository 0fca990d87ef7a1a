//! Envoy's `Authorization` service. The response is the judgement of Introspect. If a token
//! cannot be judged, that is a denial with a status of its own: on an error, Envoy would
//! apply its own configuration, which defaults to 403.

use tonic::{Request, Response, Status};

use super::{Services, context::remaining, convert::ext_authz as convert};
use crate::{
    pb::envoy::service::auth::v3::{
        CheckRequest, CheckResponse, authorization_server::Authorization,
    },
    proxy_auth::verdict::Refused,
};

/// The response if the call itself failed.
pub(crate) fn cannot_tell() -> CheckResponse {
    convert::to_denied(&Refused::Unanswerable)
}

#[tonic::async_trait]
impl Authorization for Services {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let remaining = remaining(&extensions, self.request_timeout);
        let query = convert::query(&request, self.trusted_hops());
        let verdict = self.verdict(query, remaining).await;
        let response = convert::to_response(&verdict, &request);
        Ok(Response::new(response))
    }
}
