//! The binary itself, as a person or a script runs it: what it prints where, what
//! it exits with, and what a signal does.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/empty.rs"]
mod empty;
#[path = "support/folder.rs"]
mod folder;
#[path = "support/help.rs"]
mod help;
#[path = "support/passwords.rs"]
mod passwords;
#[path = "support/paths.rs"]
mod paths;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/process.rs"]
mod process;
#[path = "support/pty.rs"]
mod pty;
#[path = "support/waiting.rs"]
mod waiting;
#[path = "support/webhook.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod webhook;

#[path = "cli/run.rs"]
mod run;

#[path = "cli/accounts.rs"]
mod accounts;
#[path = "cli/dev.rs"]
mod dev;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/events.rs"]
mod events;
#[path = "cli/explain.rs"]
mod explain;
#[path = "cli/incident.rs"]
mod incident;
#[path = "cli/logs.rs"]
mod logs;
#[path = "cli/memory.rs"]
mod memory;
#[path = "cli/migrate.rs"]
mod migrate;
#[path = "cli/misplaced.rs"]
mod misplaced;
#[path = "cli/pages.rs"]
mod pages;
#[path = "cli/progress.rs"]
mod progress;
#[path = "cli/remote.rs"]
mod remote;
#[path = "cli/replica.rs"]
mod replica;
#[path = "cli/rotation.rs"]
mod rotation;
#[path = "cli/serve.rs"]
mod serve;
#[path = "cli/supervisor.rs"]
mod supervisor;
#[path = "cli/tls.rs"]
mod tls;
#[path = "cli/upgrade.rs"]
mod upgrade;
#[path = "cli/usage.rs"]
mod usage;
#[path = "cli/variables.rs"]
mod variables;
#[path = "cli/wait.rs"]
mod wait;
