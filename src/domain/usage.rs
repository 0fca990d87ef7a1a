//! How API clients are used: what one presentation of a token counts as, days,
//! and a batch of counts that is on its way into the database.
//!
//! The day is that of the database's clock in UTC, like every other time here.
//! A token that is of no client counts nowhere.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    num::NonZeroU64,
    ops::{Bound, Range},
    str::FromStr,
};

use chrono::{DateTime, NaiveDate, TimeDelta};

use super::{
    Timestamp,
    access::Decision,
    id::ClientId,
    introspection::InactiveReason,
    role::{UnknownWord, words},
};

/// For how many days counts are kept, and how many can be asked for at once.
pub const MAX_DAYS: u32 = 400;
/// The length of every day in UTC: leap seconds are not counted.
const DAY_SECONDS: i64 = 24 * 60 * 60;

words! {
    /// Why the presentation of a client's token was no use of it.
    RefusalReason ("refusal reason") {
        /// A newer token took its place, and its overlap has ended.
        TokenRotated = "TOKEN_ROTATED",
        /// The client was revoked.
        Revoked = "REVOKED",
        /// The client's expiry had come.
        Expired = "EXPIRED",
        /// The client's owner could not act.
        OwnerInactive = "OWNER_INACTIVE",
        /// The token worked, and carried nothing on the site asked for.
        NoSiteGrant = "NO_SITE_GRANT",
        /// The token worked, and its role did not carry the permission.
        RoleTooLow = "ROLE_TOO_LOW",
    }
}

/// What one presentation of a client's token counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The token worked, and carried what was asked for.
    Used,
    /// It did not, for that reason.
    Refused(RefusalReason),
}

impl Outcome {
    /// Every outcome; each stands where its `index` says.
    pub const ALL: [Self; 7] = [
        Self::Used,
        Self::Refused(RefusalReason::TokenRotated),
        Self::Refused(RefusalReason::Revoked),
        Self::Refused(RefusalReason::Expired),
        Self::Refused(RefusalReason::OwnerInactive),
        Self::Refused(RefusalReason::NoSiteGrant),
        Self::Refused(RefusalReason::RoleTooLow),
    ];
    /// The word for a use.
    const USED: &str = "USED";

    /// What an answer of Introspect counts as: why the token was inactive, where
    /// it was, and what was decided, where a check was asked for. `None` where
    /// the token is of no client, and nothing is counted.
    pub const fn of(inactive: Option<InactiveReason>, decision: Option<Decision>) -> Option<Self> {
        let reason = match (inactive, decision) {
            (Some(InactiveReason::UnknownToken), _) | (None, Some(Decision::Inactive)) => {
                return None;
            }
            (Some(InactiveReason::TokenRotated), _) => RefusalReason::TokenRotated,
            (Some(InactiveReason::Revoked), _) => RefusalReason::Revoked,
            (Some(InactiveReason::Expired), _) => RefusalReason::Expired,
            (Some(InactiveReason::OwnerInactive), _) => RefusalReason::OwnerInactive,
            (None, None | Some(Decision::Allowed)) => return Some(Self::Used),
            (None, Some(Decision::NoSiteGrant)) => RefusalReason::NoSiteGrant,
            (None, Some(Decision::RoleTooLow)) => RefusalReason::RoleTooLow,
        };
        Some(Self::Refused(reason))
    }

    /// Whether the token worked, whatever was decided: only then does it move the
    /// client's last use.
    pub const fn token_worked(self) -> bool {
        match self {
            Self::Used | Self::Refused(RefusalReason::NoSiteGrant | RefusalReason::RoleTooLow) => {
                true
            }
            Self::Refused(
                RefusalReason::TokenRotated
                | RefusalReason::Revoked
                | RefusalReason::Expired
                | RefusalReason::OwnerInactive,
            ) => false,
        }
    }

    /// Its place among all of them.
    pub const fn index(self) -> usize {
        match self {
            Self::Used => 0,
            Self::Refused(RefusalReason::TokenRotated) => 1,
            Self::Refused(RefusalReason::Revoked) => 2,
            Self::Refused(RefusalReason::Expired) => 3,
            Self::Refused(RefusalReason::OwnerInactive) => 4,
            Self::Refused(RefusalReason::NoSiteGrant) => 5,
            Self::Refused(RefusalReason::RoleTooLow) => 6,
        }
    }

    /// The word for it: `USED`, or the reason's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Used => Self::USED,
            Self::Refused(reason) => reason.as_str(),
        }
    }
}

impl FromStr for Outcome {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            Self::USED => Ok(Self::Used),
            _ => text.parse().map(Self::Refused),
        }
    }
}

/// A day in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(NaiveDate);

impl Day {
    /// The day that a moment is in.
    pub const fn of(time: Timestamp) -> Self {
        Self(time.naive_utc().date())
    }

    /// The day of that number, counted from 1970-01-01, which is 0; `None` for
    /// one that is hundreds of thousands of years away.
    pub fn from_number(number: i32) -> Option<Self> {
        DateTime::from_timestamp(i64::from(number) * DAY_SECONDS, 0).map(Self::of)
    }

    /// Its number, counted from 1970-01-01, which is 0.
    pub fn number(self) -> i32 {
        self.0.to_epoch_days()
    }

    /// The day of that date.
    pub const fn from_date(date: NaiveDate) -> Self {
        Self(date)
    }

    /// Its date.
    pub const fn date(self) -> NaiveDate {
        self.0
    }

    /// Its first moment.
    pub const fn begins(self) -> Timestamp {
        self.0.and_time(chrono::NaiveTime::MIN).and_utc()
    }

