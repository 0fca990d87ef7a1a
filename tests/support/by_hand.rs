//! A client that writes its requests by hand, so that they can be as odd as they
//! like.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// How long an answer may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_mins(1);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The status and the headers.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The values of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        values(&self.head, name)
    }

    /// The `error` of a body in JSON.
    pub fn error(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).expect(&self.body);
        assert!(body["error_description"].is_string(), "{body}");
        body["error"].as_str().expect("an error").to_owned()
    }

    /// What came to the upstream in a header, each line of it.
    pub fn arrived(&self, name: &str) -> Vec<&str> {
        assert_eq!(self.status, 200, "{self:?}");
        values(&self.body, name)
    }
}

/// The values of a header in the head of a message.
fn values<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let named = lines.filter(|(other, _)| other.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value).collect()
}

/// Gets a target with those headers, written as they are, from an address or the path
/// of a Unix socket.
pub async fn get(address: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    ask(address, "GET", target, headers).await
}

/// The same by another method.
pub async fn ask(address: &str, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let headers = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers: String = headers.collect();
    let usual = "host: test\r\nconnection: close\r\n";
    let request = format!("{method} {target} HTTP/1.1\r\n{usual}{headers}\r\n");
    let exchanged = async {
        if address.starts_with('/') {
            let stream = UnixStream::connect(address).await.expect("it accepts");
            exchange(stream, &request).await
        } else {
            let stream = TcpStream::connect(address).await.expect("it accepts");
            exchange(stream, &request).await
        }
    };
    let answer = timeout(PATIENCE, exchanged).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    Answer {
        status: status.parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// Sends a request, and reads until the other side closes.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).expect("it is text")
}
