//! The time limits of calls.

use std::time::Duration;

use http::HeaderMap;

use crate::client::grpc_timeout::{self, GRPC_TIMEOUT};

/// How much earlier than the caller we give up, so that our status, with its details,
/// arrives before the caller's own deadline: a tenth of the timeout, at most this. It
/// exceeds the network latency because callers round the timeout up: grpc-core to three
/// digits, so 10 s to at most 10.1 s.
const MAX_HEAD_START: Duration = Duration::from_millis(150);

/// How long a call may take from its beginning: the caller's timeout, less the time that
/// our status needs to arrive, or our own timeout if that is shorter.
pub(crate) fn time_limit(headers: &HeaderMap, ours: Option<Duration>) -> Option<Duration> {
    let theirs = headers.get(GRPC_TIMEOUT);
    let theirs = theirs.and_then(|text| grpc_timeout::read(text.to_str().ok()?));
    let theirs = theirs.map(|timeout| timeout.saturating_sub(MAX_HEAD_START.min(timeout / 10)));
    theirs.into_iter().chain(ours).min()
}
