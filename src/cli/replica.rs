//! `replica`: answers from a copy of another server's index, without a database.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::{Failure, serve};
use crate::{
    config::ReplicaArgs,
    server::{Backend, Ended, Server, signals},
    system::{SystemClock, SystemEntropy},
    telemetry::Telemetry,
    transport::listeners::Listeners,
};

/// The connections to servers upstream, while one replaces the other.
const UPSTREAM_CONNECTIONS: usize = 2;

pub(super) async fn run(args: &ReplicaArgs, telemetry: Telemetry) -> Result<Ended, Failure> {
    let (options, upstream) = (args.server()?, args.upstream()?);
    let listeners =
        serve::listen(&args.serving, &options, UPSTREAM_CONNECTIONS, &telemetry).await?;
    let mut stop = signals::termination()?;
    listeners.log_addresses()?;
    let server = Server {
        backend: Backend::Upstream {
            upstream,
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(SystemEntropy),
        },
        options,
        metrics: telemetry.metrics.clone(),
        sampling: telemetry.sampling.clone(),
        grpc: listeners.grpc.incoming(),
        http: stream::iter(listeners.http).flat_map(Listeners::incoming),
    };
    let ended = server.run(&mut stop).await;
    serve::export_last(ended, &mut stop, &options, telemetry).await;
    Ok(ended)
}
