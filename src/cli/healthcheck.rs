//! `healthcheck`: asks a running server, as a container's probe, whether it is alive or
//! ready.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{Failure, print};
use crate::{
    config::{HealthcheckArgs, Probe},
    server::health::LIVENESS,
    store::{error::causes, tls},
    transport::listeners::Address,
};

pub(super) async fn run(args: &HealthcheckArgs) -> Result<(), Failure> {
    let address = reachable(args.address());
    let failed = |why: String| Failure::new(format_args!("{address} does not answer: {why}"));
    let (to, encrypted) = (address.clone(), args.is_encrypted());
    let service = match args.probe {
        Probe::Live => LIVENESS,
        // The empty name stands for the whole server.
        Probe::Ready => "",
    };
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let ask = async {
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let to = to.clone();
                async move { connect(&to, encrypted).await.map(TokioIo::new) }
            }))
            .await
            .map_err(|error| failed(causes(&error)))?;
        let answer = HealthClient::new(channel).check(request).await;
        answer.map_err(|status| failed(status.message().to_owned()))
    };
    let answer = tokio::time::timeout(args.timeout, ask).await;
    let late = || {
        Failure::new(format_args!(
            "{address} did not answer within {:?}",
            args.timeout
        ))
    };
    let answer = answer.ok().ok_or_else(late)??;
    let status = answer.into_inner().status();
    if args.output.json {
        // Also if it does not serve, which the exit code says as well.
        let answer = serde_json::json!({
            "address": address.to_string(),
            "probe": args.probe.as_str(),
            "status": status.as_str_name(),
        });
        print(&answer.to_string())?;
    }
    match status {
        ServingStatus::Serving if args.output.json => Ok(()),
        ServingStatus::Serving => print("SERVING"),
        status => Err(Failure::new(format_args!(
            "{address} is {}",
            status.as_str_name()
        ))),
    }
}

/// A TCP or Unix connection.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// Connects, without verifying the server's certificate: no secret is sent, and the answer
/// is about this machine.
async fn connect(address: &Address, encrypted: bool) -> io::Result<Box<dyn Connection>> {
    let connection = match address {
        Address::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Tcp(address) => TcpStream::connect(address).await?,
    };
    connection.set_nodelay(true)?;
    if !encrypted {
        return Ok(Box::new(connection));
    }
    let mut config = tls::unverified_client_config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").expect("it is a name");
    let connector = TlsConnector::from(Arc::new(config));
    Ok(Box::new(connector.connect(name, connection).await?))
}

/// The address to connect to for a listen address, which may stand for all interfaces.
fn reachable(listen: &Address) -> Address {
    let Address::Tcp(text) = listen else {
        return listen.clone();
    };
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            let loopback: IpAddr = match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            Address::Tcp(SocketAddr::new(loopback, address.port()).to_string())
        }
        // A host name, or the address of one interface.
        _ => listen.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_addresses_are_reached_over_loopback() {
        let reached = |listen: &str| reachable(&listen.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:50051"), "127.0.0.1:50051");
        assert_eq!(reached("[::]:50051"), "[::1]:50051");
        assert_eq!(reached("10.0.0.0:50051"), "10.0.0.0:50051");
        assert_eq!(reached("auth.internal:50051"), "auth.internal:50051");
        assert_eq!(reached("unix:/run/auth.sock"), "unix:/run/auth.sock");
    }
}
