//! The services, on the wire's side: each handler reads as a checklist of what
//! the domain decides and the store keeps.
//!
//! `convert` alone turns wire types into domain types, and `error` alone turns
//! an error into a status.

use std::{sync::Arc, time::Duration};

pub mod api_clients;
pub mod audit;
pub(crate) mod callers;
pub mod context;
pub(crate) mod convert;
pub mod directory;
pub mod error;
pub(crate) mod ext_authz;
pub mod introspection;
mod page;
mod replay;
pub(crate) mod sidecar;
mod usage;

use tokio::{sync::watch, time::Instant};

use crate::{
    domain::audit::Provenance,
    replica::Replica,
    store::{Body, Committed, IsCollision, Store, Transaction, error::StoreError},
    telemetry::{
        metrics::{Metrics, WriteResult},
        traces::Sampling,
    },
};

/// What the services can be set to.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many API clients one owner may have, inactive ones included. Default
    /// 100.
    pub max_clients_per_owner: u32,
    /// How long a caller may keep an answer of Introspect at most. Default 5 s.
    pub max_cache_age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_clients_per_owner: 100,
            max_cache_age: Duration::from_secs(5),
        }
    }
}

/// The services, and what all that answers calls shares with them.
pub struct Services {
    store: Store,
    replica: Replica,
    metrics: Metrics,
    /// Which calls are traced.
    sampling: Sampling,
    options: Options,
    complaints: sidecar::Complaints,
    /// How long a request may take that is one of a stream's.
    request_timeout: Duration,
    /// Becomes true when streams have to end.
    draining: watch::Receiver<bool>,
}

impl Services {
    /// Puts the services on a store and a replica of it.
    pub fn new(
        store: Store,
        replica: Replica,
        metrics: Metrics,
        sampling: Sampling,
        options: Options,
        request_timeout: Duration,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self {
            store,
            replica,
            metrics,
            sampling,
            options,
            complaints: sidecar::Complaints::default(),
            request_timeout,
            draining,
        }
    }

    /// Where everything is kept.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// What introspections are answered from.
    pub(crate) const fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Where calls are counted.
    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Which calls are traced.
    pub(crate) const fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// How long a call may take if its caller asks for no less.
    pub(crate) const fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Becomes true when streams have to end.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.clone()
    }

    /// Writes, and comes back when this replica answers by what was written: a
    /// revocation that was acknowledged is in force here, and the others follow. Where
    /// that takes longer than the request has time, it comes back before, since what was
    /// committed has to be acknowledged and a new token is shown only once; until the
    /// index has the change, this replica then says that it cannot tell.
    ///
    /// # Errors
    /// Those of the transaction, and UNAVAILABLE where the commit was lost in a failover.
    async fn write<T, E, F>(
        &self,
        extensions: &tonic::Extensions,
        provenance: &Arc<Provenance>,
        body: F,
    ) -> Result<Committed<T>, E>
    where
        F: for<'t> Body<&'t mut Transaction, Result<T, E>> + Sync,
        T: Send,
        E: From<StoreError> + IsCollision + Send,
    {
        let begun = Instant::now();
        let committed = self.store.transact(provenance, body).await;
        let written = match committed {
            Ok((value, position)) => {
                let give_up = context::answer_by(extensions);
                let applied = self.replica.wait_applied(position, give_up).await;
                let revision = position.revision;
                applied
                    .map(|()| Committed { value, revision })
                    .map_err(|lost| StoreError::Unavailable(Box::new(lost)).into())
            }
            Err(error) => Err(error),
        };
        let outcome = WriteResult::from(&written);
        self.metrics.write(outcome, begun.elapsed());
        written
    }
}
