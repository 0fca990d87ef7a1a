//! Every error once: its code, its reason, what its metadata says; and that no
//! caller ever sees anything of the database.

mod opaque;

use std::{collections::BTreeSet, time::Duration};

use diesel_async::SimpleAsyncConnection;
use hitkeep_auth::{
    domain::caller::CallerPermission::Introspect,
    grpc,
    pb::{
        self, ErrorReason, InstanceRole, SiteRole,
        api_client_service_client::ApiClientServiceClient, report_leak_request::Leaked,
    },
    server, store,
};
use tonic::{Code, Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::{
    fixtures::*,
    harness::{Caller, TestApp},
    layers::{framed, raw_as},
    support::{names::spelt, postgres, proxy::Proxy},
};

/// What no error may say.
const DATABASE_WORDS: [&str; 14] = [
    "sql",
    "select ",
    "insert ",
    "relation",
    "constraint",
    "column",
    "postgres",
    "diesel",
    "connection",
    "socket",
    "index_state",
    "api_clients",
    "/tmp",
    ".rs",
];
/// The proto file, whose comments promise a code for each reason.
const ERRORS_PROTO: &str = include_str!("../../proto/hitkeep/auth/v1/errors.proto");

/// A status as its caller sees it: code, reason, message and metadata.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    code: Code,
    reason: String,
    message: String,
    metadata: Vec<(String, String)>,
    violations: Vec<String>,
}

fn seen(status: &Status) -> Seen {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "auth.hitkeep.com");
    let mut metadata: Vec<_> = info.metadata.clone().into_iter().collect();
    metadata.sort();
    let violations = details.bad_request().into_iter().flat_map(|bad| {
        let named = bad.field_violations.iter();
        named.map(|violation| violation.field.clone())
    });
    Seen {
        code: status.code(),
        reason: info.reason.clone(),
        message: status.message().to_owned(),
        metadata,
        violations: violations.collect(),
    }
}

/// What stands in the `ErrorInfo` for a reason.
fn word(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").expect(name)
}

/// The code that the proto file's comment promises for a reason.
fn promised(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    let (_, comment) = ERRORS_PROTO
        .split_once(&format!("// {name} ("))
        .unwrap_or_else(|| panic!("{name} has a comment"));
    comment.split_once(')').expect("a closing bracket").0
}

fn every_reason() -> Vec<ErrorReason> {
    let known = (0..).map_while(|number| ErrorReason::try_from(number).ok());
    known.skip(1).collect()
}

/// The errors that were provoked, to see in the end that none is missing.
#[derive(Default)]
struct Provoked(BTreeSet<i32>);

impl Provoked {
    /// Insists on what an error says, all of it but the message.
    fn is<T: std::fmt::Debug>(
        &mut self,
        result: Result<T, Status>,
        reason: ErrorReason,
        metadata: &[(&str, &str)],
    ) {
        let status = result.expect_err(word(reason));
        assert!(status.metadata().contains_key("x-request-id"));
        self.says(&status, reason, metadata);
    }

    /// The same of an error that ends a stream, which had its request id before.
    fn says(&mut self, status: &Status, reason: ErrorReason, metadata: &[(&str, &str)]) {
        let seen = seen(status);
        let pairs = metadata.iter();
        let metadata: Vec<_> = pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(seen.reason, word(reason), "{status:?}");
        assert_eq!(spelt(seen.code), promised(reason));
        assert_eq!(seen.metadata, metadata, "{status:?}");
        assert!(!seen.message.is_empty());
        let all = format!("{} {:?}", seen.message, status.get_error_details());
        for word in DATABASE_WORDS {
            assert!(!all.to_lowercase().contains(word), "{word} in {all}");
        }
        let named = !seen.violations.is_empty();
        assert_eq!(named, seen.code == Code::InvalidArgument, "{status:?}");
        self.0.insert(reason.into());
    }
}

