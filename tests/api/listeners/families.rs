//! Both families of addresses, side by side. Where a machine has no IPv6, that is said,
//! and asserted instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use hitkeep_auth::transport::listeners::{Address, ListenError, Listeners};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};

use super::{Listening, open, through};
use crate::fixtures::introspect;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Whether this machine has that address.
fn has(address: IpAddr) -> bool {
    TcpListener::bind((address, 0)).is_ok()
}

fn has_v6() -> bool {
    let has = has(V6);
    #[expect(clippy::print_stderr, reason = "whoever reads the result should know")]
    if !has {
        eprintln!("this machine has no IPv6: what is asserted is that it is missed");
    }
    has
}

fn of_tcp(address: &Address) -> SocketAddr {
    let Address::Tcp(address) = address else {
        panic!("{address} is not of TCP");
    };
    address.parse().unwrap()
}

/// A port that is free at every address. Another program may take it before the test does.
fn free_port() -> u16 {
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    taken.local_addr().unwrap().port()
}

/// Sees that the services are there.
async fn is_served(server: &Listening, address: SocketAddr) {
    let socket = TcpStream::connect(address).await;
    let socket = socket.unwrap_or_else(|error| panic!("{address}: {error}"));
    let channel = through(async move { Ok(TokioIo::new(socket)) }).await;
    let caller = server.caller(channel.unwrap());
    let answer = caller.introspect(introspect("x")).await;
    assert!(!answer.unwrap().active);
}

#[tokio::test]
async fn both_families_may_have_one_port() {
    for [v4, v6] in [["0.0.0.0", "::"], ["127.0.0.1", "::"], ["0.0.0.0", "::1"]] {
        let is_there = has(v6.parse().unwrap());
        let v6 = format!("[{v6}]");
        // The order makes no difference.
        for order in [[v4, &v6], [&v6, v4]] {
            let mut tries = 0;
            let (port, opened) = loop {
                let port = free_port();
                let addresses = order.map(|host| format!("{host}:{port}"));
                let addresses = addresses.map(|text| text.parse::<Address>().unwrap());
                match Listeners::open(&addresses, None).await {
                    Err(ListenError::InUse(_)) if tries < 10 => tries += 1,
                    opened => break (port, opened),
                }
            };
            if !is_there {
                // It was asked for by its number.
                let refused = opened.unwrap_err();
                assert!(
                    matches!(refused, ListenError::Refused { .. }),
                    "{refused:?}"
                );
                continue;
            }
            let opened = opened.unwrap_or_else(|error| panic!("{order:?}: {error}"));
            let addresses = opened.addresses().unwrap();
            assert_eq!(addresses.len(), 2);
            for address in &addresses {
                assert_eq!(of_tcp(address).port(), port);
            }
        }
    }
}

#[tokio::test]
async fn both_families_are_served() {
    let mut hosts = vec!["0.0.0.0:0"];
    if has_v6() {
        hosts.push("[::]:0");
    }
    let server = Listening::on(&hosts, None).await;
    for (address, loopback) in server.addresses.iter().zip([V4, V6]) {
        is_served(&server, (loopback, of_tcp(address).port()).into()).await;
    }
}

/// Those of both families, as far as this machine has them, and whatever else it takes
/// the name for.
#[tokio::test]
async fn every_address_of_a_name_is_served_by_one_port() {
    let named = lookup_host("localhost:0").await;
    let named = named.expect("the machine knows itself");
    let mut expected: Vec<IpAddr> = named.map(|address| address.ip()).collect();
    expected.extend([V4, V6]);
    expected.retain(|address| has(*address));
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(expected.contains(&V6), has_v6());
    let server = Listening::on(&["localhost:0"], None).await;
    let addresses: Vec<_> = server.addresses.iter().map(of_tcp).collect();
    let mut found: Vec<_> = addresses.iter().map(SocketAddr::ip).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    for address in addresses {
        assert_eq!(address.port(), of_tcp(&server.addresses[0]).port());
        is_served(&server, address).await;
    }
}

/// As it was before others could be named beside it: it depends on the system.
#[tokio::test]
async fn all_addresses_of_ipv6_alone_take_those_of_ipv4_where_the_system_does() {
    let only = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only");
    let takes_both = only.is_ok_and(|only| only.trim() == "0") && has_v6();
    if !takes_both {
        return;
    }
    let server = Listening::on(&["[::]:0"], None).await;
    let port = of_tcp(&server.addresses[0]).port();
    for loopback in [V4, V6] {
        is_served(&server, (loopback, port).into()).await;
    }
}

#[tokio::test]
async fn the_same_address_twice_is_refused() {
    let one = open("127.0.0.1:0").await.unwrap();
    let taken = one.addresses().unwrap()[0].to_string();
    let again = open(&taken).await.unwrap_err();
    assert!(matches!(again, ListenError::InUse(_)), "{again:?}");
    // Neither is a name left with a part of its addresses.
    let (_, port) = taken.rsplit_once(':').unwrap();
    let named = open(&format!("localhost:{port}")).await.unwrap_err();
    assert!(matches!(named, ListenError::InUse(_)), "{named:?}");
}
