//! Many watchers of one server: what they cost it, and how soon all of them know of a
//! revocation.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hitkeep_auth::pb::{
    self, SnapshotEnd, api_client_service_client::ApiClientServiceClient,
    introspection_service_client::IntrospectionServiceClient, replicate_request as request,
    replicate_response::Message, replication_service_client::ReplicationServiceClient,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use tonic_types::StatusExt;

use crate::support::{
    calls,
    cores::{self, Cores},
    figures::{Samples, Table, met, milliseconds},
    population::{self, Known},
    postgres::Postgres,
    service::{Caller, Service},
};

/// Clients in the database.
const CLIENTS: usize = 3000;
/// How long a watcher may have to wait for anything.
const PATIENCE: Duration = Duration::from_mins(1);
/// The bounds.
const MEMORY: u64 = 20 * MIB;
const P99: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

pub struct Options {
    pub watchers: usize,
    pub revocations: usize,
}

/// A replica, as far as the server can tell.
struct Watcher {
    /// Ends the stream when dropped.
    _requests: mpsc::Sender<pb::ReplicateRequest>,
    responses: Streaming<pb::ReplicateResponse>,
}

/// What came to a watcher.
struct Told {
    revision: u64,
    at: Instant,
}

pub fn measure(
    postgres: &Postgres,
    runtime: &Runtime,
    cores: &Cores,
    options: &Options,
) -> Result<(), String> {
    // A connection each, at both ends, and those of everything else.
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).map_err(|error| error.to_string())?;
    let database = runtime.block_on(postgres.migrated("watchers"));
    let known = runtime.block_on(population::fill(&database, CLIENTS, options.revocations));
    let (caller, follower) = (Caller::create(&database), Caller::replica(&database));
    let connections = (options.watchers + 100).to_string();
    let server = cores::on(&cores.server, || {
        Service::start(&database, &["--max-connections", &connections])
    });
    runtime.block_on(watch(&server, &caller, &follower, &known, options))
}

async fn watch(
    server: &Service,
    caller: &Caller,
    follower: &Caller,
    known: &[Known],
    options: &Options,
) -> Result<(), String> {
    server.serving().await;
    let mut channels = Vec::new();
    for _ in 0..options.watchers {
        let channel = server.connect().await;
        // So that nothing which a connection needs is still to come.
        let mut introspection = IntrospectionServiceClient::new(channel.clone());
        let asked = caller.says(calls::introspect(&known[0].token));
        let asked = introspection.introspect(asked).await;
        asked.map_err(|status| status.to_string())?;
        channels.push(channel);
    }
    let idle = server.memory().resident;
    let mut watching = JoinSet::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let begun = Arc::new(Semaphore::new(0));
    for (number, channel) in channels.into_iter().enumerate() {
        let (follower, tell, begun) = (follower.clone(), tell.clone(), Arc::clone(&begun));
        watching.spawn(async move {
            let mut watcher = begin(number, channel, &follower).await?;
            begun.add_permits(1);
            while let Some(told) = watcher.next().await? {
                drop(tell.send(told));
            }
            Err::<(), String>("a watcher's stream ended".to_owned())
        });
    }
    let all = u32::try_from(options.watchers).expect("a few");
    tokio::select! {
        begun = begun.acquire_many(all) => drop(begun.expect("it is not closed")),
        Some(ended) = watching.join_next() => ended.expect("it does not panic")?,
    }
    let watched = server.memory();
    let mut manager = ApiClientServiceClient::new(server.connect().await);
    let (mut each, mut last) = (Vec::new(), Vec::new());
    for client in known {
        let revoked = manager.revoke_api_client(caller.says(calls::revoke(client)));
        let revoked = revoked.await.map_err(|status| status.to_string())?;
        let (acknowledged, revision) = (Instant::now(), revoked.into_inner().revision);
        let mut times = Vec::with_capacity(options.watchers);
        while times.len() < options.watchers {
            let waiting = options.watchers - times.len();
            let told = tokio::time::timeout(PATIENCE, told.recv()).await;
            let late = |late| format!("{waiting} watchers were told nothing: {late}");
            let told = told.map_err(late)?;
            let told = told.expect("the sender is here");
            if told.revision == revision {
                times.push(told.at);
            }
        }
        // A watcher may know before the one who revoked.
        let first = times.iter().copied().fold(acknowledged, Instant::min);
        let times = times.into_iter().map(|at| at - first);
        each.extend(times.clone());
        last.extend(times.max());
    }
    report(
        options,
        [idle, watched.resident],
        &Samples::of(each),
        &Samples::of(last),
    );
    Ok(())
}

/// Begins, and takes the snapshot, as late as the server wants it to.
async fn begin(number: usize, channel: Channel, follower: &Caller) -> Result<Watcher, String> {
    let mut client = ReplicationServiceClient::new(channel);
    loop {
        let (requests, receiver) = mpsc::channel(1);
        let start = pb::ReplicationStart {
            replica_id: format!("01930000-0000-7000-8000-{number:012}"),
            ..pb::ReplicationStart::default()
        };
        let start = pb::ReplicateRequest {
            message: Some(request::Message::Start(start)),
        };
        requests.send(start).await.expect("there is room");
        let opened = client.replicate(follower.says(ReceiverStream::new(receiver)));
        let taken = async {
            let mut watcher = Watcher {
                _requests: requests,
                responses: opened.await?.into_inner(),
            };
            loop {
                let message = watcher.responses.message().await?;
                let message = message.and_then(|response| response.message);
                if let Some(Message::SnapshotEnd(SnapshotEnd {})) = message {
                    return Ok::<_, tonic::Status>(watcher);
                }
            }
        };
        match taken.await {
            Ok(watcher) => return Ok(watcher),
            Err(status) => {
                let retry = status.get_details_retry_info();
                let delay = retry.and_then(|retry| retry.retry_delay);
                let delay = delay.ok_or_else(|| format!("a watcher cannot begin: {status}"))?;
                tokio::time::sleep(delay).await;
            }
        }
    }
}

impl Watcher {
    /// The next revision that it is told of.
    async fn next(&mut self) -> Result<Option<Told>, String> {
        loop {
            let response = self.responses.message().await;
            let Some(response) = response.map_err(|status| status.to_string())? else {
                return Ok(None);
            };
            let at = Instant::now();
            if let Some(Message::Changes(changes)) = response.message
                && let Some(position) = changes.position
            {
                let revision = position.revision;
                return Ok(Some(Told { revision, at }));
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "it prints what it measured")]
fn report(options: &Options, [idle, watched]: [u64; 2], each: &Samples, last: &Samples) {
    println!(
        "{} watchers, {} revocations one after the other, {CLIENTS} clients",
        options.watchers, options.revocations
    );
    let mut table = Table::new(&["from the first one that knows until", "p50", "p99", "max"]);
    for (what, samples) in [("a watcher is told", each), ("all are told", last)] {
        let [p50, p99, max] = [samples.median(), samples.p99(), samples.max()].map(milliseconds);
        table.row([what.to_owned(), p50, p99, max]);
    }
    table.print();
    println!(
        "all told, p99 at most {}: {}",
        milliseconds(P99),
        met(last.p99() <= P99)
    );
    let more = watched.saturating_sub(idle);
    println!(
        "memory: {} MiB with the connections idle, {} MiB more with the watchers, at most {} MiB: {}",
        idle / MIB,
        more / MIB,
        MEMORY / MIB,
        met(more <= MEMORY)
    );
}
