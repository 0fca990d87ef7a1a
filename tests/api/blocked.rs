//! Calls that are held up in the database by another transaction, so
//! that a test can do something in their middle.

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};

use crate::{harness::TestApp, support::waiting::until};

/// Statements of this database that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// Another transaction, open.
pub struct Blocker(AsyncPgConnection);

impl TestApp {
    /// Begins a transaction that holds the write lock.
    pub async fn hold_write_lock(&self) -> Blocker {
        self.hold("SELECT FROM index_state FOR UPDATE").await
    }

    /// Begins a transaction that runs that statement.
    pub async fn hold(&self, sql: &str) -> Blocker {
        let mut connection = self.database().await;
        connection
            .batch_execute(&format!("BEGIN; {sql}"))
            .await
            .unwrap();
        Blocker(connection)
    }

    /// Waits until so many statements wait for a lock.
    pub async fn until_waiting(&self, statements: i64) {
        until("so many statements wait", async || {
            let waiting = self.number(WAITING).await;
            if waiting == statements {
                Ok(())
            } else {
                Err(format!("{waiting} and not {statements}"))
            }
        })
        .await;
    }
}

impl Blocker {
    /// Lets the others go on.
    pub async fn release(mut self) {
        self.0.batch_execute("COMMIT").await.unwrap();
    }
}
