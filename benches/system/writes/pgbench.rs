//! `pgbench`, which comes with Postgres, as the measure of what Postgres can do.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::postgres::connect;

/// The program.
pub struct Pgbench(PathBuf);

impl Pgbench {
    /// The one that belongs to the server, where it is installed.
    pub async fn find(database_url: &str) -> Option<Self> {
        let ask = "SELECT setting FROM pg_config WHERE name = 'BINDIR'";
        let row = connect(database_url).await.query_one(ask, &[]).await;
        let folder: String = row.expect("Postgres knows where it is").get(0);
        let beside = Path::new(&folder).join("pgbench");
        let candidates = [beside, PathBuf::from("pgbench")];
        candidates.into_iter().map(Self).find(Self::works)
    }

    fn works(&self) -> bool {
        let version = Command::new(&self.0).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    }

    /// Transactions a second from that many connections at once, each taking one
    /// of the scripts at random again and again.
    pub fn run(
        &self,
        database_url: &str,
        scripts: &[PathBuf],
        connections: usize,
        time: Duration,
    ) -> f64 {
        let connections = connections.to_string();
        let mut command = Command::new(&self.0);
        command.args(["--no-vacuum", "--protocol=prepared"]);
        command.args(["--client", &connections, "--jobs", &connections]);
        command.args(["--time", &time.as_secs().max(1).to_string()]);
        for script in scripts {
            command.arg("--file").arg(script);
        }
        let output = command
            .arg(database_url)
            .stdin(Stdio::null())
            .output()
            .expect("pgbench runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pgbench: {errors}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // "tps = 123.456 (without initial connection time)"
        let line = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = line.and_then(|line| line.split(' ').next()?.parse().ok());
        rate.unwrap_or_else(|| panic!("pgbench says no rate:\n{said}"))
    }
}
