//! protobuf as it lies on the wire: what the short ways need to read and write it by
//! hand.

/// The length of a UUID's text.
pub(super) const ID_BYTES: u8 = 36;
/// A field's kind: a number, eight bytes, and what has a length.
pub(super) const NUMBER: u8 = 0;
pub(super) const EIGHT_BYTES: u8 = 1;
pub(super) const LENGTH: u8 = 2;

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'m> {
    /// Its number and its kind.
    pub(super) key: u8,
    /// What is in it; nothing where that is a number.
    pub(super) content: &'m [u8],
}

/// Splits the first field off a message that is not empty. `None` where that cannot be
/// read, and where its number is above 15, as no field's is that is known here.
pub(super) fn field(message: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = message.split_first()?;
    let (content, rest) = match key & 0x87 {
        NUMBER => (&rest[..0], varint(rest)?.1),
        EIGHT_BYTES => rest.split_at_checked(8)?,
        LENGTH => bytes(rest)?,
        _ => return None,
    };
    Some((Field { key: *key, content }, rest))
}

/// Splits off what has a length.
pub(super) fn bytes(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = varint(message)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// Splits off a number.
pub(super) fn varint(message: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (place, byte) in message.iter().enumerate().take(10) {
        // Of the last byte, one bit is left.
        if place == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, &message[place + 1..]));
        }
    }
    None
}

/// A message of two numbers, its fields 1 and 2.
pub(super) fn write_pair(reply: &mut Vec<u8>, field: u8, first: u64, second: u64) {
    let at = reply.len();
    reply.extend_from_slice(&[key(field, LENGTH), 0]);
    write_number(reply, 1, first);
    write_number(reply, 2, second);
    let length = reply.len() - at - 2;
    reply[at + 1] = u8::try_from(length).expect("two numbers take 22 bytes at most");
}

/// Writes a message, which may be empty, by what writes its fields.
pub(super) fn write_message(reply: &mut Vec<u8>, field: u8, write: impl FnOnce(&mut Vec<u8>)) {
    reply.push(key(field, LENGTH));
    let at = reply.len();
    // Room for the length, which is mostly small.
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
    reply.extend_from_slice(&[key(field, LENGTH), ID_BYTES]);
    reply.extend_from_slice(&text_of(id));
}

/// An id in its usual form. Five are in an answer with three grants, so their digits
/// are made eight at a time.
fn text_of(id: uuid::Uuid) -> [u8; ID_BYTES as usize] {
    let bytes = id.as_bytes();
    let eight = |at: usize| {
        let number = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        hexadecimal(u32::from_be_bytes(number))
    };
    let (a, b, c, d) = (eight(0), eight(4), eight(8), eight(12));
    let mut text = [b'-'; ID_BYTES as usize];
    text[..8].copy_from_slice(&a);
    text[9..13].copy_from_slice(&b[..4]);
    text[14..18].copy_from_slice(&b[4..]);
    text[19..23].copy_from_slice(&c[..4]);
    text[24..28].copy_from_slice(&c[4..]);
    text[28..].copy_from_slice(&d);
    text
}

/// The digits of a number, all at once: each in a byte of its own.
fn hexadecimal(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let number = u64::from(number);
    let halves = (number << 16 | number) & 0x0000_ffff_0000_ffff;
    let bytes = (halves << 8 | halves) & 0x00ff_00ff_00ff_00ff;
    let digits = (bytes << 4 | bytes) & (0x0f * EACH);
    // One in each byte that is ten or more, and so a letter.
    let letters = ((digits + 6 * EACH) >> 4) & EACH;
    let text = digits + u64::from(b'0') * EACH + letters * u64::from(b'a' - b'0' - 10);
    text.to_be_bytes()
}

pub(super) fn write_number(reply: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        reply.push(key(field, NUMBER));
        write_varint(reply, value);
    }
}

pub(super) fn write_bytes(reply: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        reply.push(key(field, LENGTH));
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

pub(super) const fn key(field: u8, kind: u8) -> u8 {
    field << 3 | kind
}

/// A number of the kind that protobuf calls int32: a negative one takes ten bytes.
pub(super) fn int32(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_is_written_as_its_own_type_writes_it(number: u128) {
            let id = uuid::Uuid::from_u128(number);
            let text = id.to_string();
            prop_assert_eq!(&text_of(id)[..], text.as_bytes());
        }
    }
}
