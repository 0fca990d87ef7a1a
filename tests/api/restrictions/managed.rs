//! How restrictions are set, changed and cleared, and by whom.

use hitkeep_auth::pb::{self, SiteRole};

use super::{allowing, starting};
use crate::{
    fixtures::*,
    harness::{TestApp, told, violations},
};

const RANGES: [&str; 2] = ["192.0.2.0/24", "2001:db8::/32"];

/// A client with that id and those ranges.
fn with_ranges(id: &str, ranges: &[&str]) -> pb::ApiClient {
    pb::ApiClient {
        id: id.to_owned(),
        allowed_cidrs: ranges.iter().map(|range| (*range).to_owned()).collect(),
        ..pb::ApiClient::default()
    }
}

#[tokio::test]
async fn they_are_kept_in_order_and_cleared_by_the_mask() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let mut request = allowing(VERA, &["2001:DB8:0::/32", "192.0.2.0/24"]);
    let start = in_seconds(&app, 60);
    request.api_client.as_mut().unwrap().not_before_time = Some(start);
    let made = dashboard.created(request).await;
    assert_eq!(made.client.allowed_cidrs, RANGES);
    assert_eq!(made.client.not_before_time, Some(start));
    assert_eq!(made.client.state(), pb::ApiClientState::Active);
    let seen = dashboard.get(get(VERA, &made.id)).await.unwrap().api_client;
    assert_eq!(seen.as_ref(), Some(&made.client));
    let listed = dashboard.list(list(VERA, of_user(VERA))).await.unwrap();
    assert_eq!(listed.api_clients, std::slice::from_ref(&made.client));

    // Another order is the same client.
    let same = with_ranges(&made.id, &["192.0.2.0/24", "2001:db8::/32"]);
    let updated = dashboard
        .update(update(VERA, same, &["allowed_cidrs"]))
        .await;
    let updated = updated.unwrap().api_client.unwrap();
    assert_eq!(updated, made.client);

    app.clock.advance(chrono::TimeDelta::seconds(1));
    let fewer = with_ranges(&made.id, &["192.0.2.0/25"]);
    let updated = dashboard
        .update(update(VERA, fewer, &["allowed_cidrs"]))
        .await;
    let updated = updated.unwrap().api_client.unwrap();
    assert_eq!(updated.allowed_cidrs, ["192.0.2.0/25"]);
    assert_eq!(updated.not_before_time, Some(start));
    assert_ne!(updated.etag, made.client.etag);

    app.clock.advance(chrono::TimeDelta::seconds(1));
    let bare = with_ranges(&made.id, &[]);
    let updated = dashboard
        .update(update(VERA, bare.clone(), &["not_before_time"]))
        .await;
    let updated = updated.unwrap().api_client.unwrap();
    assert_eq!(updated.allowed_cidrs, ["192.0.2.0/25"]);
    assert_eq!(updated.not_before_time, None);
    app.clock.advance(chrono::TimeDelta::seconds(1));
    let named = pb::ApiClient {
        name: "a client".to_owned(),
        ..bare
    };
    let updated = dashboard.update(update(VERA, named, &["*"])).await;
    let updated = updated.unwrap().api_client.unwrap();
    assert!(updated.allowed_cidrs.is_empty());

    let query = pb::ListAuditEventsRequest {
        client_id: made.id.clone(),
        action: "api_client.updated".to_owned(),
        ..pb::ListAuditEventsRequest::default()
    };
    let events = app.auditor().await.events(query).await.unwrap().events;
    let changes = events.iter().flat_map(|event| &event.changes);
    let changes: Vec<_> = changes
        .map(|change| format!("{}: {} > {}", change.field, change.before, change.after))
        .collect();
    assert_eq!(
        changes,
        [
            "allowed_cidrs: 192.0.2.0/25 > ",
            "not_before_time: 2026-01-01T12:01:00.000000Z > ",
            "allowed_cidrs: 192.0.2.0/24, 2001:db8::/32 > 192.0.2.0/25",
        ]
    );
}

#[tokio::test]
async fn a_mistake_is_named_and_nothing_is_done() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard.created(allowing(VERA, &RANGES)).await;
    let before = app.everything().await;
    let bad = [
        "192.0.2.0/24",
        "10.1.2.3/8",
        "10.0.0.1",
        "x",
        "::ffff:10.0.0.0/104",
        "192.0.2.0/24",
        "10.0.0.0/33",
    ];
    let named = [1, 2, 3, 4, 5, 6].map(|n| format!("api_client.allowed_cidrs[{n}]"));
    let refused = dashboard.create(allowing(VERA, &bad)).await;
    assert_eq!(violations(&refused), named);
    let message = refused.unwrap_err().message().to_owned();
    assert!(message.contains("the range is 10.0.0.0/8"), "{message}");
    let changed = with_ranges(&made.id, &bad);
    let refused = dashboard
        .update(update(VERA, changed, &["allowed_cidrs"]))
        .await;
    assert_eq!(violations(&refused), named);

    let ranges =
        |count: u8| -> Vec<String> { (0..count).map(|n| format!("10.0.{n}.0/24")).collect() };
    let many = ranges(33);
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let refused = dashboard.create(allowing(VERA, &many)).await;
    assert_eq!(violations(&refused), ["api_client.allowed_cidrs"]);

    // A client that would never work.
    let (early, late) = (in_seconds(&app, 60), in_seconds(&app, 120));
    for (start, end) in [(late, early), (early, early)] {
        let refused = dashboard.create(starting(VERA, start).expiring(end)).await;
        assert_eq!(violations(&refused), ["api_client.not_before_time"]);
    }
    assert_eq!(app.everything().await, before);

    let most = ranges(32);
    let most: Vec<_> = most.iter().map(String::as_str).collect();
    let made = dashboard.created(allowing(VERA, &most)).await;
    assert_eq!(made.client.allowed_cidrs, most);
}

