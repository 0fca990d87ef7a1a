//! `docs/hitkeep-rest.openapi.yaml`, held against a server by schemathesis: it sends what
//! the description allows, and what it forbids, and looks at every reply.

use std::path::Path;

use tokio::process::Command;

use crate::{
    service::{ALICE, Service, TEAM},
    support::{folder::Folder, process::Process, programs},
};

/// Where CI puts it.
const PLACE: &str = "target/ci-tools/openapi/bin/schemathesis";
const DESCRIPTION: &str = "docs/hitkeep-rest.openapi.yaml";
/// What a schema cannot say, such as that a time is in the future, is refused although the
/// schema allows it.
const EXCLUDED: &str = "positive_data_acceptance";

/// The caller's token comes from the environment, so that it is not in a list of
/// processes.
fn settings() -> String {
    format!(
        "[auth.openapi.caller]\napi_key = \"${{CALLER}}\"\n\n\
         [parameters]\n\"header.x-hitkeep-actor\" = \"{ALICE}\"\n\"path.team\" = \"{TEAM}\"\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_as_described() {
    let Some(program) = programs::find("schemathesis", PLACE) else {
        return;
    };
    let service = Service::start(&["--hitkeep-rest", "--max-clients-per-owner", "100000"]).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Folder::new();
    let configuration = folder.write("schemathesis.toml", &settings());
    // Apart, because it would follow the links of one of them only.
    for tag in ["personal", "team"] {
        let mut command = Command::new(&program);
        command
            .current_dir(&*folder)
            .env("CALLER", &service.dashboard)
            .arg("--config-file")
            .arg(&configuration)
            .arg("run")
            .arg(root.join(DESCRIPTION))
            .args(["--url", &format!("http://{}", service.http)])
            .args(["--include-tag", tag, "--exclude-checks", EXCLUDED])
            .args(["--seed", "1", "--generation-database", "none"])
            .args([
                "--max-examples",
                "20",
                "--continue-on-failure",
                "--no-color",
            ]);
        if program.starts_with(root) {
            // Where its modules are.
            let modules = program.parent().and_then(Path::parent);
            command.env(
                "PYTHONPATH",
                modules.expect("it is in a folder of a folder"),
            );
        }
        let ended = Process::start(command).ended().await;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(0), "{said}");
        assert!(said.contains("Tested: 5"), "{said}");
        assert!(said.contains("3 covered / 3 selected"), "{said}");
    }
    let (_, log) = service.stop().await;
    assert!(!log.contains("ERROR"), "{log}");
}
