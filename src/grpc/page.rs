//! Page tokens: the position where a page begins, bound to its list.
//!
//! A token is opaque but not secret: access is checked again for each page. Its fingerprint
//! rejects tokens of other lists, edited tokens, and texts that never were tokens.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::DateTime;
use uuid::Uuid;

use crate::domain::Timestamp;

/// The context of the fingerprint (BLAKE3's derive-key mode).
const CONTEXT: &str = "auth.hitkeep.com 2026-11-23 page token v1";
const CURSOR_LENGTH: usize = 24;
const FINGERPRINT_LENGTH: usize = 8;

/// Formats the token of the page after that row. `list` identifies the list: everything
/// that selects its rows, but not the page size.
pub(super) fn format(list: &str, time: Timestamp, id: Uuid) -> String {
    let mut bytes = Vec::with_capacity(CURSOR_LENGTH + FINGERPRINT_LENGTH);
    bytes.extend(time.timestamp_micros().to_be_bytes());
    bytes.extend(id.as_bytes());
    let fingerprint = fingerprint(list, &bytes);
    bytes.extend(fingerprint);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Parses a token; None if it is not one of this list.
pub(super) fn parse(list: &str, text: &str) -> Option<(Timestamp, Uuid)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (cursor, given) = bytes.split_at_checked(CURSOR_LENGTH)?;
    if given != fingerprint(list, cursor) {
        return None;
    }
    let (micros, id) = cursor.split_first_chunk::<8>()?;
    let time = DateTime::from_timestamp_micros(i64::from_be_bytes(*micros))?;
    Some((time, Uuid::from_slice(id).ok()?))
}

/// Whether a text has the form of a token, for any list.
pub(super) fn is_well_formed(text: &str) -> bool {
    let bytes = URL_SAFE_NO_PAD.decode(text);
    bytes.is_ok_and(|bytes| bytes.len() == CURSOR_LENGTH + FINGERPRINT_LENGTH)
}

/// Truncates the rows to the page size, and returns the token of the next page, which is
/// empty if there is none. The query must have a limit of one row more, which shows whether
/// there is another page.
pub(super) fn truncate<T>(
    rows: &mut Vec<T>,
    size: usize,
    token: impl FnOnce(&T) -> String,
) -> String {
    let is_more = rows.len() > size;
    rows.truncate(size);
    match rows.last() {
        Some(last) if is_more => token(last),
        _ => String::new(),
    }
}

fn fingerprint(list: &str, cursor: &[u8]) -> [u8; FINGERPRINT_LENGTH] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(cursor);
    hasher.update(list.as_bytes());
    let mut fingerprint = [0; FINGERPRINT_LENGTH];
    hasher.finalize_xof().fill(&mut fingerprint);
    fingerprint
}
