//! The time limits of calls.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// The header with the caller's timeout.
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// How much earlier than the caller we give up, so that our status, with its details,
/// arrives before the caller's own deadline: a tenth of the timeout, at most this. It
/// exceeds the network latency because callers round the timeout up: grpc-core to three
/// digits, so 10 s to at most 10.1 s.
const MAX_HEAD_START: Duration = Duration::from_millis(150);

/// How long a call may take from its beginning: the caller's timeout, less the time that
/// our status needs to arrive, or our own timeout if that is shorter.
pub(crate) fn time_limit(headers: &HeaderMap, ours: Option<Duration>) -> Option<Duration> {
    let theirs = headers.get(GRPC_TIMEOUT).and_then(parse_timeout);
    let theirs = theirs.map(|timeout| timeout.saturating_sub(MAX_HEAD_START.min(timeout / 10)));
    theirs.into_iter().chain(ours).min()
}

/// Parses a `grpc-timeout`: at most eight digits and a unit. A malformed one is ignored, as
/// by every other gRPC server.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (digits, unit) = value
        .to_str()
        .ok()?
        .split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_parsed_as_the_protocol_specifies() {
        let read = |text: &'static str| parse_timeout(&HeaderValue::from_static(text));
        assert_eq!(read("99999999H"), Some(Duration::from_hours(99_999_999)));
        assert_eq!(read("2M"), Some(Duration::from_mins(2)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for none in ["", "S", "1", "1s", "-1S", "1.5S", "999999999S", " 1S"] {
            assert_eq!(read(none), None, "{none:?}");
        }
    }
}
