//! A command on a terminal: what a person sees who starts it.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    process::{Child, Command, Stdio},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::process::Ended;

/// What clears the line.
pub const CLEAR: &str = "\r\x1b[K";

/// A terminal: what a program writes to, and what a person sees.
fn terminal() -> (File, File) {
    let person: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let path = ptsname(&person, Vec::new()).unwrap();
    let path = std::ffi::OsStr::from_bytes(path.as_bytes());
    let program = OpenOptions::new().read(true).write(true).open(path);
    (program.unwrap(), File::from(person))
}

/// A command with a terminal as its standard error, and its output piped.
pub struct OnTerminal {
    child: Child,
    person: File,
    seen: Vec<u8>,
}

impl OnTerminal {
    pub fn start(mut command: Command) -> Self {
        let (program, person) = terminal();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.stderr(program).spawn().unwrap();
        // Its copy of the terminal goes with the command: as long as that is open, there is no
        // end to read.
        Self {
            child,
            person,
            seen: Vec::new(),
        }
    }

    /// Waits until the person sees that text.
    pub fn shows(&mut self, text: &str) {
        let mut piece = [0; 1024];
        while !String::from_utf8_lossy(&self.seen).contains(text) {
            // Where the other side is no longer open, reading fails on Linux, and ends elsewhere.
            let length = self.person.read(&mut piece).unwrap_or(0);
            let seen = String::from_utf8_lossy(&self.seen);
            assert_ne!(length, 0, "it ended without {text:?}: {seen:?}");
            self.seen.extend_from_slice(&piece[..length]);
        }
    }

    /// Waits for its end, and for all that the person sees until then.
    pub fn ended(mut self) -> Ended {
        // As above, so it is no error if it fails.
        drop(self.person.read_to_end(&mut self.seen));
        let output = self.child.wait_with_output().unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(self.seen).unwrap(),
        }
    }
}
