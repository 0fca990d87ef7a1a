//! Tells the supervisor of the process, such as systemd, what the server is doing: `sd_notify(3)`.
//! Ready means the same as for `/readyz`. Written by hand, since it is a datagram with a few words
//! in it, and the crates for it know no abstract sockets or bring much else.

use std::{
    ffi::OsStr,
    io,
    os::unix::net::{SocketAddr, UnixDatagram},
};

/// The supervisor, if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Supervisor {
    socket: Option<&'static OsStr>,
}

impl Supervisor {
    /// The supervisor at that socket, as `NOTIFY_SOCKET` names it. `None` sends nothing.
    pub(super) const fn at(socket: Option<&'static OsStr>) -> Self {
        Self { socket }
    }

    /// Whether the server can introspect from now on. A supervisor heeds the first `READY=1`;
    /// after an outage, only the status is news to it.
    pub(super) fn introspection(self, serves: bool) {
        self.send(if serves {
            "READY=1\nSTATUS=introspection serves"
        } else {
            "STATUS=introspection does not serve"
        });
    }

    /// The drain begins.
    pub(super) fn stopping(self) {
        self.send("STOPPING=1\nSTATUS=finishing the calls in flight");
    }

    fn send(self, message: &str) {
        let Some(socket) = self.socket else {
            return;
        };
        let sent = address(socket).and_then(|address| {
            UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "the supervisor at NOTIFY_SOCKET could not be notified: {error}");
        }
    }
}

/// A path or, behind an `@`, the name of an abstract socket, which only Linux has.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    {
        use std::os::{linux::net::SocketAddrExt, unix::ffi::OsStrExt};

        if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
            return SocketAddr::from_abstract_name(name);
        }
    }
    SocketAddr::from_pathname(socket)
}
