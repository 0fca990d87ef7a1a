//! The queries that the service makes often, each as it makes it.

use std::num::NonZeroU64;

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        Timestamp,
        access::Owner,
        audit::{Action, Event, Filter},
        client::{ClientState, Selection},
        id::{ClientId, EventId, SiteId, TeamId, UserId},
        replay::Lookup,
        usage::{Batch, Count, Day, Outcome, ReplacedUses},
    },
    store::{
        Snapshot, Store, Transaction, audit,
        clients::{self, ClientFilter, Listing},
        error::StoreError,
        outbox::{FailedAttempt, Hold},
    },
};
use uuid::Uuid;

use super::{TIMES, hash};
use crate::database::nobody;

pub async fn introspect(store: &Store) {
    for n in 1..=TIMES {
        let found = store.look_up(Some(hash(n * 100).into())).await.unwrap();
        assert!(found.subject.is_some());
        let found = store
            .look_up(Some(hash(1_000_000 + n).into()))
            .await
            .unwrap();
        assert!(found.subject.is_none());
    }
}

pub async fn find_callers(store: &Store) {
    for n in 1..=TIMES {
        assert!(store.find_caller(hash(n * 100)).await.unwrap().is_some());
        assert!(
            store
                .find_caller(hash(1_000_000 + n))
                .await
                .unwrap()
                .is_none()
        );
        let name = |n: u128| format!("dns:{n}.example").parse().unwrap();
        let names = [name(n * 100), name(1_000_000 + n)];
        assert!(store.find_named_caller(&names).await.unwrap().is_some());
    }
}

pub async fn list_clients(snapshot: &mut Snapshot) -> Result<(), StoreError> {
    for n in 1..=TIMES {
        let id = Uuid::from_u128(n * 10);
        for (owner, number) in [
            (Owner::User(UserId::from_uuid(id)), n * 100 - 10),
            (Owner::Team(TeamId::from_uuid(id)), n * 100 - 9),
        ] {
            for include_inactive in [true, false] {
                let mut listing = Listing {
                    owner: Some(owner),
                    filter: ClientFilter::default(),
                    include_inactive,
                    after: None,
                    limit: 51,
                };
                let first = snapshot.page_clients(listing).await?;
                assert_eq!(first.len(), 5);
                let first: Vec<_> = first.into_iter().map(|listed| listed.client).collect();
                assert_eq!(first[0].id, ClientId::from_uuid(Uuid::from_u128(number)));
                listing.after = Some(clients::ClientCursor {
                    create_time: first[1].create_time,
                    id: first[1].id,
                });
                assert_eq!(snapshot.page_clients(listing).await?.len(), 3);
            }
            let facts = snapshot.facts(UserId::from_uuid(id), owner).await?;
            assert!(facts.actor.user.is_some());
        }
        let client = ClientId::from_uuid(id);
        assert!(snapshot.find_client(client).await?.is_some());
    }
    Ok(())
}

/// What everybody's clients are listed by, and how many there are at least.
pub fn filters() -> Vec<(ClientFilter, usize)> {
    let now = Timestamp::default();
    let all = ClientFilter::default();
    let state = |state| ClientFilter {
        state: Some(state),
        ..all
    };
    let created_by = ClientFilter {
        created_by: Some(UserId::from_uuid(Uuid::from_u128(7))),
        ..all
    };
    let site = ClientFilter {
        site: Some(SiteId::from_uuid(Uuid::from_u128(70))),
        ..all
    };
    let expire_before = ClientFilter {
        expire_before: Some(now + TimeDelta::days(7)),
        ..all
    };
    let unused_since = ClientFilter {
        unused_since: Some(now - TimeDelta::days(90)),
        ..all
    };
    vec![
        (all, 51),
        (state(ClientState::Active), 51),
        (state(ClientState::Revoked), 12),
        (state(ClientState::Expired), 12),
        (state(ClientState::OwnerInactive), 10),
        (created_by, 5),
        (site, 5),
        (expire_before, 12),
        (unused_since, 12),
    ]
}

