//! Usage of API clients: how one use of a token is counted, days, and a batch of counts to be
//! written. Days are in UTC, by the database's clock, like every time here. A token that belongs
//! to no client is not counted.

use std::{collections::BTreeMap, fmt, num::NonZeroU64, ops::Range, str::FromStr};

use chrono::{DateTime, NaiveDate, TimeDelta};

use super::{
    Timestamp,
    access::Decision,
    introspection::InactiveReason,
    role::{UnknownName, string_enum},
};

mod batch;
mod replaced;

pub use batch::{Batch, PendingUsage};
pub use replaced::{ReplacedUse, ReplacedUses};

/// For how many days counts are kept, and the most that one request can ask for.
pub const MAX_DAYS: u32 = 400;
/// Every day in UTC has this length: leap seconds are not counted.
const DAY_SECONDS: i64 = 24 * 60 * 60;

string_enum! {
    /// Why a presented token of a client was refused.
    RefusalReason ("refusal reason") {
        /// A newer token replaced it, and the overlap has ended.
        TokenRotated = "TOKEN_ROTATED",
        /// The client was revoked.
        Revoked = "REVOKED",
        /// The client had expired.
        Expired = "EXPIRED",
        /// The client's owner was a disabled user or an archived team.
        OwnerInactive = "OWNER_INACTIVE",
        /// The token was active, but had no role on the requested site.
        NoSiteGrant = "NO_SITE_GRANT",
        /// The token was active, but its role did not include the permission.
        RoleTooLow = "ROLE_TOO_LOW",
        /// The client's tokens did not work yet.
        NotYetActive = "NOT_YET_ACTIVE",
        /// The request came from an address that the client does not allow.
        SourceNotAllowed = "SOURCE_NOT_ALLOWED",
    }
}

/// How one presentation of a client's token is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The token was active, and had the requested permission, if any.
    Used,
    /// The token was refused.
    Refused(RefusalReason),
    /// The token was a legacy one. Counted in addition to one of the others.
    LegacyToken,
}

impl Outcome {
    /// Every outcome, at the position that `index` returns.
    pub const ALL: [Self; 10] = [
        Self::Used,
        Self::Refused(RefusalReason::TokenRotated),
        Self::Refused(RefusalReason::Revoked),
        Self::Refused(RefusalReason::Expired),
        Self::Refused(RefusalReason::OwnerInactive),
        Self::Refused(RefusalReason::NoSiteGrant),
        Self::Refused(RefusalReason::RoleTooLow),
        Self::Refused(RefusalReason::NotYetActive),
        Self::Refused(RefusalReason::SourceNotAllowed),
        Self::LegacyToken,
    ];
    const USED: &str = "USED";
    const LEGACY_TOKEN: &str = "LEGACY_TOKEN";

    /// How an answer of Introspect is counted: by the reason if the token was inactive, else by
    /// the decision if the request had a check. `None` if the token belongs to no client.
    pub const fn of(inactive: Option<InactiveReason>, decision: Option<Decision>) -> Option<Self> {
        let reason = match (inactive, decision) {
            (Some(InactiveReason::UnknownToken), _) | (None, Some(Decision::Inactive)) => {
                return None;
            }
            (Some(InactiveReason::TokenRotated), _) => RefusalReason::TokenRotated,
            (Some(InactiveReason::Revoked), _) => RefusalReason::Revoked,
            (Some(InactiveReason::Expired), _) => RefusalReason::Expired,
            (Some(InactiveReason::OwnerInactive), _) => RefusalReason::OwnerInactive,
            (Some(InactiveReason::NotYetActive), _) => RefusalReason::NotYetActive,
            (Some(InactiveReason::SourceNotAllowed), _) => RefusalReason::SourceNotAllowed,
            (None, None | Some(Decision::Allowed)) => return Some(Self::Used),
            (None, Some(Decision::NoSiteGrant)) => RefusalReason::NoSiteGrant,
            (None, Some(Decision::RoleTooLow)) => RefusalReason::RoleTooLow,
        };
        Some(Self::Refused(reason))
    }

