//! Rows of tables, wherever they come from. Another source than HitKeep's backup needs
//! nothing but an implementation of [`Tables`].

use uuid::Uuid;

use crate::domain::Timestamp;

pub const MAX_ROWS: usize = 5_000_000;
/// The longest text of one value, in bytes. Longer ones are cut to this, which is beyond every
/// limit of the fields that are read.
pub const MAX_TEXT: usize = 8192;

/// The type that a column is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A UUID.
    Id,
    /// A text in UTF-8.
    Text,
    /// A point in time.
    Time,
    /// A truth value.
    Flag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    /// Whether the table may lack it; every value is [`Value::Null`] then.
    pub is_optional: bool,
}

impl Column {
    /// A column that must be there.
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            is_optional: false,
        }
    }

    /// A column that older or hand-made sources lack.
    pub const fn optional(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            is_optional: true,
        }
    }
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Id(Uuid),
    Text(String),
    Time(Timestamp),
    Flag(bool),
    /// Something that its column cannot hold, such as a text that is not UTF-8, or a time beyond
    /// the calendar. It spoils its row, and not the table.
    Unreadable,
}

impl Value {
    /// The UUID, if it is one.
    pub const fn id(&self) -> Option<Uuid> {
        match self {
            Self::Id(id) => Some(*id),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The rows of a table. Each has a value for each of the requested columns, in their order.
pub type Rows = Vec<Vec<Value>>;

/// Why a table cannot be read, in a message for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The source does not have the table.
    #[error("there is no table {0}")]
    NoTable(&'static str),
    #[error("the table {table} cannot be read: {why}")]
    Unreadable { table: &'static str, why: String },
    #[error("the table {table} has no column {column}")]
    NoColumn {
        table: &'static str,
        column: &'static str,
    },
    /// A column has another type than expected.
    #[error("the column {column} of the table {table} has an unexpected type")]
    WrongType {
        table: &'static str,
        column: &'static str,
    },
    /// The table has more rows than an import reads.
    #[error("the table {0} has more than {MAX_ROWS} rows")]
    TooManyRows(&'static str),
}

/// A source of rows.
pub trait Tables {
    /// Reads columns of a table.
    ///
    /// # Errors
    /// If there is no such table, or it cannot be read.
    fn rows(&self, table: &'static str, columns: &[Column]) -> Result<Rows, ReadError>;
}
