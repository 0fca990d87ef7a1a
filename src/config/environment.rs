//! Variables that are set to nothing, which is what compose files and Kubernetes make of
//! those that nobody gave a value: for every option, they count as not set.

use clap::{
    Arg, Command,
    builder::{OsStr, Resettable},
};

/// The same command, for which variables that are set to nothing are not there.
pub(super) fn without_empty(command: Command) -> Command {
    command
        .mut_args(ignore_empty)
        .mut_subcommands(without_empty)
}

fn ignore_empty(argument: Arg) -> Arg {
    let Some(name) = argument.get_env() else {
        return argument;
    };
    if std::env::var_os(name).is_none_or(|value| !value.is_empty()) {
        return argument;
    }
    // The help must name it all the same.
    let named = format!("[env: {}=]", name.display());
    let help = argument.get_help().map(ToString::to_string);
    let help = format!("{} {named}", help.unwrap_or_default());
    argument.env(Resettable::<OsStr>::Reset).help(help)
}
