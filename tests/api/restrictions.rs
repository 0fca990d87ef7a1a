//! `allowed_cidrs` and `not_before_time`: how they are managed, and what they do on every
//! door.

mod doors;
mod managed;

use hitkeep_auth::pb;

use crate::fixtures::personal;

/// A personal client with a grant on nothing, restricted to these ranges.
fn allowing(user: &str, ranges: &[&str]) -> pb::CreateApiClientRequest {
    let mut request = personal(user);
    let client = request.api_client.as_mut().unwrap();
    client.allowed_cidrs = ranges.iter().map(|range| (*range).to_owned()).collect();
    request
}

/// A personal client that works from then on.
fn starting(user: &str, time: prost_types::Timestamp) -> pb::CreateApiClientRequest {
    let mut request = personal(user);
    request.api_client.as_mut().unwrap().not_before_time = Some(time);
    request
}
