//! `hitkeep-auth serve` as a child process: the release binary, on a port of its
//! own, driven from outside as its callers drive it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::build::Build;

/// How long a server may take to say where it listens, and to serve.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often its health is asked for.
const POLL: Duration = Duration::from_millis(2);
/// What says where it listens; without it, on a port of its own.
pub const LISTEN: &str = "--listen";
/// Lines of its log that are kept to be shown where it fails.
const TAIL: usize = 20;

/// A running server. Killed when dropped.
pub struct Service {
    child: Child,
    /// Where it listens.
    address: String,
    /// Where it listens for HTTP.
    http: Option<String>,
    begun: Instant,
    log: Arc<Mutex<Vec<String>>>,
}

/// How much memory a process has in use, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// At most, until now.
    pub peak: u64,
}

/// A caller of the service.
#[derive(Clone)]
pub struct Caller {
    /// Its token.
    pub token: String,
    bearer: MetadataValue<Ascii>,
}

/// Whether `serve` has an option of that name.
pub fn serve_takes(option: &str) -> bool {
    let help = Build::this().command().args(["help", "serve"]).output();
    let help = help.expect("the binary runs");
    String::from_utf8_lossy(&help.stdout).contains(option)
}

impl Service {
    /// Starts a server on that database, and waits until it listens.
    pub fn start(database_url: &str, options: &[&str]) -> Self {
        Self::start_under(&[], database_url, options)
    }

    /// Starts it as the argument of a program that watches it.
    pub fn start_under(program: &[&str], database_url: &str, options: &[&str]) -> Self {
        let command = Build::this().command_under(program);
        Self::serve(command, database_url, options)
    }

    /// Starts another build of it.
    pub fn start_build(build: &Build, database_url: &str, options: &[&str]) -> Self {
        Self::serve(build.command(), database_url, options)
    }

    /// Starts a replica of that server, which has no way to the database.
    pub fn start_replica(upstream: &Self, caller: &Caller, options: &[&str]) -> Self {
        let mut command = Build::this().command();
        command
            .args(["replica", "--upstream"])
            .arg(format!("http://{}", upstream.address))
            .env("HITKEEP_AUTH_UPSTREAM_TOKEN", &caller.token);
        Self::run(command, options)
    }

    fn serve(mut command: Command, database_url: &str, options: &[&str]) -> Self {
        command.args(["serve", "--database-url", database_url]);
        Self::run(command, options)
    }

    fn run(mut command: Command, options: &[&str]) -> Self {
        let begun = Instant::now();
        if !options.contains(&LISTEN) {
            command.args([LISTEN, "127.0.0.1:0"]);
        }
        let mut child = command
            .args(["--log-format", "json"])
            .args(["--log", "warn,hitkeep_auth::cli=info"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stderr = child.stderr.take().expect("it is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, addresses) = mpsc::channel();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            // Read to the end: a full pipe would stop the server.
            let mut http = None;
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let address = || {
                    let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                    line["address"].as_str().unwrap_or_default().to_owned()
                };
                // In this order.
                if line.contains("serving HTTP on") {
                    http = Some(address());
                } else if line.contains("serving on") {
                    drop(sender.send((address(), http.take())));
                }
                let mut kept = kept.lock().expect("nobody panics with it");
                if kept.len() == TAIL {
                    kept.remove(0);
                }
                kept.push(line);
            }
        });
        let (address, http) = addresses.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let log = log.lock().expect("nobody panics with it").join("\n");
            panic!("the server does not serve:\n{log}")
        });
        Self {
            child,
            address,
            http,
            begun,
            log,
        }
    }

    /// Waits until its health says that it serves, and says how long that took
    /// since the start of the process.
    pub async fn serving(&self) -> Duration {
        self.serving_over(self.connect().await).await
    }

    /// The same, asked over that connection.
    pub async fn serving_over(&self, channel: Channel) -> Duration {
        let mut health = HealthClient::new(channel);
        while self.begun.elapsed() < PATIENCE {
            let answer = health.check(HealthCheckRequest::default()).await;
            if answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving) {
                return self.begun.elapsed();
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("the server does not become ready:\n{}", self.log());
    }

    /// Whether its health says that it serves.
    pub async fn is_serving(&self) -> bool {
        let mut health = HealthClient::new(self.connect().await);
        let answer = health.check(HealthCheckRequest::default()).await;
        answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
    }

    /// Where callers find it, without TLS.
    pub fn endpoint(&self) -> Endpoint {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.expect("an address").tcp_nodelay(true)
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Channel {
        let connection = self.endpoint().connect().await;
        connection.expect("the server accepts")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address.parse().expect("the server says an address")
    }

    /// Where it listens for HTTP, if it was told to.
    pub fn http_address(&self) -> Option<&str> {
        self.http.as_deref()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("it is our child");
    }

    /// Tells it to stop, and waits until it has; with the end of its log.
    pub fn stop(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        let status = self.child.wait().expect("it is our child");
        (status, self.log())
    }

    /// The memory that it has in use.
    pub fn memory(&self) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("Linux tells of its processes");
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("a size");
            kib * 1024
        };
        Memory {
            resident: bytes("VmRSS:"),
            peak: bytes("VmHWM:"),
        }
    }

    /// The end of what it logged, for reports of failure.
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics with it").join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Caller {
    /// Makes one that may do everything that a benchmark does.
    pub fn create(database_url: &str) -> Self {
        Self::of_build(&Build::this(), database_url)
    }

    /// The same, made with another build.
    pub fn of_build(build: &Build, database_url: &str) -> Self {
        Self::allowed(build, database_url, "bench", "introspect,manage,directory")
    }

    /// Makes one that may replicate.
    pub fn replica(database_url: &str) -> Self {
        Self::allowed(&Build::this(), database_url, "replica", "replicate")
    }

    fn allowed(build: &Build, database_url: &str, name: &str, permissions: &str) -> Self {
        let output = build
            .command()
            .args(["service-account", "create", name, "--json"])
            .args(["--allow", permissions])
            .args(["--database-url", database_url])
            .output()
            .expect("the binary runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let token = made["token"].as_str().expect("a token").to_owned();
        let bearer = format!("Bearer {token}").parse().expect("tokens are ASCII");
        Self { token, bearer }
    }

    /// A message of this caller's.
    pub fn says<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let bearer = self.bearer.clone();
        request.metadata_mut().insert("authorization", bearer);
        request
    }
}
