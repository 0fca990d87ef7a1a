//! Whatever is read of Envoy's question by hand, prost reads it too, and the same.

use std::collections::BTreeMap;

use hitkeep_auth::{
    fastpath::check::CheckFields,
    pb::envoy::service::auth::v3::CheckRequest,
    proxy_auth::{
        credential::{Credential, Credentials},
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
    let http = attributes.request.and_then(|request| request.http);
    let path = http.as_ref().map(|http| &*http.path);
    assert_eq!(read.target, path);
    let http = http.unwrap_or_default();
    let mut seen = Credentials::default();
    let mut has_reserved = false;
    for (name, value) in &http.headers {
        seen.see(name.as_bytes(), value.as_bytes());
        has_reserved |= is_reserved(name.as_bytes());
    }
    for header in http.header_map.iter().flat_map(|all| &all.headers) {
        let value = if header.raw_value.is_empty() {
            header.value.as_bytes()
        } else {
            &header.raw_value
        };
        seen.see(header.key.as_bytes(), value);
        has_reserved |= is_reserved(header.key.as_bytes());
    }
    // Several are left to the usual way.
    let credential = read.credentials.credential();
    assert!(credential == Credential::Several || credential == seen.credential());
    assert_eq!(read.has_reserved, has_reserved);
    true
}
