//! API clients as text for people.

use super::{owner_text, time_text, word};
use crate::pb;

pub(super) fn usage_row(day: &pb::ApiClientUsageDay) -> [String; 3] {
    let refusals = day.refusals.iter().map(|refusals| {
        let reason = word(refusals.reason().as_str_name(), "USAGE_REFUSAL_REASON_");
        format!("{} {reason}", refusals.count)
    });
    let date = time_text(day.day.as_ref());
    [
        date.split(' ').next().unwrap_or_default().to_owned(),
        day.uses.to_string(),
        refusals.collect::<Vec<_>>().join(", "),
    ]
}

/// A client as one line for each field.
pub(super) fn describe(client: &pb::ApiClient) -> String {
    let mut rows = vec![
        ("id", client.id.clone()),
        ("name", client.name.clone()),
        ("description", client.description.clone()),
        ("owner", owner_text(client.owner.as_ref())),
        (
            "state",
            word(client.state().as_str_name(), "API_CLIENT_STATE_"),
        ),
        ("token", client.token_hint.clone()),
        (
            "instance role",
            word(client.instance_role().as_str_name(), "INSTANCE_ROLE_"),
        ),
        ("created", time_text(client.create_time.as_ref())),
        ("created by", client.created_by_user_id.clone()),
        ("updated", time_text(client.update_time.as_ref())),
        ("not before", time_text(client.not_before_time.as_ref())),
        ("expires", or_never(client.expire_time.as_ref())),
        ("works from", client.allowed_cidrs.join(", ")),
        ("revoked", time_text(client.revoke_time.as_ref())),
        ("last used", or_never(client.last_used_time.as_ref())),
        ("etag", client.etag.clone()),
    ];
    rows.extend(client.site_grants.iter().map(|grant| {
        let role = word(grant.role().as_str_name(), "SITE_ROLE_");
        ("grant", format!("{}={role}", grant.site_id))
    }));
    let rows = rows.iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<_> = rows
        .map(|(name, value)| format!("{name:<14} {value}"))
        .collect();
    lines.join("\n")
}

pub(super) fn or_never(time: Option<&prost_types::Timestamp>) -> String {
    match time {
        Some(_) => time_text(time),
        None => "never".to_owned(),
    }
}

/// Ranges of addresses in one cell.
pub(super) fn or_everywhere(ranges: &[String]) -> String {
    match ranges {
        [] => "everywhere".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}
