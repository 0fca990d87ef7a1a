//! The commands. Results are printed on stdout, errors on stderr. The exit code is 0 on
//! success, 1 on failure and 2 for invalid arguments. A server that cut calls off failed. An
//! import has more codes, which its help lists.

use std::{
    fmt::Display,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::{Arc, mpsc},
    time::Duration,
};

use clap::{CommandFactory, ValueHint};
use tokio::runtime::Runtime;

mod accounts;
mod descriptors;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod explain;
mod healthcheck;
mod import;
mod progress;
mod remote;
mod replica;
mod rotation;
mod serve;

use crate::{
    config::{
        Cli, Command, DatabaseUrlError, EventsError, GrpcWebArgsError, MigrateArgs,
        ServerArgsError, ServiceAccountCommand, TlsArgsError, UpstreamError,
        remote::CallerTokenError,
    },
    domain::token::without_tokens,
    server::Ended,
    store::{self, Store, error::causes, migrations},
    system::{SystemClock, SystemEntropy},
    telemetry::{self, TelemetryError},
};
use progress::Progress;

/// Why a command failed and what to do about it, in a message for people.
#[derive(Debug)]
struct Failure {
    why: String,
    code: u8,
}

/// The exit code of a failed command.
const FAILED: u8 = 1;
/// The exit code for invalid arguments.
const USAGE: u8 = 2;

impl Failure {
    fn new(what: impl Display) -> Self {
        Self {
            why: what.to_string(),
            code: FAILED,
        }
    }

    /// A failure with the error and all its sources.
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = causes(error);
        let why = if causes.is_empty() {
            error.to_string()
        } else {
            format!("{error}: {causes}")
        };
        let given_url = matches!(error.downcast_ref(), Some(DatabaseUrlError::Given(_)));
        // A file that cannot be read is another matter than a variable that is not set.
        let no_token = matches!(error.downcast_ref(), Some(CallerTokenError::Missing));
        let usage = given_url
            || no_token
            || error.is::<TlsArgsError>()
            || error.is::<ServerArgsError>()
            || error.is::<GrpcWebArgsError>()
            || error.is::<TelemetryError>()
            || error.is::<UpstreamError>()
            || error.is::<EventsError>();
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

/// How long work that still runs at the end of a command may delay the exit, for example a
/// DNS lookup that no server answers.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// How long an error may take to be printed.
const PRINT_TIMEOUT: Duration = Duration::from_secs(1);

pub fn run(cli: &Cli) -> ExitCode {
    match start(cli) {
        Ok(code) => code,
        Err(Failure { why, code }) => {
            print_error(&why);
            ExitCode::from(code)
        }
    }
}

/// The exit code of a server.
fn exit_code(ended: Ended) -> ExitCode {
    match ended {
        Ended::Drained => ExitCode::SUCCESS,
        // The server has logged it.
        Ended::TimedOut | Ended::Interrupted => ExitCode::from(FAILED),
    }
}

fn start(cli: &Cli) -> Result<ExitCode, Failure> {
    let runtime = runtime()?;
    let telemetry = {
        // Exporters use the current runtime.
        let _inside = runtime.enter();
        telemetry::start(&cli.telemetry())?
    };
    // Before the error is printed with which the command may end.
    let _flushed = telemetry.flush_at_end();
    let done = |()| ExitCode::SUCCESS;
    let ended = match &cli.command {
        // It ends the runtime before its Postgres.
        #[cfg(feature = "dev")]
        Command::Dev(args) => return dev::run(args, runtime, telemetry).map(exit_code),
        Command::Serve(args) => runtime.block_on(serve::run(args, telemetry)).map(exit_code),
        Command::Replica(args) => {
            let ended = runtime.block_on(replica::run(args, telemetry));
            ended.map(exit_code)
        }
        Command::Migrate(args) => runtime.block_on(migrate(args)).map(done),
        Command::ServiceAccount(args) => runtime.block_on(manage(&args.command)).map(done),
        Command::Doctor(args) => runtime.block_on(doctor::run(args)),
        Command::Explain(args) => runtime.block_on(explain::run(args)).map(done),
        Command::Client(args) => runtime
            .block_on(remote::clients::run(&args.command))
            .map(done),
        Command::Introspect(args) => runtime.block_on(remote::introspect::run(args)).map(done),
        Command::Audit(args) => runtime
            .block_on(remote::audit::run(&args.command))
            .map(done),
        Command::Directory(args) => runtime
            .block_on(remote::directory::run(&args.command))
            .map(done),
        Command::Status(args) => runtime.block_on(remote::status::run(args)).map(done),
        Command::Import(args) => runtime.block_on(import::run(args)),
        Command::Healthcheck(args) => runtime.block_on(healthcheck::run(args)).map(done),
        Command::Completions { shell } => completions(*shell).map(done),
        Command::Man { folder } => man(folder).map(done),
    };
    end(runtime);
    ended
}

async fn manage(command: &ServiceAccountCommand) -> Result<(), Failure> {
    match command {
        ServiceAccountCommand::Create {
            name,
            allow,
            certificate_name,
            database,
            output,
        } => {
            let account = accounts::NewAccount {
                name,
                allow,
                certificate_names: certificate_name,
            };
            accounts::create(&account, database, *output).await
        }
        ServiceAccountCommand::List { database, output } => accounts::list(database, *output).await,
        ServiceAccountCommand::Rotate {
            name,
            overlap,
            database,
            output,
        } => accounts::rotate(name, *overlap, database, *output).await,
        ServiceAccountCommand::Revoke {
            name,
            database,
            output,
        } => accounts::revoke(name, database, *output).await,
    }
}

fn runtime() -> Result<Runtime, Failure> {
    // Migrations use `block_in_place`, which needs the multi-thread runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    Ok(runtime?)
}

/// Shuts the runtime down. Dropping it would wait for blocking work without limit.
fn end(runtime: Runtime) {
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
}

/// A store with the machine's clock and randomness.
fn open(options: &store::StoreOptions) -> Store {
    Store::new(
        options,
        Arc::new(SystemClock::default()),
        Arc::new(SystemEntropy),
    )
}

/// Prints a result. A closed stdout is not a failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a secret that exists nowhere else. Here a closed stdout is a failure, and `remedy`
/// says what to do about it.
fn print_secret(text: &str, remedy: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|error| {
        Failure::new(format_args!(
            "the token could not be written to standard output, and is lost ({error}): {remedy}"
        ))
    })
}

