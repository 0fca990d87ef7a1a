//! Who may call what: a known caller, with the method's permission.

use std::time::Duration;

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        caller::CallerPermission::{self, Audit, Directory, Introspect, Manage, Replicate},
        token::Token,
    },
    pb::{self, ReplaceDirectoryRequest, report_leak_request::Leaked},
    server,
};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Status, client::Grpc};
use tonic_prost::ProstCodec;

use crate::{
    directory::replace::begun,
    fixtures::*,
    harness::{Caller, TestApp, make_account, rotate_account, told},
    http::client::form,
    support::waiting::{until, wanted},
};

const UNKNOWN: &str = "Unauthenticated CALLER_UNKNOWN";
const NOT_PERMITTED: &str = "PermissionDenied CALLER_NOT_PERMITTED";

impl Caller {
    /// Calls a method with an empty message.
    pub async fn call(&self, path: &str) -> Result<(), Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.expect("the connection is open");
        let path = path.parse().unwrap();
        let codec = ProstCodec::<(), ()>::default();
        grpc.unary(self.request(()), path, codec)
            .await
            .map(tonic::Response::into_inner)
    }
}

/// Every method of all services but health and reflection, as `/service/method`.
fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET)
        .unwrap()
        .file;
    let mut methods = Vec::new();
    for file in &files {
        let package = file.package();
        for service in &file.service {
            for method in &service.method {
                let (service, method) = (service.name(), method.name());
                methods.push(format!("/{package}.{service}/{method}"));
            }
        }
    }
    methods
}

fn needed(method: &str) -> CallerPermission {
    let service = method.split(['.', '/']).rev().nth(1).unwrap();
    match service {
        "ApiClientService" => Manage,
        "IntrospectionService" | "Authorization" => Introspect,
        "DirectoryService" => Directory,
        "AuditService" => Audit,
        "ReplicationService" => Replicate,
        other => panic!("{other} is new: who may call it?"),
    }
}

#[tokio::test]
async fn every_method_asks_for_its_permission_and_no_other() {
    let app = TestApp::start().await;
    let methods = methods();
    let introspect = "/hitkeep.auth.v1.IntrospectionService/Introspect";
    assert!(methods.iter().any(|method| method == introspect));
    for permission in [Introspect, Manage, Directory, Audit, Replicate] {
        let caller = app.permitted(permission).await;
        for method in &methods {
            let called = caller.call(method).await;
            if needed(method) == permission {
                // An empty message suits some methods, and is refused by others
                // for what it lacks.
                let passed = called.is_ok() || told(&called) == "InvalidArgument INVALID_FIELD";
                assert!(passed, "{permission:?} {method}: {called:?}");
            } else {
                assert_eq!(told(&called), NOT_PERMITTED, "{permission:?} {method}");
            }
        }
    }
}

#[tokio::test]
async fn a_stranger_may_call_nothing_and_learns_nothing() {
    let app = TestApp::with_world().await;
    let api_client = app.dashboard().await.created(personal(VERA)).await.token;
    let token = app.token(Introspect).to_owned();
    let revoked = make_account(&app.store, "revoked", &[Introspect]).await;
    app.psql("UPDATE service_accounts SET revoke_time = now() WHERE name = 'revoked'")
        .await;
    let typo = format!(
        "{}{}",
        &token[..52],
        if token.ends_with('x') { 'y' } else { 'x' }
    );
    let unknown = "hks_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf48My2h";
    let bearer = |token: &str| vec![format!("Bearer {token}")];
    let mut methods = methods();
    methods.push("/hitkeep.auth.v1.AuditService/NoSuchMethod".to_owned());
    methods.push("/no.such.Service/Method".to_owned());
    for authorization in [
        vec![],
        vec![String::new()],
        vec![token.clone()],
        vec![format!("Basic {token}")],
        vec![format!("Bearer{token}")],
        vec!["Bearer".to_owned()],
        bearer(""),
        bearer("x"),
        bearer(&typo),
        bearer(unknown),
        bearer(&revoked),
        bearer(&api_client),
        // Which of the two is meant?
        vec![format!("Bearer {token}"), format!("Bearer {token}")],
    ] {
        let mut stranger = app.caller("").await;
        stranger.metadata = authorization
            .iter()
            .map(|v| ("authorization", v.clone()))
            .collect();
        for method in &methods {
            let refused = stranger.call(method).await;
            assert_eq!(told(&refused), UNKNOWN, "{authorization:?} {method}");
        }
    }
}

