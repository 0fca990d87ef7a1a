//! Whatever is read of Envoy's question by hand, prost reads it too, and the same.

use std::collections::BTreeMap;

use hitkeep_auth::{
    fastpath::check::CheckFields,
    pb::envoy::{config::core::v3::address::Address, service::auth::v3::CheckRequest},
    proxy_auth::{
        credential::{Credential, Credentials},
        source::FORWARDED_FOR,
        verdict::is_reserved,
    },
};
use prost::Message;

/// Panics where the property does not hold. Gives whether the message was read by
/// hand.
pub fn hold(message: &[u8]) -> bool {
    let Some(read) = CheckFields::parse(message) else {
        return false;
    };
    let decoded = CheckRequest::decode(message).expect("what is read by hand is a message");
    let attributes = decoded.attributes.unwrap_or_default();
    // Of two entries with one name, the last one counts.
    let settings: BTreeMap<_, _> = read.settings().iter().copied().collect();
    let expected = attributes.context_extensions.iter();
    assert!(expected.map(|(n, v)| (&**n, &**v)).eq(settings));
    let source = attributes.source.and_then(|peer| peer.address?.address);
    let peer = match source {
        Some(Address::SocketAddress(socket)) => socket.address,
        Some(Address::Pipe(_)) | None => String::new(),
    };
    assert_eq!(read.peer, peer);
    let http = attributes.request.and_then(|request| request.http);
    let path = http.as_ref().map(|http| &*http.path);
    assert_eq!(read.target, path);
    let http = http.unwrap_or_default();
    let mut seen = Credentials::default();
    let mut has_reserved = false;
    let mut forwarded = Vec::new();
    let mut see_forwarded = |name: &str, value: &[u8]| {
        if name.eq_ignore_ascii_case(FORWARDED_FOR) {
            forwarded.push(value.to_vec());
        }
    };
    for (name, value) in &http.headers {
        seen.see(name.as_bytes(), value.as_bytes());
        has_reserved |= is_reserved(name.as_bytes());
        see_forwarded(name, value.as_bytes());
    }
    for header in http.header_map.iter().flat_map(|all| &all.headers) {
        let value = if header.raw_value.is_empty() {
            header.value.as_bytes()
        } else {
            &header.raw_value
        };
        seen.see(header.key.as_bytes(), value);
        has_reserved |= is_reserved(header.key.as_bytes());
        see_forwarded(&header.key, value);
    }
    if !read.has_forwarded_twice {
        let read = read.forwarded_for.map(<[u8]>::to_vec);
        assert_eq!(Vec::from_iter(read), forwarded);
    }
    // Several are left to the slow path.
    let credential = read.credentials.credential();
    assert!(credential == Credential::Several || credential == seen.credential());
    assert_eq!(read.has_reserved, has_reserved);
    true
}
