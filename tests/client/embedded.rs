//! The copy of the index inside of a program: how old it may be, and what flows back.

use std::{sync::Arc, time::Duration};

use hitkeep_auth::pb;
use hitkeep_auth_client::{Authenticator, EmbeddedOptions, Error, InactiveReason, Unavailable};

use crate::{
    calls::client_of,
    embedded_example::judge,
    http::NOBODYS,
    service::{Service, VERA},
    support::{doubles::TestClock, waiting::until},
};

const BOUND: Duration = Duration::from_secs(10);

async fn embedded(service: &Service, options: EmbeddedOptions) -> Authenticator {
    let replicating = service.account("program", "replicate").await;
    let client = client_of(&service.address, &replicating);
    Authenticator::embedded(&client, options)
}

#[tokio::test]
async fn a_revocation_arrives_by_itself() {
    let service = Service::start(&[]).await;
    let options = EmbeddedOptions {
        max_staleness: Duration::from_mins(10),
        ..EmbeddedOptions::default()
    };
    let by = embedded(&service, options).await;
    by.ready().await;
    let works = service.client().await;
    // It was made after the snapshot: the server is asked.
    assert_eq!(
        judge(&by, &works.token).await,
        format!("user:{VERA} may see the system: false")
    );
    service.revoke(&works.id).await;
    until("the revocation arrives", async || {
        match judge(&by, &works.token).await.as_str() {
            "it does not work: REVOKED" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    assert_eq!(judge(&by, NOBODYS).await, "it does not work: UNKNOWN_TOKEN");
}

/// From the moment at which the question was sent that was answered last.
#[tokio::test]
async fn beyond_the_bound_nothing_works_and_nothing_is_unknown() {
    let service = Service::start(&[]).await;
    let (works, revoked) = (service.client().await, service.client().await);
    service.revoke(&revoked.id).await;
    let clock = Arc::new(TestClock::default());
    let options = EmbeddedOptions {
        max_staleness: BOUND,
        clock: Arc::clone(&clock) as _,
        ..EmbeddedOptions::default()
    };
    let by = embedded(&service, options).await;
    by.ready().await;
    until("the index is proven fresh", async || {
        by.authenticate(&works.token)
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    let (_stopped, _log) = service.stop().await;
    // The server's own staleness is a part of the age.
    clock.grow_old(BOUND / 2);
    by.authenticate(&works.token).await.unwrap();
    clock.grow_old(BOUND / 2 + Duration::from_nanos(1));
    let stale = by.authenticate(&works.token).await;
    assert!(
        matches!(stale, Err(Error::Unavailable(Unavailable::Stale(_)))),
        "{stale:?}"
    );
    let unknown = by.authenticate(NOBODYS).await;
    assert!(matches!(unknown, Err(Error::Unavailable(_))), "{unknown:?}");
    // What is known to be inactive stays so.
    let inactive = by.authenticate(&revoked.token).await;
    assert!(matches!(
        inactive,
        Err(Error::Inactive(InactiveReason::Revoked))
    ));
}

#[tokio::test]
async fn without_a_copy_nobody_can_tell() {
    let service = Service::start(&[]).await;
    let works = service.client().await;
    // This account may introspect, and not replicate.
    let client = client_of(&service.address, &service.caller);
    let by = Authenticator::embedded(&client, EmbeddedOptions::default());
    let refused = by.authenticate(&works.token).await;
    assert!(
        matches!(refused, Err(Error::Unavailable(Unavailable::Loading))),
        "{refused:?}"
    );
}

/// Otherwise a client that is used by this program alone would look unused.
#[tokio::test]
async fn uses_flow_back() {
    let service = Service::start(&["--usage-flush-interval", "10ms"]).await;
    let works = service.client().await;
    let options = EmbeddedOptions {
        max_staleness: Duration::from_mins(10),
        usage_interval: Duration::from_mins(10),
        ..EmbeddedOptions::default()
    };
    let by = embedded(&service, options).await;
    by.ready().await;
    by.authenticate(&works.token).await.unwrap();
    by.finish().await;
    // Again does nothing.
    by.finish().await;
    let dashboard = client_of(&service.address, &service.dashboard);
    until("the use is there", async || {
        let request = pb::GetApiClientRequest {
            actor: Some(pb::Actor {
                user_id: VERA.to_owned(),
                ..pb::Actor::default()
            }),
            id: works.id.clone(),
        };
        let client = dashboard.get_api_client(request).await.unwrap();
        let used = client.api_client.unwrap().last_used_time;
        used.map(|_| ()).ok_or("it was not used")
    })
    .await;
}
