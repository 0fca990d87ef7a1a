//! The expiry of the server's certificate: a gauge for Prometheus, a warning in the log
//! ahead of it, and an error once it has passed.

use chrono::TimeDelta;
use rustls::pki_types::CertificateDer;
use x509_cert::{Certificate, der::Decode, time::Time};

use crate::domain::Timestamp;

/// When the warning is due: a week before the end, or at the last fifth of the lifetime if
/// that is later, since short-lived certificates are replaced late.
const MAX_LEAD: TimeDelta = TimeDelta::days(7);
const LIFETIME_FRACTION: i32 = 5;

/// The validity period of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Validity {
    /// None if it cannot be parsed.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let validity = certificate.tbs_certificate.validity;
        Some(Self {
            from: timestamp(validity.not_before)?,
            until: timestamp(validity.not_after)?,
        })
    }

    fn stage(&self, now: Timestamp) -> Option<ExpiryStage> {
        let left = self.until - now;
        let due = MAX_LEAD.min((self.until - self.from) / LIFETIME_FRACTION);
        if left <= TimeDelta::zero() {
            Some(ExpiryStage::Expired)
        } else if left < due {
            Some(ExpiryStage::Soon)
        } else {
            None
        }
    }
}

fn timestamp(time: Time) -> Option<Timestamp> {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).ok()?;
    Timestamp::from_timestamp(seconds, 0)
}

/// How close to its end a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpiryStage {
    Soon,
    Expired,
}

/// The certificate and stage that were logged last.
#[derive(Debug, Default)]
pub(super) struct ExpiryLog(Option<(Validity, ExpiryStage)>);

impl ExpiryLog {
    /// Logs each stage once for each certificate.
    pub(super) fn update(&mut self, validity: Option<Validity>, now: Timestamp) {
        let Some(validity) = validity else { return };
        let Some(stage) = self.next_stage(validity, now) else {
            return;
        };
        let end = validity.until;
        match stage {
            ExpiryStage::Soon => tracing::warn!(
                certificate.not_after = %end,
                "the server's certificate expires soon and was not replaced"
            ),
            ExpiryStage::Expired => tracing::error!(
                certificate.not_after = %end,
                "the server's certificate has expired: callers will not accept it"
            ),
        }
    }

    fn next_stage(&mut self, validity: Validity, now: Timestamp) -> Option<ExpiryStage> {
        let stage = validity.stage(now)?;
        let is_new = self.0 != Some((validity, stage));
        self.0 = Some((validity, stage));
        is_new.then_some(stage)
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
    fn the_warning_is_due_a_week_or_a_fifth_of_the_lifetime_before_expiry() {
        for (life, due) in [(90 * DAY, 7 * DAY), (10 * DAY, 2 * DAY), (5 * HOUR, HOUR)] {
            let validity = Validity {
                from: at(0),
                until: at(life),
            };
            let stage = |left: i64| validity.stage(at(life - left));
            assert_eq!(stage(life), None);
            assert_eq!(stage(due), None);
            assert_eq!(stage(due - 1), Some(ExpiryStage::Soon));
            assert_eq!(stage(1), Some(ExpiryStage::Soon));
            assert_eq!(stage(0), Some(ExpiryStage::Expired));
            assert_eq!(stage(-1), Some(ExpiryStage::Expired));
        }
    }

    #[test]
    fn each_stage_is_logged_once_for_each_certificate() {
        let certificate = |from| Validity {
            from: at(from),
            until: at(from + 90 * DAY),
        };
        let (first, second) = (certificate(0), certificate(DAY));
        let mut log = ExpiryLog::default();
        assert_eq!(log.next_stage(first, at(DAY)), None);
        assert_eq!(log.next_stage(first, at(84 * DAY)), Some(ExpiryStage::Soon));
        assert_eq!(log.next_stage(first, at(85 * DAY)), None);
        // A new certificate that also expires soon.
        assert_eq!(
            log.next_stage(second, at(85 * DAY)),
            Some(ExpiryStage::Soon)
        );
        assert_eq!(
            log.next_stage(second, at(91 * DAY)),
            Some(ExpiryStage::Expired)
        );
        assert_eq!(log.next_stage(second, at(92 * DAY)), None);
    }
}
