//! A program that calls the service, with its token and its deadline.

use std::time::Duration;

use hitkeep_auth::pb::{
    self, api_client_service_client::ApiClientServiceClient,
    audit_service_client::AuditServiceClient, directory_service_client::DirectoryServiceClient,
    introspection_service_client::IntrospectionServiceClient,
};
use tokio::sync::mpsc;
use tonic::{Request, Status, Streaming, transport::Channel};
use tonic_types::{ErrorDetails, StatusExt};

/// A program at the other end of the connection.
#[derive(Clone)]
pub struct Caller {
    pub channel: Channel,
    pub metadata: Vec<(&'static str, String)>,
    pub timeout: Option<Duration>,
}

macro_rules! calls {
    ($($client:ident { $($name:ident = $method:ident($request:ident) -> $response:ident;)+ })+) => {
        impl Caller {
            $($(
                pub async fn $name(&self, request: pb::$request) -> Result<pb::$response, Status> {
                    let mut client = $client::new(self.channel.clone());
                    client.$method(self.request(request)).await.map(tonic::Response::into_inner)
                }
            )+)+
        }
    };
}

calls! {
    ApiClientServiceClient {
        create = create_api_client(CreateApiClientRequest) -> CreateApiClientResponse;
        get = get_api_client(GetApiClientRequest) -> GetApiClientResponse;
        list = list_api_clients(ListApiClientsRequest) -> ListApiClientsResponse;
        update = update_api_client(UpdateApiClientRequest) -> UpdateApiClientResponse;
        rotate = rotate_api_client(RotateApiClientRequest) -> RotateApiClientResponse;
        revoke = revoke_api_client(RevokeApiClientRequest) -> RevokeApiClientResponse;
        reactivate = reactivate_api_client(ReactivateApiClientRequest) -> ReactivateApiClientResponse;
        delete = delete_api_client(DeleteApiClientRequest) -> DeleteApiClientResponse;
        usage = get_api_client_usage(GetApiClientUsageRequest) -> GetApiClientUsageResponse;
        report_leak = report_leak(ReportLeakRequest) -> ReportLeakResponse;
        revoke_all = revoke_api_clients(RevokeApiClientsRequest) -> RevokeApiClientsResponse;
    }
    IntrospectionServiceClient {
        introspect = introspect(IntrospectRequest) -> IntrospectResponse;
        batch = batch_introspect(BatchIntrospectRequest) -> BatchIntrospectResponse;
        index_status = get_index_status(GetIndexStatusRequest) -> GetIndexStatusResponse;
    }
    DirectoryServiceClient {
        apply = apply_directory_changes(ApplyDirectoryChangesRequest) -> ApplyDirectoryChangesResponse;
        directory_status = get_directory_status(GetDirectoryStatusRequest) -> GetDirectoryStatusResponse;
    }
    AuditServiceClient {
        events = list_audit_events(ListAuditEventsRequest) -> ListAuditEventsResponse;
        event_delivery = get_event_delivery_status(GetEventDeliveryStatusRequest)
            -> GetEventDeliveryStatusResponse;
    }
}

impl Caller {
    /// A caller that shows that token on a connection.
    pub fn with_token(channel: Channel, token: &str) -> Self {
        Self {
            channel,
            metadata: vec![("authorization", format!("Bearer {token}"))],
            timeout: None,
        }
    }

    /// Replaces the directory with what the chunks say.
    pub async fn replace(
        &self,
        chunks: Vec<pb::ReplaceDirectoryRequest>,
    ) -> Result<pb::ReplaceDirectoryResponse, Status> {
        let mut client = DirectoryServiceClient::new(self.channel.clone());
        let request = self.request(tokio_stream::iter(chunks));
        client
            .replace_directory(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// Opens a stream of introspections.
    pub async fn stream(&self) -> Conversation {
        self.try_stream().await.expect("a stream")
    }

    /// The same, for one that may be refused.
    pub async fn try_stream(&self) -> Result<Conversation, Status> {
        let (requests, receiver) = mpsc::channel(1);
        let mut client = IntrospectionServiceClient::new(self.channel.clone());
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answers = client.introspect_stream(self.request(receiver)).await?;
        Ok(Conversation {
            requests,
            answers: answers.into_inner(),
        })
    }

    /// A request with this caller's metadata and timeout.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (key, value) in &self.metadata {
            request.metadata_mut().append(*key, value.parse().unwrap());
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }

    /// The same caller, that waits no longer than that.
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// A stream of introspections.
#[derive(Debug)]
pub struct Conversation {
    pub requests: mpsc::Sender<pb::IntrospectRequest>,
    pub answers: Streaming<pb::IntrospectResponse>,
}

/// What an error says, in one line: `CODE REASON {metadata} [violations]`.
pub fn told<T: std::fmt::Debug>(result: &Result<T, Status>) -> String {
    let status = match result {
        Ok(value) => return format!("OK {value:?}"),
        Err(status) => status,
    };
    let details: ErrorDetails = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "auth.hitkeep.com");
    format!("{:?} {}", status.code(), info.reason)
}

/// The fields that an error names, in its order.
pub fn violations<T: std::fmt::Debug>(result: &Result<T, Status>) -> Vec<String> {
    assert_eq!(told(result), "InvalidArgument INVALID_FIELD");
    let details = result.as_ref().unwrap_err().get_error_details();
    let named = details
        .bad_request()
        .expect("a BadRequest")
        .field_violations
        .clone();
    named.into_iter().map(|violation| violation.field).collect()
}
