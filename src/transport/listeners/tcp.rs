//! Listening on TCP: at every address that a name has, and on both families side by side.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::{TcpListener, TcpSocket, lookup_host};

/// Connections that may wait to be accepted, as tokio and std have it.
const BACKLOG: u32 = 1024;
/// How often a free port is looked for that is free at all addresses of a name.
const PORT_TRIES: u32 = 16;

/// A host and a port, as somebody named them, and what they stand for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// An address.
    Address(SocketAddr),
    /// The addresses of a name, at least one.
    Name {
        name: String,
        addresses: Vec<SocketAddr>,
    },
}

/// Which families a socket of IPv6 takes connections of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    /// IPv6 alone: somebody else listens for IPv4.
    Six,
    /// Whatever the system is set to: mostly both, where it listens on all addresses.
    AsTheSystem,
}

impl Host {
    /// Finds out what a text such as `localhost:50051` stands for.
    pub(super) async fn find(text: &str) -> io::Result<Self> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let mut addresses = loopbacks(text);
        for address in lookup_host(text).await? {
            // A hosts file may name one twice.
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

    /// The ports of its addresses of IPv4.
    pub(super) fn v4_ports(&self) -> impl Iterator<Item = u16> {
        let v4 = self.addresses().iter().filter(|address| address.is_ipv4());
        v4.map(SocketAddr::port)
    }

    /// Listens on all of its addresses: where the system is to choose the port, on the
    /// same one. Of a name, those that this machine does not have are left out, as where
    /// it has no IPv6; the log says so. `v4_ports` are those that are listened on by IPv4,
    /// here or for another address.
    ///
    /// # Errors
    /// Where an address cannot be listened on, or none of a name is there.
    pub(super) fn listen(&self, v4_ports: &BTreeSet<u16>) -> io::Result<Vec<TcpListener>> {
        let is_chosen = self.addresses().iter().any(|address| address.port() == 0);
        let mut tries = 1;
        loop {
            match self.try_listen(v4_ports) {
                // The port that is free for one family is not so for the other.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && is_chosen
                        && tries < PORT_TRIES =>
                {
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    fn try_listen(&self, v4_ports: &BTreeSet<u16>) -> io::Result<Vec<TcpListener>> {
        let mut listeners: Vec<TcpListener> = Vec::new();
        let mut absent = None;
        for address in self.addresses() {
            let families = if v4_ports.contains(&address.port()) {
                Families::Six
            } else {
                Families::AsTheSystem
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
                "{name} is also {address}, which this machine does not have: nobody listens there"
            ),
            (Some(_), Self::Address(_)) | (None, _) => {}
        }
        Ok(listeners)
    }
}

/// The addresses that `localhost` always stands for (RFC 6761, 6.3), even where the hosts
/// file names only one; none for another name.
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
    // Connections of a process that has just ended do not stand in the way.
    socket.set_reuseaddr(true)?;
    match (address, families) {
        (SocketAddr::V6(_), Families::Six) => {
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        }
        (SocketAddr::V6(_), Families::AsTheSystem) | (SocketAddr::V4(_), _) => {}
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
        let listeners = host.listen(&host.v4_ports().collect())?;
        listeners.iter().map(TcpListener::local_addr).collect()
    }

    #[tokio::test]
    async fn an_address_is_not_looked_up() {
        for text in ["127.0.0.1:1", "[::1]:2", "0.0.0.0:0", "[::]:0"] {
            let found = Host::find(text).await.unwrap();
            assert_eq!(found, Host::Address(text.parse().unwrap()));
        }
        assert!(Host::find("nobody.invalid:1").await.is_err());
    }

    /// Hosts files often know it by its address of IPv4 alone.
    #[tokio::test]
    async fn localhost_is_of_both_families() {
        for text in ["localhost:7", "LocalHost:7"] {
            let found = Host::find(text).await.unwrap();
            for address in ["127.0.0.1:7", "[::1]:7"] {
                let address = address.parse().unwrap();
                let times = found.addresses().iter().filter(|found| **found == address);
                assert_eq!(times.count(), 1, "{found:?}");
            }
        }
        assert!(loopbacks("auth.localhost.test:7").is_empty());
    }

    /// Every machine has these of IPv4.
    #[tokio::test]
    async fn all_addresses_of_a_name_have_one_port() {
        let open = listening(&name(&["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"])).unwrap();
        assert_eq!(open.len(), 3);
        assert_ne!(open[0].port(), 0);
        assert!(open.iter().all(|address| address.port() == open[0].port()));
    }

    /// As where there is no IPv6. These are nobody's, by RFC 5737.
    #[tokio::test]
    async fn what_the_machine_does_not_have_is_left_out_of_a_name() {
        for addresses in [
            ["203.0.113.1:0", "127.0.0.1:0"],
            ["127.0.0.1:0", "203.0.113.1:0"],
        ] {
            let open = listening(&name(&addresses)).unwrap();
            assert_eq!(open.len(), 1);
            assert!(open[0].ip().is_loopback());
        }
        for nobodys in [
            name(&["203.0.113.1:0", "203.0.113.2:0"]),
            Host::Address("203.0.113.1:0".parse().unwrap()),
        ] {
            let refused = listening(&nobodys).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
        }
    }

    /// Whoever dials the name would reach another program at times.
    #[tokio::test]
    async fn a_port_that_somebody_has_is_not_left_out_of_a_name() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let [free, taken] = ["127.0.0.2", "127.0.0.1"].map(|host| format!("{host}:{port}"));
        let refused = listening(&name(&[&free, &taken])).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
