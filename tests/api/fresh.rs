//! What was written is known: at once where it was written, and to a caller that asks about
//! a token that is not in the index; and asking costs the database no more than it may.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::BytesMut;
use hitkeep_auth::{
    domain::{
        caller::CallerPermission::{Introspect, Manage},
        clock::Entropy,
        token::{Token, TokenKind},
    },
    live_index::{self, usage as uses},
    pb::{
        self,
        InactiveReason::{OwnerInactive, Revoked, TokenRotated, UnknownToken},
        InstanceRole, SiteRole,
    },
    server::{self, Ended},
    store::{self, Store},
    system::SystemEntropy,
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, make_account, told},
    raw::open_stream,
    support::{
        proxy::{Listeners, Proxy},
        waiting::until,
    },
};

/// Longer than any test.
const NEVER: Duration = Duration::from_hours(1);

/// An index that asks for nothing by itself, nor writes anything.
pub fn without_polls() -> live_index::IndexOptions {
    live_index::IndexOptions {
        max_staleness: 4 * NEVER,
        poll_interval: NEVER,
        refresh_timeout: NEVER,
        usage: uses::UsageOptions {
            flush_interval: NEVER,
        },
        ..live_index::IndexOptions::default()
    }
}

/// A server that hears of nothing by itself: it neither polls, nor does a
/// notification come through.
pub async fn deaf(options: live_index::IndexOptions) -> (TestApp, Proxy) {
    let options = server::Options {
        index: options,
        ..server::Options::default()
    };
    let (app, proxy) = TestApp::behind_proxy(options).await;
    proxy.listeners(Listeners::Mute);
    (app, proxy)
}

/// A token of its own.
pub fn mint(kind: TokenKind) -> Token {
    Token::mint(kind, &SystemEntropy as &dyn Entropy)
}

/// A client of VERA's, made by hand. Gives its token.
pub async fn by_hand(app: &TestApp) -> String {
    let token = mint(TokenKind::Personal);
    let half = |at: usize| u128::from_be_bytes(token.hash().0[at..at + 16].try_into().unwrap());
    let hash = format!("{:032x}{:032x}", half(0), half(16));
    app.psql(&format!(
        "WITH made AS (INSERT INTO api_clients (id, owner_user_id, name, description, \
             instance_role, created_by_user_id, create_time, update_time) \
         VALUES (gen_random_uuid(), '{VERA}', 'by hand', '', 'user', '{VERA}', now(), now()) \
         RETURNING id) \
         INSERT INTO api_client_tokens (hash, client_id, hint, create_time) \
         SELECT '\\x{hash}', id, '', now() FROM made"
    ))
    .await;
    token.reveal()
}

