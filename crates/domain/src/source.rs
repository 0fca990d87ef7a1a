//! The addresses from which an API client's tokens work.
//!
//! An address is always the one that the caller states, never one that the end client can
//! choose. IPv4 addresses in IPv6 form (`::ffff:192.0.2.1`) are IPv4 addresses here.

use std::{fmt, net::IpAddr, str::FromStr};

/// The most ranges of one API client.
pub const MAX_RANGES: usize = 32;
/// The length of the prefix `::ffff:0:0/96`, under which IPv6 has the IPv4 addresses.
const MAPPED_PREFIX: u8 = 96;

/// A range of addresses in its one canonical form: no bit beyond the prefix is set, and no
/// IPv4 range is in IPv6 form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

/// Why a text is not a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCidr {
    /// It is not an address and the length of a prefix.
    #[error("must be a range of addresses, such as 192.0.2.0/24 or 2001:db8::/32")]
    Malformed,
    /// It is an address alone.
    #[error("needs a prefix length: {0} is this address alone")]
    NoPrefix(Cidr),
    /// The prefix is longer than the address.
    #[error("has a prefix length of more than {0} bits")]
    PrefixTooLong(u8),
    /// A bit beyond the prefix is set, so either the address or the length may be wrong.
    #[error("has bits set beyond its prefix: the range is {0}")]
    HostBits(Cidr),
    /// It is an IPv4 range in IPv6 form.
    #[error("is a range of IPv4 in the form of IPv6: write {0}")]
    Mapped(Cidr),
}

impl Cidr {
    /// The range that contains an address, with that prefix. A prefix that is too long stands
    /// for the address alone.
    fn around(address: IpAddr, prefix: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                // Mapped addresses arrive with the length in IPv6.
                let prefix = if address.is_ipv6() {
                    prefix.saturating_sub(MAPPED_PREFIX)
                } else {
                    prefix
                };
                let prefix = prefix.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Self {
                    first: IpAddr::V4((v4.to_bits() & mask).into()),
                    prefix,
                }
            }
            IpAddr::V6(v6) => Self::of_v6(v6.to_bits(), prefix),
        }
    }

    fn of_v6(bits: u128, prefix: u8) -> Self {
        let prefix = prefix.min(128);
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        Self {
            first: IpAddr::V6((bits & mask).into()),
            prefix,
        }
    }

    /// The range, if it was written without bits beyond its prefix.
    fn without_host_bits(self, written: IpAddr) -> Result<Self, BadCidr> {
        if self.first == written {
            Ok(self)
        } else {
            Err(BadCidr::HostBits(self))
        }
    }

    /// Whether an address is in the range. No range of IPv6 contains an IPv4 address, also not
    /// `::/0`.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4()
            && Self::around(address, self.prefix).first == self.first
    }

    /// Whether all addresses of `other` are in the range.
    fn contains_range(self, other: Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.first)
    }

    /// The two halves of the range; `None` for a single address.
    fn halves(self) -> Option<[Self; 2]> {
        let prefix = self.prefix + 1;
        let second = match self.first {
            IpAddr::V4(v4) => {
                let bit = 1_u32.checked_shl(32_u32.checked_sub(prefix.into())?)?;
                IpAddr::V4((v4.to_bits() | bit).into())
            }
            IpAddr::V6(v6) => {
                let bit = 1_u128.checked_shl(128_u32.checked_sub(prefix.into())?)?;
                IpAddr::V6((v6.to_bits() | bit).into())
            }
        };
        let half = |first| Self { first, prefix };
        Some([half(self.first), half(second)])
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let Some((address, prefix)) = text.split_once('/') else {
            let address: IpAddr = text.parse().or(Err(BadCidr::Malformed))?;
            return Err(BadCidr::NoPrefix(Self::around(address, u8::MAX)));
        };
        let address: IpAddr = address.parse().or(Err(BadCidr::Malformed))?;
        let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let has_zeros = prefix.len() > 1 && prefix.starts_with('0');
        if prefix.is_empty() || !is_number || has_zeros {
            return Err(BadCidr::Malformed);
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= bits);
        let prefix: u8 = prefix.ok_or(BadCidr::PrefixTooLong(bits))?;
        if let IpAddr::V6(v6) = address {
            if v6.to_ipv4_mapped().is_some() && prefix >= MAPPED_PREFIX {
                return Err(BadCidr::Mapped(Self::around(address, prefix)));
            }
            let range = Self::of_v6(v6.to_bits(), prefix);
            return range.without_host_bits(address);
        }
        Self::around(address, prefix).without_host_bits(address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The addresses from which tokens work: those in one of at most 32 ranges, or all where
/// there is no range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedSources(
    /// In order, each once.
    Box<[Cidr]>,
);

/// Why ranges are not those of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSources {
    /// There are more than [`MAX_RANGES`].
    #[error("must have at most {MAX_RANGES} ranges")]
    TooMany,
    /// A range occurs twice.
    #[error("has {0} twice")]
    Twice(Cidr),
}

