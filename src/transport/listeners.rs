//! The listening sockets: any number of TCP addresses and Unix sockets, all with the same
//! services behind them.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::TcpStream as StdTcpStream,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tokio_stream::Stream;

mod tcp;

use super::{tls::Tls, workers::Unregistered};

/// The prefix of a Unix socket's address.
const UNIX: &str = "unix:";
/// The owner and the group of a Unix socket may connect. Operators who need to admit others
/// change the group of the socket, or the owner of its folder.
const SOCKET_MODE: u32 = 0o660;
/// How long to wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host (a name or an IP address) and a port.
    Tcp(String),
    Unix(PathBuf),
}

/// The text is not an address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be HOST:PORT, or unix: and a path")]
pub struct BadAddress;

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix(UNIX) {
            // gRPC's naming of sockets: unix:path, or unix:///path.
            let path = match path.strip_prefix("//") {
                Some(absolute) if absolute.starts_with('/') => absolute,
                Some(_) => return Err(BadAddress),
                None => path,
            };
            let named = Some(path).filter(|path| !path.is_empty() && !path.ends_with('/'));
            return named.map(|path| Self::Unix(path.into())).ok_or(BadAddress);
        }
        let (host, port) = text.rsplit_once(':').ok_or(BadAddress)?;
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_host = !host.is_empty() && (is_bracketed || !host.contains(':'));
        let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let is_port = is_digits && port.parse::<u16>().is_ok();
        let named = (is_host && is_port).then(|| text.to_owned());
        named.map(Self::Tcp).ok_or(BadAddress)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {0}: another program listens there")]
    InUse(Address),
    /// The path is taken by a file that is not a socket, which is not removed.
    #[error("cannot listen on {0}: there is a file of that name, which is no socket")]
    NoSocket(Address),
    #[error("cannot listen on {address} ({why})")]
    Refused {
        address: Address,
        /// Part of the message, and therefore not a source.
        why: io::Error,
    },
}

impl ListenError {
    fn of(address: &Address, why: io::Error) -> Self {
        let address = address.clone();
        match why.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(address),
            io::ErrorKind::AlreadyExists => Self::NoSocket(address),
            _ => Self::Refused { address, why },
        }
    }
}

/// An address after name resolution.
#[derive(Debug)]
enum ResolvedAddress {
    Tcp(tcp::Host),
    Unix(PathBuf),
}

impl ResolvedAddress {
    async fn resolve(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => tcp::Host::resolve(address).await.map(Self::Tcp),
            Address::Unix(path) => Ok(Self::Unix(path.clone())),
        }
    }

    fn v4_ports(&self) -> Vec<u16> {
        match self {
            Self::Tcp(host) => host.v4_ports().collect(),
            Self::Unix(_) => Vec::new(),
        }
    }

    fn open(self, v4_ports: &BTreeSet<u16>, tls: Option<&Tls>) -> io::Result<Vec<SocketListener>> {
        match self {
            Self::Tcp(host) => {
                let listeners = host.listen(v4_ports)?.into_iter();
                let with_tls = |listener| SocketListener::Tcp(listener, tls.cloned());
                Ok(listeners.map(with_tls).collect())
            }
            Self::Unix(path) => {
                let (listener, file) = bind_socket(&path)?;
                Ok(vec![SocketListener::Unix(listener, file)])
            }
        }
    }
}

/// The open listeners. Dropping it removes the files of Unix sockets.
#[derive(Debug)]
pub struct Listeners(Vec<SocketListener>);

#[derive(Debug)]
enum SocketListener {
    Tcp(TcpListener, Option<Tls>),
    Unix(UnixListener, SocketFile),
}

/// The file of our socket. It is removed on drop, unless another file has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "{} could not be removed", self.path.display());
        }
    }
}

impl Listeners {
    /// Opens all of them; a name is opened at all of its addresses. TCP listeners use TLS
    /// if there is a certificate. Unix sockets never do, since their traffic does not leave
    /// the machine.
    pub async fn open(addresses: &[Address], tls: Option<&Tls>) -> Result<Self, ListenError> {
        let mut resolved = Vec::with_capacity(addresses.len());
        for address in addresses {
            let found = ResolvedAddress::resolve(address).await;
            resolved.push(found.map_err(|why| ListenError::of(address, why))?);
        }
        // An IPv6 socket must leave these ports to IPv4.
        let v4_ports: BTreeSet<_> = resolved
            .iter()
            .flat_map(ResolvedAddress::v4_ports)
            .collect();
        let mut listeners = Vec::with_capacity(resolved.len());
        for (address, resolved) in addresses.iter().zip(resolved) {
            let opened = resolved.open(&v4_ports, tls);
            listeners.extend(opened.map_err(|why| ListenError::of(address, why))?);
        }
        Ok(Self(listeners))
    }

