//! Several callers, the same things, the same moment.

use std::time::Duration;

use futures_util::future::join_all;
use hitkeep_auth::pb::{self, InactiveReason, SiteRole};

use crate::{
    fixtures::*,
    harness::{TestApp, told},
};

/// How many do the same at once.
const CROWD: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_slips_past_the_quota() {
    let mut options = hitkeep_auth::server::Options::default();
    options.grpc.max_clients_per_owner = 5;
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let all = join_all((0..CROWD).map(|_| dashboard.create(personal(VERA)))).await;
    let (made, refused): (Vec<_>, Vec<_>) = all.iter().partition(|made| made.is_ok());
    assert_eq!(made.len(), 5);
    for refused in refused {
        assert_eq!(told(refused), "ResourceExhausted API_CLIENT_QUOTA");
    }
    assert_eq!(app.number("SELECT count(*) FROM api_clients").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_those_who_read_the_same_etag_one_writes() {
    let (_app, dashboard, made) = TestApp::with_client().await;
    let save = |turn: usize| {
        let named = pb::ApiClient {
            name: format!("name {turn}"),
            ..made.client.clone()
        };
        dashboard.update(update(VERA, named, &["name"]))
    };
    let all = join_all((0..CROWD).map(save)).await;
    let (saved, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!(saved.len(), 1);
    for refused in refused {
        assert_eq!(told(&refused), "Aborted ETAG_MISMATCH");
    }
    let kept = dashboard.get(get(VERA, &made.id)).await.unwrap().api_client;
    assert_eq!(kept, saved.into_iter().next().unwrap().unwrap().api_client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_those_who_read_the_same_etag_one_rotates() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let request = pb::RotateApiClientRequest {
        etag: made.client.etag.clone(),
        ..rotate_with_overlap(VERA, &made.id, 60)
    };
    let all = join_all((0..CROWD).map(|_| dashboard.rotate(request.clone()))).await;
    let (rotated, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!(rotated.len(), 1);
    for refused in refused {
        assert_eq!(told(&refused), "Aborted ETAG_MISMATCH");
    }
    let newest = rotated.into_iter().next().unwrap().unwrap().token;
    for token in [&made.token, &newest] {
        assert_eq!(sidecar.inactive_reason(token).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_hands_out_what_was_taken_from_them_a_moment_ago() {
    let app = TestApp::with_world().await;
    let (dashboard, pusher) = (app.dashboard().await, app.pusher().await);
    let mut made_in_time = 0;
    for _ in 0..40 {
        app.change([put_site_member(SITE, VERA, SiteRole::Editor)])
            .await;
        let demotion = batch([put_site_member(SITE, VERA, SiteRole::Viewer)]);
        let creation = dashboard.create(personal(VERA).granted(SITE, SiteRole::Editor));
        let (demoted, created) = tokio::join!(pusher.apply(demotion), creation);
        let demoted = demoted.expect("the demotion is good").revision;
        match created {
            // Its revision says which of the two came first.
            Ok(created) => {
                assert!(
                    created.revision < demoted,
                    "made at {} > {demoted}",
                    created.revision
                );
                made_in_time += 1;
                let id = created.api_client.unwrap().id;
                dashboard.delete(delete(VERA, &id)).await.unwrap();
            }
            refused @ Err(_) => {
                assert_eq!(told(&refused), "PermissionDenied DELEGATION_EXCEEDS_ACTOR");
            }
        }
    }
    println!("{made_in_time} of 40 were made before the demotion");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotations_form_one_chain() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let all = join_all((0..CROWD).map(|_| dashboard.rotate(rotate(VERA, &made.id)))).await;
    let mut rotated: Vec<_> = all
        .into_iter()
        .map(|rotated| rotated.expect("it works"))
        .collect();
    rotated.sort_by_key(|rotated| rotated.revision);
    let newest = rotated.pop().unwrap();
    assert_eq!(sidecar.inactive_reason(&newest.token).await, None);
    for older in rotated {
        let reason = sidecar.inactive_reason(&older.token).await;
        assert_eq!(reason, Some(InactiveReason::TokenRotated));
    }
    let seen = dashboard
        .get(get(VERA, &made.id))
        .await
        .unwrap()
        .api_client
        .unwrap();
    assert_eq!(Some(seen), newest.api_client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rename_never_undoes_a_revocation() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    for turn in 0..20 {
        let made = dashboard.created(personal(VERA)).await;
        let named = pb::ApiClient {
            id: made.id.clone(),
            name: format!("name {turn}"),
            ..pb::ApiClient::default()
        };
        let (renamed, revoked) = tokio::join!(
            dashboard.update(update(VERA, named, &["name"])),
            dashboard.revoke(revoke(VERA, &made.id)),
        );
        renamed.expect("a revoked client can be renamed");
        revoked.expect("a client can be revoked");
        let reason = sidecar.inactive_reason(&made.token).await;
        assert_eq!(reason, Some(InactiveReason::Revoked));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_at_once_each_change_has_its_revision_and_event() {
    let app = TestApp::with_world().await;
    let (dashboard, pusher) = (app.dashboard().await, app.pusher().await);
    let client = dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Viewer))
        .await;
    let events_before = app.number("SELECT count(*) FROM audit_events").await;
    let mut revisions = Vec::new();
    let mut managed = 0;
    for _ in 0..6 {
        let id = client.id.as_str();
        let widened = pb::ApiClient {
            site_grants: vec![grant(SITE, SiteRole::Admin)],
            ..pb::ApiClient {
                id: id.to_owned(),
                ..pb::ApiClient::default()
            }
        };
        let narrowed = pb::ApiClient {
            site_grants: vec![grant(SITE, SiteRole::Viewer)],
            ..widened.clone()
        };
        let (made, rotated, up, down, moved, back) = tokio::join!(
            dashboard.create(personal(VERA)),
            dashboard.rotate(rotate_with_overlap(ALICE, id, 60)),
            dashboard.update(update(ALICE, widened, &["site_grants"])),
            dashboard.update(update(ADAM, narrowed, &["site_grants"])),
            pusher.apply(batch([put_user(EVE, pb::InstanceRole::Admin, true)])),
            pusher.apply(batch([put_user(EVE, pb::InstanceRole::User, false)])),
        );
        let (up, down) = (up.unwrap(), down.unwrap());
        revisions.extend([made.unwrap().revision, rotated.unwrap().revision]);
        revisions.extend([up.revision, down.revision]);
        revisions.extend([moved.unwrap().revision, back.unwrap().revision]);
        managed += 2;
    }
    // Those that found nothing left to change got the revision of others.
    revisions.sort_unstable();
    revisions.dedup();
    let last = u64::try_from(app.number("SELECT revision FROM index_state").await).unwrap();
    assert_eq!(revisions.last(), Some(&last));
    let events = app.number("SELECT count(*) FROM audit_events").await - events_before;
    let updates = app
        .number("SELECT count(*) FROM audit_events WHERE action = 'api_client.updated'")
        .await;
    assert_eq!(events, managed + updates);
    let directory = app.number("SELECT revision FROM index_state").await - 2 - events;
    assert!(
        (0..=12).contains(&directory),
        "{directory} directory changes were real"
    );
}

#[tokio::test]
async fn a_write_that_collides_is_tried_again() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    for (code, message) in [
        ("40001", "could not serialize"),
        ("40P01", "deadlock detected"),
    ] {
        fail_inserts(&app, code, message, 2).await;
        let made = dashboard.created(personal(VERA)).await;
        assert_eq!(app.sidecar().await.inactive_reason(&made.token).await, None);
        // Not without a limit, though: then it is too much at once, and nothing is left.
        fail_inserts(&app, code, message, 1000).await;
        let before = app.everything().await;
        let refused = dashboard.create(personal(VERA)).await;
        assert_eq!(told(&refused), "Unavailable OVERLOADED");
        assert_eq!(app.everything().await, before);
    }
}

/// Lets the next insertions of a client fail. A sequence counts them, since it
/// is not rolled back.
async fn fail_inserts(app: &TestApp, code: &str, message: &str, times: u32) {
    app.psql(&format!(
        "DROP SEQUENCE IF EXISTS failures; CREATE SEQUENCE failures; \
         CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('failures') <= {times} THEN \
         RAISE EXCEPTION '{message}' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$; \
         CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON api_clients \
         FOR EACH ROW EXECUTE FUNCTION fail()"
    ))
    .await;
}

#[tokio::test]
async fn who_waits_too_long_for_a_connection_is_told_so() {
    let url = crate::support::postgres::migrated_database().await;
    let store = hitkeep_auth::store::StoreOptions {
        pool_size: 1,
        // The server's own statements take the connection as well, for a moment.
        pool_wait: Duration::from_secs(2),
        ..hitkeep_auth::store::StoreOptions::new(&url)
    };
    let app = TestApp::on(&url, &store, hitkeep_auth::server::Options::default()).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let blocker = app.hold_write_lock().await;
    let first = tokio::spawn({
        let dashboard = dashboard.clone();
        async move { dashboard.create(personal(VERA)).await }
    });
    app.until_waiting(1).await;
    let refused = dashboard.create(personal(VERA)).await;
    assert_eq!(told(&refused), "Unavailable OVERLOADED");
    blocker.release().await;
    first.await.unwrap().expect("it only had to wait");
    dashboard.created(personal(VERA)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_who_wait_to_write_leave_connections_to_those_who_read() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let blocker = app.hold_write_lock().await;
    let writers: Vec<_> = (0..CROWD)
        .map(|_| {
            let (dashboard, id) = (dashboard.clone(), made.id.clone());
            tokio::spawn(async move { dashboard.revoke(revoke(VERA, &id)).await })
        })
        .collect();
    // Of the harness's eight connections, a quarter.
    app.until_waiting(2).await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    dashboard
        .get(get(VERA, &made.id))
        .await
        .expect("it only reads");
    blocker.release().await;
    for writer in join_all(writers).await {
        writer.unwrap().expect("it only had to wait");
    }
    assert_eq!(
        sidecar.inactive_reason(&made.token).await,
        Some(InactiveReason::Revoked)
    );
}
