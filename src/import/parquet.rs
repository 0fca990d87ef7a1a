//! Reads tables from a folder of Parquet files, one for each table, as DuckDB exports them.
//!
//! The files are untrusted: their size, their rows and the length of a text are bounded, and a
//! malformed page is an error, even where the decoder panics. Columns are found by name; files
//! may have others.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use parquet::{
    basic::{LogicalType, TimeUnit, Type as PhysicalType},
    column::{
        page::{Page, PageMetadata, PageReader},
        reader::{ColumnReader, ColumnReaderImpl, get_column_reader},
    },
    data_type::{ByteArray, DataType},
    errors::{ParquetError, Result as ParquetResult},
    file::reader::{FileReader, SerializedFileReader},
    schema::types::ColumnDescPtr,
};
use uuid::Uuid;

mod pages;

use super::tables::{Column, Kind, MAX_ROWS, MAX_TEXT, ReadError, Rows, Tables, Value};
use crate::domain::Timestamp;

pub const MAX_FILE: u64 = 1 << 30;
/// How many rows are decoded at a time.
const BATCH: usize = 8192;
/// The most bytes of all texts of one column, which are far more than in the file if it repeats
/// them.
const MAX_COLUMN_TEXT: usize = 512 << 20;
const ENDING: &str = "parquet";

/// A folder with one file for each table.
#[derive(Clone, Debug)]
pub struct ParquetFolder {
    folder: PathBuf,
}

impl ParquetFolder {
    /// Names a folder, which is read later.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    pub fn file(&self, table: &str) -> PathBuf {
        self.folder.join(format!("{table}.{ENDING}"))
    }

    /// Checks that a table's file is complete, as far as its footer shows.
    ///
    /// # Errors
    /// If it is missing, too large, or not a whole Parquet file.
    pub fn check(&self, table: &'static str) -> Result<(), ReadError> {
        guarded(table, || self.open(table).map(drop))
    }

    fn open(&self, table: &'static str) -> Result<SerializedFileReader<File>, ReadError> {
        let unreadable = |why: String| ReadError::Unreadable { table, why };
        let path = self.file(table);
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ReadError::NoTable(table));
            }
            read => read.map_err(|error| unreadable(error.to_string()))?,
        };
        // Opening a pipe would wait for its writer.
        if !metadata.is_file() {
            return Err(unreadable("it is not a file".to_owned()));
        }
        if metadata.len() > MAX_FILE {
            return Err(unreadable(format!("it has more than {MAX_FILE} bytes")));
        }
        let file = File::open(&path).map_err(|error| unreadable(error.to_string()))?;
        let pages = file
            .try_clone()
            .map_err(|error| unreadable(error.to_string()))?;
        let reader = SerializedFileReader::new(file);
        let reader = reader.map_err(|error| unreadable(error.to_string()))?;
        pages::check(&pages, reader.metadata()).map_err(unreadable)?;
        Ok(reader)
    }
}

impl Tables for ParquetFolder {
    fn rows(&self, table: &'static str, columns: &[Column]) -> Result<Rows, ReadError> {
        guarded(table, || read(&self.open(table)?, table, columns))
    }
}

/// Reads columns of a file that is in memory.
///
/// # Errors
/// If it cannot be read.
pub fn read_bytes(
    bytes: Vec<u8>,
    table: &'static str,
    columns: &[Column],
) -> Result<Rows, ReadError> {
    let unreadable = |why: String| ReadError::Unreadable { table, why };
    guarded(table, || {
        let bytes = bytes::Bytes::from(bytes);
        let file = SerializedFileReader::new(bytes.clone());
        let file = file.map_err(|error| unreadable(error.to_string()))?;
        pages::check(&bytes, file.metadata()).map_err(unreadable)?;
        read(&file, table, columns)
    })
}

/// The decoder checks what it reads, but it is large, and may panic on pages that no writer
/// makes. Nothing that it changed is used after that.
fn guarded<T>(
    table: &'static str,
    body: impl FnOnce() -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        Err(ReadError::Unreadable {
            table,
            why: "the decoder failed on a malformed page".to_owned(),
        })
    })
}

