//! The `grpc-timeout` of a call, as the protocol writes it: at most eight digits and a unit.

use std::time::Duration;

/// The header, or metadata, with the time that is left for a call.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Reads a timeout. `None` for a text that gRPC does not allow, which every server ignores.
pub fn read(text: &str) -> Option<Duration> {
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number =
        (1..=8).contains(&amount.len()) && amount.bytes().all(|digit| digit.is_ascii_digit());
    let amount: u64 = is_number.then(|| amount.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_hours(amount),
        "M" => Duration::from_mins(amount),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tonic::Request;

    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_specifies() {
        let longest = Duration::from_hours(99_999_999);
        assert_eq!(read("99999999H"), Some(longest));
        assert!(Instant::now().checked_add(longest).is_some());
        assert_eq!(read("2M"), Some(Duration::from_mins(2)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for text in [
            "",
            "S",
            "1",
            "1s",
            "1x",
            "1é",
            "+1S",
            "-1S",
            " 1S",
            "1.5S",
            "100000000S",
            "999999999S",
            "18446744073709551615S",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn timeouts_are_read_as_tonic_writes_them() {
        for timeout in [
            Duration::from_secs(7),
            Duration::from_micros(1500),
            Duration::from_nanos(1),
            Duration::from_secs(100_000),
        ] {
            let mut request = Request::new(());
            request.set_timeout(timeout);
            let text = request.metadata().get(GRPC_TIMEOUT).unwrap();
            assert_eq!(read(text.to_str().unwrap()), Some(timeout));
        }
    }
}
