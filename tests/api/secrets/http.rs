//! The same over HTTP: tokens where they belong, and where they do not.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Run;
use crate::fixtures::SITE;

impl Run {
    /// Shows a token in every place that there is, for a caller that may introspect
    /// and for one that is none.
    pub async fn show_over_http(&self, caller: &str, token: &str) {
        let hello = [
            "Basic c2lkZWNhcjp4".to_owned(),
            format!("Bearer {caller}"),
            format!("Bearer {token}"),
        ];
        let form = "content-type: application/x-www-form-urlencoded";
        for hello in &hello {
            for (path, kind, body) in [
                (
                    "/oauth2/introspect".to_owned(),
                    form,
                    format!("token={token}"),
                ),
                ("/oauth2/introspect".to_owned(), form, token.to_owned()),
                (
                    "/oauth2/introspect".to_owned(),
                    form,
                    format!("token=x&{token}={token}"),
                ),
                (
                    "/oauth2/introspect".to_owned(),
                    "content-type: text/plain",
                    format!("token={token}"),
                ),
                (
                    format!("/oauth2/introspect?token={token}"),
                    form,
                    String::new(),
                ),
                (format!("/{token}"), form, token.to_owned()),
            ] {
                let length = body.len();
                let request = format!(
                    "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{kind}\r\n\
                     authorization: {hello}\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                self.said
                    .note("introspection over HTTP", self.raw(&request).await);
            }
        }
        for proxy in [caller, token] {
            for query in [
                String::new(),
                format!("site_id={SITE}&permission=site.view"),
                format!("permission={token}"),
                format!("site_id={token}"),
                format!("site_path={token}"),
                format!("{token}=site.view"),
                "site_path=/%7Bsite_id%7D".to_owned(),
            ] {
                let request = format!(
                    "GET /forward-auth?{query} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
                     x-hitkeep-caller: {proxy}\r\nauthorization: Bearer {token}\r\n\
                     x-forwarded-uri: /{token}?{token}\r\nx-hitkeep-{token}: {token}\r\n\
                     cookie: {token}\r\n\r\n"
                );
                self.said.note("/forward-auth", self.raw(&request).await);
            }
        }
        let nonsense = format!("{token}\r\n\r\n");
        self.said.note("no HTTP", self.raw(&nonsense).await);
    }

    /// The metrics, which name no client.
    pub async fn scrape(&self) {
        let request = "GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        let page = self.raw(request).await;
        assert!(page.contains("hitkeep_auth_index_revision"), "{page}");
        self.said.note("metrics", page);
    }

    pub async fn raw(&self, request: &str) -> String {
        let connection = TcpStream::connect(&self.http).await;
        let mut connection = connection.expect("it accepts");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        answer
    }
}
