//! The `date` header of responses, formatted once a second.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};

use http::HeaderValue;

/// A formatted date, and how long it is the right one.
struct FormattedDate {
    value: HeaderValue,
    from: SystemTime,
}

thread_local! {
    static LAST: RefCell<Option<FormattedDate>> = const { RefCell::new(None) };
}

#[expect(
    clippy::disallowed_methods,
    reason = "it is for the peer, and nothing is decided by it"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The date now, as of RFC 9110.
pub(super) fn date() -> HeaderValue {
    let now = now();
    LAST.with_borrow_mut(|last| {
        if let Some(last) = last {
            // An error if the clock was set back.
            let age = now.duration_since(last.from);
            if age.is_ok_and(|age| age < Duration::from_secs(1)) {
                return last.value.clone();
            }
        }
        let since_epoch = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs());
        let text = httpdate::fmt_http_date(from);
        let value = HeaderValue::try_from(text).expect("it is ASCII");
        *last = Some(FormattedDate {
            value: value.clone(),
            from,
        });
        value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_in_seconds() {
        let before = now();
        let first = date();
        let read = httpdate::parse_http_date(first.to_str().unwrap()).unwrap();
        assert!(read <= before, "{first:?}");
        assert!(before.duration_since(read).unwrap() < Duration::from_secs(2));
    }
}
