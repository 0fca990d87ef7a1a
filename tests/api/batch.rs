//! `BatchIntrospect`: the answers of Introspect, all of one revision, and each of them
//! failing alone.

use std::time::Duration;

use hitkeep_auth::{
    domain::{
        caller::CallerPermission::Introspect,
        token::{Token, TokenKind},
    },
    pb::{
        self, BatchIntrospectRequest, BatchIntrospectResponse, IntrospectRequest,
        IntrospectResponse, SiteRole,
    },
    server,
    system::SystemEntropy,
};
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    fixtures::*,
    fresh::{by_hand, deaf, without_polls},
    harness::{TestApp, told, violations},
    layers::{framed, raw_as},
    stream::any_requests,
};

/// Well-formed, and of no client.
const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

fn batch(requests: impl IntoIterator<Item = IntrospectRequest>) -> BatchIntrospectRequest {
    let item = |request: IntrospectRequest| pb::BatchIntrospectItem {
        token: request.token,
        check: request.check,
        source_ip: request.source_ip,
    };
    BatchIntrospectRequest {
        requests: requests.into_iter().map(item).collect(),
        at_least_revision: None,
    }
}

/// The results, in order. An error is the status that a call would fail with.
fn results(answered: &BatchIntrospectResponse) -> Vec<Result<IntrospectResponse, Status>> {
    let result = |response: &IntrospectResponse| match &response.error {
        None => {
            assert_eq!(response.revision, answered.revision);
            Ok(response.clone())
        }
        Some(error) => {
            let alone = IntrospectResponse {
                error: Some(error.clone()),
                ..IntrospectResponse::default()
            };
            assert_eq!(*response, alone);
            let reason = error.reason().as_str_name();
            let reason = reason.strip_prefix("ERROR_REASON_").unwrap();
            let metadata = error.metadata.clone();
            let mut details = ErrorDetails::with_error_info(reason, "auth.hitkeep.com", metadata);
            for violation in &error.field_violations {
                details.add_bad_request_violation(&violation.field, &violation.description);
            }
            let code = Code::from(error.code);
            Err(Status::with_error_details(code, &error.message, details))
        }
    };
    answered.responses.iter().map(result).collect()
}

/// The results in words.
fn said(answered: &BatchIntrospectResponse) -> Vec<String> {
    let word = |result: Result<IntrospectResponse, Status>| match &result {
        Ok(response) if response.active => "active".to_owned(),
        Ok(response) => format!("{:?}", response.inactive_reason()),
        Err(_) => told(&result),
    };
    results(answered).into_iter().map(word).collect()
}

#[tokio::test]
async fn it_answers_what_introspect_answers_in_order() {
    let app = TestApp::with_world().await;
    let mut requests = any_requests(&app).await;
    requests.retain(|request| request.at_least_revision.is_none());
    let made = app.dashboard().await.created(personal(VERA)).await;
    let imported = app.legacy(&made.token).await;
    for token in [&*imported, &"0".repeat(64)] {
        requests.push(introspect(token));
    }
    // The same again, in another order: no answer depends on those before it.
    let reversed: Vec<_> = requests.iter().rev().cloned().collect();
    requests.extend(reversed);
    let sidecar = app.sidecar().await;
    let answered = sidecar.batch(batch(requests.clone())).await.unwrap();
    let results = results(&answered);
    assert_eq!(results.len(), requests.len());
    let (mut active, mut failed) = (0, 0);
    for (index, (request, result)) in requests.into_iter().zip(results).enumerate() {
        let expected = sidecar.introspect(request.clone()).await;
        match (&result, &expected) {
            (Ok(response), Ok(expected)) => {
                active += usize::from(response.active);
                assert_eq!(response, expected, "{request:?}");
            }
            (Err(_), Err(_)) => {
                failed += 1;
                assert_eq!(told(&result), told(&expected));
                let of_batch = |field: String| format!("requests[{index}].{field}");
                let fields: Vec<_> = violations(&expected).into_iter().map(of_batch).collect();
                assert_eq!(violations(&result), fields, "{request:?}");
            }
            other => panic!("{request:?}: {other:?}"),
        }
    }
    assert!(active > 20 && failed > 20, "{active} {failed}");
}

