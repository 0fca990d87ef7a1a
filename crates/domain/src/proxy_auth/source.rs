//! Finds the address of the end client in what a proxy sends.
//!
//! Each proxy on the way appends to `x-forwarded-for` the address that it was called from.
//! What the end client wrote there itself comes before that, so entries are counted from the
//! end, and only as many as there are proxies of the deployment.

use std::{
    net::{IpAddr, SocketAddr},
    str::from_utf8,
};

use crate::source::{Source, parse_address};

/// The header with the addresses.
pub const FORWARDED_FOR: &str = "x-forwarded-for";

/// The number of proxies of the deployment on the way from the end client. The last of them
/// is the one that asks. With none, no header is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrustedHops(pub u8);

impl TrustedHops {
    /// The source according to a proxy that sends the header alone: the entry that the first
    /// of the trusted proxies appended. `values` are those of the header, in their order. If
    /// there are fewer entries, or that one is no address, the source is unknown.
    pub fn forwarded<'h>(
        self,
        values: impl DoubleEndedIterator<Item = &'h [u8]>,
    ) -> Source<'static> {
        let Some(skipped) = self.0.checked_sub(1) else {
            return Source::Unknown;
        };
        known(entries(values).nth(skipped.into()).and_then(address))
    }

    /// Whether Envoy's own word suffices, so that the header is not needed.
    pub const fn is_envoy_first(self) -> bool {
        self.0 <= 1
    }

    /// The source according to Envoy, which states the address that it was called from: that
    /// is the end client's, unless other trusted proxies are in front. Then Envoy must append
    /// the address to the header as well, so that it is clear which entry the proxy in front
    /// of it appended: without its own entry at the end, the source is unknown.
    pub fn behind_envoy<'h>(
        self,
        peer: &'h str,
        values: impl DoubleEndedIterator<Item = &'h [u8]>,
    ) -> Source<'h> {
        let Some(in_front) = self.0.checked_sub(2) else {
            return Source::Text(peer);
        };
        let mut entries = entries(values);
        let Some(peer) = parse_address(peer) else {
            return Source::Unknown;
        };
        if entries.next().and_then(address) != Some(peer) {
            return Source::Unknown;
        }
        known(entries.nth(in_front.into()).and_then(address))
    }
}

fn known(address: Option<IpAddr>) -> Source<'static> {
    address.map_or(Source::Unknown, Source::Address)
}

/// The entries of a header, from the end.
fn entries<'h>(
    values: impl DoubleEndedIterator<Item = &'h [u8]>,
) -> impl Iterator<Item = &'h [u8]> {
    values
        .rev()
        .flat_map(|value| value.rsplit(|byte| *byte == b','))
}

/// The address of an entry. Some proxies add the port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = from_utf8(entry).ok()?.trim();
    let unbracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip().to_canonical());
    parse_address(unbracketed.unwrap_or(text)).or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: Source<'_>) -> String {
        let address = source.address();
        address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
    }

    #[test]
    fn entries_are_counted_from_the_end() {
        let forwarded = |hops, values: &[&'static str]| {
            text(TrustedHops(hops).forwarded(values.iter().map(|value| value.as_bytes())))
        };
        let three = ["192.0.2.1, 192.0.2.2,192.0.2.3"];
        assert_eq!(forwarded(0, &three), "unknown");
        assert_eq!(forwarded(1, &three), "192.0.2.3");
        assert_eq!(forwarded(2, &three), "192.0.2.2");
        assert_eq!(forwarded(3, &three), "192.0.2.1");
        assert_eq!(forwarded(4, &three), "unknown");
        assert_eq!(forwarded(255, &three), "unknown");
        // Several headers of that name are one, in their order.
        let split = ["192.0.2.1", "192.0.2.2, 192.0.2.3"];
        assert_eq!(forwarded(1, &split), "192.0.2.3");
        assert_eq!(forwarded(3, &split), "192.0.2.1");
        assert_eq!(forwarded(1, &[]), "unknown");
        assert_eq!(forwarded(1, &[""]), "unknown");
        assert_eq!(forwarded(1, &["192.0.2.1,"]), "unknown");
        assert_eq!(forwarded(2, &["192.0.2.1, unknown"]), "192.0.2.1");
    }

    #[test]
    fn entries_may_have_a_port() {
        for (entry, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:443", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:443", "192.0.2.1"),
            ("unknown", "unknown"),
            ("_hidden", "unknown"),
            ("192.0.2", "unknown"),
        ] {
            let forwarded = TrustedHops(1).forwarded([entry.as_bytes()].into_iter());
            assert_eq!(text(forwarded), expected, "{entry}");
        }
        let latin = [b'\xe9'];
        let forwarded = TrustedHops(1).forwarded([&latin[..]].into_iter());
        assert_eq!(text(forwarded), "unknown");
    }

    #[test]
    fn envoy_is_the_last_hop_and_has_to_append() {
        let peer = "198.51.100.1";
        let behind = |hops, value: &'static str| {
            text(TrustedHops(hops).behind_envoy(peer, [value.as_bytes()].into_iter()))
        };
        for hops in [0, 1] {
            assert_eq!(behind(hops, "192.0.2.1"), peer);
            assert!(TrustedHops(hops).is_envoy_first());
        }
        let appended = "192.0.2.1, 192.0.2.2, 198.51.100.1";
        assert_eq!(behind(2, appended), "192.0.2.2");
        assert_eq!(behind(3, appended), "192.0.2.1");
        assert_eq!(behind(4, appended), "unknown");
        // Whose the last entry is cannot be known: the client may have written all of them.
        assert_eq!(behind(2, "192.0.2.1, 192.0.2.2"), "unknown");
        // Seen under the client's address, as with SNAT; the entry before is the client's.
        assert_eq!(behind(2, "10.0.0.1, 198.51.100.1"), "10.0.0.1");
        assert_eq!(behind(2, "198.51.100.1"), "unknown");
        assert_eq!(behind(2, ""), "unknown");
    }
}
