//! Running the binary to its end, and talking to one that serves.

use std::ffi::OsStr;

use hitkeep_auth::pb::{
    IntrospectRequest, IntrospectResponse, introspection_service_client::IntrospectionServiceClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::process::{Ended, Process, binary, patient};

/// Runs a command to its end.
pub async fn run<I: IntoIterator<Item: AsRef<OsStr>>>(arguments: I) -> Ended {
    Process::start(binary(arguments)).ended().await
}

/// Runs a command on a database to its end.
pub async fn run_on(url: &str, arguments: &[&str]) -> Ended {
    run(arguments.iter().chain(&["--database-url", &patient(url)])).await
}

impl Ended {
    /// What the command gave. It worked, and had nothing to complain about.
    pub fn given(self) -> String {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self:?}");
        self.stdout
    }

    /// What the command gave, as JSON in one line.
    pub fn given_json(self) -> serde_json::Value {
        let given = self.given();
        assert_eq!(given.lines().count(), 1, "{given}");
        serde_json::from_str(&given).expect("JSON")
    }

    /// What the command complained about, having given nothing.
    pub fn refused(self, code: i32) -> String {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self:?}");
        self.stderr
    }
}

/// A `serve` on that database, and where it listens.
pub async fn serve(url: &str) -> (Process, String) {
    serve_with(url, &[]).await
}

/// The same, with more arguments. It has begun to answer.
pub async fn serve_with(url: &str, more: &[&str]) -> (Process, String) {
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", url];
    let mut server = Process::start(binary(arguments.iter().chain(more)));
    let address = server.address().await;
    server.stderr.line("introspection serves").await;
    (server, address)
}

/// A connection to that address.
pub async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.expect("the server accepts")
}

/// All that comes back for a GET over HTTP.
pub async fn http_get(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address)
        .await
        .expect("the server accepts");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A message from the caller with that token.
pub fn from_caller<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Introspects a token as the caller with that token.
pub async fn introspect(
    address: &str,
    caller: &str,
    token: &str,
) -> Result<IntrospectResponse, Status> {
    let request = IntrospectRequest {
        token: token.to_owned(),
        ..IntrospectRequest::default()
    };
    IntrospectionServiceClient::new(connect(address).await)
        .introspect(from_caller(caller, request))
        .await
        .map(tonic::Response::into_inner)
}

/// A database URL at which nothing answers, with a password in it.
pub fn unreachable_database() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    format!("postgres://somebody:opensesame@127.0.0.1:{port}/nowhere")
}