    /// Whether the token was active, whatever the decision: only then is it the last use.
    pub const fn token_worked(self) -> bool {
        match self {
            Self::Used | Self::Refused(RefusalReason::NoSiteGrant | RefusalReason::RoleTooLow) => {
                true
            }
            Self::Refused(
                RefusalReason::TokenRotated
                | RefusalReason::Revoked
                | RefusalReason::Expired
                | RefusalReason::OwnerInactive
                | RefusalReason::NotYetActive
                | RefusalReason::SourceNotAllowed,
            )
            | Self::LegacyToken => false,
        }
    }

    /// The position in [`Self::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Used => 0,
            Self::Refused(RefusalReason::TokenRotated) => 1,
            Self::Refused(RefusalReason::Revoked) => 2,
            Self::Refused(RefusalReason::Expired) => 3,
            Self::Refused(RefusalReason::OwnerInactive) => 4,
            Self::Refused(RefusalReason::NoSiteGrant) => 5,
            Self::Refused(RefusalReason::RoleTooLow) => 6,
            Self::Refused(RefusalReason::NotYetActive) => 7,
            Self::Refused(RefusalReason::SourceNotAllowed) => 8,
            Self::LegacyToken => 9,
        }
    }

    /// `USED`, `LEGACY_TOKEN`, or the reason's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Used => Self::USED,
            Self::Refused(reason) => reason.as_str(),
            Self::LegacyToken => Self::LEGACY_TOKEN,
        }
    }
}

impl FromStr for Outcome {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            Self::USED => Ok(Self::Used),
            Self::LEGACY_TOKEN => Ok(Self::LegacyToken),
            _ => text.parse().map(Self::Refused),
        }
    }
}

/// A calendar day in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(NaiveDate);

impl Day {
    /// The day that contains `time`.
    pub const fn of(time: Timestamp) -> Self {
        Self(time.naive_utc().date())
    }

    /// The day of that number, counted from 1970-01-01 as 0; `None` if it is out of chrono's
    /// range.
    pub fn from_number(number: i32) -> Option<Self> {
        DateTime::from_timestamp(i64::from(number) * DAY_SECONDS, 0).map(Self::of)
    }

    /// The number of the day, counted from 1970-01-01 as 0.
    pub fn number(self) -> i32 {
        self.0.to_epoch_days()
    }

    /// Takes the date as one in UTC.
    pub const fn from_date(date: NaiveDate) -> Self {
        Self(date)
    }

    /// The calendar date in UTC.
    pub const fn date(self) -> NaiveDate {
        self.0
    }

    /// Midnight at the start of the day.
    pub const fn begins(self) -> Timestamp {
        self.0.and_time(chrono::NaiveTime::MIN).and_utc()
    }

    /// The day `days` earlier, or the earliest that can be represented.
    #[must_use]
    pub fn before(self, days: u32) -> Self {
        let earlier = self.0.checked_sub_days(chrono::Days::new(days.into()));
        Self(earlier.unwrap_or(NaiveDate::MIN))
    }

    /// All days that overlap the time from `from` to `to`, without `to`. Empty if `to` is not
    /// after `from`.
    pub fn within(from: Timestamp, to: Timestamp) -> Range<Self> {
        let first = Self::of(from);
        if to <= from {
            return first..first;
        }
        let last = Self::of(to - TimeDelta::microseconds(1));
        first..Self(last.0.succ_opt().unwrap_or(NaiveDate::MAX))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One client's counts of one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayUsage {
    /// The day in UTC.
    pub day: Day,
    /// How often a token of the client was used successfully.
    pub uses: u64,
    /// How often a token was refused, for each reason that occurred.
    pub refusals: BTreeMap<RefusalReason, u64>,
    /// How many of these uses and refusals were of a legacy token.
    pub legacy_tokens: u64,
}

impl DayUsage {
    /// A day without counts.
    pub const fn new(day: Day) -> Self {
        Self {
            day,
            uses: 0,
            refusals: BTreeMap::new(),
            legacy_tokens: 0,
        }
    }

