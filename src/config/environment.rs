//! Treats empty environment variables as unset, for every option: compose files and
//! Kubernetes set a variable without a value to the empty string. Also the variable that
//! supervisors set.

use std::{
    ffi::{OsStr, OsString},
    sync::OnceLock,
};

use clap::{Arg, Command, builder::Resettable};

/// The same command, but ignoring empty environment variables.
pub(super) fn ignoring_empty_variables(command: Command) -> Command {
    command
        .mut_args(ignore_empty)
        .mut_subcommands(ignoring_empty_variables)
}

fn ignore_empty(argument: Arg) -> Arg {
    let Some(name) = argument.get_env() else {
        return argument;
    };
    if std::env::var_os(name).is_none_or(|value| !value.is_empty()) {
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

/// The socket of the supervisor that started the process and wants to be notified, such as
/// systemd: `sd_notify(3)`.
pub(super) fn notify_socket() -> Option<&'static OsStr> {
    static SOCKET: OnceLock<Option<OsString>> = OnceLock::new();
    let read = || std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty());
    SOCKET.get_or_init(read).as_deref()
}
