//! The ways to find out whose a token is: they say the same.

use std::time::Duration;

use hitkeep_auth::pb;
use hitkeep_auth_client::{
    Authenticator, EmbeddedOptions, Error, InactiveReason, InstancePermission, PermissionCheck,
    Principal, Question, Revision, SiteId, SitePermission,
};

use crate::{
    calls::client_of,
    http::NOBODYS,
    service::{OTHER_SITE, SITE, Service, VERA},
};

fn on(site: &str, permission: SitePermission) -> PermissionCheck {
    let site = site.parse::<SiteId>().unwrap();
    PermissionCheck::Site { site, permission }
}

/// All ways, with their names. A copy of the index may be old, if the machine is busy.
async fn modes(service: &Service) -> [(&'static str, Authenticator); 3] {
    let replicating = service.account("program", "replicate").await;
    let client = client_of(&service.address, &service.caller);
    let options = EmbeddedOptions {
        max_staleness: Duration::from_mins(10),
        ..EmbeddedOptions::default()
    };
    let embedded = Authenticator::embedded(&client_of(&service.address, &replicating), options);
    embedded.ready().await;
    [
        ("asking", Authenticator::asking(&client)),
        ("cached", Authenticator::cached(&client, 100)),
        ("embedded", embedded),
    ]
}

fn is_whole(principal: &Principal, client: &str) {
    assert_eq!(principal.client_id().to_string(), client);
    assert_eq!(principal.client_name(), "a client");
    assert_eq!(principal.owner().to_string(), format!("user:{VERA}"));
    assert_eq!(principal.instance_role().as_str(), "user");
    let roles: Vec<_> = principal.site_roles().collect();
    assert_eq!(roles.len(), 1);
    assert_eq!(roles[0].0.to_string(), SITE);
    assert_eq!(roles[0].1.as_str(), "editor");
    assert_eq!(principal.expire_time(), None);
    assert!(principal.revision() > Revision(0));
}

#[tokio::test]
async fn they_say_the_same() {
    let service = Service::start(&[]).await;
    let works = service.client().await;
    let revoked = service.client().await;
    service.revoke(&revoked.id).await;
    for (mode, by) in modes(&service).await {
        // The second time, one of them knows.
        for _ in 0..2 {
            let principal = by
                .authenticate(&format!(" {}\n", works.token))
                .await
                .unwrap();
            is_whole(&principal, &works.id);
            let goals = on(SITE, SitePermission::ManageGoals);
            by.check(&works.token, goals).await.unwrap();
            for check in [
                on(SITE, SitePermission::Delete),
                on(OTHER_SITE, SitePermission::View),
                PermissionCheck::Instance(InstancePermission::ViewSystem),
            ] {
                let refused = by.check(&works.token, check).await;
                assert!(
                    matches!(refused, Err(Error::Forbidden(missing)) if missing == check),
                    "{mode}: {refused:?}"
                );
                assert!(principal.require(check).is_err());
            }
            let long = "x".repeat(5000);
            for (token, reason) in [
                (&*revoked.token, InactiveReason::Revoked),
                (NOBODYS, InactiveReason::UnknownToken),
                ("nothing like a token", InactiveReason::UnknownToken),
                (&service.caller, InactiveReason::UnknownToken),
                (&long, InactiveReason::UnknownToken),
            ] {
                let refused = by.authenticate(token).await;
                assert!(
                    matches!(refused, Err(Error::Inactive(why)) if why == reason),
                    "{mode}: {refused:?}"
                );
                let goals = on(SITE, SitePermission::ManageGoals);
                let refused = by.check(token, goals).await;
                assert!(matches!(refused, Err(Error::Inactive(_))), "{mode}");
            }
            assert!(matches!(by.authenticate(" \t").await, Err(Error::NoToken)));
        }
    }
}

/// Where a token works from some addresses only, and from some time on, each mode enforces both;
/// and a kept answer counts for the address that it is about.
#[tokio::test]
async fn restrictions_are_enforced() {
    let service = Service::start(&[]).await;
    let restricted = |change: fn(&mut pb::ApiClient)| {
        let service = &service;
        async move {
            let client = service.client().await;
            let mut api_client = pb::ApiClient {
                id: client.id.clone(),
                ..pb::ApiClient::default()
            };
            change(&mut api_client);
            let paths = ["allowed_cidrs", "not_before_time"].map(str::to_owned);
            let request = pb::UpdateApiClientRequest {
                actor: Some(pb::Actor {
                    user_id: VERA.to_owned(),
                    ..pb::Actor::default()
                }),
                api_client: Some(api_client),
                update_mask: Some(prost_types::FieldMask {
                    paths: paths.into(),
                }),
            };
            let dashboard = client_of(&service.address, &service.dashboard);
            dashboard.update_api_client(request).await.unwrap();
            client.token
        }
    };
    let near = restricted(|client| client.allowed_cidrs = vec!["192.0.2.0/24".to_owned()]).await;
    let later = restricted(|client| {
        // In the year 2100.
        let seconds = 4_102_444_800;
        client.not_before_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
    })
    .await;
    let [inside, mapped, outside] =
        ["192.0.2.7", "::ffff:192.0.2.7", "198.51.100.7"].map(|text| text.parse().unwrap());
    for (mode, by) in modes(&service).await {
        for _ in 0..2 {
            for address in [inside, mapped] {
                by.ask(&Question::about(&near).from(address)).await.unwrap();
            }
            for (question, reason) in [
                (
                    Question::about(&near).from(outside),
                    InactiveReason::SourceNotAllowed,
                ),
                (Question::about(&near), InactiveReason::SourceNotAllowed),
                (Question::about(&later), InactiveReason::NotYetActive),
            ] {
                let refused = by.ask(&question).await;
                assert!(
                    matches!(refused, Err(Error::Inactive(why)) if why == reason),
                    "{mode}: {refused:?}"
                );
            }
        }
    }
}

/// A token that was just made works, and a change that was just made counts for who asks for
/// its revision.
#[tokio::test]
async fn ones_own_writes_are_read() {
    let service = Service::start(&[]).await;
    let dashboard = client_of(&service.address, &service.dashboard);
    for (mode, by) in modes(&service).await {
        let works = service.client().await;
        by.authenticate(&works.token).await.unwrap();
        let request = pb::RevokeApiClientRequest {
            actor: Some(pb::Actor {
                user_id: VERA.to_owned(),
                ..pb::Actor::default()
            }),
            id: works.id.clone(),
        };
        let revoked = dashboard.revoke_api_client(request).await.unwrap();
        let question = Question::about(&works.token).at_least(Revision(revoked.revision));
        let refused = by.ask(&question).await;
        assert!(
            matches!(refused, Err(Error::Inactive(InactiveReason::Revoked))),
            "{mode}: {refused:?}"
        );
        // That also counts for everybody else.
        let refused = by.authenticate(&works.token).await;
        assert!(matches!(refused, Err(Error::Inactive(_))), "{mode}");
    }
}

/// The service cannot tell, or there is none.
#[tokio::test]
async fn what_is_unknown_is_neither_active_nor_inactive() {
    let service = Service::start(&["--max-cache-age", "0s"]).await;
    let works = service.client().await;
    let modes = modes(&service).await;
    for (_, by) in &modes {
        by.authenticate(&works.token).await.unwrap();
    }
    service.database.cut();
    for (mode, by) in &modes {
        // Perhaps it was made a moment ago.
        let unknown = by.authenticate(NOBODYS).await;
        assert!(
            matches!(unknown, Err(Error::Unavailable(_))),
            "{mode}: {unknown:?}"
        );
    }
    let (_stopped, _log) = service.stop().await;
    for (mode, by) in &modes {
        // A copy of the index still proves that.
        let known = by.authenticate(&works.token).await;
        assert_eq!(known.is_ok(), *mode == "embedded", "{mode}: {known:?}");
        for token in [&*works.token, NOBODYS] {
            if *mode == "embedded" && token == works.token {
                continue;
            }
            let unknown = by.authenticate(token).await;
            assert!(
                matches!(unknown, Err(Error::Unavailable(_))),
                "{mode}: {unknown:?}"
            );
        }
    }
}
