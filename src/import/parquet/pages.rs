//! Checks the headers of pages before the decoder sees them: it makes room for what a header
//! claims, before it knows whether the page holds that much.
//!
//! A header is a struct in Thrift's compact protocol. Two of its fields are of interest: the
//! sizes of the page, decompressed (2) and as it is in the file (3).

use parquet::file::{metadata::ParquetMetaData, reader::ChunkReader};

/// The most bytes of one page, decompressed.
pub(super) const MAX_PAGE: usize = 256 << 20;
/// The most bytes of a header. It has the smallest and the largest value of its page in it.
const MAX_HEADER: usize = 1 << 20;
/// How deep structs are nested in a header.
const MAX_DEPTH: u8 = 8;
/// Snappy makes nothing smaller than this part of itself.
const MAX_RATIO: usize = 64;
/// What a page may have more than that, since a small one is no harm.
const SMALL: usize = 1 << 16;

/// A header does not end, or is not one.
const MALFORMED: &str = "a malformed page header";

/// Checks every page of a file.
///
/// # Errors
/// What is wrong with one of them.
pub(super) fn check<R: ChunkReader>(file: &R, metadata: &ParquetMetaData) -> Result<(), String> {
    for group in metadata.row_groups() {
        for column in group.columns() {
            let first = column.dictionary_page_offset();
            let first = first.filter(|first| *first > 0);
            let start = first.unwrap_or(column.data_page_offset());
            let start = start.min(column.data_page_offset());
            let length = column.compressed_size();
            let (Ok(mut at), Ok(length)) = (u64::try_from(start), u64::try_from(length)) else {
                return Err(MALFORMED.to_owned());
            };
            let end = at.checked_add(length).filter(|end| *end <= file.len());
            let end = end.ok_or("a column is beyond the end of the file")?;
            while at < end {
                let window = usize::try_from(end - at).unwrap_or(MAX_HEADER);
                let bytes = file.get_bytes(at, window.min(MAX_HEADER));
                let bytes = bytes.map_err(|error| error.to_string())?;
                let header = header(&bytes).ok_or(MALFORMED)?;
                let most = header.compressed.saturating_mul(MAX_RATIO) + SMALL;
                if header.decompressed > MAX_PAGE.min(most) {
                    return Err("a page is too large".to_owned());
                }
                at += (header.length + header.compressed) as u64;
            }
        }
    }
    Ok(())
}

struct Header {
    /// Of the header itself.
    length: usize,
    decompressed: usize,
    compressed: usize,
}

fn header(bytes: &[u8]) -> Option<Header> {
    let mut rest = Rest(bytes);
    let (mut decompressed, mut compressed) = (None, None);
    let mut field = 0;
    while let Some(kind) = rest.field(&mut field)? {
        match (field, kind) {
            (2, 5) => decompressed = Some(rest.size()?),
            (3, 5) => compressed = Some(rest.size()?),
            _ => rest.skip(kind, 0)?,
        }
    }
    Some(Header {
        length: bytes.len() - rest.0.len(),
        decompressed: decompressed?,
        compressed: compressed?,
    })
}

/// What is left of a header.
struct Rest<'b>(&'b [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A size that is not negative, in zigzag.
    fn size(&mut self) -> Option<usize> {
        let value = self.varint()?;
        let is_negative = value & 1 == 1;
        usize::try_from(value >> 1).ok().filter(|_| !is_negative)
    }

    fn drop_bytes(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    /// The type of the next field, whose number is left in `field`; the inner `None` at the end.
    #[expect(clippy::option_option, reason = "the outer one is an error")]
    fn field(&mut self, field: &mut u64) -> Option<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *field = match u64::from(head >> 4) {
            0 => self.varint()? >> 1,
            more => field.checked_add(more)?,
        };
        Some(Some(head & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: u8) -> Option<()> {
        match kind {
            // True and false are in the type.
            1 | 2 => Some(()),
            3 => self.drop_bytes(1),
            4..=6 => self.varint().map(drop),
            7 => self.drop_bytes(8),
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.drop_bytes(length)
            }
            9 | 10 if depth < MAX_DEPTH => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    few => u64::from(few),
                };
                // An item has a byte at least, also one that is true or false.
                for _ in 0..count {
                    match head & 0x0f {
                        1 | 2 => self.drop_bytes(1)?,
                        kind => self.skip(kind, depth + 1)?,
                    }
                }
                Some(())
            }
            12 if depth < MAX_DEPTH => {
                let mut field = 0;
                while let Some(kind) = self.field(&mut field)? {
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }
}
