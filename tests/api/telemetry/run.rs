//! The binary with a collector beside it, and the callers of both.

use hitkeep_auth::domain::caller::CallerPermission;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};
use tonic::transport::Endpoint;

use crate::{
    fixtures::*,
    harness::Caller,
    support::{
        postgres,
        process::{Ended, Process, account, binary},
    },
    telemetry::collector::Collector,
};

/// A trace that a caller is in the middle of.
pub const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// The caller's own span in it.
pub const PARENT: &str = "b7ad6b7169203331";

/// A server that is traced.
pub struct Run {
    pub collector: Collector,
    pub url: String,
    pub address: String,
    pub http: String,
    pub server: Process,
    /// A token for each permission.
    pub tokens: Vec<(CallerPermission, String)>,
}

/// How a server that runs beside a collector is started.
pub fn traced(collector: &Collector, command: &mut Command) {
    collector.of(command);
}

impl Run {
    /// A server with more settings, such as none to export.
    pub async fn with(set: impl FnOnce(&Collector, &mut Command)) -> Self {
        Self::beside(Collector::start().await, set).await
    }

    /// The same beside that collector.
    pub async fn beside(collector: Collector, set: impl FnOnce(&Collector, &mut Command)) -> Self {
        let url = postgres::migrated_database().await;
        let mut tokens = Vec::new();
        for permission in CallerPermission::ALL {
            let name = permission.as_str();
            tokens.push((*permission, account(&url, name, name).await));
        }
        let anywhere = "127.0.0.1:0";
        let mut command = binary([
            "serve",
            "--listen",
            anywhere,
            "--http-listen",
            anywhere,
            "--database-url",
            &url,
            "--usage-flush-interval",
            "50ms",
        ]);
        set(&collector, &mut command);
        let mut server = Process::start(command);
        let http = server.http_address().await;
        let address = server.address().await;
        server.stderr.line("introspection serves").await;
        Self {
            collector,
            url,
            address,
            http,
            server,
            tokens,
        }
    }

    /// The same with the world's directory.
    pub async fn with_world(set: impl FnOnce(&Collector, &mut Command)) -> Self {
        let run = Self::with(set).await;
        let pusher = run.caller(CallerPermission::Directory).await;
        pusher.apply(batch(world())).await.expect("a directory");
        run
    }

    /// The token of the caller with that permission.
    pub fn token(&self, permission: CallerPermission) -> &str {
        let mut tokens = self.tokens.iter();
        let of = tokens.find(|(other, _)| *other == permission);
        &of.expect("there is one for each").1
    }

    /// The caller with that permission.
    pub async fn caller(&self, permission: CallerPermission) -> Caller {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        let channel = endpoint.expect("an address").connect().await;
        Caller {
            channel: channel.expect("it accepts"),
            metadata: vec![(
                "authorization",
                format!("Bearer {}", self.token(permission)),
            )],
            timeout: None,
        }
    }

    /// What is answered over HTTP to a request on a connection of its own.
    pub async fn ask(&self, head: &str, body: &str) -> String {
        let mut connection = TcpStream::connect(&self.http).await.expect("it accepts");
        let length = body.len();
        let request = format!(
            "{head}\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut answer = String::new();
        connection
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        connection.read_to_string(&mut answer).await.expect("text");
        answer
    }

    /// Tells it to stop, and waits until it has.
    pub async fn stop(self) -> (Ended, Collector) {
        self.server.signal("TERM").await;
        (self.server.ended().await, self.collector)
    }
}

/// The caller, in that trace, which it records or not.
pub fn within(mut caller: Caller, trace: &str, flags: &str) -> Caller {
    let parent = format!("00-{trace}-{PARENT}-{flags}");
    caller.metadata.push(("traceparent", parent));
    caller
}
