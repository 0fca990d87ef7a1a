//! Databases that have yet to be migrated.

use crate::postgres;

/// Makes a database with nothing in it.
pub async fn empty_database() -> String {
    postgres::make("TEMPLATE template0").await
}
