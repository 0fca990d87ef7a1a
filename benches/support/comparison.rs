//! Servers to compare with. Each is a program of these benchmarks, started with the
//! server's name, so that it has a process, and a core, of its own: this program where it
//! is to have the system's allocator, and `references` where it is to have this service's.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tonic::transport::server::{Router, TcpIncoming};

use super::{
    figures::Table,
    saturation::{Row, ratio_at_work},
};

/// What tells a program that it is to be one of these servers.
const OPTION: &str = "--be-server";
/// The benchmark that is linked with this service's allocator.
const REFERENCES: &str = "references";

/// What gives a reference its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    /// The system's, as everybody has it who does nothing about it.
    System,
    /// This service's own.
    Ours,
}

impl Allocator {
    /// Those that there are: on some systems, this service has no other than theirs.
    pub const ALL: &[Self] = if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        &[Self::System, Self::Ours]
    } else {
        &[Self::System]
    };

    /// The title of a row with it.
    pub fn titled(self, what: &str) -> String {
        match self {
            Self::System => what.to_owned(),
            Self::Ours => format!("{what}, jemalloc"),
        }
    }
}

/// The programs that are these servers, one for each of [`Allocator::ALL`].
pub struct Programs(Vec<(Allocator, PathBuf)>);

impl Programs {
    /// Finds them. The one that is not running yet is built where that was not done: by
    /// cargo, which knows where it is.
    pub fn find() -> Self {
        let found = Allocator::ALL.iter().map(|allocator| {
            let program = match allocator {
                Allocator::System => std::env::current_exe().expect("this program is somewhere"),
                Allocator::Ours => references(),
            };
            (*allocator, program)
        });
        Self(found.collect())
    }

    /// Starts the server of that name with each of the allocators.
    pub fn start(&self, name: &str) -> Vec<(Allocator, Running)> {
        let programs = self.0.iter();
        programs
            .map(|(allocator, program)| (*allocator, Running::start(program, name)))
            .collect()
    }
}

/// Where cargo puts `references`.
fn references() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // As this program was built, for somebody who only sees whether it runs.
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "bench"
    };
    let output = Command::new(cargo)
        .args(["bench", "--no-run", "--quiet", "--bench", REFERENCES])
        .args(["--profile", profile])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{REFERENCES} was not built");
    let built = String::from_utf8(output.stdout).expect("cargo says JSON");
    let executable = built.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == REFERENCES;
        message["executable"]
            .as_str()
            .filter(|_| is_it)
            .map(PathBuf::from)
    });
    executable.expect("cargo says where it put it")
}

/// One that runs. Ends when dropped.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
}

impl Running {
    fn start(program: &PathBuf, name: &str) -> Self {
        let mut child = Command::new(program)
            .args([OPTION, name])
            // Its end tells the server of ours.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("the server says where it listens");
        let address = line.trim().parse().expect("an address");
        Self { child, address }
    }

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

/// The name of the server that this program was started to be, if it was.
pub fn name() -> Option<String> {
    let words: Vec<_> = std::env::args().collect();
    match words.as_slice() {
        [_, option, name] if option == OPTION => Some(name.clone()),
        _ => None,
    }
}

/// Says where this server listens to the program that started it, with which it ends.
pub fn announce(address: SocketAddr) {
    std::thread::spawn(|| {
        drop(std::io::stdin().read(&mut [0]));
        std::process::abort();
    });
    writeln!(std::io::stdout(), "{address}").expect("somebody listens");
}

/// Is a server made with tonic, as everybody writes it.
pub async fn serve(server: Router) {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let incoming = TcpIncoming::bind(address).expect("there is a port");
    // As `serve` with an address would set it.
    let incoming = incoming.with_nodelay(Some(true));
    announce(incoming.local_addr().expect("it is bound"));
    let served = server.serve_with_incoming(incoming).await;
    served.expect("it serves until it is killed");
}

/// Prints how many times the work of each reference a server of ours does in the same time,
/// beside what the reference itself gains by this service's allocator.
pub fn report(rows: &[Row], ours: &str, references: &[&str]) {
    let find = |title: &str| rows.iter().find(|row| row.title == title);
    let Some(ours) = find(ours) else { return };
    let mut table = Table::new(&[
        &format!("{}, by calls/s of work", ours.title),
        "beside the system's allocator",
        "beside its own",
        "the allocator alone",
    ]);
    for reference in references {
        let with = |allocator: Allocator| find(&allocator.titled(reference));
        let (Some(system), Some(own)) = (with(Allocator::System), with(Allocator::Ours)) else {
            continue;
        };
        table.row([
            (*reference).to_owned(),
            ratio_at_work(ours, system),
            ratio_at_work(ours, own),
            ratio_at_work(own, system),
        ]);
    }
    table.print();
}