#[tokio::test]
async fn a_bad_request_fails_alone() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let requests = [
        introspect(&made.token),
        check(&made.token, "x", "site.fly"),
        check(&made.token, SITE, "site.view"),
        check(NOBODYS, "", "site.view"),
        introspect(NOBODYS),
    ];
    let answered = app.sidecar().await.batch(batch(requests)).await.unwrap();
    let invalid = "InvalidArgument INVALID_FIELD";
    let expected = ["active", invalid, "active", invalid, "UnknownToken"];
    assert_eq!(said(&answered), expected);
    let results = results(&answered);
    assert_eq!(
        violations(&results[1]),
        ["requests[1].check.permission", "requests[1].check.site_id"]
    );
    assert_eq!(violations(&results[3]), ["requests[3].check.site_id"]);
}

#[tokio::test]
async fn a_batch_has_between_one_and_a_thousand_requests() {
    let app = TestApp::with_world().await;
    let client = personal(VERA).granted(SITE, SiteRole::Viewer);
    let made = app.dashboard().await.created(client).await;
    let sidecar = app.sidecar().await;
    // As long as they can be: with the longest permission of a site.
    let of = |count| {
        let one = check(&made.token, SITE, "site.manage_annotations");
        batch(std::iter::repeat_n(one, count))
    };
    let most = of(1000);
    assert!(most.encoded_len() > 64 * 1024, "{}", most.encoded_len());
    assert!(most.encoded_len() <= 125_000, "{}", most.encoded_len());
    let answered = sidecar.batch(most).await.unwrap();
    let results = results(&answered);
    assert_eq!(results.len(), 1000);
    let first = results[0].as_ref().unwrap();
    assert!(results.iter().all(|other| other.as_ref().unwrap() == first));
    assert_eq!(sidecar.batch(of(1)).await.unwrap().responses.len(), 1);
    for count in [0, 1001] {
        let refused = sidecar.batch(of(count)).await;
        assert_eq!(told(&refused), "InvalidArgument INVALID_FIELD");
        assert_eq!(violations(&refused), ["requests"]);
    }
}

/// A message of 1 MiB is read once it has come, and one that is announced costs nothing.
#[tokio::test]
async fn texts_that_are_no_tokens_fail_no_batch() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    let large = "x".repeat(1000);
    let with = |count| {
        let others = std::iter::repeat_n(introspect(&large), count);
        batch(others.chain([introspect(&made.token)]))
    };
    let answered = sidecar.batch(with(999)).await.unwrap();
    assert_eq!(said(&answered)[998..], ["UnknownToken", "active"]);
    let larger = "x".repeat(1024 * 1024);
    let refused = sidecar.batch(batch([introspect(&larger)])).await;
    assert_eq!(violations(&refused), ["the message"]);
}

#[tokio::test]
async fn all_answers_are_of_one_revision() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let (here, there) = (
        dashboard
            .created(personal(VERA).granted(SITE, SiteRole::Viewer))
            .await,
        dashboard
            .created(personal(VERA).granted(SECOND_SITE, SiteRole::Viewer))
            .await,
    );
    let sidecar = app.sidecar().await;
    let pairs = || (0..250).flat_map(|_| [introspect(&here.token), introspect(&there.token)]);
    // Of the two sites, she may see one or the other, and never both or neither.
    let moves = async {
        for n in 0..40 {
            let (to, from) = if n % 2 == 0 {
                (SECOND_SITE, SITE)
            } else {
                (SITE, SECOND_SITE)
            };
            app.change([
                delete_site_member(from, VERA),
                put_site_member(to, VERA, SiteRole::Viewer),
            ])
            .await;
        }
    };
    app.change([delete_site_member(SECOND_SITE, VERA)]).await;
    let asks = async {
        let mut revisions = Vec::new();
        for _ in 0..60 {
            let answered = sidecar.batch(batch(pairs())).await.unwrap();
            let results = results(&answered);
            let grants = |at: usize| results[at].as_ref().unwrap().site_grants.len();
            for pair in (0..results.len()).step_by(2) {
                assert_eq!(grants(pair) + grants(pair + 1), 1);
                assert_eq!(grants(pair), grants(0));
            }
            revisions.push(answered.revision);
        }
        assert!(revisions.is_sorted());
    };
    tokio::join!(moves, asks);
}

