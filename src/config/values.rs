//! Parsers of option values, and computed defaults.

use std::time::Duration;

use chrono::{NaiveDate, NaiveTime, SubsecRound, TimeDelta};
use http::{HeaderValue, Uri};

use crate::domain::{Timestamp, client::Overlap};

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    let read = text.parse().ok().filter(|number| *number >= 1);
    read.ok_or_else(|| "must be a whole number of at least 1".to_owned())
}

pub(super) fn non_zero_duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let some = Some(time).filter(|time| !time.is_zero());
    some.ok_or_else(|| "must be longer than zero".to_owned())
}

pub(super) fn overlap(text: &str) -> Result<Overlap, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let overlap = TimeDelta::from_std(time).ok().and_then(Overlap::new);
    overlap.ok_or_else(|| "must be at most 7 days".to_owned())
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" => Ok(true),
        "0" | "false" | "no" | "off" | "n" => Ok(false),
        _ => Err("must be yes or no".to_owned()),
    }
}

/// An origin as browsers send it (RFC 6454, section 7). There is no wildcard: without
/// origins, no page may call.
pub(super) fn origin(text: &str) -> Result<HeaderValue, String> {
    let refused = || {
        "must be as browsers send it, such as https://tools.example.org or \
         http://127.0.0.1:8080: in lower case, without a path, and no *"
            .to_owned()
    };
    let origin: Uri = text.parse().or(Err(refused()))?;
    let (scheme, authority) = (origin.scheme_str(), origin.authority());
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (scheme, authority) else {
        return Err(refused());
    };
    // Browsers leave out the scheme's own port.
    let own_port = if scheme == "https" { 443 } else { 80 };
    let is_never_sent =
        authority.as_str().contains(['@', '*']) || authority.port_u16() == Some(own_port);
    let as_sent = format!("{scheme}://{authority}").to_ascii_lowercase();
    if is_never_sent || as_sent != text {
        return Err(refused());
    }
    HeaderValue::from_str(text).or(Err(refused()))
}

pub(super) fn at_least_a_second(text: &str) -> Result<Duration, String> {
    at_least(Duration::from_secs(1), text)
}

pub(super) fn at_least_ten_milliseconds(text: &str) -> Result<Duration, String> {
    at_least(Duration::from_millis(10), text)
}

fn at_least(least: Duration, text: &str) -> Result<Duration, String> {
    let read = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if read < least {
        let least = humantime::format_duration(least);
        return Err(format!("must be at least {least}"));
    }
    Ok(read)
}

/// A time, or a date for its first moment in UTC. Rounded down to microseconds.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    let time: Option<Timestamp> = text.parse().ok();
    let date = || {
        text.parse()
            .ok()
            .map(|date: NaiveDate| date.and_time(NaiveTime::MIN).and_utc())
    };
    let problem = "must be a time such as 2027-01-31T12:00:00Z, or a date such as 2027-01-31";
    let time = time.or_else(date).ok_or(problem)?;
    Ok(time.trunc_subsecs(6))
}

/// The number of cores that this process may use.
pub(super) fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
