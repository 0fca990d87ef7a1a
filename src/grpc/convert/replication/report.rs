//! Conversions of `ReportUsage`: what a replica counted.

use std::num::NonZeroU64;

use chrono::TimeDelta;

use super::{Reader, read_client_id, replica_id};
use crate::{
    domain::{
        Timestamp,
        id::ReplicaId,
        usage::{Batch, Count, Day, Outcome, RefusalReason},
    },
    grpc::error::ApiError,
    pb,
    store::usage::CLIENTS_PER_STATEMENT,
};

/// How long before its report a refusal happened, at most, unless the replica was cut off. A
/// report does not say when, and a presentation of a replaced token must not be taken for one
/// after a rotation that came later.
const REFUSED_WITHIN: TimeDelta = TimeDelta::minutes(1);
/// The highest count of one outcome on one day: twelve million a second, so that no replica
/// counts more, also after a day without a server. A higher one is no count, and millions of
/// this one fit into the database's column.
const MAX_COUNT: u64 = 1 << 40;

/// What a replica counted, by its own number.
#[derive(Clone, Debug)]
pub struct UsageReport {
    /// The replica that counted it.
    pub replica: ReplicaId,
    /// The number of the batch.
    pub number: u64,
    pub usage: Batch,
}

/// Reads a report. A last use that has not come yet is now: the replica's clock may be
/// slightly ahead.
pub(in crate::grpc) fn usage_report(
    request: &pb::ReportUsageRequest,
    now: Timestamp,
) -> Result<UsageReport, ApiError> {
    let mut reader = Reader::default();
    let replica = replica_id(&mut reader, "replica_id", &request.replica_id);
    let number = request.number;
    if number == 0 || i64::try_from(number).is_err() {
        reader.violation("number", "must be at least 1, and below 2^63");
    }
    let mut usage = Batch::default();
    if request.clients.len() > CLIENTS_PER_STATEMENT {
        reader.violation(
            "clients",
            format_args!("must be at most {CLIENTS_PER_STATEMENT}"),
        );
    } else {
        for (at, client) in request.clients.iter().enumerate() {
            read_usage(&mut reader, at, client, now, &mut usage);
        }
        if reader.has_no_violations() && usage.len() < request.clients.len() {
            reader.violation("clients", "must name each client once");
        }
    }
    reader.finish(|| {
        Ok(UsageReport {
            replica: replica?,
            number,
            usage,
        })
    })
}

fn read_usage(
    reader: &mut Reader,
    at: usize,
    sent: &pb::ReplicatedUsage,
    now: Timestamp,
    usage: &mut Batch,
) {
    let field = |name: &str| format!("clients[{at}].{name}");
    let id = read_client_id(&sent.client_id).or(Err("must be 16 bytes"));
    let Ok(client) = reader.parsed(&field("client_id"), id) else {
        return;
    };
    let last = reader.optional_timestamp(&field("last_used_time"), sent.last_used_time);
    if let Ok(Some(last)) = last {
        usage.used_at(client, last.min(now));
    }
    let replaced = reader.optional_timestamp(
        &field("replaced_token_used_time"),
        sent.replaced_token_used_time,
    );
    if let Ok(Some(replaced)) = replaced {
        usage.replaced_token_used_at(client, replaced.min(now));
    }
    let has_times = sent.last_used_time.is_some() || sent.replaced_token_used_time.is_some();
    if sent.counts.is_empty() && !has_times {
        reader.violation(&field("counts"), "must not be empty");
    }
    for (count_at, sent) in sent.counts.iter().enumerate() {
        let field = |name: &str| format!("clients[{at}].counts[{count_at}].{name}");
        // A day of the replica's clock, which may be slightly ahead.
        let tomorrow = Day::of(now).number().saturating_add(1);
        // No replica counted anything before 1970; Postgres knows fewer days than there are numbers.
        let days = 0..=tomorrow;
        let day = Day::from_number(sent.day).filter(|day| days.contains(&day.number()));
        let day = reader.parsed(
            &field("day"),
            day.ok_or("must be a day from 1970 on that has begun"),
        );
        let outcome = read_outcome(sent).ok_or("must be one of its values");
        let outcome = reader.parsed(&field("outcome"), outcome);
        let count = NonZeroU64::new(sent.count).filter(|count| count.get() <= MAX_COUNT);
        let count = count.ok_or("must be at least 1, and at most 2^40");
        let count = reader.parsed(&field("count"), count);
        if let (Ok(day), Ok(outcome), Ok(count)) = (day, outcome, count) {
            let count = Count {
                day,
                outcome,
                count,
            };
            usage.add(client, count);
            if outcome == Outcome::Refused(RefusalReason::TokenRotated) {
                usage.replaced_token_refused_at(client, now - REFUSED_WITHIN);
            }
        }
    }
}

