//! The commands. What a command gives is on stdout, whatever goes wrong is on
//! stderr; it exits with 0, or with 1 where it failed, or with 2 where its
//! arguments cannot be read.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use tokio::runtime::Runtime;

mod accounts;
mod dev;
mod explain;
mod healthcheck;
mod serve;

use crate::{
    config::{Cli, Command, HalfTls, MigrateArgs, ServiceAccountCommand},
    server::listeners::BadAddress,
    store::{self, MalformedUrl, Store, error::causes, migrations},
    system::{SystemClock, SystemEntropy},
    telemetry::{self, TelemetryError},
};

/// Why a command failed, for people: what, and what to do about it.
#[derive(Debug)]
struct Failure {
    why: String,
    code: u8,
}

/// It was tried, and did not work.
const FAILED: u8 = 1;
/// What was asked for makes no sense.
const USAGE: u8 = 2;

impl Failure {
    fn new(what: impl Display) -> Self {
        Self {
            why: what.to_string(),
            code: FAILED,
        }
    }

    /// A failure with all its causes.
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = causes(error);
        let why = if causes.is_empty() {
            error.to_string()
        } else {
            format!("{error}: {causes}")
        };
        let usage = error.is::<MalformedUrl>()
            || error.is::<HalfTls>()
            || error.is::<BadAddress>()
            || error.is::<TelemetryError>();
        Self {
            why,
            code: if usage { USAGE } else { FAILED },
        }
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

/// Runs a command.
pub fn run(cli: &Cli) -> ExitCode {
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { why, code }) => {
            complain(&why);
            ExitCode::from(code)
        }
    }
}

fn start(cli: &Cli) -> Result<(), Failure> {
    let runtime = runtime()?;
    let telemetry = {
        // What is exported goes over the runtime.
        let _inside = runtime.enter();
        telemetry::start(&cli.telemetry())?
    };
    match &cli.command {
        Command::Dev(args) => dev::run(args, runtime, telemetry),
        Command::Serve(args) => runtime.block_on(serve::run(args, telemetry)),
        Command::Migrate(args) => runtime.block_on(migrate(args)),
        Command::ServiceAccount(args) => match &args.command {
            ServiceAccountCommand::Create {
                name,
                allow,
                certificate_name,
                database,
                output,
            } => {
                let wanted = accounts::Wanted {
                    name,
                    allow,
                    certificate_names: certificate_name,
                };
                runtime.block_on(accounts::create(&wanted, database, *output))
            }
            ServiceAccountCommand::List { database, output } => {
                runtime.block_on(accounts::list(database, *output))
            }
            ServiceAccountCommand::Revoke {
                name,
                database,
                output,
            } => runtime.block_on(accounts::revoke(name, database, *output)),
        },
        Command::Explain(args) => runtime.block_on(explain::run(args)),
        Command::Healthcheck(args) => runtime.block_on(healthcheck::run(args)),
    }
}

fn runtime() -> Result<Runtime, Failure> {
    // Migrations block in place, which takes the multi-thread runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    Ok(runtime?)
}

/// A store with the machine's own clock and randomness.
fn open(options: &store::Options) -> Store {
    Store::new(
        options,
        Arc::new(SystemClock::default()),
        Arc::new(SystemEntropy),
    )
}

/// Prints what a command gives. Nobody listening any more is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints what went wrong, or what takes long.
fn complain(text: &str) {
    // There is nowhere left to complain about this one.
    drop(writeln!(io::stderr().lock(), "hitkeep-auth: {text}"));
}

async fn migrate(args: &MigrateArgs) -> Result<(), Failure> {
    let applied = migrations::apply(args.database.url()?.as_str()).await?;
    if args.output.json {
        return print(&serde_json::json!({ "applied": applied }).to_string());
    }
    if applied.is_empty() {
        return print("The database is up to date.");
    }
    print(&format!(
        "Applied {} migrations:\n  {}",
        applied.len(),
        applied.join("\n  ")
    ))
}
