//! The protobuf wire format, as far as the fast path reads and writes it by hand.

use prost::Message;

/// Appends a message with gRPC's prefix.
pub(crate) fn append_framed(message: &impl Message, to: &mut Vec<u8>) {
    let length = u32::try_from(message.encoded_len()).expect("an answer is small");
    to.push(0);
    to.extend_from_slice(&length.to_be_bytes());
    message
        .encode(to)
        .expect("a vector grows as far as it is needed");
}

/// The length of a UUID as text.
pub(super) const ID_BYTES: u8 = 36;
/// The length of a field with a UUID: the tag, the length of the text, and the text.
pub(super) const ID_FIELD_BYTES: usize = 2 + ID_BYTES as usize;
/// protobuf's wire types.
pub(super) const VARINT: u8 = 0;
pub(super) const I64: u8 = 1;
pub(super) const LEN: u8 = 2;

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'m> {
    /// The field number and the wire type.
    pub(super) tag: u8,
    /// The content; empty for a varint.
    pub(super) content: &'m [u8],
}

/// Splits the first field off a message that is not empty. None if it is malformed, or if
/// its number is above 15, since no known field has such a number.
pub(super) fn field(message: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (tag, rest) = message.split_first()?;
    let (content, rest) = match tag & 0x87 {
        VARINT => (&rest[..0], varint(rest)?.1),
        I64 => rest.split_at_checked(8)?,
        LEN => bytes(rest)?,
        _ => return None,
    };
    Some((Field { tag: *tag, content }, rest))
}

/// Splits off a length-delimited content.
pub(super) fn bytes(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = varint(message)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// Splits off a varint.
pub(super) fn varint(message: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in message.iter().enumerate().take(10) {
        // The tenth byte has one bit left.
        if index == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &message[index + 1..]));
        }
    }
    None
}

/// Writes a message of two varints, its fields 1 and 2.
pub(super) fn write_pair(reply: &mut Vec<u8>, field: u8, first: u64, second: u64) {
    let at = reply.len();
    reply.extend_from_slice(&[tag(field, LEN), 0]);
    write_varint_field(reply, 1, first);
    write_varint_field(reply, 2, second);
    let length = reply.len() - at - 2;
    reply[at + 1] = u8::try_from(length).expect("two numbers take 22 bytes at most");
}

/// Writes a message field, which may be empty; `write` writes its content.
pub(super) fn write_message(reply: &mut Vec<u8>, field: u8, write: impl FnOnce(&mut Vec<u8>)) {
    reply.push(tag(field, LEN));
    let at = reply.len();
    // Reserves one byte for the length, which is mostly small.
    reply.push(0);
    write(reply);
    let length = reply.len() - at - 1;
    if let Ok(small @ ..0x80) = u8::try_from(length) {
        reply[at] = small;
    } else {
        let mut prefix = Vec::new();
        write_varint(&mut prefix, length as u64);
        reply.splice(at..=at, prefix);
    }
}

pub(super) fn write_id(reply: &mut Vec<u8>, field: u8, id: uuid::Uuid) {
    reply.extend_from_slice(&id_field(field, id));
}

/// A field with a UUID as text.
pub(super) fn id_field(field: u8, id: uuid::Uuid) -> [u8; ID_FIELD_BYTES] {
    let mut bytes = [tag(field, LEN); ID_FIELD_BYTES];
    bytes[1] = ID_BYTES;
    bytes[2..].copy_from_slice(&uuid_text(id));
    bytes
}

/// A UUID as hyphenated text. A response with three grants has five of them, so eight
/// digits are converted at a time.
fn uuid_text(id: uuid::Uuid) -> [u8; ID_BYTES as usize] {
    let bytes = id.as_bytes();
    let digits_at = |at: usize| {
        let number = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        hexadecimal(u32::from_be_bytes(number))
    };
    let (a, b, c, d) = (digits_at(0), digits_at(4), digits_at(8), digits_at(12));
    let mut text = [b'-'; ID_BYTES as usize];
    text[..8].copy_from_slice(&a);
    text[9..13].copy_from_slice(&b[..4]);
    text[14..18].copy_from_slice(&b[4..]);
    text[19..23].copy_from_slice(&c[..4]);
    text[24..28].copy_from_slice(&c[4..]);
    text[28..].copy_from_slice(&d);
    text
}

/// The hexadecimal digits of a number, one in each byte.
fn hexadecimal(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let number = u64::from(number);
    let halves = (number << 16 | number) & 0x0000_ffff_0000_ffff;
    let bytes = (halves << 8 | halves) & 0x00ff_00ff_00ff_00ff;
    let digits = (bytes << 4 | bytes) & (0x0f * EACH);
    // A one in each byte whose digit is ten or more, and so a letter.
    let letters = ((digits + 6 * EACH) >> 4) & EACH;
    let text = digits + u64::from(b'0') * EACH + letters * u64::from(b'a' - b'0' - 10);
    text.to_be_bytes()
}

pub(super) fn write_varint_field(reply: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        reply.push(tag(field, VARINT));
        write_varint(reply, value);
    }
}

pub(super) fn write_bytes(reply: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        reply.push(tag(field, LEN));
        write_varint(reply, bytes.len() as u64);
        reply.extend_from_slice(bytes);
    }
}

pub(super) fn write_varint(reply: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            reply.push(low);
            return;
        }
        reply.push(low | 0x80);
    }
}

pub(super) const fn tag(field: u8, kind: u8) -> u8 {
    field << 3 | kind
}

/// The varint of an int32: a negative number takes ten bytes.
pub(super) fn int32(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_uuid_is_formatted_as_by_its_type(number: u128) {
            let id = uuid::Uuid::from_u128(number);
            let text = id.to_string();
            prop_assert_eq!(&uuid_text(id)[..], text.as_bytes());
        }
    }
}
