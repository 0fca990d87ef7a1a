//! Envoy's `Authorization`: may a request pass? The answer is the judgement of
//! Introspect, and where it cannot be made, that is an answer as well: with an error,
//! Envoy would say what its own configuration says, which is 403 where nobody thought
//! of it.

use tonic::{Request, Response, Status};

use super::{Services, context::remaining, convert::ext_authz as convert};
use crate::{
    pb::envoy::service::auth::v3::{
        CheckRequest, CheckResponse, authorization_server::Authorization,
    },
    proxy_auth::verdict::Refused,
};

/// The answer where the call itself failed, and not the check.
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
        let verdict = self.verdict(convert::asked(&request), remaining).await;
        let response = convert::to_response(&verdict, &request);
        Ok(Response::new(response))
    }
}