#[tokio::test]
async fn it_waits_for_a_revision_once_or_fails() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    let at_least = |revision| BatchIntrospectRequest {
        at_least_revision: Some(revision),
        ..batch([introspect(&made.token), introspect("x")])
    };
    let answered = sidecar.batch(at_least(made.revision)).await.unwrap();
    assert_eq!(said(&answered), ["active", "UnknownToken"]);
    assert!(answered.revision >= made.revision);
    // A client of tonic's would give up by itself, however soon the server's word comes.
    let path = "/hitkeep.auth.v1.IntrospectionService/BatchIntrospect";
    let request = framed(&at_least(made.revision + 1));
    let headers = [("grpc-timeout", "200m")];
    let refused = raw_as(&app, Introspect, path, &headers, &request).await;
    let refused: Result<(), _> = Err(refused);
    assert_eq!(told(&refused), "Unavailable REVISION_NOT_REACHED");
}

#[tokio::test]
async fn unknown_tokens_wait_for_one_refresh_together() {
    let (app, proxy) = deaf(without_polls()).await;
    let known = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    let mut young = Vec::new();
    for _ in 0..5 {
        young.push(by_hand(&app).await);
    }
    let invented = || Token::mint(TokenKind::Personal, &SystemEntropy).reveal();
    let mut requests = vec![introspect(&known.token)];
    for token in &young {
        requests.extend([introspect(token), introspect(&invented())]);
    }
    let answered = sidecar.batch(batch(requests.clone())).await.unwrap();
    for (request, said) in requests.iter().zip(said(&answered)) {
        let is_one = request.token == known.token || young.contains(&request.token);
        assert_eq!(said, if is_one { "active" } else { "UnknownToken" });
    }

    let before = proxy.statements();
    let requests = batch((0..500).map(|_| introspect(&invented())));
    let answered = sidecar.batch(requests).await.unwrap();
    assert!(said(&answered).iter().all(|said| said == "UnknownToken"));
    // Where nothing has changed, a refresh is one statement; a survey may fall in between.
    let cost = proxy.statements() - before;
    assert!((1..=2).contains(&cost), "{cost} statements");
}

#[tokio::test]
async fn what_cannot_be_told_is_an_error_in_its_place() {
    let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let gone = dashboard.created(personal(VERA)).await;
    dashboard.revoke(revoke(VERA, &gone.id)).await.unwrap();
    let sidecar = app.sidecar().await;
    let requests = || {
        batch([
            introspect(&made.token),
            introspect(&gone.token),
            introspect(NOBODYS),
            introspect("x"),
            check("x", "", "site.view"),
        ])
    };
    let invalid = "InvalidArgument INVALID_FIELD";
    let asked = async || said(&sidecar.batch(requests()).await.unwrap());
    let all = ["active", "Revoked", "UnknownToken", "UnknownToken", invalid];
    assert_eq!(asked().await, all);
    proxy.cut();
    let unreachable = "Unavailable DATABASE_UNAVAILABLE";
    let expected = ["active", "Revoked", unreachable, "UnknownToken", invalid];
    assert_eq!(asked().await, expected);
    // Each as Introspect answers it: what is dead stays dead.
    app.clock.grow_old(Duration::from_secs(11));
    let stale = "Unavailable STALE_INDEX";
    let expected = [stale, "Revoked", unreachable, "UnknownToken", invalid];
    assert_eq!(asked().await, expected);
}

#[tokio::test]
async fn a_client_that_cannot_be_read_fails_alone() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let (good, bad) = (
        dashboard.created(personal(VERA)).await,
        dashboard.created(personal(VERA)).await,
    );
    app.psql(&format!(
        "ALTER TABLE api_clients DROP CONSTRAINT api_clients_instance_role_check;
         UPDATE api_clients SET instance_role = 'god' WHERE id = '{}'",
        bad.id
    ))
    .await;
    app.settle().await;
    let requests = batch([&good, &bad, &good].map(|made| introspect(&made.token)));
    let answered = app.sidecar().await.batch(requests).await.unwrap();
    assert_eq!(said(&answered), ["active", "Internal INTERNAL", "active"]);
}

#[tokio::test]
async fn nothing_reveals_a_token_of_a_batch() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let request = batch([check(&made.token, SITE, "site.view")]);
    let shown = format!("{request:?}");
    assert!(shown.contains("site.view"), "{shown}");
    assert!(!shown.contains(&made.token[4..]), "{shown}");
}
