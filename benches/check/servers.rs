//! What Check is compared with: a handler that does nothing, made with tonic as
//! everybody writes it. Each is this program, started again with the server's name, so
//! that it has a process, and a core, of its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use hitkeep_auth::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, OkHttpResponse,
    authorization_server::{Authorization, AuthorizationServer},
    check_response::HttpResponse,
};
use tokio::runtime;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// What tells this program that it is to be one of these servers.
pub const OPTION: &str = "--be-server";

/// A server to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As everybody writes it.
    Tonic,
    /// The same on a runtime of one thread.
    Tuned,
}

/// One that runs. Ends when dropped.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Tonic, Self::Tuned];

    /// What it is, in a table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Tonic => "tonic, empty handler",
            Self::Tuned => "tonic, empty handler, one thread",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tonic => "tonic",
            Self::Tuned => "tuned",
        }
    }

    /// Starts it in a process of its own.
    pub fn start(self) -> Running {
        let program = std::env::current_exe().expect("this program is somewhere");
        let mut child = Command::new(program)
            .args([OPTION, self.name()])
            // Its end tells the server of ours.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("the server says where it listens");
        let address = line.trim().parse().expect("an address");
        Running { child, address }
    }

    /// Is that server, until the one that started it is gone.
    pub fn be(name: &str) {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = kind.expect("there is such a server");
        std::thread::spawn(|| {
            drop(std::io::stdin().read(&mut [0]));
            std::process::abort();
        });
        let mut builder = match kind {
            Self::Tonic => runtime::Builder::new_multi_thread(),
            Self::Tuned => runtime::Builder::new_current_thread(),
        };
        let runtime = builder.worker_threads(1).enable_all().build();
        runtime.expect("a runtime starts").block_on(serve());
    }
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn serve() {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let incoming = TcpIncoming::bind(address).expect("there is a port");
    // As `serve` with an address would set it.
    let incoming = incoming.with_nodelay(Some(true));
    let address = incoming.local_addr().expect("it is bound");
    writeln!(std::io::stdout(), "{address}").expect("somebody listens");
    let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(Empty));
    let served = server.serve_with_incoming(incoming).await;
    served.expect("it serves until it is killed");
}

struct Empty;

#[tonic::async_trait]
impl Authorization for Empty {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse {
            status: Some(tonic_types::pb::Status::default()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
            dynamic_metadata: None,
        }))
    }
}