fn read(file: &dyn FileReader, table: &'static str, columns: &[Column]) -> Result<Rows, ReadError> {
    let unreadable = |error: ParquetError| ReadError::Unreadable {
        table,
        why: error.to_string(),
    };
    let metadata = file.metadata();
    let schema = metadata.file_metadata().schema_descr();
    let mut found = Vec::new();
    for column in columns {
        let mut leaves = schema.columns().iter().enumerate();
        let leaf = leaves.find(|(_, leaf)| leaf.path().parts() == [column.name]);
        match leaf {
            Some((index, leaf)) if leaf.max_rep_level() == 0 && leaf.max_def_level() <= 1 => {
                let decode = Decode::of(column.kind, leaf).ok_or(ReadError::WrongType {
                    table,
                    column: column.name,
                })?;
                found.push(Some((index, decode)));
            }
            Some(_) => {
                return Err(ReadError::WrongType {
                    table,
                    column: column.name,
                });
            }
            None if column.is_optional => found.push(None),
            None => {
                return Err(ReadError::NoColumn {
                    table,
                    column: column.name,
                });
            }
        }
    }
    let mut rows: Rows = Vec::new();
    for group in 0..metadata.num_row_groups() {
        let count = usize::try_from(metadata.row_group(group).num_rows());
        let count = count.ok().ok_or(ReadError::TooManyRows(table))?;
        let first = rows.len();
        if count > MAX_ROWS - first {
            return Err(ReadError::TooManyRows(table));
        }
        let reader = file.get_row_group(group).map_err(unreadable)?;
        let mut columns = Vec::with_capacity(found.len());
        for place in &found {
            let Some((index, decode)) = place else {
                columns.push(None);
                continue;
            };
            let leaf = schema.column(*index);
            let pages = reader.get_column_page_reader(*index).map_err(unreadable)?;
            let values = decode
                .read(&leaf, Box::new(BoundedPages(pages)), count)
                .map_err(unreadable)?;
            columns.push(Some(values.into_iter()));
        }
        for _ in 0..count {
            let next = |values: &mut Option<std::vec::IntoIter<Value>>| {
                let next = values.as_mut().map(Iterator::next);
                next.flatten().unwrap_or(Value::Null)
            };
            rows.push(columns.iter_mut().map(next).collect());
        }
    }
    Ok(rows)
}

/// How the values of a column become ours.
#[derive(Clone, Copy)]
enum Decode {
    /// 16 bytes, big-endian.
    IdBytes,
    /// A UUID as text.
    IdText,
    Text,
    /// An integer, with so many of it in a second.
    Time(i64),
    Flag,
}

impl Decode {
    /// `None` if the column's type does not fit.
    fn of(kind: Kind, leaf: &ColumnDescPtr) -> Option<Self> {
        match (kind, leaf.physical_type()) {
            (Kind::Id, PhysicalType::FIXED_LEN_BYTE_ARRAY) if leaf.type_length() == 16 => {
                Some(Self::IdBytes)
            }
            (Kind::Id, PhysicalType::BYTE_ARRAY) => Some(Self::IdText),
            (Kind::Text, PhysicalType::BYTE_ARRAY) => Some(Self::Text),
            (Kind::Time, PhysicalType::INT64) => {
                let unit = match leaf.logical_type_ref() {
                    Some(LogicalType::Timestamp(timestamp)) => timestamp.unit,
                    _ => TimeUnit::MICROS,
                };
                Some(Self::Time(match unit {
                    TimeUnit::MILLIS => 1_000,
                    TimeUnit::MICROS => 1_000_000,
                    TimeUnit::NANOS => 1_000_000_000,
                }))
            }
            (Kind::Flag, PhysicalType::BOOLEAN) => Some(Self::Flag),
            _ => None,
        }
    }