#[tokio::test]
async fn every_reason_is_sent_with_its_code_and_its_metadata() {
    let mut provoked = Provoked::default();
    refusals(&mut provoked).await;
    limits(&mut provoked).await;
    directory(&mut provoked).await;
    callers(&mut provoked).await;
    too_much_and_too_long(&mut provoked).await;
    outages_and_defects(&mut provoked).await;
    for reason in every_reason() {
        assert!(provoked.0.contains(&i32::from(reason)), "{reason:?}");
    }
}

/// What the domain says no to.
async fn refusals(provoked: &mut Provoked) {
    let (app, dashboard, made) = TestApp::with_client().await;
    provoked.is(
        dashboard.create(personal(VERA).named("")).await,
        ErrorReason::InvalidField,
        &[],
    );
    let past = personal(VERA).expiring(in_seconds(&app, 0));
    provoked.is(dashboard.create(past).await, ErrorReason::InvalidField, &[]);
    for (user, id) in [(VERA, NOBODY), (EVE, &made.id), (NOBODY, &made.id)] {
        let refused = dashboard.get(get(user, id)).await;
        provoked.is(refused, ErrorReason::ApiClientNotFound, &[]);
    }
    for (user, owner) in [
        (EVE, of_user(VERA)),
        (VERA, of_team(TEAM)),
        (VERA, of_team(NOBODY)),
    ] {
        let refused = dashboard.list(list(user, owner)).await;
        provoked.is(refused, ErrorReason::OwnerNotManaged, &[]);
    }
    let exceeds = ErrorReason::DelegationExceedsActor;
    provoked.is(
        dashboard
            .create(personal(VERA).with_role(InstanceRole::Admin))
            .await,
        exceeds,
        &[("instance_role", "admin")],
    );
    provoked.is(
        dashboard
            .create(personal(VERA).granted(SITE, SiteRole::Owner))
            .await,
        exceeds,
        &[("role", "owner"), ("site_id", SITE)],
    );
    for request in [
        team_client(ALICE).granted(OTHER_SITE, SiteRole::Viewer),
        personal(ALICE).granted(NOBODY, SiteRole::Viewer),
    ] {
        let site = request.api_client.as_ref().expect("a client").site_grants[0]
            .site_id
            .clone();
        provoked.is(
            dashboard.create(request).await,
            ErrorReason::SiteNotDelegable,
            &[("site_id", &site)],
        );
    }
    let stale = pb::ApiClient {
        etag: "stale".to_owned(),
        ..made.client.clone()
    };
    provoked.is(
        dashboard.update(update(VERA, stale, &["name"])).await,
        ErrorReason::EtagMismatch,
        &[],
    );
    let creation = pb::CreateApiClientRequest {
        request_id: "7a1c3f0e-9b2d-4e5f-8a6b-1c2d3e4f5a6b".to_owned(),
        ..personal(VERA)
    };
    let once = dashboard.created(creation.clone()).await;
    dashboard
        .rotate(rotate(VERA, &once.id))
        .await
        .expect("it can be rotated");
    let again = dashboard.create(creation).await;
    provoked.is(again, ErrorReason::ReplyGone, &[]);
    let leaked = pb::ReportLeakRequest {
        leaked: Some(Leaked::Token(app.token(Introspect).to_owned())),
        ..pb::ReportLeakRequest::default()
    };
    provoked.is(
        dashboard.report_leak(leaked).await,
        ErrorReason::ServiceAccountToken,
        &[("service_account", "introspect")],
    );
    let inactive = ErrorReason::ApiClientInactive;
    dashboard
        .revoke(revoke(VERA, &made.id))
        .await
        .expect("it can be revoked");
    let refused = dashboard.rotate(rotate(VERA, &made.id)).await;
    provoked.is(refused, inactive, &[("state", "REVOKED")]);
    let made = dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 1)))
        .await;
    app.clock.advance(chrono::TimeDelta::seconds(1));
    let refused = dashboard.rotate(rotate(VERA, &made.id)).await;
    provoked.is(refused, inactive, &[("state", "EXPIRED")]);
    dashboard
        .revoke(revoke(VERA, &made.id))
        .await
        .expect("it can be revoked");
    let refused = dashboard.reactivate(reactivate(VERA, &made.id)).await;
    provoked.is(refused, inactive, &[("state", "EXPIRED")]);
    let too_many = "INSERT INTO api_clients \
         SELECT gen_random_uuid(), $, NULL, 'one of many', '', 'user', NULL, NULL, NULL, now(), \
                now() FROM generate_series(1, 10000)";
    app.psql(&too_many.replace('$', &format!("'{VERA}'::uuid")))
        .await;
    let all = pb::RevokeApiClientsRequest {
        actor: actor(VERA),
        owner: of_user(VERA),
        ..pb::RevokeApiClientsRequest::default()
    };
    provoked.is(
        dashboard.revoke_all(all).await,
        ErrorReason::SelectionTooLarge,
        &[("limit", "10000")],
    );
}