impl AllowedSources {
    /// The addresses in any of these ranges, in any order; all addresses for none.
    pub fn new(mut ranges: Vec<Cidr>) -> Result<Self, BadSources> {
        if ranges.len() > MAX_RANGES {
            return Err(BadSources::TooMany);
        }
        ranges.sort_unstable();
        let twice = ranges.windows(2).find(|pair| pair[0] == pair[1]);
        if let Some(pair) = twice {
            return Err(BadSources::Twice(pair[0]));
        }
        Ok(Self(ranges.into()))
    }

    /// Whether tokens work from everywhere.
    pub const fn is_everywhere(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Cidr> {
        self.0.iter().copied()
    }

    /// Whether a token works for a request from `source`.
    pub fn allow(&self, source: Source<'_>) -> bool {
        self.is_everywhere()
            || source
                .address()
                .is_some_and(|address| self.iter().any(|range| range.contains(address)))
    }

    /// Whether these let in every request that `other` lets in, and maybe more. Ranges of all
    /// addresses are less than no ranges, which also let in a request whose address is unknown.
    pub fn cover(&self, other: &Self) -> bool {
        self.is_everywhere()
            || !other.is_everywhere() && other.iter().all(|range| self.cover_range(range))
    }

    /// Whether a range is within one of these, or its halves are within several.
    fn cover_range(&self, range: Cidr) -> bool {
        if self.iter().any(|own| own.contains_range(range)) {
            return true;
        }
        // Otherwise parts of it could be covered, but not all.
        let has_parts = self.iter().any(|own| range.contains_range(own));
        has_parts
            && range
                .halves()
                .is_some_and(|halves| halves.into_iter().all(|half| self.cover_range(half)))
    }
}

impl fmt::Display for AllowedSources {
    /// The ranges with commas between them; nothing for everywhere.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

/// Where a request comes from, as its caller states it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source<'r> {
    /// The caller states no address.
    #[default]
    Unknown,
    /// The address of the end client.
    Address(IpAddr),
    /// What should be the address of the end client. It is parsed only where an answer depends
    /// on it; a text that is no address counts as none.
    Text(&'r str),
}

impl Source<'_> {
    /// The address, with an IPv4 address in its own form; `None` if it is unknown.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Unknown => None,
            Self::Address(address) => Some(address.to_canonical()),
            Self::Text(text) => parse_address(text),
        }
    }
}

