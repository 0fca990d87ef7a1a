//! The services, on the wire's side: each handler reads as a checklist of what
//! the domain decides and the store keeps.
//!
//! `convert` alone turns wire types into domain types, and `error` alone turns
//! an error into a status.

use std::{sync::Arc, time::Duration};

pub mod api_clients;
pub mod audit;
pub mod context;
mod convert;
pub mod directory;
pub mod error;
pub mod introspection;
mod page;
mod usage;

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

/// What every service needs.
#[derive(Clone)]
pub struct Services {
    store: crate::store::Store,
    options: Arc<Options>,
}

impl Services {
    /// Puts the services on a store.
    pub fn new(store: crate::store::Store, options: Options) -> Self {
        Self {
            store,
            options: Arc::new(options),
        }
    }
}
