//! Treats empty environment variables as unset, for every option: compose files and
//! Kubernetes set a variable without a value to the empty string. The same for the variable of
//! an owner if the command line names another one. Also the variable that supervisors set.

use std::{
    ffi::{OsStr, OsString},
    sync::OnceLock,
};

use clap::{Arg, Command, builder::Resettable};

/// The same command, but ignoring environment variables that are empty, or that the command
/// line overrides by another option.
pub(super) fn ignoring_empty_variables(command: Command) -> Command {
    command
        .mut_args(ignore_empty)
        .mut_subcommands(ignoring_empty_variables)
}

fn ignore_empty(argument: Arg) -> Arg {
    let Some(name) = argument.get_env() else {
        return argument;
    };
    let is_empty = std::env::var_os(name).is_some_and(|value| value.is_empty());
    if !is_empty && !is_overridden(&argument) {
        return argument;
    }
    // The help must still name the variable.
    let named = format!("[env: {}=]", name.display());
    let help = argument.get_help().map(ToString::to_string);
    let help = format!("{} {named}", help.unwrap_or_default());
    argument
        .env(Resettable::<clap::builder::OsStr>::Reset)
        .help(help)
}

/// Whether the command line names the owner otherwise: a user in the environment must not keep
/// a team from being given, as it does if both are given in the same place.
fn is_overridden(argument: &Arg) -> bool {
    let other = match argument.get_id().as_str() {
        "user" => "--team",
        "team" => "--user",
        _ => return false,
    };
    let is_other = |text: &str| {
        let rest = text.strip_prefix(other);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let mut given = std::env::args_os();
    given.any(|text| text.to_str().is_some_and(is_other))
}

/// The socket of the supervisor that started the process and wants to be notified, such as
/// systemd: `sd_notify(3)`.
pub(super) fn notify_socket() -> Option<&'static OsStr> {
    static SOCKET: OnceLock<Option<OsString>> = OnceLock::new();
    let read = || std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty());
    SOCKET.get_or_init(read).as_deref()
}