/// Parses an address; `None` if the text is none.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn sources(ranges: &[&str]) -> AllowedSources {
        AllowedSources::new(ranges.iter().map(|text| range(text)).collect()).unwrap()
    }

    #[test]
    fn a_range_has_one_canonical_form() {
        for (written, canonical) in [
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1/32", "192.0.2.1/32"),
            ("::/0", "::/0"),
            ("2001:DB8:0:0::/32", "2001:db8::/32"),
            ("2001:db8::1/128", "2001:db8::1/128"),
        ] {
            assert_eq!(range(written).to_string(), canonical);
            assert_eq!(format!("{:?}", range(written)), canonical);
        }
        let problem = |text: &str| text.parse::<Cidr>().unwrap_err().to_string();
        for (text, named) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.0.0.1/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::ffff:10.0.0.0/64", "::/64"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:10.1.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("10.0.0.0/33", "32 bits"),
            ("10.0.0.0/256", "32 bits"),
            ("::/129", "128 bits"),
            ("", "192.0.2.0/24"),
            ("/8", "192.0.2.0/24"),
            ("10.0.0.0/", "192.0.2.0/24"),
            ("10.0.0.0/+8", "192.0.2.0/24"),
            ("10.0.0.0/08", "192.0.2.0/24"),
            ("10.0.0.0/8/8", "192.0.2.0/24"),
            ("10.0.0/8", "192.0.2.0/24"),
            ("010.0.0.0/8", "192.0.2.0/24"),
            (" 10.0.0.0/8", "192.0.2.0/24"),
            ("fe80::1%eth0/64", "192.0.2.0/24"),
            ("example.org/8", "192.0.2.0/24"),
        ] {
            assert!(problem(text).contains(named), "{text}: {}", problem(text));
        }
    }

    #[test]
    fn an_address_is_in_ranges_of_its_own_family() {
        for (allowed, source, expected) in [
            (&["10.0.0.0/8"][..], "10.255.255.255", true),
            (&["10.0.0.0/8"], "11.0.0.0", false),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", true),
            (&["192.0.2.1/32"], "192.0.2.1", true),
            (&["192.0.2.1/32"], "192.0.2.2", false),
            (&["::/0"], "192.0.2.1", false),
            (&["::/0"], "::ffff:192.0.2.1", false),
            (&["0.0.0.0/0"], "2001:db8::1", false),
            (&["2001:db8::/32"], "2001:db8:ffff::1", true),
            (&["2001:db8::/32"], "2001:db9::1", false),
            (&["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1", true),
            (&["0.0.0.0/0", "::/0"], "", false),
            (&["0.0.0.0/0", "::/0"], "unknown", false),
            (&["10.0.0.0/8"], "10.0.0.1:443", false),
            (&[], "", true),
            (&[], "unknown", true),
        ] {
            let allowed = sources(allowed);
            assert_eq!(allowed.allow(Source::Text(source)), expected, "{source}");
            if let Ok(address) = source.parse() {
                assert_eq!(allowed.allow(Source::Address(address)), expected);
            }
        }
        assert!(sources(&[]).allow(Source::Unknown));
        assert!(!sources(&["0.0.0.0/0", "::/0"]).allow(Source::Unknown));
    }

    #[test]
    fn ranges_are_ordered_and_limited() {
        let sorted = sources(&["2001:db8::/32", "10.0.0.0/16", "10.0.0.0/8"]);
        assert_eq!(sorted.to_string(), "10.0.0.0/8, 10.0.0.0/16, 2001:db8::/32");
        assert_eq!(sources(&[]).to_string(), "");
        let twice = vec![range("10.0.0.0/8"), range("::/0"), range("10.0.0.0/8")];
        let refused = BadSources::Twice(range("10.0.0.0/8"));
        assert_eq!(AllowedSources::new(twice), Err(refused));
        let many = |count: u8| -> Vec<_> {
            let each = (0..count).map(|n| range(&format!("10.0.0.{n}/32")));
            each.collect()
        };
        assert_eq!(AllowedSources::new(many(32)).unwrap().iter().len(), 32);
        assert_eq!(AllowedSources::new(many(33)), Err(BadSources::TooMany));
    }

    #[test]
    fn coverage_is_exact() {
        for (wide, narrow, expected) in [
            (&[][..], &["10.0.0.0/8"][..], true),
            (&["10.0.0.0/8"], &[], false),
            (&["10.0.0.0/8"], &["10.0.0.0/8"], true),
            (&["10.0.0.0/8"], &["10.1.0.0/16", "10.2.0.0/16"], true),
            (&["10.1.0.0/16"], &["10.0.0.0/8"], false),
            (&["10.0.0.0/9", "10.128.0.0/9"], &["10.0.0.0/8"], true),
            (&["10.0.0.0/9", "10.128.0.0/10"], &["10.0.0.0/8"], false),
            (&["10.0.0.0/8"], &["10.0.0.0/8", "11.0.0.0/8"], false),
            (&["0.0.0.0/0"], &["::/0"], false),
            (&["0.0.0.0/0", "::/0"], &[], false),
            (&["0.0.0.0/1", "128.0.0.0/1"], &["0.0.0.0/0"], true),
            (&["0.0.0.0/0"], &[], false),
            (&["192.0.2.0/32", "192.0.2.1/32"], &["192.0.2.0/31"], true),
            (&["::/1", "8000::/1"], &["::/0"], true),
            (&["::/1"], &["::/0"], false),
            (&["8000::/1"], &["::/0"], false),
        ] {
            let covers = sources(wide).cover(&sources(narrow));
            assert_eq!(covers, expected, "{wide:?} {narrow:?}");
        }
    }

    /// Ranges of the last four bits, so that all addresses can be tried.
    fn small_ranges() -> impl Strategy<Value = AllowedSources> {
        let range = (0_u8..16, 28_u8..=32)
            .prop_map(|(last, prefix)| Cidr::around(IpAddr::from([192, 0, 2, last]), prefix));
        proptest::collection::btree_set(range, 1..6)
            .prop_map(|ranges| AllowedSources::new(ranges.into_iter().collect()).unwrap())
    }

    proptest! {
        #[test]
        fn formatting_and_parsing_round_trip(bits: u128, prefix in 0_u8..=128) {
            let v6 = Cidr::of_v6(bits, prefix);
            if let IpAddr::V6(first) = v6.first
                && (first.to_ipv4_mapped().is_none() || prefix < MAPPED_PREFIX)
            {
                prop_assert_eq!(v6.to_string().parse(), Ok(v6));
            }
            let [.., a, b, c, d] = bits.to_be_bytes();
            let v4 = Cidr::around(IpAddr::from([a, b, c, d]), prefix);
            prop_assert_eq!(v4.to_string().parse(), Ok(v4));
        }

        #[test]
        fn coverage_agrees_with_every_address(wide in small_ranges(), narrow in small_ranges()) {
            let allows = |sources: &AllowedSources, last| {
                sources.allow(Source::Address(IpAddr::from([192, 0, 2, last])))
            };
            let covered = (0..16).all(|last| !allows(&narrow, last) || allows(&wide, last));
            prop_assert_eq!(wide.cover(&narrow), covered);
        }
    }
}