async fn limits(provoked: &mut Provoked) {
    let options = server::Options {
        grpc: grpc::ServiceOptions {
            max_clients_per_owner: 1,
            ..grpc::ServiceOptions::default()
        },
        ..server::Options::default()
    };
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    dashboard.created(personal(VERA)).await;
    provoked.is(
        dashboard.create(personal(VERA)).await,
        ErrorReason::ApiClientQuota,
        &[("limit", "1")],
    );
    let ahead = pb::IntrospectRequest {
        at_least_revision: Some(9),
        ..introspect("x")
    };
    // A client of tonic's would give up by itself, however soon the server's word comes.
    let path = "/hitkeep.auth.v1.IntrospectionService/Introspect";
    let hurried = [("grpc-timeout", "200m")];
    let late = raw_as(&app, Introspect, path, &hurried, &framed(&ahead)).await;
    provoked.is(
        Err::<(), _>(late),
        ErrorReason::RevisionNotReached,
        &[("reached", "2"), ("wanted", "9")],
    );
}

async fn directory(provoked: &mut Provoked) {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let nothing = vec![pb::ReplaceDirectoryRequest::default()];
    provoked.is(
        pusher.replace(nothing).await,
        ErrorReason::MassRemoval,
        &[("kind", "users"), ("known", "5"), ("removed", "5")],
    );
    let numbered = |sequence| pb::ApplyDirectoryChangesRequest {
        sequence: Some(sequence),
        ..batch([])
    };
    pusher.apply(numbered(7)).await.expect("it is the first");
    let outdated = vec![pb::ReplaceDirectoryRequest {
        sequence: Some(6),
        ..pb::ReplaceDirectoryRequest::default()
    }];
    provoked.is(
        pusher.replace(outdated).await,
        ErrorReason::DirectoryChanged,
        &[("applied_sequence", "7")],
    );
    provoked.is(
        pusher.apply(batch([put_site(SITE, NOBODY)])).await,
        ErrorReason::InvalidField,
        &[],
    );
}

/// Calls a method that may not exist.
async fn call(caller: &Caller, path: &str) -> Result<(), Status> {
    let mut grpc = Grpc::new(caller.channel.clone());
    grpc.ready().await.expect("the connection is open");
    let path: PathAndQuery = path.parse().expect("a path");
    let codec = ProstCodec::<(), ()>::default();
    let answer = grpc.unary(caller.request(()), path, codec).await;
    answer.map(drop)
}

async fn callers(provoked: &mut Provoked) {
    let (app, dashboard, made) = TestApp::with_client().await;
    for token in ["", "x", &made.token] {
        let unknown = app.caller(token).await;
        let refused = unknown.get(get(VERA, &made.id)).await;
        provoked.is(refused, ErrorReason::CallerUnknown, &[]);
        let refused = call(&unknown, "/x/y").await;
        provoked.is(refused, ErrorReason::CallerUnknown, &[]);
    }
    let refusing = ErrorReason::CallerNotPermitted;
    let refused = dashboard.introspect(introspect("x")).await;
    provoked.is(refused, refusing, &[("permission", "introspect")]);
    let refused = app.sidecar().await.get(get(VERA, &made.id)).await;
    provoked.is(refused, refusing, &[("permission", "manage")]);
    let refused = dashboard.apply(batch(world())).await;
    provoked.is(refused, refusing, &[("permission", "directory")]);
    let query = pb::ListAuditEventsRequest::default();
    let refused = dashboard.events(query).await;
    provoked.is(refused, refusing, &[("permission", "audit")]);
    for path in ["/hitkeep.auth.v1.ApiClientService/Fly", "/x/y"] {
        let refused = call(&dashboard, path).await;
        provoked.is(refused, ErrorReason::MethodUnknown, &[]);
    }
}

