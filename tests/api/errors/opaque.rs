//! What a caller does not see: whatever is wrong with the database, the answer
//! says that something is, and nothing of what. An unknown role gives
//! an error, and never access.

use std::time::Duration;

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{self, SiteRole},
    server, store,
};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Seen, seen};
use crate::{
    fixtures::*,
    harness::{Caller, TestApp, make_account, told},
    support::{postgres, proxy::Proxy},
};

/// The call that is answered from memory, whatever becomes of the database.
const FROM_MEMORY: &str = "introspect";

/// Every call there is, as answered to a caller that has all permissions.
async fn every_call(all: &Caller, id: &str, token: &str) -> Vec<(&'static str, Option<Status>)> {
    let client = pb::ApiClient {
        id: id.to_owned(),
        name: "renamed".to_owned(),
        ..pb::ApiClient::default()
    };
    let granted = personal(VERA).granted(SITE, SiteRole::Viewer);
    let status = pb::GetDirectoryStatusRequest {};
    let events = pb::ListAuditEventsRequest::default();
    let everything = pb::ReplaceDirectoryRequest {
        allow_mass_removal: true,
        ..pb::ReplaceDirectoryRequest::default()
    };
    vec![
        (FROM_MEMORY, all.introspect(introspect(token)).await.err()),
        ("create", all.create(granted).await.err()),
        ("get", all.get(get(VERA, id)).await.err()),
        ("usage", all.usage(usage(VERA, id)).await.err()),
        ("list", all.list(list(VERA, of_user(VERA))).await.err()),
        (
            "update",
            all.update(update(VERA, client, &["name"])).await.err(),
        ),
        ("rotate", all.rotate(rotate(VERA, id)).await.err()),
        ("revoke", all.revoke(revoke(VERA, id)).await.err()),
        (
            "reactivate",
            all.reactivate(reactivate(VERA, id)).await.err(),
        ),
        ("status", all.directory_status(status).await.err()),
        ("events", all.events(events).await.err()),
        ("delete", all.delete(delete(VERA, id)).await.err()),
        ("apply", all.apply(batch(world())).await.err()),
        ("replace", all.replace(vec![everything]).await.err()),
    ]
}

/// A caller that may ask for everything, a client of Vera's, and its token.
async fn with_everything(app: &TestApp) -> (Caller, String, String) {
    let token = make_account(&app.store, "all", CallerPermission::ALL).await;
    let all = app.caller(&token).await;
    let made = all
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    (all, made.id, made.token)
}

/// Insists that an error says that there is a defect, and nothing else.
fn is_opaque(status: &Status, what: &str) {
    let expected = Seen {
        code: Code::Internal,
        reason: "INTERNAL".to_owned(),
        message: "internal error".to_owned(),
        metadata: Vec::new(),
        violations: Vec::new(),
    };
    assert_eq!(seen(status), expected, "{what}");
    let details = status.get_error_details();
    let info = tonic_types::ErrorDetails::with_error_info(
        "INTERNAL",
        "auth.hitkeep.com",
        std::collections::HashMap::new(),
    );
    assert_eq!(format!("{details:?}"), format!("{info:?}"), "{what}");
    for name in status.metadata().keys() {
        let name = format!("{name:?}");
        let harmless = ["x-request-id", "content-type", "date"];
        assert!(
            harmless.iter().any(|harmless| name.contains(harmless)),
            "{what}: {name}"
        );
    }
}

#[tokio::test]
async fn a_broken_database_is_an_internal_error_and_nothing_of_it_is_shown() {
    for table in [
        "index_state",
        "users",
        "teams",
        "team_members",
        "sites",
        "site_members",
        "directory_state",
        "directory_order",
        "api_clients",
        "api_client_grants",
        "api_client_tokens",
        "audit_events",
    ] {
        let app = TestApp::with_world().await;
        let (all, id, token) = with_everything(&app).await;
        app.psql(&format!("DROP TABLE {table} CASCADE")).await;
        let mut failed = 0;
        for (call, status) in every_call(&all, &id, &token).await {
            if let Some(status) = status {
                is_opaque(&status, &format!("{call} without {table}"));
                failed += 1;
            }
        }
        assert!(failed > 0, "nothing needs {table}");
    }
}

