//! Connections, from the listening socket to an HTTP request and its response: TCP and Unix
//! sockets, TLS, I/O threads, HTTP/1.1 and HTTP/2 with their limits and timeouts. The
//! service that answers requests is passed in; this module does not know what requests
//! mean.

pub mod activity;
pub(crate) mod age;
pub(crate) mod auto;
mod connection_set;
pub(crate) mod http2;
pub(crate) mod io;
pub mod listeners;
pub(crate) mod pace;
pub mod tls;
pub mod workers;
