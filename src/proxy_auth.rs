//! What a proxy that asks about a request is answered, as types and functions of what it
//! says: what its route needs, which token the request shows, and the answer in HTTP's
//! terms. Pure, as the rules that it applies are; each kind of proxy has its own way to ask
//! and to be answered, in `http::forward_auth` and `grpc::ext_authz`.

pub mod credential;
pub mod route;
pub mod verdict;
