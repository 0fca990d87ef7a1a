//! Listening on TCP: at every address of a name, and on both families side by side.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::{TcpListener, TcpSocket, lookup_host};

/// The length of the accept queue, the same as in tokio and std.
const BACKLOG: u32 = 1024;
/// How many times port 0 is retried until the chosen port is free at all addresses of a
/// name.
const PORT_ATTEMPTS: u32 = 16;

/// A host and a port, as configured, with the resolved addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// An IP address.
    Address(SocketAddr),
    /// A name and its addresses, at least one.
    Name {
        name: String,
        addresses: Vec<SocketAddr>,
    },
}

/// The address families of an IPv6 socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    /// IPv6 only: another listener has the port for IPv4.
    V6Only,
    /// The system's default. For the unspecified address, that is usually both families.
    SystemDefault,
}

impl Host {
    /// Resolves a text such as `localhost:50051`.
    pub(super) async fn resolve(text: &str) -> io::Result<Self> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let mut addresses = loopbacks(text);
        for address in lookup_host(text).await? {
            // A hosts file may list an address twice.
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ));
        }
        let name = text.to_owned();
        Ok(Self::Name { name, addresses })
    }

    fn addresses(&self) -> &[SocketAddr] {
        match self {
            Self::Address(address) => std::slice::from_ref(address),
            Self::Name { addresses, .. } => addresses,
        }
    }

    pub(super) fn v4_ports(&self) -> impl Iterator<Item = u16> {
        let v4 = self.addresses().iter().filter(|address| address.is_ipv4());
        v4.map(SocketAddr::port)
    }

    /// Listens on all of its addresses; port 0 stands for the same port on all of them.
    /// Addresses of a name that this machine does not have (it may lack IPv6) are skipped
    /// with a log line. `v4_ports` are the IPv4 ports of all configured addresses.
    ///
    /// # Errors
    /// If an address cannot be listened on, or the machine has none of a name's addresses.
    pub(super) fn listen(&self, v4_ports: &BTreeSet<u16>) -> io::Result<Vec<TcpListener>> {
        self.listen_by(bind, v4_ports)
    }

    /// The same, with what opens a single address.
    fn listen_by(
        &self,
        bind: impl Fn(SocketAddr, Families) -> io::Result<TcpListener>,
        v4_ports: &BTreeSet<u16>,
    ) -> io::Result<Vec<TcpListener>> {
        let is_chosen = self.addresses().iter().any(|address| address.port() == 0);
        let mut attempts = 1;
        loop {
            match self.try_listen(&bind, v4_ports) {
                // A port that is free in one family may be in use in the other.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && is_chosen
                        && attempts < PORT_ATTEMPTS =>
                {
                    attempts += 1;
                }
                done => return done,
            }
        }
    }

    fn try_listen(
        &self,
        bind: impl Fn(SocketAddr, Families) -> io::Result<TcpListener>,
        v4_ports: &BTreeSet<u16>,
    ) -> io::Result<Vec<TcpListener>> {
        let mut listeners: Vec<TcpListener> = Vec::new();
        let mut absent = None;
        for address in self.addresses() {
            let families = if v4_ports.contains(&address.port()) {
                Families::V6Only
            } else {
                Families::SystemDefault
            };
            let mut address = *address;
            if let (0, Some(first)) = (address.port(), listeners.first()) {
                address.set_port(first.local_addr()?.port());
            }
            match (bind(address, families), self) {
                (Ok(listener), _) => listeners.push(listener),
                (Err(error), Self::Name { .. }) if is_absent(&error) => {
                    absent = Some((address, error));
                }
                (Err(error), _) => return Err(error),
            }
        }
        match (absent, self) {
            (Some((_, error)), _) if listeners.is_empty() => return Err(error),
            (Some((address, error)), Self::Name { name, .. }) => tracing::info!(
                %address, %error,
                "{name} also resolves to {address}, which this machine does not have: not listening there"
            ),
            (Some(_), Self::Address(_)) | (None, _) => {}
        }
        Ok(listeners)
    }
}

