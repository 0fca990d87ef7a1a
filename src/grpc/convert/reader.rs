//! Validates requests: the reader continues after a violation, and collects all of them.

use std::{collections::HashSet, fmt::Display, net::IpAddr, str::FromStr};

use chrono::{DateTime, TimeDelta};
use uuid::Uuid;

use crate::{
    domain::{
        Timestamp,
        access::{MAX_GRANTS, Owner, SiteGrants},
        audit::{Actor, MAX_USER_AGENT},
        client::{ClientState, check_text},
        id::{MalformedId, SiteId},
        replay::{CallerSecret, ReplayKey, WriteId},
        role::{InstanceRole, SiteRole, TeamRole},
        source::{AllowedSources, BadSources, Cidr, MAX_RANGES},
        token::without_tokens,
    },
    grpc::{
        error::{ApiError, MAX_VIOLATIONS, Violation},
        page,
    },
    pb,
};

/// The page size if none is requested.
const DEFAULT_PAGE_SIZE: u16 = 50;
const MAX_PAGE_SIZE: u16 = 500;
/// 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z, by `google.protobuf.Timestamp`.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Collects the violations of a request.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    violations: Vec<Violation>,
}

/// A field was invalid, and the reader has its violation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Invalid;

/// The value of a valid field.
pub(crate) type Parsed<T> = Result<T, Invalid>;

impl Reader {
    pub(crate) fn violation(&mut self, field: &str, description: impl Display) -> Invalid {
        if self.violations.len() < MAX_VIOLATIONS {
            let description = description.to_string();
            self.violations.push(Violation {
                field: field.to_owned(),
                description,
            });
        }
        Invalid
    }

    /// Whether there is no violation so far.
    pub(super) fn has_no_violations(&self) -> bool {
        self.violations.is_empty()
    }

    /// Builds the request if there are no violations.
    pub(crate) fn finish<T>(self, read: impl FnOnce() -> Parsed<T>) -> Result<T, ApiError> {
        match read() {
            Ok(read) if self.violations.is_empty() => Ok(read),
            // A missing value always has a violation.
            _ => Err(ApiError::InvalidFields(self.violations)),
        }
    }

    pub(crate) fn required<T>(&mut self, field: &str, value: Option<T>) -> Parsed<T> {
        value.ok_or_else(|| self.violation(field, "is required"))
    }

    pub(crate) fn parsed<T>(&mut self, field: &str, parsed: Result<T, impl Display>) -> Parsed<T> {
        parsed.map_err(|error| self.violation(field, error))
    }

    pub(crate) fn id<T: FromStr<Err = MalformedId>>(
        &mut self,
        field: &str,
        text: &str,
    ) -> Parsed<T> {
        if text.is_empty() {
            return Err(self.violation(field, "is required"));
        }
        self.parsed(field, text.parse())
    }

    pub(super) fn optional_id<T: FromStr<Err = MalformedId>>(
        &mut self,
        field: &str,
        text: &str,
    ) -> Parsed<Option<T>> {
        if text.is_empty() {
            Ok(None)
        } else {
            self.id(field, text).map(Some)
        }
    }

    /// Reads a request id; None if it is empty. Only a caller with a secret may send one,
    /// since the stored reply is sealed with the secret.
    pub(super) fn request_id(
        &mut self,
        text: &str,
        secret: Option<&CallerSecret>,
    ) -> Parsed<Option<ReplayKey>> {
        if text.is_empty() {
            return Ok(None);
        }
        let field = "request_id";
        let id: WriteId = self.parsed(field, text.parse())?;
        let problem = "needs a caller that authenticates with a token, not with a certificate";
        let secret = self.parsed(field, secret.ok_or(problem))?;
        Ok(Some(ReplayKey::new(id, secret.clone())))
    }

    pub(super) fn actor(&mut self, actor: Option<pb::Actor>) -> Parsed<Actor> {
        let actor = self.required("actor", actor)?;
        let user = self.id("actor.user_id", &actor.user_id);
        let ip_address = if actor.ip_address.is_empty() {
            Ok(None)
        } else {
            let parsed = actor.ip_address.parse::<IpAddr>();
            let parsed = parsed.or(Err("must be an IPv4 or IPv6 address"));
            self.parsed("actor.ip_address", parsed).map(Some)
        };
        let user_agent = check_text(&actor.user_agent, MAX_USER_AGENT, |_| false);
        self.parsed("actor.user_agent", user_agent)?;
        Ok(Actor {
            user: user?,
            ip_address: ip_address?,
            // The end client's own text, which must not decide whether a client can be revoked,
            // so a token in it is not refused.
            user_agent: without_tokens(&actor.user_agent).into_owned(),
        })
    }