/// Everybody's clients, from the first page and from far down the list. Times of the filter
/// are distances from now.
pub async fn list_everybodys(
    snapshot: &mut Snapshot,
    filter: ClientFilter,
    least: usize,
) -> Result<(), StoreError> {
    let now = snapshot.now;
    let from_now = |time: Timestamp| now + (time - Timestamp::default());
    let filter = ClientFilter {
        expire_before: filter.expire_before.map(from_now),
        unused_since: filter.unused_since.map(from_now),
        ..filter
    };
    let deep = clients::ClientCursor {
        create_time: now - TimeDelta::seconds(5000),
        id: ClientId::from_uuid(Uuid::from_u128(5000)),
    };
    for _ in 1..=TIMES {
        let mut listing = Listing {
            owner: None,
            filter,
            include_inactive: false,
            after: None,
            limit: 51,
        };
        let page = snapshot.page_clients(listing).await?;
        assert!(page.len() >= least, "{filter:?}: {}", page.len());
        listing.after = Some(deep);
        snapshot.page_clients(listing).await?;
    }
    Ok(())
}

/// What is looked up in an incident.
pub async fn answer_incidents(store: &Store) {
    let body = async |tx: &mut Transaction| -> Result<(), StoreError> {
        for n in 1..=TIMES {
            let found = tx.find_leaked_token(&hash(n * 100).0, None).await?;
            assert!(found.is_some());
            let found = tx.find_leaked_account(&hash(n * 100).0).await?;
            assert!(found.is_some());
            let unknown = hash(1_000_000 + n).0;
            assert!(tx.find_leaked_token(&unknown, None).await?.is_none());
            assert!(tx.find_leaked_account(&unknown).await?.is_none());
            let id = Uuid::from_u128(n * 10);
            let all = Selection::default();
            for selection in [
                Selection {
                    owner: Some(Owner::User(UserId::from_uuid(id))),
                    ..all
                },
                Selection {
                    owner: Some(Owner::Team(TeamId::from_uuid(id))),
                    ..all
                },
                Selection {
                    site: Some(SiteId::from_uuid(id)),
                    ..all
                },
                Selection {
                    created_by: Some(UserId::from_uuid(Uuid::from_u128(n))),
                    ..all
                },
            ] {
                let found = tx.find_revocable(selection, 10_001).await?;
                assert!(!found.is_empty(), "{selection:?}");
                tx.revoke_clients(found).await?;
            }
            let event = Event {
                action: Action::ClientLeaked,
                subject: id,
                subject_name: String::new(),
                owner: None,
                changes: Vec::new(),
            };
            assert!(!tx.has_recorded(&event).await?);
        }
        Ok(())
    };
    store.transaction(&nobody(), body).await.unwrap();
}

pub async fn list_events(snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let now = snapshot.now;
    for n in 1..=TIMES {
        let id = Uuid::from_u128(n * 10);
        for filter in [
            Filter::default(),
            Filter {
                subject: Some(id),
                ..Filter::default()
            },
            Filter {
                owner: Some(Owner::User(UserId::from_uuid(id))),
                ..Filter::default()
            },
            Filter {
                owner: Some(Owner::Team(TeamId::from_uuid(id))),
                ..Filter::default()
            },
            Filter {
                actor: Some(UserId::from_uuid(id)),
                ..Filter::default()
            },
            Filter {
                action: Some(Action::ClientRotated),
                ..Filter::default()
            },
            Filter {
                start: Some(now - TimeDelta::seconds(4000)),
                end: Some(now - TimeDelta::seconds(3000)),
                ..Filter::default()
            },
        ] {
            let first = snapshot.page_events(&filter, None, 51).await?;
            assert!(first.len() >= 2, "{filter:?}");
            let after = audit::EventCursor {
                time: first[0].time,
                id: first[0].id,
            };
            let second = snapshot.page_events(&filter, Some(after), 51).await?;
            assert_eq!(second[0], first[1]);
        }
    }
    // Far down a long list.
    let deep = audit::EventCursor {
        time: now - TimeDelta::seconds(19_000),
        id: EventId::from_uuid(Uuid::from_u128(19_000)),
    };
    for _ in 0..TIMES {
        let all = Filter::default();
        let page = snapshot.page_events(&all, Some(deep), 51).await?;
        assert_eq!(page.len(), 51);
    }
    Ok(())
}

