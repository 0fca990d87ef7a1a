//! Page tokens: where a page begins, bound to the list that it is a page of.
//!
//! A token is opaque, not secret: what an actor may see is asked again for each
//! page. The fingerprint in it refuses a token of another list, an edited one,
//! and anything that never was one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::DateTime;
use uuid::Uuid;

use crate::domain::Timestamp;

/// What the fingerprint is for (BLAKE3's derive-key mode).
const CONTEXT: &str = "auth.hitkeep.com 2026-11-23 page token v1";
const CURSOR_LENGTH: usize = 24;
const FINGERPRINT_LENGTH: usize = 8;

/// Writes the token of a page that begins after that row. `list` says which
/// list it is: everything that selects its rows, but not its page size.
pub(super) fn write(list: &str, time: Timestamp, id: Uuid) -> String {
    let mut bytes = Vec::with_capacity(CURSOR_LENGTH + FINGERPRINT_LENGTH);
    bytes.extend(time.timestamp_micros().to_be_bytes());
    bytes.extend(id.as_bytes());
    let fingerprint = fingerprint(list, &bytes);
    bytes.extend(fingerprint);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a token; `None` where it is not one of this list.
pub(super) fn read(list: &str, text: &str) -> Option<(Timestamp, Uuid)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (cursor, given) = bytes.split_at_checked(CURSOR_LENGTH)?;
    if given != fingerprint(list, cursor) {
        return None;
    }
    let (micros, id) = cursor.split_first_chunk::<8>()?;
    let time = DateTime::from_timestamp_micros(i64::from_be_bytes(*micros))?;
    Some((time, Uuid::from_slice(id).ok()?))
}

/// Whether a text has the form of a token, of whichever list.
pub(super) fn is_of_some_list(text: &str) -> bool {
    let bytes = URL_SAFE_NO_PAD.decode(text);
    bytes.is_ok_and(|bytes| bytes.len() == CURSOR_LENGTH + FINGERPRINT_LENGTH)
}

/// Cuts a page to its size, and gives the token of the next page, which is empty where
/// there is none. One row more than that must have been asked for: it tells.
pub(super) fn cut<T>(rows: &mut Vec<T>, size: usize, token: impl FnOnce(&T) -> String) -> String {
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
