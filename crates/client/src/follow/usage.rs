//! Reports the uses that were counted here. A report is sent until it is acknowledged, always the same under one number, so
//! that it is counted once.

use std::{pin::pin, sync::Arc, time::Duration};

use hitkeep_auth_domain::{id::ReplicaId, ledger::Recorded, usage::Batch};
use hitkeep_auth_proto as pb;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status};

use super::{
    Observer,
    connect::{Client, Link},
    wire::{MAX_REPORTED, to_usage_report},
};

/// The timeout of a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of the last reports, including retries.
const LAST_REPORTS: Duration = Duration::from_secs(5);
/// The pause before a retry of the last reports.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Reports the uses that were counted here.
pub struct Reporter<O> {
    id: ReplicaId,
    recorded: Recorded,
    link: Arc<Link>,
    observer: O,
    /// The number of the last report.
    number: u64,
    /// The report that is not acknowledged yet. It must not change.
    sent: Option<pb::ReportUsageRequest>,
    /// Uses of later reports.
    batch: Batch,
    is_failing: bool,
}

impl<O: Observer> Reporter<O> {
    pub(super) fn new(id: ReplicaId, recorded: Recorded, link: Arc<Link>, observer: O) -> Self {
        Self {
            id,
            recorded,
            link,
            observer,
            number: 0,
            sent: None,
            batch: Batch::default(),
            is_failing: false,
        }
    }

    /// Reports every interval until `stop` completes, and then the rest, for five seconds at
    /// most.
    pub async fn run(mut self, interval: Duration, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = sleep(interval) => {}
            }
            tokio::select! {
                // What is cut off here is sent again below.
                () = &mut stop => break,
                () = self.report_once() => {}
            }
        }
        let deadline = Instant::now() + LAST_REPORTS;
        let rest = async {
            while !self.report_all().await {
                // There may be no server upstream at the moment.
                drop(timeout(RETRY_PAUSE, self.link.connected()).await);
                sleep(RETRY_PAUSE).await;
            }
        };
        if timeout_at(deadline, rest).await.is_err() {
            let clients = self.pending();
            tracing::warn!(
                clients,
                "stopped before the last uses of {clients} API clients were reported"
            );
        }
    }

    async fn report_once(&mut self) {
        self.report_all().await;
        self.observer.unreported(self.pending());
    }

    fn pending(&self) -> usize {
        self.batch.len() + self.sent.as_ref().map_or(0, |sent| sent.clients.len())
    }

    /// Reports everything that was recorded so far. Returns whether it is acknowledged.
    async fn report_all(&mut self) -> bool {
        self.recorded.take(&mut self.batch);
        loop {
            if self.sent.is_none() {
                self.sent = self.next_report();
            }
            let Some(report) = &self.sent else {
                return true;
            };
            let begun = Instant::now();
            let result = match self.link.get() {
                Some(client) => send(client, report.clone()).await,
                None => Err(Status::unavailable("no server upstream is followed")),
            };
            self.observer.reported(&result, begun.elapsed());
            let is_done = match &result {
                Ok(()) => true,
                Err(status) => is_refused(status),
            };
            self.log(&result);
            if !is_done {
                return false;
            }
            self.sent = None;
        }
    }

    fn next_report(&mut self) -> Option<pb::ReportUsageRequest> {
        if self.batch.is_empty() {
            return None;
        }
        let rest = self.batch.split_off(MAX_REPORTED);
        let usage = std::mem::replace(&mut self.batch, rest);
        self.number += 1;
        Some(to_usage_report(self.id, self.number, &usage))
    }

    /// Logs the first failure of an outage, and the first success after it.
    fn log(&mut self, result: &Result<(), Status>) {
        match result {
            Ok(()) if self.is_failing => tracing::info!("uses of API clients are reported again"),
            Err(status) if is_refused(status) => tracing::error!(
                "uses of API clients were refused by the server upstream, and are lost: {}",
                status.message()
            ),
            Err(status) if !self.is_failing => tracing::warn!(
                clients = self.pending(),
                "uses of API clients cannot be reported and are kept: {}",
                status.message()
            ),
            Ok(()) | Err(_) => {}
        }
        self.is_failing = result.is_err();
    }
}

/// Whether it would be refused again.
fn is_refused(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::Unimplemented)
}

async fn send(mut client: Client, report: pb::ReportUsageRequest) -> Result<(), Status> {
    let sent = client.report_usage(report);
    match timeout(REPORT_TIMEOUT, sent).await {
        Ok(result) => result.map(|_| ()),
        Err(_) => Err(Status::deadline_exceeded("the server upstream is silent")),
    }
}

impl Link {
    /// Sends a report of another replica on, with its own id and number, to the server that is
    /// followed.
    ///
    /// # Errors
    /// If there is none, or it does not take the report.
    pub async fn pass_on(&self, report: pb::ReportUsageRequest) -> Result<(), NotPassedOn> {
        let client = self.get().ok_or(NotPassedOn::NoServer)?;
        send(client, report).await.map_err(|status| {
            if is_refused(&status) {
                NotPassedOn::Refused(status)
            } else {
                NotPassedOn::Failed(status)
            }
        })
    }
}

/// Why a report was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum NotPassedOn {
    /// No server is followed.
    #[error("no server upstream is followed")]
    NoServer,
    /// It would be refused again.
    #[error("the server upstream refuses it: {}", .0.message())]
    Refused(Status),
    /// It may be sent again.
    #[error("{}", .0.message())]
    Failed(Status),
}
