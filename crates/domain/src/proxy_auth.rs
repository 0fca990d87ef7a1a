//! The decision for a proxy that asks about a request: what its route requires, which token
//! the request carries, and the answer in HTTP terms. Pure, like the access rules that it
//! applies. The protocols of the proxies are in `http::forward_auth` and `grpc::ext_authz`.

pub mod credential;
pub mod query;
pub mod route;
pub mod source;
pub mod verdict;