/// A replica that has few clients in use. With many, a scan can be the better way.
pub async fn flush_usage(store: &Store) {
    let time: Timestamp = "2026-03-03T12:00:00Z".parse().unwrap();
    for n in 1..=TIMES {
        let mut batch = Batch::default();
        for number in [n * 10, n * 100, n * 700] {
            let client = ClientId::from_uuid(Uuid::from_u128(number));
            let count = Count {
                day: Day::of(time),
                outcome: Outcome::Used,
                count: NonZeroU64::MIN,
            };
            batch.add(client, count);
            batch.used_at(client, time);
        }
        store.flush_usage(&mut batch).await.unwrap();
        assert!(batch.is_empty());
        let long_ago = Day::of(time).before(10);
        store.trim_usage(long_ago).await.unwrap();
    }
}

pub async fn find_requests(store: &Store) {
    let body = async |tx: &mut Transaction| -> Result<(), StoreError> {
        for n in 1..=TIMES {
            let found = tx.find_request(&Lookup(hash(n * 100).0)).await?;
            assert!(found.is_some_and(|found| found.reply.is_some()));
            let unknown = tx.find_request(&Lookup(hash(1_000_000 + n).0)).await?;
            assert!(unknown.is_none());
        }
        Ok(())
    };
    store.transaction(&nobody(), body).await.unwrap();
    let before = store.clock().now() - TimeDelta::minutes(80);
    assert!(store.remove_requests(before).await.unwrap() > 0);
    for _ in 0..TIMES {
        assert_eq!(store.remove_requests(before).await.unwrap(), 0);
    }
}

/// A process that delivers, and one that flushes uses of replaced tokens.
pub async fn deliver_events(store: &Store) {
    let holder = Uuid::from_u128(7);
    let until = store.clock().now() + TimeDelta::minutes(1);
    let held = store.hold_event_delivery(holder, until).await.unwrap();
    assert_eq!(held, Hold::Held);
    assert!(store.send_expiries().await.unwrap() > 0);
    for n in 1..=TIMES {
        assert_eq!(store.send_expiries().await.unwrap(), 0);
        let busy = [Uuid::from_u128(n)];
        let due = store.due_events(&busy, 8).await.unwrap();
        assert_eq!(due.len(), 8);
        let failed = FailedAttempt {
            attempts: 1,
            next: until,
            error: "status 500",
            dead: None,
        };
        store.event_failed(&due[0], failed).await.unwrap();
        store.event_delivered(&due[1]).await.unwrap();
        store.trim_events().await.unwrap();
        let mut batch = Batch::default();
        let client = ClientId::from_uuid(Uuid::from_u128(n * 9));
        batch.replaced_token_used_at(client, until);
        let mut replaced = ReplacedUses::default();
        batch.move_replaced(&mut replaced);
        store.send_replaced(&replaced).await.unwrap();
    }
}

pub async fn tell_usage(snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let day = |text: &str| Day::from_date(text.parse().unwrap());
    for n in 1..=TIMES {
        let client = ClientId::from_uuid(Uuid::from_u128(n * 9));
        let days = day("2026-03-04")..day("2026-04-01");
        let days = snapshot.usage_days(client, days).await?;
        assert_eq!(days.len(), 3);
    }
    Ok(())
}