#[tokio::test]
async fn the_scheme_may_be_written_in_any_case() {
    let app = TestApp::start().await;
    for scheme in ["bearer", "BEARER", "BeArEr"] {
        let mut caller = app.caller("").await;
        caller.metadata = vec![(
            "authorization",
            format!("{scheme} {}", app.token(Introspect)),
        )];
        caller
            .introspect(introspect("x"))
            .await
            .expect("the caller is known");
    }
}

#[tokio::test]
async fn a_known_caller_is_told_that_a_method_does_not_exist() {
    let app = TestApp::start().await;
    let caller = app.permitted(Audit).await;
    for method in [
        "/hitkeep.auth.v1.AuditService/NoSuchMethod",
        "/no.such.Service/Method",
    ] {
        assert_eq!(
            told(&caller.call(method).await),
            "Unimplemented METHOD_UNKNOWN",
            "{method}"
        );
    }
}

#[tokio::test]
async fn one_account_may_have_several_permissions() {
    let app = TestApp::start().await;
    let token = make_account(&app.store, "several", &[Introspect, Audit]).await;
    let caller = app.caller(&token).await;
    caller
        .introspect(introspect("x"))
        .await
        .expect("introspect");
    caller
        .events(pb::ListAuditEventsRequest::default())
        .await
        .expect("audit");
    assert_eq!(told(&caller.get(get(VERA, VERA)).await), NOT_PERMITTED);
}

#[tokio::test]
async fn an_account_is_refused_as_soon_as_it_is_revoked() {
    let app = TestApp::start().await;
    let token = make_account(&app.store, "soon-revoked", &[Introspect]).await;
    let caller = app.caller(&token).await;
    caller
        .introspect(introspect("x"))
        .await
        .expect("introspect");
    app.psql("UPDATE service_accounts SET revoke_time = now() WHERE name = 'soon-revoked'")
        .await;
    app.settle().await;
    // On the very same connection.
    assert_eq!(told(&caller.introspect(introspect("x")).await), UNKNOWN);
}

/// The chunks of a replacement may come for minutes.
#[tokio::test]
async fn a_caller_that_was_revoked_meanwhile_replaces_nothing() {
    for index_is_fresh in [true, false] {
        let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
        let token = make_account(&app.store, "hitkeep", &[Directory]).await;
        app.settle().await;
        if !index_is_fresh {
            // The feed connects again, and its connection hears no more.
            proxy.hold_replies_to(b"trimmed_revision");
            proxy.sever();
            proxy.caught().await;
            app.clock.grow_old(Duration::from_secs(11));
        }
        let place = "SELECT last_place FROM directory_order";
        let before = app.number(place).await;
        let (sender, call) = begun(&app.caller(&token).await);
        let allowed = ReplaceDirectoryRequest {
            allow_mass_removal: true,
            ..ReplaceDirectoryRequest::default()
        };
        sender.send(allowed).await.unwrap();
        until("it is begun", async || {
            wanted(app.number(place).await > before)
        })
        .await;
        app.psql("UPDATE service_accounts SET revoke_time = now() WHERE name = 'hitkeep'")
            .await;
        if index_is_fresh {
            app.settle().await;
        }
        let before = app.everything().await;
        drop(sender);
        let refused = call.await.unwrap();
        assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
        assert_eq!(app.everything().await, before);
    }
}

#[tokio::test]
async fn health_and_reflection_are_open_to_all() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::{v1, v1alpha};

    let app = TestApp::start().await;
    let channel = app.channel().await;
    let mut services: Vec<String> = methods()
        .iter()
        .map(|method| method.split('/').nth(1).unwrap().to_owned())
        .collect();
    services.dedup();
    for service in services.iter().map(String::as_str).chain([""]) {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = HealthClient::new(channel.clone())
            .check(request)
            .await
            .unwrap();
        assert_eq!(
            answer.into_inner().status().as_str_name(),
            "SERVING",
            "{service}"
        );
    }

    use v1::server_reflection_request::MessageRequest;
    let request = v1::ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..v1::ServerReflectionRequest::default()
    };
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let listed = format!("{:?}", answer.message_response);
    let request = v1alpha::ServerReflectionRequest {
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
        ..v1alpha::ServerReflectionRequest::default()
    };
    let mut reflection = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let listed_alpha = format!("{:?}", answer.message_response);
    for service in services {
        assert!(listed.contains(&service), "{service}");
        assert!(listed_alpha.contains(&service), "{service}");
    }
    for service in [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(
            listed.contains(service) && listed_alpha.contains(service),
            "{service}"
        );
    }
}

