//! For how long the server's certificate is good, and who is told when that ends:
//! Prometheus all the time, and the log while there is time left, and once there is
//! none.

use chrono::TimeDelta;
use rustls::pki_types::CertificateDer;
use x509_cert::{Certificate, der::Decode, time::Time};

use crate::domain::Timestamp;

/// How long before its end a certificate should have been replaced, at most. One that is
/// short-lived is replaced when a part of its life is left.
const AHEAD: TimeDelta = TimeDelta::days(7);
const PART: i32 = 5;

/// When a certificate begins to be good, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Validity {
    /// None where it cannot be read.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let validity = certificate.tbs_certificate.validity;
        Some(Self {
            from: timestamp(validity.not_before)?,
            until: timestamp(validity.not_after)?,
        })
    }

    fn stage(&self, now: Timestamp) -> Option<Stage> {
        let left = self.until - now;
        let due = AHEAD.min((self.until - self.from) / PART);
        if left <= TimeDelta::zero() {
            Some(Stage::Over)
        } else if left < due {
            Some(Stage::Soon)
        } else {
            None
        }
    }
}

fn timestamp(time: Time) -> Option<Timestamp> {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).ok()?;
    Timestamp::from_timestamp(seconds, 0)
}

/// What there is to say of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Soon,
    Over,
}

/// What was said last, and of which certificate.
#[derive(Debug, Default)]
pub(super) struct Told(Option<(Validity, Stage)>);

impl Told {
    /// Says once of each certificate that it ends soon, and once that it has.
    pub(super) fn tell(&mut self, validity: Option<Validity>, now: Timestamp) {
        let Some(validity) = validity else { return };
        let Some(stage) = self.news(validity, now) else {
            return;
        };
        let end = validity.until;
        match stage {
            Stage::Soon => tracing::warn!(
                certificate.not_after = %end,
                "the server's certificate ends soon, and no other one is there"
            ),
            Stage::Over => tracing::error!(
                certificate.not_after = %end,
                "the server's certificate has expired: callers will not accept it"
            ),
        }
    }

    fn news(&mut self, validity: Validity, now: Timestamp) -> Option<Stage> {
        let stage = validity.stage(now)?;
        let is_news = self.0 != Some((validity, stage));
        self.0 = Some((validity, stage));
        is_news.then_some(stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(seconds, 0).unwrap()
    }

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    #[test]
    fn a_certificate_is_spoken_of_a_week_before_its_end_or_a_fifth_of_its_life() {
        for (life, due) in [(90 * DAY, 7 * DAY), (10 * DAY, 2 * DAY), (5 * HOUR, HOUR)] {
            let validity = Validity {
                from: at(0),
                until: at(life),
            };
            let stage = |left: i64| validity.stage(at(life - left));
            assert_eq!(stage(life), None);
            assert_eq!(stage(due), None);
            assert_eq!(stage(due - 1), Some(Stage::Soon));
            assert_eq!(stage(1), Some(Stage::Soon));
            assert_eq!(stage(0), Some(Stage::Over));
            assert_eq!(stage(-1), Some(Stage::Over));
        }
    }

    #[test]
    fn each_is_said_once_of_each_certificate() {
        let certificate = |from| Validity {
            from: at(from),
            until: at(from + 90 * DAY),
        };
        let (first, second) = (certificate(0), certificate(DAY));
        let mut told = Told::default();
        assert_eq!(told.news(first, at(DAY)), None);
        assert_eq!(told.news(first, at(84 * DAY)), Some(Stage::Soon));
        assert_eq!(told.news(first, at(85 * DAY)), None);
        // Another one that ends as well.
        assert_eq!(told.news(second, at(85 * DAY)), Some(Stage::Soon));
        assert_eq!(told.news(second, at(91 * DAY)), Some(Stage::Over));
        assert_eq!(told.news(second, at(92 * DAY)), None);
    }
}
