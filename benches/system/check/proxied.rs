//! Through Envoy, with a check and without one: the same Envoy, the same upstream, in
//! turns.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{
    cores,
    figures::{Samples, Table},
    population::Known,
    service::{Caller, Service},
};

/// Where CI puts it, and the tests look for it.
const PROGRAM: &str = "target/ci-tools/envoy/envoy/_bin/envoy";
const CONFIGURATION: &str = include_str!("../../../deploy/envoy/envoy.yaml");
/// How long Envoy may take to accept.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls of one kind, until it is the other's turn.
const TURN: usize = 100;
/// Calls that do not count.
const WARM_UP: usize = 500;

struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Measures so many calls of each kind, and gives how many went wrong.
pub fn measure(
    service: &Service,
    caller: &Caller,
    known: &[Known],
    calls: usize,
    cores: &[usize],
) -> u64 {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(PROGRAM);
    if !program.is_file() {
        println!("SKIPPED, because there is no Envoy (.ci/run gets one): {PROGRAM}");
        return 0;
    }
    // The server keeps its core; the others are for Envoy and what is before and
    // behind it.
    let cores = cores
        .get(1..)
        .filter(|rest| !rest.is_empty())
        .unwrap_or(cores);
    cores::on(cores, || through(&program, service, caller, known, calls))
}

fn through(
    program: &Path,
    service: &Service,
    caller: &Caller,
    known: &[Known],
    calls: usize,
) -> u64 {
    let upstream = upstream();
    let free = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let ingress = free.local_addr().expect("it is bound").port();
    drop(free);
    let of_service = service.address().port().to_string();
    let mut configuration = CONFIGURATION.to_owned();
    for (from, to) in [
        ("10000", &*ingress.to_string()),
        ("50051", &*of_service),
        ("8080", &upstream.to_string()),
    ] {
        let from = format!("port_value: {from}");
        assert!(configuration.contains(&from), "{from}");
        configuration = configuration.replace(&from, &format!("port_value: {to}"));
    }
    let mut envoy = Command::new(program)
        .args([
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--config-yaml",
        ])
        .arg(configuration)
        .env("HITKEEP_CALLER_TOKEN", &caller.token)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Envoy runs");
    let log = BufReader::new(envoy.stderr.take().expect("it is piped"));
    let _envoy = Envoy(envoy);
    let mut lines = log.lines().map_while(Result::ok);
    let begun = lines.any(|line| line.contains("starting workers"));
    assert!(begun, "Envoy begins to serve");
    std::thread::spawn(move || lines.for_each(drop));

    let mut connection = connect(ingress);
    connection.set_nodelay(true).expect("a socket");
    let mut failures = 0;
    let mut latencies = [Vec::new(), Vec::new()];
    for call in 0..2 * (WARM_UP + calls) {
        let client = &known[call % known.len()];
        let is_checked = call / TURN % 2 == 1;
        let path = if is_checked {
            format!("/api/sites/{}/hits", client.sites[0])
        } else {
            "/healthz".to_owned()
        };
        let token = &client.token;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n");
        let begun = Instant::now();
        let status = exchange(&mut connection, &request);
        if status != 200 {
            failures += 1;
        } else if call >= 2 * WARM_UP {
            latencies[usize::from(is_checked)].push(begun.elapsed());
        }
    }
    report(latencies.map(Samples::of), calls);
    failures
}

/// Connects, once Envoy accepts: it says that it begins a little earlier.
fn connect(port: u16) -> TcpStream {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(connection) => return connection,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "Envoy accepts: {error}"),
        }
    }
}

fn report([without, with]: [Samples; 2], calls: usize) {
    let mut table = Table::new(&["through Envoy", "p50", "p99"]);
    let micros = |time: Duration| format!("{:.0} µs", time.as_secs_f64() * 1e6);
    for (title, samples) in [("without a check", &without), ("with a check", &with)] {
        table.row([
            title.to_owned(),
            micros(samples.median()),
            micros(samples.p99()),
        ]);
    }
    let more = |with: Duration, without: Duration| {
        let difference = with.as_secs_f64() - without.as_secs_f64();
        format!("{:+.0} µs", difference * 1e6)
    };
    table.row([
        "added".to_owned(),
        more(with.median(), without.median()),
        more(with.p99(), without.p99()),
    ]);
    table.print();
    println!("{calls} calls each, one at a time, {TURN} of a kind in turns");
}

/// Sends a request, reads the answer, and gives its status.
fn exchange(connection: &mut TcpStream, request: &str) -> u16 {
    connection
        .write_all(request.as_bytes())
        .expect("it is sent");
    let mut answer = Vec::with_capacity(1024);
    let mut chunk = [0; 4096];
    loop {
        let count = connection.read(&mut chunk).expect("there is an answer");
        assert!(count > 0, "Envoy keeps the connection");
        answer.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|text| text.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
            return status.unwrap_or(0);
        }
    }
}

/// Answers each request with the same two bytes, and gives its port.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer_all(connection));
        }
    });
    port
}

fn answer_all(mut connection: TcpStream) {
    connection.set_nodelay(true).expect("a socket");
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = connection.read(&mut chunk) {
        seen.extend_from_slice(&chunk[..count]);
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            if connection.write_all(answer).is_err() {
                return;
            }
        }
    }
}
