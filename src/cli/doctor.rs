//! `doctor`: checks what a server with these options would need, one line for each check. A
//! check that fails or takes too long keeps no other from being made, and none changes
//! anything.

use std::{process::ExitCode, time::Duration};

use tokio::time::timeout;

use super::{FAILED, Failure, print};
use crate::config::DoctorArgs;

mod database;
mod machine;
mod report;

use report::{Finding, Report};

const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut report = Report::new(args.output.json);
    machine::check(&args.serve, &mut report).await?;
    database::check(&args.serve, &mut report).await?;
    report.finish()?;
    Ok(if report.has_errors() {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// A finding within the time of a check.
async fn in_time(finding: impl Future<Output = Finding>) -> Finding {
    let found = timeout(CHECK_TIMEOUT, finding).await;
    found.unwrap_or_else(|_| {
        Finding::error(
            format!("the check took longer than {} s", CHECK_TIMEOUT.as_secs()),
            "try again, and look for what is slow or does not answer",
        )
    })
}