/// Whether a caller is known: by the fast path, in a stream, to the services, over HTTP, and
/// while the index is too old, by the database.
async fn doors(caller: &Caller, app: &TestApp, token: &str) -> [bool; 4] {
    let known = |told: Result<(), Status>| match told {
        Ok(()) => true,
        Err(status) => {
            assert_eq!(self::told(&Err::<(), _>(status)), UNKNOWN);
            false
        }
    };
    let asked = caller.introspect(introspect("x")).await.map(drop);
    let streamed = match caller.try_stream().await {
        Ok(mut stream) => stream.ask(introspect("x")).await.map(drop),
        Err(refused) => Err(refused),
    };
    let managed = caller.list(list(ROOT, None)).await.map(drop);
    let request = form("/oauth2/introspect").header("authorization", format!("Bearer {token}"));
    let over_http = app.ask(request, "token=x").await.status.as_u16();
    assert!([200, 401].contains(&over_http), "{over_http}");
    [
        known(asked),
        known(streamed),
        known(managed),
        over_http == 200,
    ]
}

#[tokio::test]
async fn a_replaced_token_works_until_its_overlap_ends() {
    let app = TestApp::with_world().await;
    let first = make_account(&app.store, "both", &[Introspect, Manage]).await;
    let by_first = app.caller(&first).await;
    assert_eq!(doors(&by_first, &app, &first).await, [true; 4]);
    let second = rotate_account(&app.store, "both", TimeDelta::seconds(60)).await;
    let by_second = app.caller(&second).await;
    app.settle().await;
    assert_eq!(doors(&by_second, &app, &second).await, [true; 4]);
    assert_eq!(doors(&by_first, &app, &first).await, [true; 4]);
    app.clock.advance(TimeDelta::seconds(59));
    assert_eq!(doors(&by_first, &app, &first).await, [true; 4]);
    // At its end, nothing changes in the database.
    app.clock.advance(TimeDelta::seconds(1));
    assert_eq!(doors(&by_first, &app, &first).await, [false; 4]);
    assert_eq!(doors(&by_second, &app, &second).await, [true; 4]);

    // The next rotation ends an overlap that is still running.
    let third = rotate_account(&app.store, "both", TimeDelta::seconds(60)).await;
    let fourth = rotate_account(&app.store, "both", TimeDelta::seconds(60)).await;
    let by_fourth = app.caller(&fourth).await;
    app.settle().await;
    assert_eq!(doors(&by_fourth, &app, &fourth).await, [true; 4]);
    let by_third = app.caller(&third).await;
    assert_eq!(doors(&by_third, &app, &third).await, [true; 4]);
    assert_eq!(doors(&by_second, &app, &second).await, [false; 4]);
    // Without an overlap, the old one ends at once, and that ends a longer one too.
    let fifth = rotate_account(&app.store, "both", TimeDelta::zero()).await;
    app.settle().await;
    let by_fifth = app.caller(&fifth).await;
    assert_eq!(doors(&by_fifth, &app, &fifth).await, [true; 4]);
    assert_eq!(doors(&by_fourth, &app, &fourth).await, [false; 4]);
    // A revocation ends both.
    let sixth = rotate_account(&app.store, "both", TimeDelta::seconds(60)).await;
    app.settle().await;
    let revocation = "UPDATE service_accounts SET revoke_time = now() WHERE name = 'both'";
    app.psql(revocation).await;
    app.settle().await;
    let by_sixth = app.caller(&sixth).await;
    assert_eq!(doors(&by_sixth, &app, &sixth).await, [false; 4]);
    assert_eq!(doors(&by_fifth, &app, &fifth).await, [false; 4]);
}

#[tokio::test]
async fn the_database_knows_a_replaced_token_until_its_end_too() {
    let app = TestApp::with_world().await;
    let hash = |token: &str| Token::parse(token).unwrap().hash();
    let first = make_account(&app.store, "one", &[Manage]).await;
    let second = rotate_account(&app.store, "one", TimeDelta::seconds(60)).await;
    for token in [&first, &second] {
        let found = app.store.find_caller(hash(token)).await.unwrap();
        assert_eq!(found.unwrap().name.as_str(), "one");
    }
    app.clock.advance(TimeDelta::seconds(60));
    assert!(app.store.find_caller(hash(&first)).await.unwrap().is_none());
    assert!(
        app.store
            .find_caller(hash(&second))
            .await
            .unwrap()
            .is_some()
    );
    let report = |token: &str| pb::ReportLeakRequest {
        leaked: Some(Leaked::Token(token.to_owned())),
        ..pb::ReportLeakRequest::default()
    };
    let dashboard = app.dashboard().await;
    let refused = dashboard.report_leak(report(&second)).await;
    assert_eq!(told(&refused), "FailedPrecondition SERVICE_ACCOUNT_TOKEN");
    assert!(!dashboard.report_leak(report(&first)).await.unwrap().known);
}