fn read_outcome(sent: &pb::ReplicatedCount) -> Option<Outcome> {
    use pb::UsageOutcome as Sent;

    Some(match Sent::try_from(sent.outcome).ok()? {
        Sent::Unspecified => return None,
        Sent::Used => Outcome::Used,
        Sent::LegacyToken => Outcome::LegacyToken,
        Sent::TokenRotated => Outcome::Refused(RefusalReason::TokenRotated),
        Sent::Revoked => Outcome::Refused(RefusalReason::Revoked),
        Sent::Expired => Outcome::Refused(RefusalReason::Expired),
        Sent::OwnerInactive => Outcome::Refused(RefusalReason::OwnerInactive),
        Sent::NoSiteGrant => Outcome::Refused(RefusalReason::NoSiteGrant),
        Sent::RoleTooLow => Outcome::Refused(RefusalReason::RoleTooLow),
        Sent::NotYetActive => Outcome::Refused(RefusalReason::NotYetActive),
        Sent::SourceNotAllowed => Outcome::Refused(RefusalReason::SourceNotAllowed),
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        client::follow::wire::{to_bytes, to_usage_report},
        domain::id::ClientId,
    };

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(second, 5000).unwrap()
    }

    #[test]
    fn a_report_arrives_as_it_was_sent() {
        let now = at(1_000_000);
        let mut usage = Batch::default();
        for (number, outcome) in Outcome::ALL.into_iter().enumerate() {
            let client = ClientId::from_uuid(id(number as u128 % 3));
            let count = Count {
                day: Day::of(now).before(u32::from(outcome.token_worked())),
                outcome,
                count: NonZeroU64::new(number as u64 + 1).unwrap(),
            };
            usage.add(client, count);
            if outcome.token_worked() {
                usage.used_at(client, at(5));
                usage.replaced_token_used_at(client, at(4));
            }
            if outcome == Outcome::Refused(RefusalReason::TokenRotated) {
                usage.replaced_token_refused_at(client, now - REFUSED_WITHIN);
            }
        }
        let report = UsageReport {
            replica: ReplicaId::from_uuid(id(9)),
            number: 7,
            usage,
        };
        let read = usage_report(
            &to_usage_report(report.replica, report.number, &report.usage),
            now,
        )
        .unwrap();
        assert_eq!((read.replica, read.number), (report.replica, report.number));
        assert_eq!(read.usage, report.usage);
    }

    #[test]
    fn all_mistakes_of_a_report_are_named() {
        let count = |day, outcome, count| pb::ReplicatedCount {
            day,
            outcome,
            count,
        };
        let client = |id: u128, counts| pb::ReplicatedUsage {
            client_id: to_bytes(Uuid::from_u128(id)),
            last_used_time: None,
            counts,
            replaced_token_used_time: None,
        };
        let mut request = pb::ReportUsageRequest {
            replica_id: "x".to_owned(),
            number: 0,
            clients: vec![
                client(1, vec![count(i32::MAX, 99, 0), count(0, 1, MAX_COUNT + 1)]),
                client(2, Vec::new()),
                pb::ReplicatedUsage {
                    client_id: vec![1],
                    ..client(3, Vec::new())
                },
            ],
        };
        let fields = |request: &pb::ReportUsageRequest| -> Vec<String> {
            match usage_report(request, at(0)) {
                Err(ApiError::InvalidFields(all)) => {
                    all.into_iter().map(|violation| violation.field).collect()
                }
                other => panic!("{other:?}"),
            }
        };
        let expected: Vec<String> = [
            "replica_id",
            "number",
            "clients[0].counts[0].day",
            "clients[0].counts[0].outcome",
            "clients[0].counts[0].count",
            "clients[0].counts[1].count",
            "clients[1].counts",
            "clients[2].client_id",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(fields(&request), expected);
        request.replica_id = id(9).to_string();
        request.number = 1;
        request.clients = vec![client(1, vec![count(0, 1, 1)]); 2];
        assert_eq!(fields(&request), ["clients"]);
        request.clients = (0..=CLIENTS_PER_STATEMENT as u128)
            .map(|id| client(id, vec![count(0, 1, 1)]))
            .collect();
        assert_eq!(fields(&request), ["clients"]);
        request.clients.pop();
        assert!(usage_report(&request, at(0)).is_ok());
        request.clients = vec![client(1, vec![count(0, 1, MAX_COUNT)])];
        assert!(usage_report(&request, at(0)).is_ok());
    }
}
