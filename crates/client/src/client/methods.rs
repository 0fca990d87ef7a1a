//! The methods of all services: one table, which says of each whether it may be repeated.

use hitkeep_auth_proto::{
    self as pb, api_client_service_client::ApiClientServiceClient,
    audit_service_client::AuditServiceClient, directory_service_client::DirectoryServiceClient,
    introspection_service_client::IntrospectionServiceClient,
};
use tokio_stream::Stream;
use tonic::{IntoRequest, Request, Status};

use super::Client;
use crate::calls::{Repeat, call};

/// The largest answer that is accepted: a thousand introspections with 100 grants each have
/// 5 MB.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The methods with one request and one response.
macro_rules! methods {
    ($(
        $(#[$doc:meta])*
        $client:ident :: $name:ident($request:ident) -> $response:ident, $timeout:ident, $repeat:expr;
    )+) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// What the service says, or `DEADLINE_EXCEEDED`.
                pub async fn $name(
                    &self,
                    request: impl IntoRequest<pb::$request>,
                ) -> Result<pb::$response, Status> {
                    let request: Request<pb::$request> = request.into_request();
                    let repeat: fn(&pb::$request) -> Repeat = $repeat;
                    let repeat = repeat(request.get_ref());
                    let shared = &*self.0;
                    let send = |request| {
                        let client = $client::new(shared.connection.clone());
                        let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
                        async move { client.$name(request).await }
                    };
                    call(request, shared.$timeout, repeat, &shared.budget, send).await
                }
            )+

            /// The names of the methods, by which a test finds out what is missing.
            #[doc(hidden)]
            pub const METHODS: &[&str] = &[$(stringify!($name)),+];
        }
    };
}

fn reads<T>(_: &T) -> Repeat {
    Repeat::Safe
}

fn writes<T>(_: &T) -> Repeat {
    Repeat::Unsent
}

fn recognised(request_id: &str) -> Repeat {
    if request_id.is_empty() {
        Repeat::Unsent
    } else {
        Repeat::Safe
    }
}

methods! {
    /// Asks whether a token works, and for what. [`Authenticator`](crate::Authenticator) is
    /// made for that.
    IntrospectionServiceClient::introspect(IntrospectRequest) -> IntrospectResponse,
        question_timeout, reads;
    /// Asks about up to 1,000 tokens at once, all by one version of the index.
    IntrospectionServiceClient::batch_introspect(BatchIntrospectRequest)
        -> BatchIntrospectResponse, call_timeout, reads;
    /// Asks how fresh a server is.
    IntrospectionServiceClient::get_index_status(GetIndexStatusRequest)
        -> GetIndexStatusResponse, call_timeout, reads;
    /// Makes an API client, on behalf of an actor. The response has its token, once. With a
    /// `request_id`, it can be sent again.
    ApiClientServiceClient::create_api_client(CreateApiClientRequest)
        -> CreateApiClientResponse, call_timeout, |request| recognised(&request.request_id);
    /// Gets an API client.
    ApiClientServiceClient::get_api_client(GetApiClientRequest) -> GetApiClientResponse,
        call_timeout, reads;
    /// Lists the API clients of an owner, newest first.
    ApiClientServiceClient::list_api_clients(ListApiClientsRequest) -> ListApiClientsResponse,
        call_timeout, reads;
    /// Changes the fields of an API client that the mask names.
    ApiClientServiceClient::update_api_client(UpdateApiClientRequest)
        -> UpdateApiClientResponse, call_timeout, writes;
    /// Replaces an API client's token. The response has the new one, once. With a
    /// `request_id`, it can be sent again.
    ApiClientServiceClient::rotate_api_client(RotateApiClientRequest)
        -> RotateApiClientResponse, call_timeout, |request| recognised(&request.request_id);
    /// Revokes an API client.
    ApiClientServiceClient::revoke_api_client(RevokeApiClientRequest)
        -> RevokeApiClientResponse, call_timeout, writes;
    /// Makes a revoked API client work again.
    ApiClientServiceClient::reactivate_api_client(ReactivateApiClientRequest)
        -> ReactivateApiClientResponse, call_timeout, writes;
    /// Deletes an API client.
    ApiClientServiceClient::delete_api_client(DeleteApiClientRequest)
        -> DeleteApiClientResponse, call_timeout, writes;
    /// Tells how an API client's tokens were used.
    ApiClientServiceClient::get_api_client_usage(GetApiClientUsageRequest)
        -> GetApiClientUsageResponse, call_timeout, reads;
    /// Ends a leaked token, which its text or its hash names. A second report changes nothing,
    /// and says that the token worked no longer.
    ApiClientServiceClient::report_leak(ReportLeakRequest) -> ReportLeakResponse,
        call_timeout, writes;
    /// Revokes all API clients of an owner, of a site or of a creator.
    ApiClientServiceClient::revoke_api_clients(RevokeApiClientsRequest)
        -> RevokeApiClientsResponse, revocation_timeout, writes;
    /// Applies changes of the directory, all or none.
    DirectoryServiceClient::apply_directory_changes(ApplyDirectoryChangesRequest)
        -> ApplyDirectoryChangesResponse, call_timeout, writes;
    /// Asks what the service has of the directory.
    DirectoryServiceClient::get_directory_status(GetDirectoryStatusRequest)
        -> GetDirectoryStatusResponse, call_timeout, reads;
    /// Lists audit events, newest first.
    AuditServiceClient::list_audit_events(ListAuditEventsRequest) -> ListAuditEventsResponse,
        call_timeout, reads;
    /// Asks how the delivery of events to the webhook is doing.
    AuditServiceClient::get_event_delivery_status(GetEventDeliveryStatusRequest)
        -> GetEventDeliveryStatusResponse, call_timeout, reads;
}

impl Client {
    /// Replaces the whole directory by the parts of a stream. It is not repeated.
    ///
    /// # Errors
    /// What the service says, or `DEADLINE_EXCEEDED`.
    pub async fn replace_directory(
        &self,
        parts: impl Stream<Item = pb::ReplaceDirectoryRequest> + Send + 'static,
    ) -> Result<pb::ReplaceDirectoryResponse, Status> {
        let timeout = self.0.replacement_timeout;
        let mut request = Request::new(parts);
        request.set_timeout(timeout);
        let mut client = DirectoryServiceClient::new(self.connection());
        let replaced = client.replace_directory(request);
        match tokio::time::timeout(timeout, replaced).await {
            Ok(answered) => answered.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(
                "the service did not answer in time",
            )),
        }
    }
}