/// The addresses that `localhost` always has (RFC 6761, section 6.3), even if the hosts
/// file lists only one; none for another name.
fn loopbacks(text: &str) -> Vec<SocketAddr> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Vec::new();
    };
    match port.parse::<u16>() {
        Ok(port) if host.eq_ignore_ascii_case("localhost") => vec![
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ],
        _ => Vec::new(),
    }
}

/// Whether the machine lacks the address, or its whole family.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn bind(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Connections of a previous process in TIME_WAIT must not block the port.
    socket.set_reuseaddr(true)?;
    match (address, families) {
        (SocketAddr::V6(_), Families::V6Only) => {
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        }
        (SocketAddr::V6(_), Families::SystemDefault) | (SocketAddr::V4(_), _) => {}
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(addresses: &[&str]) -> Host {
        let read = |address: &&str| address.parse().unwrap();
        Host::Name {
            name: "auth.test:0".to_owned(),
            addresses: addresses.iter().map(read).collect(),
        }
    }

    fn listening(host: &Host) -> io::Result<Vec<SocketAddr>> {
        listening_by(bind, host)
    }

    fn listening_by(
        bind: impl Fn(SocketAddr, Families) -> io::Result<TcpListener>,
        host: &Host,
    ) -> io::Result<Vec<SocketAddr>> {
        let listeners = host.listen_by(bind, &host.v4_ports().collect())?;
        listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Opens the addresses of a machine that has none but loopback ones. What a system says of
    /// others depends on it: Linux opens any address if `net.ipv4.ip_nonlocal_bind` is set.
    fn bind_loopback(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
        if address.ip().is_loopback() {
            bind(address, families)
        } else {
            Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
        }
    }

    #[tokio::test]
    async fn an_address_is_not_resolved() {
        for text in ["127.0.0.1:1", "[::1]:2", "0.0.0.0:0", "[::]:0"] {
            let found = Host::resolve(text).await.unwrap();
            assert_eq!(found, Host::Address(text.parse().unwrap()));
        }
        assert!(Host::resolve("nobody.invalid:1").await.is_err());
    }

    /// Hosts files often list only the IPv4 address of localhost.
    #[tokio::test]
    async fn localhost_has_both_families() {
        for text in ["localhost:7", "LocalHost:7"] {
            let found = Host::resolve(text).await.unwrap();
            for address in ["127.0.0.1:7", "[::1]:7"] {
                let address = address.parse().unwrap();
                let times = found.addresses().iter().filter(|found| **found == address);
                assert_eq!(times.count(), 1, "{found:?}");
            }
        }
        assert!(loopbacks("auth.localhost.test:7").is_empty());
    }

    /// Every machine has these IPv4 addresses.
    #[tokio::test]
    async fn all_addresses_of_a_name_share_a_port() {
        let open = listening(&name(&["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"])).unwrap();
        assert_eq!(open.len(), 3);
        assert_ne!(open[0].port(), 0);
        assert!(open.iter().all(|address| address.port() == open[0].port()));
    }

    /// As on a machine without IPv6. RFC 5737 reserves these addresses for documentation.
    #[tokio::test]
    async fn absent_addresses_of_a_name_are_skipped() {
        for addresses in [
            ["203.0.113.1:0", "127.0.0.1:0"],
            ["127.0.0.1:0", "203.0.113.1:0"],
        ] {
            let open = listening_by(bind_loopback, &name(&addresses)).unwrap();
            assert_eq!(open.len(), 1);
            assert!(open[0].ip().is_loopback());
        }
        for absent in [
            name(&["203.0.113.1:0", "203.0.113.2:0"]),
            Host::Address("203.0.113.1:0".parse().unwrap()),
        ] {
            let refused = listening_by(bind_loopback, &absent).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
        }
    }

    /// Otherwise clients that dial the name would sometimes reach the other program.
    #[tokio::test]
    async fn a_port_in_use_is_not_skipped() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let [free, taken] = ["127.0.0.2", "127.0.0.1"].map(|host| format!("{host}:{port}"));
        let refused = listening(&name(&[&free, &taken])).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
