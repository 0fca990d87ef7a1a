//! Roles that need a password, on the Postgres of the tests, which asks no other role for
//! one.

use diesel_async::{AsyncConnection, AsyncPgConnection};
use tokio::sync::OnceCell;

use crate::postgres::{connect, execute, texts, url};

/// Members of this role are asked for a password.
const GROUP: &str = "needs_password";

/// A role that may do in one database what a server has to do.
pub struct Role {
    name: String,
    /// The database, as its superuser reaches it.
    database: String,
}

impl Role {
    /// Makes one with that password.
    pub async fn create(database: &str, password: &str) -> Self {
        static ASKED_FOR: OnceCell<()> = OnceCell::const_new();
        ASKED_FOR.get_or_init(ask_for_passwords).await;
        let (_, place) = database.rsplit_once('/').expect("a URL");
        let name = format!("role_of_{place}");
        let create = format!(
            "CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE {GROUP}; \
             GRANT pg_read_all_data, pg_write_all_data TO {name}"
        );
        execute(database, &create).await;
        Self {
            name,
            database: database.to_owned(),
        }
    }

    /// The URL of its database, with that password.
    pub fn url(&self, password: &str) -> String {
        self.url_of(&self.database, password)
    }

    /// The URL of another database, with that password.
    pub fn url_of(&self, database: &str, password: &str) -> String {
        database.replace("postgres@", &format!("{}:{password}@", self.name))
    }

    /// Gives it another password, and ends all of its connections.
    pub async fn rotate(&self, password: &str) {
        let name = &self.name;
        let rotate = format!("ALTER ROLE {name} PASSWORD '{password}'");
        execute(&self.database, &rotate).await;
        // In a transaction of its own: a new connection must find the new one.
        let end = format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = '{name}'"
        );
        execute(&self.database, &end).await;
    }

    /// The processes of its connections, in order.
    pub async fn backends(&self) -> Vec<String> {
        let query = format!(
            "SELECT pid::text FROM pg_stat_activity WHERE usename = '{}' ORDER BY backend_start",
            self.name
        );
        texts(&mut connect(&self.database).await, &query).await
    }
}

/// Has Postgres ask the group for passwords, and waits until it does.
async fn ask_for_passwords() {
    let admin = url("postgres");
    let canary = "needs_password_canary";
    let roles =
        format!("CREATE ROLE {GROUP}; CREATE ROLE {canary} LOGIN PASSWORD 'right' IN ROLE {GROUP}");
    execute(&admin, &roles).await;
    let files = "SELECT current_setting('hba_file')";
    let path = texts(&mut connect(&admin).await, files).await.remove(0);
    let rules = std::fs::read_to_string(&path).expect("the data is the tests' own");
    let rules = format!("local all +{GROUP} scram-sha-256\n{rules}");
    std::fs::write(&path, rules).expect("the data is the tests' own");
    execute(&admin, "SELECT pg_reload_conf()").await;
    let wrong = admin.replace("postgres@", &format!("{canary}:wrong@"));
    while AsyncPgConnection::establish(&wrong).await.is_ok() {
        tokio::task::yield_now().await;
    }
}
