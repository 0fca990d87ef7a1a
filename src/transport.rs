//! Connections, from the listening socket to a request of HTTP and its response: TCP and
//! Unix sockets, TLS, the threads that serve them, HTTP/1.1 and HTTP/2 with their limits and
//! timeouts. What answers the requests is handed in, and nothing is known here of what they
//! are about.

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
