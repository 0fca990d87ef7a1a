//! Where requests come from, and which of these places an API client lets in: listed by hand,
//! so that the ranges are not computed with twice in the same way.

use hitkeep_auth_domain::{
    client::ApiClient,
    source::{AllowedSources, Source},
};

/// The places: first the one that is unknown.
pub(crate) const PLACES: [Source<'static>; 5] = [
    Source::Unknown,
    Source::Text("192.0.2.1"),
    Source::Text("192.0.2.200"),
    Source::Text("198.51.100.1"),
    Source::Text("2001:db8::1"),
];

/// The ranges that clients have, and the places that are in them.
const RANGES: [(&[&str], &[usize]); 7] = [
    (&[], &[0, 1, 2, 3, 4]),
    (&["192.0.2.0/25"], &[1]),
    (&["192.0.2.0/24"], &[1, 2]),
    (&["192.0.2.0/25", "192.0.2.128/25"], &[1, 2]),
    (&["198.51.100.0/24", "2001:db8::/32"], &[3, 4]),
    (&["192.0.2.0/25", "2001:db8::/48"], &[1, 4]),
    (&["0.0.0.0/0", "::/0"], &[1, 2, 3, 4]),
];

/// How many sets of ranges there are; the first stands for everywhere.
pub(crate) const SETS: usize = RANGES.len();

/// One of the sets.
pub(crate) fn ranges(number: usize) -> AllowedSources {
    let (ranges, _) = RANGES[number];
    let ranges = ranges.iter().map(|range| range.parse().expect("a range"));
    AllowedSources::new(ranges.collect()).expect("few ranges, none twice")
}

/// The places from which a client's tokens work.
pub(crate) fn lets_in(client: &ApiClient) -> &'static [usize] {
    let is_its = |number: &usize| ranges(*number) == client.sources;
    let number = (0..SETS)
        .find(is_its)
        .expect("a client has one of the sets");
    RANGES[number].1
}

/// Whether tokens work somewhere where they did not.
pub(crate) fn is_elsewhere(before: &ApiClient, after: &ApiClient) -> bool {
    let before = lets_in(before);
    lets_in(after).iter().any(|place| !before.contains(place))
}
