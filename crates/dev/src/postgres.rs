//! A private Postgres server from installed programs. It listens only on a Unix socket in its
//! own folder, and ends with this process; on Linux also if that is killed.
//!
//! Blocking: start it from a thread that lives as long as the server should, because the
//! kernel ties the server's end to that thread.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

pub use crate::{
    error::PostgresError,
    options::{Durability, Options},
};
use crate::{
    error::io_error,
    folders::{lock, make_folders, socket_folder},
    programs::{Programs, find},
    users::{Unprivileged, command, unprivileged},
};

/// How long the server may take to become ready, crash recovery included.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a fast shutdown may take before an immediate one.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the server's state is polled meanwhile.
const POLL: Duration = Duration::from_millis(5);

/// A running server. It stops when dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    child: Child,
    folder: PathBuf,
    socket_folder: PathBuf,
    durability: Durability,
    /// Held while the server runs.
    _lock: fs::File,
}

impl PrivatePostgres {
    /// Starts a server in its folder, and creates its data if there is none. `announce` is called
    /// before slow steps.
    ///
    /// # Errors
    /// If the server cannot be started; each message says what to do.
    pub fn start(options: &Options, announce: &dyn Fn(&str)) -> Result<Self, PostgresError> {
        let Options { durability, .. } = *options;
        let user = unprivileged()?;
        let (folder, servers) = make_folders(&options.folder, user.as_ref())?;
        let lock = lock(&folder)?;
        let data = servers.join("data");
        let made_by = fs::read_to_string(data.join("PG_VERSION")).ok();
        let programs = find(
            options,
            made_by.as_deref().map(str::trim),
            &folder,
            announce,
        )?;
        if made_by.is_none() {
            initdb(&programs, &servers, &data, durability, user.as_ref())?;
        }
        let socket_folder = socket_folder(&servers, user.as_ref())?;
        let log_path = folder.join("postgres.log");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path);
        let log = log.map_err(io_error(format!("opening {}", log_path.display())))?;
        let errors = log.try_clone().map_err(io_error("sharing the log"))?;

        let mut command = command(&programs.folder.join("postgres"), &servers, user.as_ref());
        command.arg("-D").arg(&data).arg("-k").arg(&socket_folder);
        let mut settings = vec!["listen_addresses=", "unix_socket_permissions=0777"];
        if durability == Durability::ThrownAway {
            settings.extend([
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
            ]);
            settings.extend([
                "max_wal_senders=0",
                "wal_level=minimal",
                "max_connections=500",
            ]);
        }
        for setting in settings {
            command.args(["-c", setting]);
        }
        let child = command.stdout(log).stderr(errors).spawn();
        let child = child.map_err(io_error("starting postgres"))?;
        let mut server = Self {
            child,
            folder,
            socket_folder,
            durability,
            _lock: lock,
        };
        server.wait_until_ready(&data, &log_path)?;
        Ok(server)
    }

    pub fn url(&self, database: &str) -> String {
        let folder = self.socket_folder.as_os_str().as_encoded_bytes();
        let host: String = folder.iter().map(|byte| percent_encoded(*byte)).collect();
        format!("postgres://postgres@{host}/{database}")
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The server's own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits as `pg_ctl` does, until the eighth line of postmaster.pid says "ready"; the first
    /// line must be our child's pid.
    fn wait_until_ready(&mut self, data: &Path, log: &Path) -> Result<(), PostgresError> {
        let begun = Instant::now();
        let not_ready = |why: String| {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(5)..].join("\n");
            PostgresError::NotReady {
                why,
                log: log.to_owned(),
                tail,
            }
        };
        while begun.elapsed() < START_TIMEOUT {
            if let Some(status) = self
                .child
                .try_wait()
                .map_err(io_error("waiting for postgres"))?
            {
                return Err(not_ready(status.to_string()));
            }
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let lines: Vec<_> = state.lines().map(str::trim).collect();
            let ours = lines
                .first()
                .is_some_and(|pid| *pid == self.child.id().to_string());
            if ours && lines.get(7) == Some(&"ready") {
                return Ok(());
            }
            pause();
        }
        Err(not_ready(format!(
            "not ready after {} s",
            START_TIMEOUT.as_secs()
        )))
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid is one");
        #[expect(unsafe_code, reason = "std cannot send a signal other than SIGKILL")]
        // SAFETY: the child has not been reaped, so the pid is still its own.
        unsafe {
            libc::kill(pid, signal);
        }
    }

    fn stop(&mut self) {
        // SIGINT is a fast shutdown; SIGQUIT an immediate one, without a checkpoint.
        if self.durability == Durability::Kept {
            self.signal(libc::SIGINT);
            if self.ended_within(STOP_TIMEOUT) {
                return;
            }
        }
        self.signal(libc::SIGQUIT);
        if !self.ended_within(STOP_TIMEOUT) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }

    fn ended_within(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            pause();
        }
        false
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // The pid of a child that ended by itself may be another process's by now.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
        if self.durability == Durability::ThrownAway {
            drop(fs::remove_dir_all(&self.folder));
        }
    }
}

fn pause() {
    #[expect(
        clippy::disallowed_methods,
        reason = "this runs on a thread of its own"
    )]
    std::thread::sleep(POLL);
}

fn percent_encoded(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    }
}

/// Creates the data in a temporary folder and renames it, so that the next start does not
/// take the remains of an interrupted one for data.
fn initdb(
    programs: &Programs,
    folder: &Path,
    data: &Path,
    durability: Durability,
    user: Option<&Unprivileged>,
) -> Result<(), PostgresError> {
    let partial = folder.join("data.partial");
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(format!("removing {}", partial.display()))(error));
        }
        _ => {}
    }
    let mut command = command(&programs.folder.join("initdb"), folder, user);
    // Every client of the socket is trusted; the folder admits only us.
    command.args([
        "--auth=trust",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C",
    ]);
    command.arg("--no-instructions").arg("-D").arg(&partial);
    if durability == Durability::ThrownAway {
        command.arg("--no-sync");
    }
    let output = command.output().map_err(io_error("running initdb"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(PostgresError::Initdb(why));
    }
    fs::rename(&partial, data).map_err(io_error(format!("making {}", data.display())))
}