async fn too_much_and_too_long(provoked: &mut Provoked) {
    let options = server::Options {
        max_calls: 0,
        max_introspections: 0,
        ..server::Options::default()
    };
    let app = TestApp::with(options).await;
    let refused = app.dashboard().await.create(personal(VERA)).await;
    provoked.is(refused, ErrorReason::Overloaded, &[]);
    // One that can be answered at once takes no other call's place.
    let ahead = pb::IntrospectRequest {
        at_least_revision: Some(9),
        ..introspect("x")
    };
    let refused = app.sidecar().await.introspect(ahead).await;
    provoked.is(refused, ErrorReason::Overloaded, &[]);

    let options = server::Options {
        request_timeout: Duration::from_millis(200),
        ..server::Options::default()
    };
    let app = TestApp::with(options).await;
    let mut other = app.database().await;
    let lock = "BEGIN; SELECT FROM index_state FOR UPDATE";
    other.batch_execute(lock).await.expect("the lock is free");
    let refused = app.dashboard().await.create(personal(VERA)).await;
    provoked.is(refused, ErrorReason::DeadlineExceeded, &[]);
    other.batch_execute("ROLLBACK").await.expect("it is free");
    let mut stream = app.sidecar().await.stream().await;
    app.stop.send(()).await.expect("it is running");
    let end = stream.end().await.expect_err("it ends");
    provoked.says(&end, ErrorReason::ShuttingDown, &[]);
}

async fn outages_and_defects(provoked: &mut Provoked) {
    let direct = postgres::migrated_database().await;
    let (proxy, through) = Proxy::start(&direct);
    let app = TestApp::on(
        &direct,
        &store::StoreOptions::new(&through),
        server::Options::default(),
    )
    .await;
    app.change(world()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    app.settle().await;
    proxy.cut();
    let unreachable = ErrorReason::DatabaseUnavailable;
    provoked.is(dashboard.create(personal(VERA)).await, unreachable, &[]);
    provoked.is(dashboard.get(get(VERA, NOBODY)).await, unreachable, &[]);
    // The index knows, unless it has not heard of the database for too long.
    let sidecar_introspects = async || sidecar.introspect(introspect(&made.token)).await;
    assert!(sidecar_introspects().await.expect("from memory").active);
    app.clock.grow_old(Duration::from_secs(11));
    provoked.is(sidecar_introspects().await, ErrorReason::StaleIndex, &[]);
    proxy.mend();
    app.psql("DROP TABLE api_clients CASCADE").await;
    let refused = dashboard.get(get(VERA, NOBODY)).await;
    provoked.is(refused, ErrorReason::Internal, &[]);
}

#[test]
fn the_proto_file_documents_every_reason_with_a_code_and_an_example() {
    for reason in every_reason() {
        assert!(!promised(reason).is_empty());
        let comment = ERRORS_PROTO.split_once(&format!("// {} (", reason.as_str_name()));
        let comment = comment.expect("it has one").1;
        let (comment, _) = comment.split_once("\n  ERROR_REASON_").expect("its value");
        assert!(comment.contains("// Example: "), "{reason:?}");
    }
    let values = ERRORS_PROTO
        .lines()
        .filter(|line| line.starts_with("  ERROR_REASON_"))
        .count();
    assert_eq!(values, every_reason().len() + 1, "and the unspecified one");
}

#[tokio::test]
async fn errors_before_a_handler_have_details_and_a_request_id_too() {
    let app = TestApp::start().await;
    let mut client = ApiClientServiceClient::new(app.channel().await);
    let refused = client.get_api_client(get(VERA, NOBODY)).await;
    let status = refused.unwrap_err();
    assert_eq!(seen(&status).reason, "CALLER_UNKNOWN");
    assert!(status.metadata().contains_key("x-request-id"));
}
