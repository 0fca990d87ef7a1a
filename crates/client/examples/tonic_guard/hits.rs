//! A service as `tonic-build` makes it of a proto: so that the example needs no build script.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;

/// Asks for the hits of a site.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CountRequest {
    /// The site.
    #[prost(string, tag = "1")]
    pub site_id: String,
}

/// The hits.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CountResponse {
    /// How many.
    #[prost(uint64, tag = "1")]
    pub hits: u64,
}

/// The methods.
#[tonic::async_trait]
pub trait HitService: Send + Sync + 'static {
    /// Counts.
    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<CountResponse>, Status>;
    /// Begins again.
    async fn reset(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<CountResponse>, Status>;
}

/// Serves the methods.
#[derive(Debug)]
pub struct HitServiceServer<T>(Arc<T>);

impl<T> HitServiceServer<T> {
    /// A server of these methods.
    pub fn new(inner: T) -> Self {
        Self(Arc::new(inner))
    }
}

impl<T> Clone for HitServiceServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> NamedService for HitServiceServer<T> {
    const NAME: &'static str = "hits.v1.HitService";
}

struct Count<T>(Arc<T>);
struct Reset<T>(Arc<T>);

impl<T: HitService> UnaryService<CountRequest> for Count<T> {
    type Response = CountResponse;
    type Future = BoxFuture<Response<CountResponse>, Status>;

    fn call(&mut self, request: Request<CountRequest>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.count(request).await })
    }
}

impl<T: HitService> UnaryService<CountRequest> for Reset<T> {
    type Response = CountResponse;
    type Future = BoxFuture<Response<CountResponse>, Status>;

    fn call(&mut self, request: Request<CountRequest>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.reset(request).await })
    }
}

impl<T: HitService> Service<http::Request<Body>> for HitServiceServer<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::default());
            Ok(match request.uri().path() {
                "/hits.v1.HitService/Count" => grpc.unary(Count(inner), request).await,
                "/hits.v1.HitService/Reset" => grpc.unary(Reset(inner), request).await,
                _ => Status::unimplemented("there is no such method").into_http(),
            })
        })
    }
}
