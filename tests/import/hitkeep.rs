//! HitKeep's control database: its tables, and the rows of a test.

use std::path::{Path, PathBuf};

use crate::{duckdb, folder::Folder};

/// The tables with the columns that HitKeep has, as far as they are of interest, and some that
/// are not. Its foreign keys are left out: a snapshot is input, and may break them.
const TABLES: &str = "
    CREATE TABLE users (id UUID PRIMARY KEY, email VARCHAR, password VARCHAR,
        created_at TIMESTAMPTZ);
    CREATE TABLE instance_roles (user_id UUID PRIMARY KEY, role VARCHAR NOT NULL, granted_by UUID);
    CREATE TABLE tenants (id UUID PRIMARY KEY, name VARCHAR, is_default BOOLEAN);
    CREATE TABLE tenant_archives (tenant_id UUID PRIMARY KEY, archived_at TIMESTAMPTZ);
    CREATE TABLE tenant_members (id UUID, tenant_id UUID, user_id UUID, role VARCHAR,
        added_at TIMESTAMPTZ);
    CREATE TABLE sites (id UUID PRIMARY KEY, user_id UUID, domain VARCHAR);
    CREATE TABLE site_tenants (site_id UUID PRIMARY KEY, tenant_id UUID);
    CREATE TABLE site_members (id UUID, site_id UUID, user_id UUID, role VARCHAR);
    CREATE TABLE api_clients (id UUID, user_id UUID, tenant_id UUID, name VARCHAR,
        description VARCHAR, secret_hash VARCHAR, instance_role VARCHAR, expires_at TIMESTAMPTZ,
        last_used_at TIMESTAMPTZ, revoked_at TIMESTAMPTZ, created_at TIMESTAMPTZ,
        updated_at TIMESTAMPTZ);
    CREATE TABLE api_client_site_roles (id UUID, api_client_id UUID, site_id UUID, role VARCHAR,
        created_at TIMESTAMPTZ);
    CREATE TABLE instance_audit_log (id UUID, created_at TIMESTAMPTZ, actor_id UUID,
        action VARCHAR, target_type VARCHAR, target_id VARCHAR);
    CREATE TABLE user_preferences (user_id UUID PRIMARY KEY, default_locale VARCHAR,
        active_tenant_id UUID);
    CREATE TABLE hits (id UUID, path VARCHAR);
    CREATE MACRO u(n) AS CAST('00000000-0000-4000-8000-' || lpad(CAST(n AS VARCHAR), 12, '0') AS UUID);
    CREATE MACRO token(n) AS sha256('the secret of ' || CAST(n AS VARCHAR));
    CREATE MACRO h(n) AS sha256(token(n));
    SET TimeZone = 'UTC';";

/// The UUID that the rows of a test call `u(n)`.
pub fn id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// A backup folder of HitKeep, which is removed in the end.
pub struct Backup {
    folder: Folder,
}

impl Backup {
    pub fn new() -> Self {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("shared")).unwrap();
        Self { folder }
    }

    /// The folder to import from.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The folder of a snapshot.
    pub fn snapshot(&self, time: &str) -> PathBuf {
        self.folder.join("shared").join(time)
    }

    /// Runs statements on a database with these rows, with the folder of the backup for the
    /// working folder. False if there is no DuckDB.
    pub fn run(&self, rows: &str, statements: &str) -> bool {
        let folder = self.folder.display();
        let statements = statements.replace("TO '", &format!("TO '{folder}/"));
        duckdb::run(&format!("{TABLES}\n{rows}\n{statements}"))
    }

    /// Exports a database with these rows, as HitKeep does. False if there is no DuckDB.
    pub fn export(&self, time: &str, rows: &str) -> bool {
        let folder = self.snapshot(time);
        let folder = folder.display();
        duckdb::run(&format!(
            "{TABLES}\n{rows}\nEXPORT DATABASE '{folder}' (FORMAT PARQUET);"
        ))
    }
}
