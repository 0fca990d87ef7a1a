//! The services' side of the wire: each handler is a checklist of domain decisions and
//! store operations.
//!
//! Only `convert` turns wire types into domain types, and only `error` turns an error into
//! a status.

use std::{sync::Arc, time::Duration};

pub mod api_clients;
pub mod audit;
pub(crate) mod callers;
pub mod context;
pub(crate) mod convert;
pub(crate) mod dashboard;
pub mod directory;
pub mod error;
pub(crate) mod ext_authz;
mod incident;
pub mod introspection;
mod management;
mod page;
mod replay;
pub mod replication;
mod retry;
pub(crate) mod sidecar;
mod usage;

use tokio::{sync::watch, time::Instant};

use self::error::ApiError;

use crate::{
    domain::{
        audit::Provenance,
        client::Expiry,
        clock::{Clock, Entropy},
    },
    live_index::LiveIndex,
    proxy_auth::source::TrustedHops,
    store::{Committed, Store, Transaction, TransactionBody, error::StoreError},
    telemetry::{
        metrics::{Metrics, WriteResult},
        traces::Sampling,
    },
};

#[derive(Clone, Copy, Debug)]
pub struct ServiceOptions {
    /// The most API clients that one owner may have, inactive ones included. Default 100.
    pub max_clients_per_owner: u32,
    /// The upper bound of `max_cache_age`, for which callers may cache a response of
    /// Introspect. Default 5 s.
    pub max_cache_age: Duration,
    /// How many proxies of the deployment a request passes, each of which appends to
    /// `x-forwarded-for`; the last one asks here. Default 0: the header is not believed.
    pub trusted_hops: u8,
    /// Until when legacy tokens are accepted. Default: without a limit.
    pub legacy_tokens_until: Expiry,
    /// Whether HitKeep's dashboard may manage API clients over HTTP, by routes of its own.
    /// Default false.
    pub hitkeep_rest: bool,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            max_clients_per_owner: 100,
            max_cache_age: Duration::from_secs(5),
            trusted_hops: 0,
            legacy_tokens_until: Expiry::Never,
            hitkeep_rest: false,
        }
    }
}

/// Where the index of a process comes from, and with it what the process can do beside
/// answering from it.
#[derive(Clone)]
pub enum Origin {
    /// A database, in which callers can be looked up.
    Database(Store),
    /// Another server: there is nothing but the index.
    Upstream { entropy: Arc<dyn Entropy> },
}

impl Origin {
    fn entropy(&self) -> &dyn Entropy {
        match self {
            Self::Database(store) => store.entropy(),
            Self::Upstream { entropy } => &**entropy,
        }
    }
}

/// The services that answer from the index, and the state that they share with everything
/// that answers calls. Every process has them; [`Management`] needs a database.
pub struct Services {
    origin: Origin,
    index: LiveIndex,
    metrics: Metrics,
    sampling: Sampling,
    options: ServiceOptions,
    log_limiter: sidecar::LogLimiter,
    /// The time limit of one request of a stream.
    request_timeout: Duration,
    /// Becomes true when streams must end.
    draining: watch::Receiver<bool>,
}

impl Services {
    /// Services on an index.
    pub fn new(
        origin: Origin,
        index: LiveIndex,
        metrics: Metrics,
        sampling: Sampling,
        options: ServiceOptions,
        request_timeout: Duration,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self {
            origin,
            index,
            metrics,
            sampling,
            options,
            log_limiter: sidecar::LogLimiter::default(),
            request_timeout,
            draining,
        }
    }

    /// The clock that is calibrated by the database's.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &**self.index.clock()
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        self.origin.entropy()
    }

    /// The index that introspections are answered from.
    pub(crate) const fn index(&self) -> &LiveIndex {
        &self.index
    }

    /// The instruments that calls are counted in.
    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) const fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Which entry of `x-forwarded-for` is believed.
    pub(crate) const fn trusted_hops(&self) -> TrustedHops {
        TrustedHops(self.options.trusted_hops)
    }

    /// How long a call may take, unless its caller's timeout is shorter.
    pub(crate) const fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Becomes true when streams must end.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.clone()
    }
}

/// The services that manage API clients, the directory and the audit trail, in a database.
pub struct Management {
    store: Store,
    /// The index of this process, which must have a change before it is acknowledged.
    index: LiveIndex,
    metrics: Metrics,
    options: ServiceOptions,
}

impl Management {
    /// Services on a store and its index.
    pub const fn new(
        store: Store,
        index: LiveIndex,
        metrics: Metrics,
        options: ServiceOptions,
    ) -> Self {
        Self {
            store,
            index,
            metrics,
            options,
        }
    }

    /// Writes, and returns once this server's index has the change, and the primary is shown
    /// to have it: an acknowledged revocation is in force here, and other servers follow. If
    /// the index is late, it returns before; until the index has the change, this server
    /// then answers that it cannot judge.
    ///
    /// # Errors
    /// Those of the transaction; and UNAVAILABLE if a failover lost the commit, or nothing
    /// shows before the request's deadline that the primary has it.
    async fn write<T, F>(
        &self,
        extensions: &tonic::Extensions,
        provenance: &Arc<Provenance>,
        body: F,
    ) -> Result<Committed<T>, ApiError>
    where
        F: for<'t> TransactionBody<&'t mut Transaction, Result<T, ApiError>> + Sync,
        T: Send,
    {
        let begun = Instant::now();
        let caller = context::caller(extensions)?;
        let body = async |tx: &mut Transaction| {
            self.check_caller(caller, tx).await?;
            body(tx).await
        };
        let committed = self.store.transact(provenance, body).await;
        let written = match committed {
            Ok((value, commit)) => {
                let wait_until = context::response_due(extensions);
                let applied = self.index.wait_applied(&self.store, commit, wait_until);
                let revision = commit.position.revision;
                applied
                    .await
                    .map(|()| Committed { value, revision })
                    .map_err(|error| StoreError::Unavailable(Box::new(error)).into())
            }
            Err(error) => Err(error),
        };
        let outcome = WriteResult::from(&written);
        self.metrics.write(outcome, begun.elapsed());
        written
    }
}