#[tokio::test]
async fn an_unknown_role_is_an_error_and_never_access() {
    let roles = [
        ("users", "instance_role", "users_instance_role_check"),
        ("team_members", "role", "team_members_role_check"),
        ("site_members", "role", "site_members_role_check"),
        (
            "api_clients",
            "instance_role",
            "api_clients_instance_role_check",
        ),
        ("api_client_grants", "role", "api_client_grants_role_check"),
    ];
    for (table, column, constraint) in roles {
        for unknown in ["superuser", "", "Owner", "owner "] {
            let app = TestApp::with_world().await;
            let (all, id, token) = with_everything(&app).await;
            app.psql(&format!(
                "ALTER TABLE {table} DROP CONSTRAINT {constraint}; \
                 UPDATE {table} SET {column} = '{unknown}'"
            ))
            .await;
            app.settle().await;
            let what = format!("{table}.{column} = {unknown:?}");
            let refused = all.introspect(check(&token, SITE, "site.view")).await;
            is_opaque(&refused.expect_err(&what), &what);
            let again = personal(VERA).granted(SITE, SiteRole::Viewer);
            if !table.starts_with("api_") {
                is_opaque(&all.create(again).await.expect_err(&what), &what);
            }
            let rotated = all.rotate(rotate(VERA, &id)).await;
            is_opaque(&rotated.expect_err(&what), &what);
        }
    }
}

#[tokio::test]
async fn an_unknown_permission_of_a_caller_is_an_error_and_never_access() {
    let app = TestApp::with_world().await;
    let (all, id, _) = with_everything(&app).await;
    app.psql(
        "ALTER TABLE service_accounts DROP CONSTRAINT service_accounts_permissions_check; \
         UPDATE service_accounts SET permissions = permissions || 'root'::text WHERE name = 'all'",
    )
    .await;
    // No caller is left that could ask how far the index is.
    let begun = Instant::now();
    let refused = loop {
        let answer = all.get(get(VERA, &id)).await;
        if answer.is_err() || begun.elapsed() > Duration::from_secs(10) {
            break answer;
        }
    };
    assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
}

#[tokio::test]
async fn an_unknown_action_in_the_audit_trail_is_an_error() {
    let app = TestApp::with_world().await;
    app.psql(
        "ALTER TABLE audit_events DROP CONSTRAINT audit_events_action_check; \
         UPDATE audit_events SET action = 'api_client.flown'",
    )
    .await;
    let query = pb::ListAuditEventsRequest::default();
    let refused = app.auditor().await.events(query).await;
    is_opaque(&refused.unwrap_err(), "an event");
}

#[tokio::test]
async fn an_outage_shows_nothing_of_the_database() {
    let direct = postgres::migrated_database().await;
    let (proxy, through) = Proxy::start(&direct);
    let options = store::StoreOptions::new(&through);
    let app = TestApp::on(&direct, &options, server::Options::default()).await;
    app.change(world()).await;
    let (all, id, token) = with_everything(&app).await;
    app.settle().await;
    proxy.cut();
    for (call, status) in every_call(&all, &id, &token).await {
        if call == FROM_MEMORY {
            assert!(status.is_none(), "{status:?}");
            continue;
        }
        let expected = Seen {
            code: Code::Unavailable,
            reason: "DATABASE_UNAVAILABLE".to_owned(),
            message: "the database cannot be reached".to_owned(),
            metadata: Vec::new(),
            violations: Vec::new(),
        };
        assert_eq!(seen(&status.expect(call)), expected, "{call}");
    }
}
