//! What is behind a proxy: it answers each request with the request's own head.

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Starts one, until the test ends, and says where.
pub async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(echo(connection));
        }
    });
    address
}

/// Answers one request after the other, of which none has a body.
async fn echo(connection: TcpStream) {
    let mut connection = BufReader::new(connection);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(connection.read_line(&mut head).await, Ok(1..)) {
                return;
            }
        }
        let length = head.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{head}");
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