    /// Adds `count` to the day's counts.
    pub fn add(&mut self, outcome: Outcome, count: u64) {
        match outcome {
            Outcome::Used => self.uses += count,
            Outcome::Refused(reason) => *self.refusals.entry(reason).or_default() += count,
            Outcome::LegacyToken => self.legacy_tokens += count,
        }
    }
}

/// The count of one outcome for a client on one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The day in UTC.
    pub day: Day,
    /// The outcome that is counted.
    pub outcome: Outcome,
    /// How often it occurred.
    pub count: NonZeroU64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::id::ClientId;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn day(text: &str) -> Day {
        Day::from_date(text.parse().unwrap())
    }

    fn client(number: u128) -> ClientId {
        ClientId::from_uuid(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn outcomes_match_their_index_and_round_trip() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.index(), place);
            assert_eq!(outcome.as_str().parse(), Ok(outcome));
        }
        let words: BTreeSet<_> = Outcome::ALL.map(Outcome::as_str).into_iter().collect();
        assert_eq!(words.len(), Outcome::ALL.len());
        assert_eq!(words.len(), RefusalReason::ALL.len() + 2);
        assert!("used".parse::<Outcome>().is_err());
        assert!("".parse::<Outcome>().is_err());
        assert!("USED".parse::<RefusalReason>().is_err());
    }

    #[test]
    fn every_answer_maps_to_its_outcome() {
        use Decision::{Allowed, Inactive, NoSiteGrant, RoleTooLow};
        use Outcome::{Refused, Used};

        for decision in [None, Some(Inactive)] {
            for (inactive, reason) in [
                (InactiveReason::TokenRotated, "TOKEN_ROTATED"),
                (InactiveReason::Revoked, "REVOKED"),
                (InactiveReason::Expired, "EXPIRED"),
                (InactiveReason::OwnerInactive, "OWNER_INACTIVE"),
                (InactiveReason::NotYetActive, "NOT_YET_ACTIVE"),
                (InactiveReason::SourceNotAllowed, "SOURCE_NOT_ALLOWED"),
            ] {
                let refused = Refused(reason.parse().unwrap());
                assert_eq!(Outcome::of(Some(inactive), decision), Some(refused));
                assert!(!refused.token_worked());
            }
            let unknown = Outcome::of(Some(InactiveReason::UnknownToken), decision);
            assert_eq!(unknown, None);
        }
        for (decision, outcome) in [
            (None, Used),
            (Some(Allowed), Used),
            (Some(NoSiteGrant), Refused(RefusalReason::NoSiteGrant)),
            (Some(RoleTooLow), Refused(RefusalReason::RoleTooLow)),
        ] {
            assert_eq!(Outcome::of(None, decision), Some(outcome));
            assert!(outcome.token_worked());
        }
    }

    #[test]
    fn a_day_lasts_from_midnight_to_midnight_in_utc() {
        let today = day("2026-03-01");
        for time in ["2026-03-01T00:00:00Z", "2026-03-01T23:59:59.999999Z"] {
            assert_eq!(Day::of(at(time)), today);
        }
        assert_eq!(Day::of(at("2026-02-28T23:59:59.999999Z")), today.before(1));
        // 01:30 at UTC+2 is still the day before in UTC.
        assert_eq!(Day::of(at("2026-03-02T01:30:00+02:00")), today);
        assert_eq!(today.begins(), at("2026-03-01T00:00:00Z"));
        assert_eq!(today.to_string(), "2026-03-01");
        assert_eq!(today.before(400), day("2025-01-25"));
    }

    #[test]
    fn day_numbers_round_trip() {
        assert_eq!(day("1970-01-01").number(), 0);
        assert_eq!(day("1969-12-31").number(), -1);
        for number in [-719_162, -1, 0, 1, 20_454, 2_932_896] {
            assert_eq!(Day::from_number(number).map(Day::number), Some(number));
        }
        assert_eq!(Day::from_number(i32::MAX), None);
        assert_eq!(Day::from_number(i32::MIN), None);
    }

    #[test]
    fn within_returns_every_overlapping_day() {
        for (from, to, first, end) in [
            (
                "2026-03-01T12:00:00Z",
                "2026-03-01T12:00:00.000001Z",
                "2026-03-01",
                "2026-03-02",
            ),
            (
                "2026-03-01T00:00:00Z",
                "2026-03-02T00:00:00Z",
                "2026-03-01",
                "2026-03-02",
            ),
            (
                "2026-03-01T23:59:59.999999Z",
                "2026-03-02T00:00:00.000001Z",
                "2026-03-01",
                "2026-03-03",
            ),
        ] {
            let within = Day::within(at(from), at(to));
            assert_eq!(within, day(first)..day(end), "{from} to {to}");
        }
        let noon = at("2026-03-01T12:00:00Z");
        assert!(Day::within(noon, noon).is_empty());
        assert!(Day::within(noon, noon - TimeDelta::days(3)).is_empty());
    }

    #[test]
    fn a_batch_sums_counts_and_keeps_the_latest_use() {
        let mut batch = Batch::default();
        let count = |day, outcome, count| Count {
            day,
            outcome,
            count: NonZeroU64::new(count).unwrap(),
        };
        let (monday, tuesday) = (day("2026-03-02"), day("2026-03-03"));
        let revoked = Outcome::Refused(RefusalReason::Revoked);
        assert!(batch.is_empty());
        for (day, outcome, times) in [
            (monday, Outcome::Used, 2),
            (monday, revoked, 1),
            (tuesday, Outcome::Used, 5),
            (monday, Outcome::Used, 3),
        ] {
            batch.add(client(2), count(day, outcome, times));
        }
        batch.add(client(1), count(monday, revoked, 1));
        let (late, early) = (at("2026-03-03T10:00:00Z"), at("2026-03-02T10:00:00Z"));
        for time in [early, late, early] {
            batch.used_at(client(2), time);
        }
        assert_eq!(batch.len(), 2);
        let all: Vec<_> = batch.after(None).map(|(id, _)| *id).collect();
        assert_eq!(all, [client(1), client(2)]);
        let (_, first) = batch.after(None).next().unwrap();
        assert_eq!(first.last_used(), None);
        let (_, second) = batch.after(Some(client(1))).next().unwrap();
        assert_eq!(second.last_used(), Some(late));
        let expected = [
            count(monday, Outcome::Used, 5),
            count(monday, revoked, 1),
            count(tuesday, Outcome::Used, 5),
        ];
        assert_eq!(second.counts(), expected);
        batch.remove(client(1));
        batch.remove(client(2));
        assert!(batch.is_empty());
    }

    #[test]
    fn a_batch_splits_after_so_many_clients() {
        let noon = at("2026-03-01T12:00:00Z");
        let ids = |batch: &Batch| -> Vec<_> { batch.after(None).map(|(id, _)| *id).collect() };
        let mut batch = Batch::default();
        for number in 1..=3 {
            batch.used_at(client(number), noon);
        }
        assert!(batch.split_off(3).is_empty());
        let rest = batch.split_off(2);
        assert_eq!(ids(&batch), [client(1), client(2)]);
        assert_eq!(ids(&rest), [client(3)]);
        assert!(!rest.is_empty());
    }

    #[test]
    fn a_day_sums_each_outcome_apart() {
        let mut usage = DayUsage::new(day("2026-03-01"));
        for (outcome, count) in [
            (Outcome::Used, 2),
            (Outcome::Used, 3),
            (Outcome::LegacyToken, 4),
            (Outcome::LegacyToken, 5),
            (Outcome::Refused(RefusalReason::Revoked), 6),
            (Outcome::Refused(RefusalReason::Revoked), 7),
            (Outcome::Refused(RefusalReason::Expired), 8),
        ] {
            usage.add(outcome, count);
        }
        let expected = DayUsage {
            day: day("2026-03-01"),
            uses: 5,
            refusals: [(RefusalReason::Revoked, 13), (RefusalReason::Expired, 8)].into(),
            legacy_tokens: 9,
        };
        assert_eq!(usage, expected);
        assert_eq!(format!("{:?}", usage.day), "2026-03-01");
    }
}