    pub(super) fn owner(&mut self, field: &str, owner: Option<pb::Owner>) -> Parsed<Owner> {
        match owner.and_then(|owner| owner.owner) {
            None => Err(self.violation(field, "is required: a user_id or a team_id")),
            Some(pb::owner::Owner::UserId(id)) => {
                self.id(&format!("{field}.user_id"), &id).map(Owner::User)
            }
            Some(pb::owner::Owner::TeamId(id)) => {
                self.id(&format!("{field}.team_id"), &id).map(Owner::Team)
            }
        }
    }

    /// Reads an owner that may be absent. One that is there must name an owner: a caller that
    /// left the id out by mistake must not get everybody's.
    pub(super) fn optional_owner(
        &mut self,
        field: &str,
        owner: Option<pb::Owner>,
    ) -> Parsed<Option<Owner>> {
        owner
            .map(|owner| self.owner(field, Some(owner)))
            .transpose()
    }

    /// Reads an enum value; unspecified and unknown values are refused.
    fn enum_value<W: TryFrom<i32>, D>(
        &mut self,
        field: &str,
        value: i32,
        domain: fn(W) -> Option<D>,
    ) -> Parsed<D> {
        let problem = if value == 0 {
            "must be specified"
        } else {
            "is no known value"
        };
        let read = W::try_from(value).ok().and_then(domain);
        read.ok_or_else(|| self.violation(field, problem))
    }

    pub(super) fn client_state(&mut self, field: &str, value: i32) -> Parsed<ClientState> {
        self.enum_value(field, value, |state| match state {
            pb::ApiClientState::Unspecified => None,
            pb::ApiClientState::Active => Some(ClientState::Active),
            pb::ApiClientState::Revoked => Some(ClientState::Revoked),
            pb::ApiClientState::Expired => Some(ClientState::Expired),
            pb::ApiClientState::OwnerInactive => Some(ClientState::OwnerInactive),
        })
    }

    pub(super) fn instance_role(&mut self, field: &str, value: i32) -> Parsed<InstanceRole> {
        self.enum_value(field, value, |role| match role {
            pb::InstanceRole::Unspecified => None,
            pb::InstanceRole::User => Some(InstanceRole::User),
            pb::InstanceRole::Admin => Some(InstanceRole::Admin),
            pb::InstanceRole::Owner => Some(InstanceRole::Owner),
        })
    }

    pub(super) fn site_role(&mut self, field: &str, value: i32) -> Parsed<SiteRole> {
        self.enum_value(field, value, |role| match role {
            pb::SiteRole::Unspecified => None,
            pb::SiteRole::Viewer => Some(SiteRole::Viewer),
            pb::SiteRole::Editor => Some(SiteRole::Editor),
            pb::SiteRole::Admin => Some(SiteRole::Admin),
            pb::SiteRole::Owner => Some(SiteRole::Owner),
        })
    }

    pub(super) fn team_role(&mut self, field: &str, value: i32) -> Parsed<TeamRole> {
        self.enum_value(field, value, |role| match role {
            pb::TeamRole::Unspecified => None,
            pb::TeamRole::Member => Some(TeamRole::Member),
            pb::TeamRole::Admin => Some(TeamRole::Admin),
            pb::TeamRole::Owner => Some(TeamRole::Owner),
        })
    }

    pub(super) fn site_grants(
        &mut self,
        field: &str,
        grants: &[pb::SiteGrant],
    ) -> Parsed<SiteGrants> {
        let pairs = grants
            .iter()
            .map(|grant| (grant.site_id.as_str(), grant.role));
        self.grants(field, pairs, MAX_GRANTS, Self::site_role)
    }

    /// Reads at most `limit` grants of any form: of each the text of the site, and what
    /// `read_role` makes a role of.
    pub(crate) fn grants<'g, R>(
        &mut self,
        field: &str,
        grants: impl ExactSizeIterator<Item = (&'g str, R)>,
        limit: usize,
        read_role: impl Fn(&mut Self, &str, R) -> Parsed<SiteRole>,
    ) -> Parsed<SiteGrants> {
        if grants.len() > limit {
            let problem = format_args!("must have at most {limit} grants");
            return Err(self.violation(field, problem));
        }
        let mut seen = HashSet::new();
        let mut read = Ok(SiteGrants::new());
        for (index, (site, role)) in grants.enumerate() {
            let field = format!("{field}[{index}]");
            let site = self.id::<SiteId>(&format!("{field}.site_id"), site);
            let role = read_role(self, &format!("{field}.role"), role);
            if site.is_ok_and(|site| !seen.insert(site)) {
                read = Err(self.violation(&format!("{field}.site_id"), "is granted twice"));
            }
            match (&mut read, site, role) {
                (Ok(read), Ok(site), Ok(role)) => drop(read.insert(site, role)),
                _ => read = Err(Invalid),
            }
        }
        read
    }

