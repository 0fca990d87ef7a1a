//! Variables in the place of options: how they are read, and what they must not change.

use crate::{
    help,
    process::{Process, binary},
};

/// Compose files and Kubernetes write `1` or `yes` as well as `true`, and one parser reads them
/// all. What is none of them is refused before anything is done.
#[tokio::test]
async fn every_switch_is_read_alike() {
    let mut switches = Vec::new();
    for help in help::all() {
        for (name, said) in &help.options {
            let Some((_, variable)) = said.split_once("[env: ") else {
                continue;
            };
            if said.contains(&format!("{name} <")) {
                continue;
            }
            let variable = variable.split(['=', ']']).next().unwrap();
            let mut command = binary(&help.path);
            command.env(variable, "perhaps");
            let refused = Process::start(command).ended().await.refused(2);
            let is_refused = refused.contains("must be yes or no");
            assert!(is_refused, "{name} of {:?}: {refused}", help.path);
            switches.push(name.clone());
        }
    }
    for name in ["--json", "--allow-standby", "--without-names", "--yes"] {
        assert!(switches.iter().any(|switch| switch == name), "{name}");
    }
}

#[tokio::test]
async fn a_switch_is_turned_on_by_1() {
    for (command, variable) in [
        ("serve", "HITKEEP_AUTH_ALLOW_STANDBY"),
        ("replica", "HITKEEP_AUTH_WITHOUT_NAMES"),
    ] {
        for yes in ["1", "true", "yes", "on"] {
            let mut command = binary([command]);
            command.env(variable, yes);
            let refused = Process::start(command).ended().await.refused(2);
            // What it lacks is another option.
            assert!(refused.contains("required"), "{variable}={yes}: {refused}");
        }
    }
}