/// Prints an error or a notice on stderr. It may name a file or an address, in the place of which
/// there may be a token by mistake.
fn print_error(text: &str) {
    let text = format!("hitkeep-auth: {}\n", without_tokens(text));
    let (written, is_written) = mpsc::channel::<()>();
    // By a thread that need not end before the process does: if what reads stderr has stopped,
    // the process must not wait for it.
    std::thread::spawn(move || {
        let _written = written;
        // If stderr is closed, there is nowhere to report it.
        drop(io::stderr().write_all(text.as_bytes()));
    });
    let ended = is_written.recv_timeout(PRINT_TIMEOUT);
    debug_assert!(ended.is_err(), "nothing is sent");
}

/// A count with its noun, such as `1 API client` or `2 API clients`.
fn counted<N: Copy + Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let ending = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

async fn migrate(args: &MigrateArgs) -> Result<(), Failure> {
    let url = args.database.url()?;
    let progress = Progress::of("applying migrations");
    let applied = migrations::apply(url.as_str()).await?;
    drop(progress);
    if args.output.json {
        return print(&serde_json::json!({ "applied": applied }).to_string());
    }
    if applied.is_empty() {
        return print("The database is up to date.");
    }
    print(&format!(
        "Applied {}:\n  {}",
        counted(applied.len(), "migration"),
        applied.join("\n  ")
    ))
}

/// The same command, but with no file names offered for values that name no file. A value that
/// names one is a path; one that is one of a few words is listed by its parser.
fn without_file_names(command: clap::Command) -> clap::Command {
    let offer_nothing = |argument: clap::Arg| {
        let is_free = argument.get_action().takes_values()
            && argument.get_value_hint() == ValueHint::Unknown
            && argument.get_possible_values().is_empty();
        if is_free {
            argument.value_hint(ValueHint::Other)
        } else {
            argument
        }
    };
    command
        .mut_args(offer_nothing)
        .mut_subcommands(without_file_names)
}

/// Prints the completions for a shell.
fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = without_file_names(Cli::command());
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}

/// Writes a manual page for each command. The folder is made if there is none.
fn man(folder: &Path) -> Result<(), Failure> {
    let made = std::fs::create_dir_all(folder);
    let written = made.and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.map_err(|why| Failure::new(format_args!("{}: {why}", folder.display())))
}

#[cfg(test)]
mod tests {

    use super::*;

    /// Blocks like a DNS lookup that no server answers.
    #[test]
    fn blocked_work_does_not_delay_the_exit() {
        let runtime = runtime().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || {
            begun.send(()).unwrap();
            released.recv().unwrap_err();
        });
        has_begun.recv().unwrap();
        // Without a limit, this would not return.
        end(runtime);
        drop(release);
    }
}