    /// Reads ranges of addresses.
    pub(super) fn allowed_sources(
        &mut self,
        field: &str,
        ranges: &[String],
    ) -> Parsed<AllowedSources> {
        if ranges.len() > MAX_RANGES {
            return Err(self.violation(field, BadSources::TooMany));
        }
        let mut seen = HashSet::new();
        let mut read = Ok(Vec::new());
        for (index, text) in ranges.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let range = self.parsed(&field, text.parse::<Cidr>());
            if range.is_ok_and(|range| !seen.insert(range)) {
                read = Err(self.violation(&field, "is there twice"));
            }
            match (&mut read, range) {
                (Ok(read), Ok(range)) => read.push(range),
                _ => read = Err(Invalid),
            }
        }
        self.parsed(field, AllowedSources::new(read?))
    }

    /// Reads a time as text (RFC 3339), with the range and precision of every time.
    pub(crate) fn rfc3339(&mut self, field: &str, text: &str) -> Parsed<Timestamp> {
        let time = DateTime::parse_from_rfc3339(text).ok();
        let time = time
            .filter(|time| TIMESTAMP_SECONDS.contains(&time.timestamp()))
            .and_then(|time| DateTime::from_timestamp_micros(time.timestamp_micros()));
        let problem = "must be a time by RFC 3339, from the year 1 to 9999";
        self.parsed(field, time.ok_or(problem))
    }

    pub(super) fn timestamp(
        &mut self,
        field: &str,
        time: prost_types::Timestamp,
    ) -> Parsed<Timestamp> {
        let nanos = u32::try_from(time.nanos)
            .ok()
            .filter(|nanos| *nanos < 1_000_000_000);
        let read = nanos
            .filter(|_| TIMESTAMP_SECONDS.contains(&time.seconds))
            .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
            // Truncated to the microsecond, which is Postgres' precision.
            .and_then(|time| DateTime::from_timestamp_micros(time.timestamp_micros()));
        let problem = "must be a time from the year 1 to 9999, with 0 to 999,999,999 nanos";
        self.parsed(field, read.ok_or(problem))
    }

    pub(super) fn optional_timestamp(
        &mut self,
        field: &str,
        time: Option<prost_types::Timestamp>,
    ) -> Parsed<Option<Timestamp>> {
        time.map(|time| self.timestamp(field, time)).transpose()
    }

    /// Reads a bound of a time range. It is rounded up to the microsecond, since stored
    /// times are multiples of it.
    pub(super) fn optional_bound(
        &mut self,
        field: &str,
        time: Option<prost_types::Timestamp>,
    ) -> Parsed<Option<Timestamp>> {
        let between = time.is_some_and(|time| time.nanos % 1000 != 0);
        let rest = TimeDelta::microseconds(i64::from(between));
        Ok(self
            .optional_timestamp(field, time)?
            .map(|time| time + rest))
    }

    pub(super) fn page_size(&mut self, size: i32) -> Parsed<u16> {
        let size = u32::try_from(size).or(Err("must not be negative"));
        let size = self.parsed("page_size", size)?;
        Ok(match u16::try_from(size) {
            Ok(0) => DEFAULT_PAGE_SIZE,
            Ok(size) => size.min(MAX_PAGE_SIZE),
            Err(_) => MAX_PAGE_SIZE,
        })
    }

    /// Reads a page token. If the fields that select the list are invalid, the list is
    /// undetermined, and only the token's form is checked.
    pub(super) fn page_token(
        &mut self,
        list: Option<&str>,
        token: &str,
    ) -> Parsed<Option<(Timestamp, Uuid)>> {
        if token.is_empty() {
            return Ok(None);
        }
        if list.is_none() && page::is_well_formed(token) {
            return Err(Invalid);
        }
        let cursor = list.and_then(|list| page::parse(list, token));
        let problem = "is not the next_page_token of a page of the same list";
        self.parsed("page_token", cursor.ok_or(problem)).map(Some)
    }

    pub(super) fn sequence(&mut self, sequence: Option<u64>) -> Parsed<Option<u64>> {
        let limit = i64::MAX.unsigned_abs();
        if sequence.is_some_and(|sequence| sequence > limit) {
            return Err(self.violation("sequence", format_args!("must be at most {limit}")));
        }
        Ok(sequence)
    }
}