#[tokio::test]
async fn what_was_written_is_answered_where_it_was_written() {
    let (app, _proxy) = deaf(without_polls()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    // One that is known from here on, and that does not change.
    let constant = dashboard.created(team_client(ALICE)).await;
    let known_at = async |revision: u64| {
        let answer = sidecar.introspect(introspect(&constant.token)).await;
        let answer = answer.unwrap();
        assert!(answer.active);
        assert_eq!(answer.revision, revision);
    };
    let reason = async |token: &str| sidecar.inactive_reason(token).await;

    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    known_at(made.revision).await;
    assert_eq!(reason(&made.token).await, None);

    let renamed = pb::ApiClient {
        name: "renamed".to_owned(),
        ..made.client.clone()
    };
    let updated = dashboard
        .update(update(VERA, renamed, &["name"]))
        .await
        .unwrap();
    known_at(updated.revision).await;
    let answer = sidecar.introspect(introspect(&made.token)).await.unwrap();
    assert_eq!(answer.client_name, "renamed");

    let rotated = dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
    known_at(rotated.revision).await;
    assert_eq!(reason(&made.token).await, Some(TokenRotated));
    assert_eq!(reason(&rotated.token).await, None);
    let token = rotated.token;

    let revoked = dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    assert_eq!(reason(&token).await, Some(Revoked));
    known_at(revoked.revision).await;

    let reactivated = dashboard
        .reactivate(reactivate(VERA, &made.id))
        .await
        .unwrap();
    assert_eq!(reason(&token).await, None);
    known_at(reactivated.revision).await;

    let disabled = app.change([put_user(VERA, InstanceRole::User, true)]).await;
    assert_eq!(reason(&token).await, Some(OwnerInactive));
    known_at(disabled).await;

    let whole = pb::ReplaceDirectoryRequest {
        users: [ROOT, ALICE, VERA].map(user).into(),
        teams: vec![pb::Team {
            id: TEAM.to_owned(),
            archived: false,
        }],
        allow_mass_removal: true,
        ..pb::ReplaceDirectoryRequest::default()
    };
    let replaced = app.pusher().await.replace(vec![whole]).await.unwrap();
    let answer = sidecar.introspect(introspect(&token)).await.unwrap();
    assert!(answer.active && answer.site_grants.is_empty());
    known_at(replaced.revision).await;

    let deleted = dashboard.delete(delete(VERA, &made.id)).await.unwrap();
    known_at(deleted.revision).await;
    assert_eq!(reason(&token).await, Some(UnknownToken));
}

fn user(id: &str) -> pb::User {
    pb::User {
        id: id.to_owned(),
        instance_role: InstanceRole::User.into(),
        disabled: false,
    }
}

#[tokio::test]
async fn the_next_revision_is_waited_for() {
    let options = server::Options {
        index: without_polls(),
        ..server::Options::default()
    };
    let (app, _proxy) = TestApp::behind_proxy(options).await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    for ahead in 1..=3 {
        let waiting = pb::IntrospectRequest {
            at_least_revision: Some(made.revision + ahead),
            ..introspect(&made.token)
        };
        // It is changed by no server: its notification alone announces it.
        let (answer, ()) = tokio::join!(
            sidecar.introspect(waiting),
            app.psql("UPDATE api_clients SET name = name || '!'"),
        );
        let answer = answer.unwrap();
        assert_eq!(answer.revision, made.revision + ahead);
        let name = format!("a client{}", "!".repeat(ahead.try_into().unwrap()));
        assert_eq!(answer.client_name, name);
    }
}

#[tokio::test]
async fn a_token_that_was_made_a_moment_ago_is_known() {
    let (app, _proxy) = deaf(without_polls()).await;
    let sidecar = app.sidecar().await;
    for _ in 0..3 {
        let token = by_hand(&app).await;
        assert_eq!(sidecar.inactive_reason(&token).await, None);
    }
    // By another server, too.
    let other = app.beside(server::Options::default()).await;
    let made = other.dashboard().await.created(personal(VERA)).await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
}

#[tokio::test]
async fn a_caller_that_was_made_a_moment_ago_is_known() {
    let (app, _proxy) = deaf(without_polls()).await;
    for (name, permission) in [("a-sidecar", Introspect), ("a-dashboard", Manage)] {
        let token = make_account(&app.store, name, &[permission]).await;
        let caller = app.caller(&token).await;
        match permission {
            Manage => drop(caller.created(personal(VERA)).await),
            _ => drop(caller.introspect(introspect("x")).await.expect(name)),
        }
    }
}

#[tokio::test]
async fn a_caller_that_was_revoked_is_refused_within_moments() {
    // Notifications alone, and polls alone.
    for (listeners, options) in [
        (Listeners::Heard, without_polls()),
        (Listeners::Mute, live_index::IndexOptions::default()),
    ] {
        let options = server::Options {
            index: options,
            ..server::Options::default()
        };
        let (app, proxy) = TestApp::behind_proxy(options).await;
        proxy.listeners(listeners);
        let token = make_account(&app.store, "soon-revoked", &[Introspect]).await;
        let caller = app.caller(&token).await;
        caller.introspect(introspect("x")).await.expect("known");
        let revocation = "UPDATE service_accounts SET revoke_time = now() \
                          WHERE name = 'soon-revoked'";
        app.psql(revocation).await;
        // By the one way that there is. How soon is not asked here, so the wait is far longer
        // than either way takes; a way that is never taken fails the test when it is over.
        let refused = until("it is refused", async || {
            match caller.introspect(introspect("x")).await {
                Ok(_) => Err(listeners),
                Err(refused) => Ok(refused),
            }
        });
        let refused: Result<(), _> = Err(refused.await);
        assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
    }
}

/// Asks about tokens that no client has, one after the other. Gives what was said.
async fn flood(caller: Caller, requests: u32) -> BTreeSet<String> {
    let mut said = BTreeSet::new();
    for _ in 0..requests {
        let token = mint(TokenKind::Personal).reveal();
        said.insert(match caller.introspect(introspect(&token)).await {
            Ok(answer) => format!("{:?}", answer.inactive_reason()),
            refused => told(&refused),
        });
    }
    said
}

/// The database may answer too late, on a busy machine: never anything else.
fn assert_only_unknown_or_unanswered(said: &BTreeSet<String>) {
    let known = ["UnknownToken", "Unavailable DATABASE_UNAVAILABLE"];
    assert!(
        said.iter().all(|said| known.contains(&said.as_str())),
        "{said:?}"
    );
}

#[tokio::test]
async fn invented_tokens_cost_the_database_no_more_than_they_may() {
    const AT_ONCE: usize = 200;
    const EACH: u32 = 8;
    const MAX_LOOKUPS: u32 = 5;
    let options = live_index::IndexOptions {
        max_lookups: MAX_LOOKUPS,
        ..without_polls()
    };
    let (app, proxy) = deaf(options).await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);

    let (begun, before) = (Instant::now(), proxy.statements());
    let mut flooding = JoinSet::new();
    for _ in 0..AT_ONCE {
        flooding.spawn(flood(sidecar.clone(), EACH));
    }
    let mut said = BTreeSet::new();
    while let Some(heard) = flooding.join_next().await {
        said.extend(heard.unwrap());
    }
    let (took, cost) = (begun.elapsed(), proxy.statements() - before);
    assert_only_unknown_or_unanswered(&said);
    assert!(said.contains("UnknownToken"));
    // All who wait at once share one question, which is one statement.
    let bound = took.as_secs_f64() * f64::from(MAX_LOOKUPS) + 2.0;
    let cost = u32::try_from(cost).unwrap();
    assert!(f64::from(cost) < bound, "{cost} statements in {took:?}");
    assert!(cost > 0, "nobody asked");
}