    /// The addresses that are listened on, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// If the system does not report a socket's address.
    pub fn addresses(&self) -> io::Result<Vec<Address>> {
        let address = |listener: &SocketListener| match listener {
            SocketListener::Tcp(tcp, _) => Ok(Address::Tcp(tcp.local_addr()?.to_string())),
            SocketListener::Unix(_, file) => Ok(Address::Unix(file.path.clone())),
        };
        self.0.iter().map(address).collect()
    }

    /// The incoming connections of all listeners, which do not wait for one another.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Accepted>> + Send {
        stream::select_all(
            self.0
                .into_iter()
                .map(|listener| listener.incoming().boxed()),
        )
    }
}

impl SocketListener {
    /// The incoming connections. After a failed accept (the process may be out of file
    /// descriptors) it pauses, because the next attempt would fail too, and logs only the
    /// first of a series of failures.
    fn incoming(self) -> impl Stream<Item = io::Result<Accepted>> + Send {
        stream::unfold((self, false), async |(listener, mut is_failing)| {
            loop {
                match listener.accept().await {
                    Ok(connection) => return Some((Ok(connection), (listener, false))),
                    Err(error) => {
                        if !is_failing {
                            tracing::warn!(%error, "connections cannot be accepted");
                        }
                        is_failing = true;
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, tls) => {
                let (connection, _) = listener.accept().await?;
                // Responses are small: send each one without delay.
                connection.set_nodelay(true)?;
                Ok(Accepted::Tcp(connection.into_std()?, tls.clone()))
            }
            Self::Unix(listener, _) => {
                let (connection, _) = listener.accept().await?;
                Ok(Accepted::Unix(connection.into_std()?))
            }
        }
    }
}

/// Listens on a socket of that path. A socket that a killed server left behind is removed
/// first. A socket in use, and a file that is not a socket, are left alone.
fn bind_socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // If two servers start at the same moment, the second one must see the first one's
    // socket.
    let lock = fs::File::open(folder)?;
    lock.lock()?;
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(_) => match StdUnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)?;
            }
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            // Its queue may be full, or we may lack the permission to connect.
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    let file = fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: file.dev(),
        inode: file.ino(),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok((listener, file))
}

/// An accepted connection, not yet registered with a runtime.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP, with TLS if the listener uses it.
    Tcp(StdTcpStream, Option<Tls>),
    Unix(StdUnixStream),
}

impl Unregistered for Accepted {
    type Io = Socket;

    fn register(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(connection, _) => TcpStream::from_std(connection).map(Socket::Tcp),
            Self::Unix(connection) => UnixStream::from_std(connection).map(Socket::Unix),
        }
    }

    fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Tcp(_, tls) => tls.as_ref(),
            Self::Unix(_) => None,
        }
    }
}

/// A registered connection.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Delegates a call to either variant.
macro_rules! either {
    ($socket:expr, $one:ident => $call:expr) => {
        match $socket.get_mut() {
            Self::Tcp($one) => $call,
            Self::Unix($one) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_read(context, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, socket => Pin::new(socket).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, socket => Pin::new(socket).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        // Both kinds are.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_formatted() {
        let read = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        for same in [
            "127.0.0.1:50051",
            "[::]:1",
            "host:2",
            "unix:/run/x.sock",
            "unix:x",
        ] {
            assert_eq!(read(same).as_deref(), Ok(same));
        }
        assert_eq!(read("unix:///run/x").as_deref(), Ok("unix:/run/x"));
        for none in [
            "",
            "host",
            ":1",
            "host:",
            "host:port",
            "host:+1",
            "host:65536",
            "::1:1",
            "unix:",
            "unix:/run/",
            "unix://host/x",
            "unix://",
        ] {
            assert_eq!(read(none), Err(BadAddress), "{none:?}");
        }
    }

    /// Otherwise Nagle's algorithm could hold back a response that does not fill a packet
    /// until the peer acknowledges the one before it, which takes 40 ms.
    #[tokio::test]
    async fn accepted_connections_disable_nagles_algorithm() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners::open(&[address], None).await.unwrap();
        let address = listeners.addresses().unwrap()[0].to_string();
        let _peer = StdTcpStream::connect(address).unwrap();
        let accepted = listeners.incoming().next().await.unwrap().unwrap();
        let Accepted::Tcp(connection, None) = accepted else {
            panic!("{accepted:?}");
        };
        assert!(connection.nodelay().unwrap());
    }
}
