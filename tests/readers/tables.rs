//! Parquet files: whatever is in them, they are read or refused.

use hitkeep_auth::import::{
    parquet::read_bytes,
    tables::{Column, Kind, MAX_TEXT, Value},
};

/// Columns of all types that are read.
const COLUMNS: [Column; 9] = [
    Column::optional("id", Kind::Id),
    Column::optional("user_id", Kind::Id),
    Column::optional("name", Kind::Text),
    Column::optional("description", Kind::Text),
    Column::optional("secret_hash", Kind::Text),
    Column::optional("created_at", Kind::Time),
    Column::optional("expires_at", Kind::Time),
    Column::optional("is_default", Kind::Flag),
    Column::optional("role", Kind::Text),
];

/// Reads the file; returns how many rows it has, if it can be read.
pub fn hold(file: &[u8]) -> Option<usize> {
    let rows = read_bytes(file.to_vec(), "t", &COLUMNS);
    for column in COLUMNS {
        let alone = read_bytes(file.to_vec(), "t", &[column]);
        if let (Ok(rows), Ok(alone)) = (&rows, &alone) {
            assert_eq!(rows.len(), alone.len());
        }
    }
    let rows = rows.ok()?;
    for row in &rows {
        assert_eq!(row.len(), COLUMNS.len());
        for (value, column) in row.iter().zip(COLUMNS) {
            let fits = match value {
                Value::Null | Value::Unreadable => true,
                Value::Id(_) => column.kind == Kind::Id,
                Value::Text(text) => column.kind == Kind::Text && text.len() <= MAX_TEXT,
                Value::Time(_) => column.kind == Kind::Time,
                Value::Flag(_) => column.kind == Kind::Flag,
            };
            assert!(fits, "{value:?} in {}", column.name);
        }
    }
    Some(rows.len())
}