#[tokio::test]
async fn good_tokens_do_not_wait_with_the_invented_ones() {
    let (app, proxy) = deaf(without_polls()).await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    proxy.stall();
    let mut flooding = JoinSet::new();
    for _ in 0..100 {
        flooding.spawn(flood(sidecar.clone(), 1));
    }
    // A wait for the database would be in vain.
    for _ in 0..50 {
        assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    }
    proxy.mend();
    while let Some(heard) = flooding.join_next().await {
        assert_only_unknown_or_unanswered(&heard.unwrap());
    }
}

/// A store that reaches the database without the proxy.
fn direct_store(app: &TestApp) -> Store {
    let options = store::StoreOptions::new(&app.database_url);
    Store::new(
        &options,
        Arc::clone(&app.clock) as _,
        Arc::clone(&app.entropy) as _,
    )
}

#[tokio::test]
async fn where_too_many_wait_the_word_of_the_index_stands_while_it_is_current() {
    let poll_interval = Duration::from_secs(30);
    let options = live_index::IndexOptions {
        max_waiting: 0,
        max_staleness: 100 * poll_interval,
        poll_interval,
        ..live_index::IndexOptions::default()
    };
    let (app, proxy) = deaf(options).await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    app.settle().await;
    proxy.stall();
    // It was made meanwhile, and no question is allowed.
    let young = by_hand(&app).await;
    assert_eq!(sidecar.inactive_reason(&young).await, Some(UnknownToken));
    app.clock.grow_old(4 * poll_interval);
    assert_eq!(sidecar.inactive_reason(&young).await, Some(UnknownToken));
    app.clock.grow_old(Duration::from_nanos(1));
    let refused = sidecar.introspect(introspect(&young)).await;
    assert_eq!(told(&refused), "Unavailable STALE_INDEX");
    // Nor is anybody a stranger only because of that.
    let token = make_account(&direct_store(&app), "just-made", &[Introspect]).await;
    let refused = app.caller(&token).await.introspect(introspect("x")).await;
    assert_eq!(told(&refused), "Unavailable STALE_INDEX");
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
}

/// The index has fallen behind, and the database can be reached all the same.
#[tokio::test]
async fn management_goes_by_the_database_where_the_index_is_too_old() {
    let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let revoked = make_account(&app.store, "revoked", &[Manage]).await;
    let revoked = app.caller(&revoked).await;
    revoked.get(get(VERA, &made.id)).await.expect("it is known");

    // The feed connects again, and its connection hears no more.
    proxy.hold_replies_to(b"trimmed_revision");
    proxy.sever();
    proxy.caught().await;
    app.psql("UPDATE service_accounts SET revoke_time = now() WHERE name = 'revoked'")
        .await;
    let young = make_account(&app.store, "young", &[Manage]).await;
    app.clock.grow_old(Duration::from_secs(11));
    let stale = sidecar.introspect(introspect(&made.token)).await;
    assert_eq!(told(&stale), "Unavailable STALE_INDEX");
    // A known one, one that the index does not know yet, and one that it still knows.
    dashboard
        .get(get(VERA, &made.id))
        .await
        .expect("it is known");
    let young = app.caller(&young).await;
    young.get(get(VERA, &made.id)).await.expect("it is known");
    let refused = revoked.get(get(VERA, &made.id)).await;
    assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
    proxy.release();
    assert_eq!(app.stop.send(()).await, Ok(()));
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}

/// Otherwise whoever sends invented tokens through a program would delay everybody who shares
/// the program's stream.
#[tokio::test]
async fn invented_tokens_on_one_stream_share_a_question() {
    const INVENTED: usize = 100;
    /// As much as there is.
    const WINDOW: u32 = 1 << 20;
    let (app, proxy) = deaf(without_polls()).await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);

    let before = proxy.statements();
    let invented = || introspect(&mint(TokenKind::Personal).reveal());
    let mut requests: Vec<_> = std::iter::repeat_with(invented).take(INVENTED).collect();
    requests.insert(INVENTED / 2, introspect(&made.token));
    let (mut answers, mut read) = (open_stream(&app, &requests, WINDOW).await, BytesMut::new());
    for at in 0..=INVENTED {
        let answer = answers.answer(&mut read).await.unwrap();
        let expected = if at == INVENTED / 2 {
            (true, None)
        } else {
            (false, Some(UnknownToken))
        };
        let reason = (!answer.active).then(|| answer.inactive_reason());
        assert_eq!((answer.active, reason), expected, "{at}");
    }
    assert_eq!(proxy.statements() - before, 1);
}
