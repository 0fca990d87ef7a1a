//! Builds of the service: this one, and others that are measured beside it.

use std::{path::PathBuf, process::Command};

/// The binary of a build.
#[derive(Clone, Debug)]
pub struct Build(PathBuf);

impl Build {
    /// The one that the benchmark was built with.
    pub fn this() -> Self {
        Self(env!("CARGO_BIN_EXE_hitkeep-auth").into())
    }

    /// The one at that path.
    pub fn at(path: &str) -> Self {
        Self(path.into())
    }

    /// A command of it, without the settings of an installed server.
    pub fn command(&self) -> Command {
        without_settings(Command::new(&self.0))
    }

    /// A program with it as an argument, where there are words of one.
    pub fn command_under(&self, program: &[&str]) -> Command {
        let [program, words @ ..] = program else {
            return self.command();
        };
        let mut command = Command::new(program);
        command.args(words).arg(&self.0);
        without_settings(command)
    }

    /// Brings a database to its own schema, which need not be another build's.
    pub fn migrate(&self, database_url: &str) {
        let mut command = self.command();
        command.args(["migrate", "--database-url", database_url]);
        let output = command.output().expect("the binary runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
    }
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        // What is set for an installed server does not concern this one.
        let text = name.to_string_lossy();
        if text.starts_with("HITKEEP_AUTH_") || text.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command
}
