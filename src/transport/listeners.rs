//! Where callers come in: TCP addresses and Unix sockets, any number of them, all
//! with the same services behind them.

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

/// What an address of a Unix socket begins with.
const UNIX: &str = "unix:";
/// Who may connect to a Unix socket: its owner and its group. Others only where
/// whoever runs this gives it another group, or the folder another owner.
const SOCKET_MODE: u32 = 0o660;
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host, by name or number, and a port.
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

/// The text names no place to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be HOST:PORT, or unix: and a path")]
pub struct BadAddress;

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix(UNIX) {
            // As gRPC writes the names of sockets: unix:path, or unix:///path.
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

/// Why nobody can listen there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else does.
    #[error("cannot listen on {0}: another program listens there")]
    InUse(Address),
    /// There is something else, which is not removed for a socket.
    #[error("cannot listen on {0}: there is a file of that name, which is no socket")]
    NoSocket(Address),
    /// The system refuses.
    #[error("cannot listen on {address} ({why})")]
    Refused {
        /// Where.
        address: Address,
        /// Why; told already, and so no source.
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

/// What an address stands for.
#[derive(Debug)]
enum Place {
    Tcp(tcp::Host),
    Unix(PathBuf),
}

impl Place {
    async fn find(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => tcp::Host::find(address).await.map(Self::Tcp),
            Address::Unix(path) => Ok(Self::Unix(path.clone())),
        }
    }

    /// The ports of its addresses of IPv4.
    fn v4_ports(&self) -> Vec<u16> {
        match self {
            Self::Tcp(host) => host.v4_ports().collect(),
            Self::Unix(_) => Vec::new(),
        }
    }

    fn open(self, v4_ports: &BTreeSet<u16>, tls: Option<&Tls>) -> io::Result<Vec<Listener>> {
        match self {
            Self::Tcp(host) => {
                let listeners = host.listen(v4_ports)?.into_iter();
                let with_tls = |listener| Listener::Tcp(listener, tls.cloned());
                Ok(listeners.map(with_tls).collect())
            }
            Self::Unix(path) => {
                let (listener, file) = bind_socket(&path)?;
                Ok(vec![Listener::Unix(listener, file)])
            }
        }
    }
}

/// The open listeners. Sockets are removed with it.
#[derive(Debug)]
pub struct Listeners(Vec<Listener>);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener, Option<Tls>),
    Unix(UnixListener, SocketFile),
}

/// The file of a socket that is ours. Removed when dropped, unless it is another
/// one by then.
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
    /// Opens all of them, and for a name all of its addresses. Those of TCP speak TLS
    /// where there is a certificate; what goes through a Unix socket does not leave the
    /// machine.
    pub async fn open(addresses: &[Address], tls: Option<&Tls>) -> Result<Self, ListenError> {
        let mut places = Vec::with_capacity(addresses.len());
        for address in addresses {
            let place = Place::find(address).await;
            places.push(place.map_err(|why| ListenError::of(address, why))?);
        }
        // One of IPv6 must leave room for those.
        let v4_ports: BTreeSet<_> = places.iter().flat_map(Place::v4_ports).collect();
        let mut listeners = Vec::with_capacity(places.len());
        for (address, place) in addresses.iter().zip(places) {
            let opened = place.open(&v4_ports, tls);
            listeners.extend(opened.map_err(|why| ListenError::of(address, why))?);
        }
        Ok(Self(listeners))
    }

    /// Where they listen: with the port that the system chose, where it was to.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn addresses(&self) -> io::Result<Vec<Address>> {
        let address = |listener: &Listener| match listener {
            Listener::Tcp(tcp, _) => Ok(Address::Tcp(tcp.local_addr()?.to_string())),
            Listener::Unix(_, file) => Ok(Address::Unix(file.path.clone())),
        };
        self.0.iter().map(address).collect()
    }

    /// The connections that come in. None of the listeners waits for another.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Accepted>> + Send {
        stream::select_all(
            self.0
                .into_iter()
                .map(|listener| listener.incoming().boxed()),
        )
    }
}

impl Listener {
    /// Its connections. A failure to accept one (there may be no file descriptor left
    /// for it) is waited out, because it would only fail again, and told of once.
    fn incoming(self) -> impl Stream<Item = io::Result<Accepted>> + Send {
        stream::unfold((self, false), async |(listener, mut in_trouble)| {
            loop {
                match listener.accept().await {
                    Ok(connection) => return Some((Ok(connection), (listener, false))),
                    Err(error) => {
                        if !in_trouble {
                            tracing::warn!(%error, "connections cannot be accepted");
                        }
                        in_trouble = true;
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
                // Answers are small: each leaves at once.
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

/// Listens on a socket of that path. What a server that was killed left behind is
/// removed first; what somebody listens on, and what is no socket, is left alone.
fn bind_socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // Of two that start at once, the second must see the first one's socket.
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
            // Perhaps its queue is full, perhaps it is not ours to ask.
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

/// A connection that came in, not yet of any runtime.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP, where TLS may be asked of it.
    Tcp(StdTcpStream, Option<Tls>),
    /// Over a Unix socket.
    Unix(StdUnixStream),
}

impl Unregistered for Accepted {
    type Io = Socket;

    fn here(self) -> io::Result<Socket> {
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

/// A connection over either.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// What both are asked.
macro_rules! either {
    ($socket:expr, $one:ident => $asked:expr) => {
        match $socket.get_mut() {
            Self::Tcp($one) => $asked,
            Self::Unix($one) => $asked,
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
        // Both kinds do.
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
    fn addresses_are_read_as_they_are_written() {
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

    /// Otherwise an answer that does not fill a packet could wait for the peer to
    /// acknowledge the one before it, which takes 40 ms.
    #[tokio::test]
    async fn what_is_accepted_sends_without_delay() {
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