    /// The day so many days before; the first one there is where that is none.
    #[must_use]
    pub fn before(self, days: u32) -> Self {
        let earlier = self.0.checked_sub_days(chrono::Days::new(days.into()));
        Self(earlier.unwrap_or(NaiveDate::MIN))
    }

    /// Every day that has a part in the time from `from` up to, and without, `to`.
    /// None where that is no time at all.
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

/// What happened to one client on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayUsage {
    /// The day.
    pub day: Day,
    /// How often a token of the client worked and carried what was asked for.
    pub uses: u64,
    /// How often not, for each reason that there was.
    pub refusals: BTreeMap<RefusalReason, u64>,
}

impl DayUsage {
    /// A day on which nothing happened yet.
    pub const fn new(day: Day) -> Self {
        Self {
            day,
            uses: 0,
            refusals: BTreeMap::new(),
        }
    }

    /// Adds to the day's counts.
    pub fn add(&mut self, outcome: Outcome, count: u64) {
        match outcome {
            Outcome::Used => self.uses += count,
            Outcome::Refused(reason) => *self.refusals.entry(reason).or_default() += count,
        }
    }
}

/// How often one outcome happened to a client on one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The day.
    pub day: Day,
    /// What happened.
    pub outcome: Outcome,
    /// How often.
    pub count: NonZeroU64,
}

/// What of one client is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unwritten {
    last_used: Option<Timestamp>,
    counts: Vec<Count>,
}

impl Unwritten {
    /// When a token of the client was last found good, where one was.
    pub const fn last_used(&self) -> Option<Timestamp> {
        self.last_used
    }

    /// What happened how often; no outcome of a day twice.
    pub fn counts(&self) -> &[Count] {
        &self.counts
    }
}

/// What is to be written, of all clients, ordered by client. What was written is
/// taken out; what could not be stays in, and more is added to it. So it has at
/// most seven counts a client for each day that passes without success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch(BTreeMap<ClientId, Unwritten>);

impl Batch {
    /// Adds how often something happened to a client.
    pub fn add(&mut self, client: ClientId, count: Count) {
        let counts = &mut self.0.entry(client).or_default().counts;
        let same = |known: &&mut Count| (known.day, known.outcome) == (count.day, count.outcome);
        match counts.iter_mut().find(same) {
            Some(known) => known.count = known.count.saturating_add(count.count.get()),
            None => counts.push(count),
        }
    }

    /// Notes that a token of a client was found good at that moment. Earlier than
    /// what is known of it changes nothing.
    pub fn used_at(&mut self, client: ClientId, time: Timestamp) {
        let known = &mut self.0.entry(client).or_default().last_used;
        *known = (*known).max(Some(time));
    }

    /// The clients that come after that one, or all of them.
    pub fn after(&self, client: Option<ClientId>) -> btree_map::Range<'_, ClientId, Unwritten> {
        let start = client.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range((start, Bound::Unbounded))
    }

    /// Takes a client out: it was written.
    pub fn remove(&mut self, client: ClientId) {
        self.0.remove(&client);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many clients are in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
    fn an_outcome_stands_where_its_index_says_and_is_read_as_it_is_written() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.index(), place);
            assert_eq!(outcome.as_str().parse(), Ok(outcome));
        }
        let words: BTreeSet<_> = Outcome::ALL.map(Outcome::as_str).into_iter().collect();
        assert_eq!(words.len(), Outcome::ALL.len());
        assert_eq!(words.len(), RefusalReason::ALL.len() + 1);
        assert!("used".parse::<Outcome>().is_err());
        assert!("".parse::<Outcome>().is_err());
        assert!("USED".parse::<RefusalReason>().is_err());
    }

    #[test]
    fn every_answer_counts_as_what_it_says() {
        use Decision::{Allowed, Inactive, NoSiteGrant, RoleTooLow};
        use Outcome::{Refused, Used};

        for decision in [None, Some(Inactive)] {
            for (inactive, reason) in [
                (InactiveReason::TokenRotated, RefusalReason::TokenRotated),
                (InactiveReason::Revoked, RefusalReason::Revoked),
                (InactiveReason::Expired, RefusalReason::Expired),
                (InactiveReason::OwnerInactive, RefusalReason::OwnerInactive),
            ] {
                assert_eq!(Outcome::of(Some(inactive), decision), Some(Refused(reason)));
                assert!(!Refused(reason).token_worked());
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
    fn a_day_begins_at_midnight_in_utc_and_ends_at_the_next() {
        let today = day("2026-03-01");
        for time in ["2026-03-01T00:00:00Z", "2026-03-01T23:59:59.999999Z"] {
            assert_eq!(Day::of(at(time)), today);
        }
        assert_eq!(Day::of(at("2026-02-28T23:59:59.999999Z")), today.before(1));
        // 01:30 in the east is still yesterday here.
        assert_eq!(Day::of(at("2026-03-02T01:30:00+02:00")), today);
        assert_eq!(today.begins(), at("2026-03-01T00:00:00Z"));
        assert_eq!(today.to_string(), "2026-03-01");
        assert_eq!(today.before(400), day("2025-01-25"));
    }

    #[test]
    fn a_day_has_a_number() {
        assert_eq!(day("1970-01-01").number(), 0);
        assert_eq!(day("1969-12-31").number(), -1);
        for number in [-719_162, -1, 0, 1, 20_454, 2_932_896] {
            assert_eq!(Day::from_number(number).map(Day::number), Some(number));
        }
        assert_eq!(Day::from_number(i32::MAX), None);
        assert_eq!(Day::from_number(i32::MIN), None);
    }

    #[test]
    fn every_day_that_has_a_part_in_a_time_is_within_it() {
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
    fn a_batch_adds_up_and_its_last_use_never_goes_back() {
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
}