    fn read(
        self,
        leaf: &ColumnDescPtr,
        pages: Box<dyn PageReader>,
        count: usize,
    ) -> ParquetResult<Vec<Value>> {
        match (self, get_column_reader(Arc::clone(leaf), pages)) {
            (Self::IdBytes, ColumnReader::FixedLenByteArrayColumnReader(reader)) => {
                let id =
                    |bytes: &[u8]| Uuid::from_slice(bytes).map_or(Value::Unreadable, Value::Id);
                values(reader, leaf, count, |value| id(value.data()))
            }
            (Self::IdText, ColumnReader::ByteArrayColumnReader(reader)) => {
                values(reader, leaf, count, |value| {
                    let text = std::str::from_utf8(value.data()).ok();
                    let id = text.and_then(|text| Uuid::try_parse(text).ok());
                    id.map_or(Value::Unreadable, Value::Id)
                })
            }
            (Self::Text, ColumnReader::ByteArrayColumnReader(reader)) => {
                values(reader, leaf, count, text)
            }
            (Self::Time(unit), ColumnReader::Int64ColumnReader(reader)) => {
                values(reader, leaf, count, |value| time(*value, unit))
            }
            (Self::Flag, ColumnReader::BoolColumnReader(reader)) => {
                values(reader, leaf, count, |value| Value::Flag(*value))
            }
            _ => Err(ParquetError::General("another type of column".to_owned())),
        }
    }
}

/// Reads the values of a column, nulls included.
fn values<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    leaf: &ColumnDescPtr,
    count: usize,
    value: impl Fn(&T::T) -> Value,
) -> ParquetResult<Vec<Value>> {
    let mut all = Vec::new();
    let (mut levels, mut batch) = (Vec::new(), Vec::new());
    let mut left = MAX_COLUMN_TEXT;
    let mut value = |one: &T::T| {
        let value = value(one);
        left = left.saturating_sub(value.text().map_or(0, str::len));
        value
    };
    while all.len() < count {
        levels.clear();
        batch.clear();
        let wanted = BATCH.min(count - all.len());
        let (records, found, _) =
            reader.read_records(wanted, Some(&mut levels), None, &mut batch)?;
        if records == 0 {
            return Err(ParquetError::General("a column ends too early".to_owned()));
        }
        if leaf.max_def_level() == 0 {
            all.extend(batch.iter().map(&mut value));
        } else {
            let mut batch = batch.iter().take(found);
            for level in &levels {
                all.push(match level {
                    0 => Value::Null,
                    _ => batch.next().map_or(Value::Unreadable, &mut value),
                });
            }
        }
    }
    if left == 0 {
        return Err(ParquetError::General("its texts are too long".to_owned()));
    }
    if all.len() == count {
        Ok(all)
    } else {
        Err(ParquetError::General("columns differ in length".to_owned()))
    }
}

fn text(value: &ByteArray) -> Value {
    let bytes = value.data();
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let end = text.floor_char_boundary(MAX_TEXT);
            Value::Text(text[..end].to_owned())
        }
        Err(_) => Value::Unreadable,
    }
}

fn time(value: i64, unit: i64) -> Value {
    let (seconds, rest) = (value.div_euclid(unit), value.rem_euclid(unit));
    // Rounded down to microseconds, as every time is.
    let micros = rest * 1_000_000 / unit;
    let nanos = u32::try_from(micros * 1000).expect("it is below a second");
    Timestamp::from_timestamp(seconds, nanos).map_or(Value::Unreadable, Value::Time)
}

/// Refuses pages that claim more values than their bytes can hold, before the decoder allocates
/// room for them.
struct BoundedPages(Box<dyn PageReader>);

impl BoundedPages {
    fn check(page: Option<Page>) -> ParquetResult<Option<Page>> {
        let Some(page) = page else { return Ok(None) };
        let values = usize::try_from(page.num_values()).unwrap_or(usize::MAX);
        let (is_dictionary, bytes) = match &page {
            Page::DictionaryPage { buf, .. } => (true, buf.len()),
            Page::DataPage { buf, .. } | Page::DataPageV2 { buf, .. } => (false, buf.len()),
        };
        // Each value of a dictionary takes a byte at least. Levels are run-length encoded, so a
        // data page can have far more values than bytes.
        let too_many = values > MAX_ROWS || (is_dictionary && values > bytes);
        if bytes > pages::MAX_PAGE || too_many {
            return Err(ParquetError::General("a page is too large".to_owned()));
        }
        Ok(Some(page))
    }
}

impl Iterator for BoundedPages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for BoundedPages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        Self::check(self.0.get_next_page()?)
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        self.0.peek_next_page()
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.0.skip_next_page()
    }
}
