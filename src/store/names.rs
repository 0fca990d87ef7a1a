//! Name resolution. Names are resolved for every connection, and all addresses of a name
//! are used, since each may be another server.

use std::{fmt, io, net::IpAddr, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use tokio_postgres::config::Host;

use super::{error::connect::ConnectError, url::Server};

type LookUpFn = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Resolves host names; by default with the system's resolver.
#[derive(Clone)]
pub struct Resolver(Arc<LookUpFn>);

impl Resolver {
    /// A resolver that calls a function.
    pub fn by(
        look_up: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(look_up))
    }

    /// Resolves a server into one per address of its name.
    pub(super) async fn resolve(&self, server: &Server) -> Result<Vec<Server>, ConnectError> {
        let name = match server.config.get_hosts() {
            [Host::Tcp(name)] if server.config.get_hostaddrs().is_empty() => name,
            // A Unix socket, or a host with an explicit address.
            _ => return Ok(vec![server.clone()]),
        };
        let unresolved = |error| ConnectError::Unresolved(server.place.clone(), error);
        let mut addresses = match name.parse() {
            Ok(address) => vec![address],
            Err(_) => (self.0)(name.clone()).await.map_err(unresolved)?,
        };
        let mut known = Vec::new();
        addresses.retain(|address| {
            let is_new = !known.contains(address);
            known.push(*address);
            is_new
        });
        if addresses.is_empty() {
            return Err(unresolved(io::ErrorKind::NotFound.into()));
        }
        let is_one = addresses.len() == 1;
        let route = |address: IpAddr| {
            let mut route = server.clone();
            // The name is kept to verify the certificate.
            route.config.hostaddr(address);
            if !is_one {
                route.place = format!("{} at {address}", server.place);
            }
            route
        };
        Ok(addresses.into_iter().map(route).collect())
    }
}

impl Default for Resolver {
    fn default() -> Self {
        let look_up = async |name: String| {
            // The port is the URL's, so that any will do here.
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        };
        Self::by(move |name| look_up(name).boxed())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}
