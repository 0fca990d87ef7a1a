//! Conversions of `IntrospectionService`.

use std::time::Duration;

use chrono::TimeDelta;

use super::{
    reader::{Invalid, Parsed, Reader},
    to_duration, to_instance_role, to_owner, to_site_grants, to_timestamp,
};
use crate::{
    domain::{
        Revision,
        access::{Decision, PermissionCheck},
        introspection::{InactiveReason, ResolvedClient},
        role::{InstancePermission, SitePermission},
        source::{Source, parse_address},
    },
    grpc::error::ApiError,
    live_index::{FeedProgress, View},
    pb,
};

/// A validated introspection. The token needs no validation, since any text is one.
#[derive(Debug)]
pub(crate) struct Introspect {
    pub(crate) source: Source<'static>,
    pub(crate) check: Option<PermissionCheck>,
    pub(crate) at_least: Option<Revision>,
}

pub(crate) fn introspect(request: &pb::IntrospectRequest) -> Result<Introspect, ApiError> {
    let mut reader = Reader::default();
    let check = request
        .check
        .as_ref()
        .map(|check| permission_check(&mut reader, check));
    let source = source(&mut reader, &request.source_ip);
    let at_least = request.at_least_revision.map(Revision);
    reader.finish(|| {
        Ok(Introspect {
            source: source?,
            check: check.transpose()?,
            at_least,
        })
    })
}

const MAX_BATCH: usize = 1000;

/// Validates a batch, apart from its requests: one of them that is invalid does not fail
/// the others.
pub(crate) fn batch(request: &pb::BatchIntrospectRequest) -> Result<Option<Revision>, ApiError> {
    let mut reader = Reader::default();
    let requests = if request.requests.is_empty() {
        Err(reader.violation("requests", "is required"))
    } else if request.requests.len() > MAX_BATCH {
        let problem = format_args!("must have at most {MAX_BATCH} requests");
        Err(reader.violation("requests", problem))
    } else {
        Ok(())
    };
    reader.finish(|| requests.map(|()| request.at_least_revision.map(Revision)))
}

/// Validates one request of a batch. Its fields are named from the batch.
pub(crate) fn batch_item(
    index: usize,
    item: &pb::BatchIntrospectItem,
) -> Result<(Option<PermissionCheck>, Source<'static>), ApiError> {
    let mut reader = Reader::default();
    let check = item.check.as_ref();
    let check = check.map(|check| permission_check(&mut reader, check));
    let source = source(&mut reader, &item.source_ip);
    let read = reader.finish(|| Ok((check.transpose()?, source?)));
    read.map_err(|mut error| {
        if let ApiError::InvalidFields(violations) = &mut error {
            for violation in violations {
                violation.field = format!("requests[{index}].{}", violation.field);
            }
        }
        error
    })
}

fn source(reader: &mut Reader, text: &str) -> Parsed<Source<'static>> {
    let read = read_source(text).ok_or(NO_ADDRESS);
    reader.parsed("source_ip", read)
}

/// What is wrong with a text that should be an address.
pub(crate) const NO_ADDRESS: &str = "must be an IPv4 or IPv6 address, without a port";

/// The address that a caller states, if any; None if the text is none.
pub(crate) fn read_source(text: &str) -> Option<Source<'static>> {
    if text.is_empty() {
        return Some(Source::Unknown);
    }
    parse_address(text).map(Source::Address)
}

fn permission_check(reader: &mut Reader, check: &pb::PermissionCheck) -> Parsed<PermissionCheck> {
    if let Ok(permission) = check.permission.parse::<InstancePermission>() {
        if check.site_id.is_empty() {
            return Ok(PermissionCheck::Instance(permission));
        }
        return Err(reader.violation(
            "check.site_id",
            "must be left out for an instance permission",
        ));
    }
    let permission = if check.permission.is_empty() {
        Err(reader.violation("check.permission", "is required"))
    } else {
        let permission = check.permission.parse::<SitePermission>();
        reader.parsed(
            "check.permission",
            permission.or(Err("is no known permission")),
        )
    };
    // Without a known permission, it is undetermined whether there must be a site.
    if permission.is_err() && check.site_id.is_empty() {
        return Err(Invalid);
    }
    let site = reader.id("check.site_id", &check.site_id);
    Ok(PermissionCheck::Site {
        site: site?,
        permission: permission?,
    })
}

/// The response for an active token, without revision and decision.
pub(crate) fn to_active(client: &ResolvedClient, cache_age: TimeDelta) -> pb::IntrospectResponse {
    pb::IntrospectResponse {
        active: true,
        client_id: client.client.to_string(),
        client_name: client.name.to_string(),
        owner: Some(to_owner(client.owner)),
        instance_role: to_instance_role(client.access.instance_role).into(),
        site_grants: to_site_grants(client.access.grants.iter()),
        expire_time: client.expiry.time().map(to_timestamp),
        max_cache_age: Some(to_duration(cache_age)),
        ..pb::IntrospectResponse::default()
    }
}

/// The response for an inactive token, without revision and decision.
pub(crate) fn to_inactive(reason: InactiveReason) -> pb::IntrospectResponse {
    pb::IntrospectResponse {
        inactive_reason: to_reason(reason).into(),
        ..pb::IntrospectResponse::default()
    }
}

pub(crate) const fn to_reason(reason: InactiveReason) -> pb::InactiveReason {
    match reason {
        InactiveReason::UnknownToken => pb::InactiveReason::UnknownToken,
        InactiveReason::TokenRotated => pb::InactiveReason::TokenRotated,
        InactiveReason::Revoked => pb::InactiveReason::Revoked,
        InactiveReason::Expired => pb::InactiveReason::Expired,
        InactiveReason::OwnerInactive => pb::InactiveReason::OwnerInactive,
        InactiveReason::NotYetActive => pb::InactiveReason::NotYetActive,
        InactiveReason::SourceNotAllowed => pb::InactiveReason::SourceNotAllowed,
    }
}

pub(crate) fn to_decision(decision: Decision) -> pb::Decision {
    let reason = match decision {
        Decision::Allowed => pb::DecisionReason::Allowed,
        Decision::Inactive => pb::DecisionReason::Inactive,
        Decision::NoSiteGrant => pb::DecisionReason::NoSiteGrant,
        Decision::RoleTooLow => pb::DecisionReason::RoleTooLow,
    };
    pb::Decision {
        allowed: decision == Decision::Allowed,
        reason: reason.into(),
    }
}

pub(crate) fn to_index_status(
    view: &View,
    progress: FeedProgress,
    listening: bool,
    max_staleness: Duration,
) -> pb::GetIndexStatusResponse {
    let duration = |length| to_duration(TimeDelta::from_std(length).unwrap_or(TimeDelta::MAX));
    pb::GetIndexStatusResponse {
        revision: view.index().revision().0,
        staleness: Some(duration(view.staleness)),
        max_staleness: Some(duration(max_staleness)),
        api_clients: u64::try_from(view.index().clients()).unwrap_or(u64::MAX),
        database_reachable: progress.reaches_database(),
        listening,
        failures: progress.failures,
    }
}
