//! Servers to compare with. Each is this program, started again with the server's name,
//! so that it has a process, and a core, of its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use tonic::transport::server::{Router, TcpIncoming};

/// What tells this program that it is to be one of these servers.
const OPTION: &str = "--be-server";

/// One that runs. Ends when dropped.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
}

impl Running {
    /// Starts the server of that name.
    pub fn start(name: &str) -> Self {
        let program = std::env::current_exe().expect("this program is somewhere");
        let mut child = Command::new(program)
            .args([OPTION, name])
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
