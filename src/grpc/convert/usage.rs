//! Conversions of `GetApiClientUsage`.

use std::ops::Range;

use chrono::TimeDelta;

use super::{
    clients::OnClient,
    reader::{Parsed, Reader},
    to_timestamp,
};
use crate::{
    domain::{
        Timestamp,
        usage::{Day, DayUsage, MAX_DAYS, RefusalReason},
    },
    grpc::error::ApiError,
    pb,
};

/// The length of the range if the request has no start.
const DEFAULT_LENGTH: TimeDelta = TimeDelta::days(30);

/// A validated usage request.
#[derive(Debug)]
pub(in crate::grpc) struct UsageQuery {
    pub(in crate::grpc) on_client: OnClient,
    pub(in crate::grpc) days: Range<Day>,
}

pub(in crate::grpc) fn usage(
    request: pb::GetApiClientUsageRequest,
    now: Timestamp,
) -> Result<UsageQuery, ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let id = reader.id("id", &request.id);
    let days = days(&mut reader, request.from, request.to, now);
    reader.finish(|| {
        Ok(UsageQuery {
            on_client: OnClient {
                actor: actor?,
                id: id?,
            },
            days: days?,
        })
    })
}

fn days(
    reader: &mut Reader,
    from: Option<prost_types::Timestamp>,
    to: Option<prost_types::Timestamp>,
    now: Timestamp,
) -> Parsed<Range<Day>> {
    let start = reader.optional_timestamp("from", from);
    // The end is rounded up to the microsecond.
    let end = reader.optional_bound("to", to);
    let end = end?.unwrap_or(now);
    let start = start?.unwrap_or(end - DEFAULT_LENGTH);
    let reversed = match (from, to) {
        (Some(from), Some(to)) => (to.seconds, to.nanos) < (from.seconds, from.nanos),
        _ => end < start,
    };
    // Without an end in the request, the start is the invalid field.
    let (field, reversed_is, long_is) = if to.is_some() {
        ("to", "before from", "400 days after from")
    } else {
        ("from", "in the future", "400 days ago")
    };
    if reversed {
        return Err(reader.violation(field, format_args!("must not be {reversed_is}")));
    }
    if end - start > TimeDelta::days(MAX_DAYS.into()) {
        return Err(reader.violation(field, format_args!("must be at most {long_is}")));
    }
    Ok(Day::within(start, end))
}

pub(in crate::grpc) fn to_day(usage: &DayUsage) -> pb::ApiClientUsageDay {
    let refusals = |(reason, count): (&RefusalReason, &u64)| pb::ApiClientUsageRefusals {
        reason: to_reason(*reason).into(),
        count: *count,
    };
    pb::ApiClientUsageDay {
        day: Some(to_timestamp(usage.day.begins())),
        uses: usage.uses,
        refusals: usage.refusals.iter().map(refusals).collect(),
        legacy_tokens: usage.legacy_tokens,
    }
}

const fn to_reason(reason: RefusalReason) -> pb::UsageRefusalReason {
    match reason {
        RefusalReason::TokenRotated => pb::UsageRefusalReason::TokenRotated,
        RefusalReason::Revoked => pb::UsageRefusalReason::Revoked,
        RefusalReason::Expired => pb::UsageRefusalReason::Expired,
        RefusalReason::OwnerInactive => pb::UsageRefusalReason::OwnerInactive,
        RefusalReason::NoSiteGrant => pb::UsageRefusalReason::NoSiteGrant,
        RefusalReason::RoleTooLow => pb::UsageRefusalReason::RoleTooLow,
        RefusalReason::NotYetActive => pb::UsageRefusalReason::NotYetActive,
        RefusalReason::SourceNotAllowed => pb::UsageRefusalReason::SourceNotAllowed,
    }
}
