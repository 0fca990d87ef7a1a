//! What the names of servers stand for: they are resolved anew for every connection, and
//! all addresses of a name count, since behind each of them may be another server.

use std::{fmt, io, net::IpAddr, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use tokio_postgres::config::Host;

use super::{connect::ConnectError, url::Server};

/// Looks up the addresses of a name.
type LookUp = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Resolves names: as the system does, unless told otherwise.
#[derive(Clone)]
pub struct Resolver(Arc<LookUp>);

impl Resolver {
    /// Resolves names by that function.
    pub fn by(
        look_up: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(look_up))
    }

    /// The ways to a server: one for each address that its name has at the moment.
    pub(super) async fn ways(&self, server: &Server) -> Result<Vec<Server>, ConnectError> {
        let name = match server.config.get_hosts() {
            [Host::Tcp(name)] if server.config.get_hostaddrs().is_empty() => name,
            // A socket, or an address that is given beside the name.
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
        let way = |address: IpAddr| {
            let mut way = server.clone();
            // The name stays, for the certificate.
            way.config.hostaddr(address);
            if !is_one {
                way.place = format!("{} at {address}", server.place);
            }
            way
        };
        Ok(addresses.into_iter().map(way).collect())
    }
}

impl Default for Resolver {
    fn default() -> Self {
        let look_up = async |name: String| {
            // The port is the URL's, and is not looked up.
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
