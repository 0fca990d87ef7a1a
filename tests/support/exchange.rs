//! A call over HTTP/2, without a client library that has a deadline of its own: tonic's gives up
//! at the end of its `grpc-timeout`, however soon the server's answer comes.

use std::convert::Infallible;

use http_body_util::BodyExt;
use hyper::{
    body::{Body, Bytes},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::Status;

use super::{Connections, DUPLEX_BYTES};

/// A message in its frame.
pub fn framed(message: &impl prost::Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], &encoded].concat()
}

/// What the server that takes its connections from there says to the caller with that token.
pub async fn exchange<B>(
    connections: &Connections,
    token: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: B,
) -> Status
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
    connections
        .send(Ok(theirs))
        .expect("the server accepts connections");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(ours))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://test.invalid{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let trailers = body
        .collect()
        .await
        .unwrap()
        .trailers()
        .cloned()
        .unwrap_or_default();
    Status::from_header_map(&head.headers)
        .or_else(|| Status::from_header_map(&trailers))
        .expect("there is a status")
}