#[tokio::test]
async fn a_client_works_before_it_expires_or_not_at_all() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let [first, second, third] = [60, 120, 180].map(|seconds| in_seconds(&app, seconds));
    let made = dashboard
        .created(starting(VERA, first).expiring(third))
        .await;
    let with = |start, end| pb::ApiClient {
        id: made.id.clone(),
        not_before_time: start,
        expire_time: end,
        ..pb::ApiClient::default()
    };
    let both = ["not_before_time", "expire_time"];
    for (start, end, mask, field) in [
        (Some(third), None, &both[..1], "not_before_time"),
        (None, Some(first), &both[1..], "expire_time"),
        (Some(third), Some(second), &both, "not_before_time"),
    ] {
        let refused = dashboard.update(update(VERA, with(start, end), mask)).await;
        assert_eq!(violations(&refused), [format!("api_client.{field}")]);
    }
    let moved = with(Some(third), Some(in_seconds(&app, 240)));
    let updated = dashboard.update(update(VERA, moved, &both)).await.unwrap();
    assert_eq!(updated.api_client.unwrap().not_before_time, Some(third));

    // As an import may leave it. It can be renamed all the same.
    app.psql(&format!(
        "UPDATE api_clients SET expire_time = '2026-01-01T12:01:00Z' WHERE id = '{}'",
        made.id
    ))
    .await;
    let renamed = pb::ApiClient {
        name: "another".to_owned(),
        ..with(None, None)
    };
    let updated = dashboard.update(update(VERA, renamed, &["name"])).await;
    assert_eq!(updated.unwrap().api_client.unwrap().name, "another");
}

/// An actor that lets tokens work from more addresses, or earlier, hands out what they carry.
#[tokio::test]
async fn what_widens_needs_delegation_and_what_narrows_does_not() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let start = in_seconds(&app, 3600);
    let mut request = allowing(VERA, &["192.0.2.0/24"]).granted(SITE, SiteRole::Viewer);
    request.api_client.as_mut().unwrap().not_before_time = Some(start);
    let made = dashboard.created(request).await;
    // VERA loses the role on the site.
    app.change([delete_site_member(SITE, VERA)]).await;
    let refused = "PermissionDenied DELEGATION_EXCEEDS_ACTOR";
    for ranges in [
        &["192.0.2.0/24", "198.51.100.1/32"][..],
        &["192.0.0.0/16"],
        &[],
    ] {
        let more = with_ranges(&made.id, ranges);
        let answer = dashboard
            .update(update(VERA, more, &["allowed_cidrs"]))
            .await;
        assert_eq!(told(&answer), refused, "{ranges:?}");
    }
    let with_start = |start| pb::ApiClient {
        id: made.id.clone(),
        not_before_time: start,
        ..pb::ApiClient::default()
    };
    for start in [None, Some(in_seconds(&app, 3599))] {
        let earlier = update(VERA, with_start(start), &["not_before_time"]);
        assert_eq!(told(&dashboard.update(earlier).await), refused);
    }
    for ranges in [
        // The same addresses.
        &["192.0.2.0/25", "192.0.2.128/25"][..],
        &["192.0.2.0/25"],
    ] {
        let fewer = with_ranges(&made.id, ranges);
        let answer = dashboard
            .update(update(VERA, fewer, &["allowed_cidrs"]))
            .await;
        answer.unwrap();
    }
    let later = update(
        VERA,
        with_start(Some(in_seconds(&app, 3601))),
        &["not_before_time"],
    );
    dashboard.update(later).await.unwrap();
    // Once it has come, its time is of the past.
    app.clock.advance(chrono::TimeDelta::seconds(3601));
    let cleared = update(VERA, with_start(None), &["not_before_time"]);
    dashboard.update(cleared).await.unwrap();
}

#[tokio::test]
async fn they_are_part_of_a_request_that_is_sent_again() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let with_id = |mut request: pb::CreateApiClientRequest| {
        request.request_id = "7a1c3f0e-9b2d-4e5f-8a6b-1c2d3e4f5a6b".to_owned();
        request
    };
    let request = with_id(allowing(VERA, &RANGES));
    let first = dashboard.create(request.clone()).await.unwrap();
    assert_eq!(dashboard.create(request).await.unwrap(), first);
    let spelt = with_id(allowing(VERA, &["2001:DB8::/32", "192.0.2.0/24"]));
    assert_eq!(dashboard.create(spelt).await.unwrap(), first);
    for other in [
        with_id(personal(VERA)),
        with_id(allowing(VERA, &RANGES[..1])),
        with_id(starting(VERA, in_seconds(&app, 60))),
    ] {
        let refused = dashboard.create(other).await;
        assert_eq!(violations(&refused), ["request_id"]);
    }
}
