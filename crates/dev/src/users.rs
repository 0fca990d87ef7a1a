//! The user that the server runs as, and commands that run as another user. PostgreSQL
//! refuses to run as root; then it runs as an unprivileged user.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use crate::error::{PostgresError, io_error};

/// The user that the server runs as, if it is not the current one.
#[derive(Clone, Debug)]
pub(crate) struct Unprivileged {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    our_uid() == 0
}

pub(crate) fn our_uid() -> u32 {
    #[expect(unsafe_code, reason = "std has no function for the effective user id")]
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe {
        libc::geteuid()
    }
}

/// The user to run the server as; `None` for the current one, unless that is root.
pub(crate) fn unprivileged() -> Result<Option<Unprivileged>, PostgresError> {
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

/// A command that runs as the server's user, with an empty environment.
pub(crate) fn run_as(program: &OsStr, user: Option<&Unprivileged>) -> Command {
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
pub(crate) fn command(program: &Path, folder: &Path, user: Option<&Unprivileged>) -> Command {
    let mut command = run_as(program.as_os_str(), user);
    command.current_dir(folder);
    // The terminal's Ctrl-C must not stop the database under a draining server.
    command.process_group(0);
    #[cfg(target_os = "linux")]
    set_parent_death_signal(&mut command);
    command
}

#[cfg(target_os = "linux")]
fn set_parent_death_signal(command: &mut Command) {
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
            // The parent ended before the signal was requested.
            if libc::getppid() != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
}
