//! The binary itself as a child process, and everything that it prints. Nothing
//! here sleeps: a test waits for a line, for the end of the output, or for the
//! process' end.

use std::{ffi::OsStr, io::Write as _, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

/// How long anything may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_mins(2);

/// How a process ended, and all that it printed.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A running child. Killed when dropped.
pub struct Process {
    child: Child,
    pub stdout: Output,
    pub stderr: Output,
}

/// What a child prints, line by line.
pub struct Output {
    /// The lines that were taken out so far.
    seen: String,
    lines: mpsc::UnboundedReceiver<String>,
}

/// The binary with those arguments, and nothing of the environment that would
/// change what it does.
pub fn binary<I: IntoIterator<Item: AsRef<OsStr>>>(arguments: I) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hitkeep-auth"));
    command.args(arguments);
    without_settings(&mut command);
    command
}

/// A database's URL for a command that asks it once. It is there, so it is waited for, however
/// slow the machine.
pub fn patient(url: &str) -> String {
    let has_options = url.contains('?');
    format!(
        "{url}{}connect_timeout=60",
        if has_options { '&' } else { '?' }
    )
}

/// Makes a service account, and gives its token.
pub async fn account(url: &str, name: &str, allow: &str) -> String {
    let create = ["service-account", "create", name, "--allow", allow];
    let on = ["--json", "--database-url", &patient(url)];
    let ended = Process::start(binary(create.iter().chain(&on))).ended();
    let made: serde_json::Value = serde_json::from_str(&ended.await.stdout).expect("an account");
    made["token"].as_str().expect("a token").to_owned()
}

/// Takes the settings of our own environment away from a command.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("HITKEEP_AUTH_") || text.starts_with("OTEL_") || text == "NOTIFY_SOCKET"
        {
            command.env_remove(name);
        }
    }
}

impl Process {
    pub fn start(command: Command) -> Self {
        Self::spawn(command, Stdio::null())
    }

    /// The same, with a few bytes to read.
    pub fn start_with(command: Command, input: &str) -> Self {
        let (read, mut write) = std::io::pipe().expect("the system gives a pipe");
        // Less than a pipe holds, so it need not be read yet.
        write.write_all(input.as_bytes()).expect("there is room");
        Self::spawn(command, read.into())
    }

    /// The same, with whatever that is as its standard input.
    pub fn spawn(mut command: Command, stdin: Stdio) -> Self {
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            stdout: Output::of(child.stdout.take().expect("it is piped")),
            stderr: Output::of(child.stderr.take().expect("it is piped")),
            child,
        }
    }

    /// Waits until `serve` or `dev` serves, and says where.
    pub async fn address(&mut self) -> String {
        self.address_in("serving on").await
    }

    /// The same for HTTP, which is logged earlier.
    pub async fn http_address(&mut self) -> String {
        self.address_in("serving HTTP on").await
    }

    async fn address_in(&mut self, text: &str) -> String {
        let line = self.stderr.line(text).await;
        // Where it was not set to log as JSON, it is the end of what is said.
        let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else {
            let (_, said) = line.split_once(text).expect("it was found there");
            let address = said.split_whitespace().next();
            return address.expect("an address").to_owned();
        };
        line["address"].as_str().expect("an address").to_owned()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    /// Sends a signal, such as "TERM".
    pub async fn signal(&self, name: &str) {
        let pid = self.id().to_string();
        let sent = Command::new("/bin/sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid])
            .status()
            .await
            .expect("there is a shell");
        assert!(sent.success(), "the process is there to get the signal");
    }

    /// Waits for the end of the process, and of everything that holds its
    /// output open.
    pub async fn ended(mut self) -> Ended {
        let stdout = self.stdout.rest().await;
        let stderr = self.stderr.rest().await;
        let status = timeout(PATIENCE, self.child.wait()).await;
        Ended {
            code: status
                .expect("the process ends")
                .expect("it is our child")
                .code(),
            stdout,
            stderr,
        }
    }
}

impl Output {
    fn of(pipe: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // Read on even if no test listens: a full pipe stops the child.
                drop(sender.send(line));
            }
        });
        let seen = String::new();
        Self { seen, lines }
    }

    async fn next(&mut self) -> Option<String> {
        let line = timeout(PATIENCE, self.lines.recv()).await;
        let line = line.unwrap_or_else(|_| panic!("no more output after:\n{}", self.seen))?;
        self.seen += &line;
        self.seen.push('\n');
        Some(line)
    }

    /// Waits for a line that contains that text.
    pub async fn line(&mut self, text: &str) -> String {
        loop {
            match self.next().await {
                Some(line) if line.contains(text) => return line,
                Some(_) => {}
                None => panic!("the output ended without {text:?}:\n{}", self.seen),
            }
        }
    }

    /// The same, where it may have come before another line that was waited for: of two
    /// tasks of the child, either may be the first to log.
    pub async fn line_so_far(&mut self, text: &str) -> String {
        let mut seen = self.seen.lines();
        match seen.find(|line| line.contains(text)) {
            Some(line) => line.to_owned(),
            None => self.line(text).await,
        }
    }

    async fn rest(&mut self) -> String {
        while self.next().await.is_some() {}
        std::mem::take(&mut self.seen)
    }
}
