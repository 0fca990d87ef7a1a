//! `IntrospectStream`: the answers of Introspect, one for one and in order, for as
//! long as its caller likes and may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::caller::CallerPermission::{Introspect, Manage},
    pb::{
        self, ErrorReason, InactiveReason, InstanceRole, SiteRole,
        introspection_service_client::IntrospectionServiceClient,
    },
    server::{self, Ended},
};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, make_account, told},
    layers::{framed, raw_as, raw_open},
    support::waiting::{until, wanted},
};

/// Well-formed, and of no client: worked out apart from this code.
const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

/// A server with the world, and one beside it whose requests may take no longer than
/// that: too short to make anything there.
async fn beside_an_impatient_one(request_timeout: Duration) -> (TestApp, TestApp) {
    let app = TestApp::with_world().await;
    let options = server::Options {
        request_timeout,
        ..server::Options::default()
    };
    let impatient = app.beside(options).await;
    (app, impatient)
}

/// Waits until a server knows all that was done so far.
async fn until_level(app: &TestApp, behind: &TestApp) {
    let state = "SELECT revision FROM index_state";
    let revision = u64::try_from(app.number(state).await).unwrap();
    let sidecar = behind.sidecar().await;
    let status = async || sidecar.index_status(pb::GetIndexStatusRequest {}).await;
    until("the server has caught up", async || {
        wanted(
            status()
                .await
                .is_ok_and(|status| status.revision >= revision),
        )
    })
    .await;
}

/// One of each kind that there is, and with every kind of check.
pub async fn any_requests(app: &TestApp) -> Vec<pb::IntrospectRequest> {
    let dashboard = app.dashboard().await;
    let mine = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Editor))
        .await;
    let ours = dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Owner))
        .await;
    let admin = dashboard
        .created(personal(ALICE).with_role(InstanceRole::Admin))
        .await;
    let rotated = dashboard.created(personal(VERA)).await;
    dashboard.rotate(rotate(VERA, &rotated.id)).await.unwrap();
    let revoked = dashboard.created(personal(VERA)).await;
    dashboard.revoke(revoke(VERA, &revoked.id)).await.unwrap();
    let short = personal(VERA).expiring(in_seconds(app, 60));
    let expired = dashboard.created(short).await;
    let idle = dashboard.created(personal(EVE)).await;
    let mut request = personal(VERA);
    let restricted = request.api_client.as_mut().unwrap();
    restricted.not_before_time = Some(in_seconds(app, 3600));
    let later = dashboard.created(request).await;
    let mut request = personal(VERA);
    let restricted = request.api_client.as_mut().unwrap();
    restricted.allowed_cidrs = vec!["192.0.2.0/24".to_owned()];
    let elsewhere = dashboard.created(request).await;
    app.change([put_user(EVE, InstanceRole::User, true)]).await;
    app.clock.advance(TimeDelta::seconds(60));
    let mut requests = Vec::new();
    for token in [
        &mine.token,
        &ours.token,
        &admin.token,
        &rotated.token,
        &revoked.token,
        &expired.token,
        &idle.token,
        &later.token,
        &elsewhere.token,
        NOBODYS,
        app.token(Introspect),
        "x",
        "",
    ] {
        requests.push(introspect(token));
        for (site, permission) in [
            (SITE, "site.view"),
            (SITE, "site.delete"),
            (OTHER_SITE, "site.view"),
            ("", "instance.view_audit"),
            // None of these makes sense.
            ("", "site.view"),
            (SITE, "instance.view_audit"),
            ("x", "site.fly"),
        ] {
            requests.push(check(token, site, permission));
        }
        requests.push(pb::IntrospectRequest {
            at_least_revision: Some(ours.revision),
            ..introspect(token)
        });
    }
    requests.push(pb::IntrospectRequest {
        at_least_revision: Some(1_000_000),
        ..introspect(&mine.token)
    });
    for source_ip in ["192.0.2.1", "198.51.100.1", "::ffff:192.0.2.1", "x"] {
        requests.push(pb::IntrospectRequest {
            source_ip: source_ip.to_owned(),
            ..introspect(&elsewhere.token)
        });
    }
    requests.push(introspect(&mine.token));
    requests
}

/// A call's failure, as a stream tells it.
fn as_answer(status: &Status) -> pb::IntrospectResponse {
    let details = status.get_error_details();
    let info = details.error_info().expect("an ErrorInfo");
    let name = format!("ERROR_REASON_{}", info.reason);
    let violations = details.bad_request().map(|bad| &bad.field_violations);
    let violations = violations.into_iter().flatten();
    let error = pb::IntrospectError {
        code: status.code().into(),
        reason: ErrorReason::from_str_name(&name).expect("a reason").into(),
        message: status.message().to_owned(),
        metadata: info.metadata.clone(),
        field_violations: violations
            .map(|violation| pb::FieldViolation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            })
            .collect(),
    };
    pb::IntrospectResponse {
        error: Some(error),
        ..pb::IntrospectResponse::default()
    }
}

#[tokio::test]
async fn it_answers_what_introspect_answers_one_for_one_and_in_order() {
    let (app, impatient) = beside_an_impatient_one(Duration::from_secs(2)).await;
    let requests = any_requests(&app).await;
    until_level(&app, &impatient).await;
    let sidecar = impatient.sidecar().await;
    let mut expected = Vec::new();
    for request in &requests {
        let answer = sidecar.introspect(request.clone()).await;
        expected.push(answer.unwrap_or_else(|status| as_answer(&status)));
    }
    let kinds: Vec<_> = expected
        .iter()
        .map(|answer| {
            let error = answer.error.as_ref().map(|error| error.reason);
            (answer.active, answer.inactive_reason, error)
        })
        .collect();
    for reason in 0..=InactiveReason::SourceNotAllowed.into() {
        let active = reason == i32::from(InactiveReason::Unspecified);
        assert!(kinds.contains(&(active, reason, None)), "{reason}");
    }
    for reason in [ErrorReason::InvalidField, ErrorReason::RevisionNotReached] {
        assert!(kinds.contains(&(false, 0, Some(reason.into()))));
    }

    let mut stream = sidecar.stream().await;
    // All are sent before the first answer is taken, as far as there is room.
    let sending = tokio::spawn({
        let (sender, requests) = (stream.requests.clone(), requests.clone());
        async move {
            for request in requests {
                sender.send(request).await.expect("the stream goes on");
            }
        }
    });
    for (request, expected) in requests.iter().zip(&expected) {
        let answer = stream.end().await.unwrap().expect("one for one");
        assert_eq!(answer, *expected, "{request:?}");
    }
    sending.await.unwrap();
    // The stream ends well when there are no more requests.
    drop(stream.requests);
    assert_eq!(stream.answers.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_bad_request_is_told_in_full_and_the_stream_goes_on() {
    let app = TestApp::with_world().await;
    let mut stream = app.sidecar().await.stream().await;
    for _ in 0..2 {
        let answer = stream.ask(check("x", "x", "site.fly")).await.unwrap();
        let error = answer.error.clone().expect("an error");
        assert_eq!(error.code, i32::from(Code::InvalidArgument));
        assert_eq!(error.reason(), ErrorReason::InvalidField);
        let fields = error.field_violations.iter();
        let fields: Vec<_> = fields.map(|wrong| wrong.field.as_str()).collect();
        assert_eq!(fields, ["check.permission", "check.site_id"]);
        // And nothing else: least of all that the token is inactive.
        let error_alone = pb::IntrospectResponse {
            error: answer.error.clone(),
            ..pb::IntrospectResponse::default()
        };
        assert_eq!(answer, error_alone);
        let good = stream.ask(introspect("x")).await.unwrap();
        assert_eq!(good.inactive_reason(), InactiveReason::UnknownToken);
        assert_eq!(good.error, None);
    }
}

#[tokio::test]
async fn an_answer_is_made_only_when_there_is_room_for_it() {
    const GRANTS: usize = 100;
    const READ: i64 = 200;
    // What hyper's client takes of a stream that is not read, and what hyper's server keeps
    // of one for which there is no window left.
    const CLIENT_WINDOW: usize = 2 * 1024 * 1024;
    const SEND_BUFFER: usize = 400 * 1024;
    // What tonic makes of answers before it hands them on, and how many of those are under
    // way between it and the buffer.
    const PIECE: usize = 32 * 1024;
    const PIECES: usize = 4;
    let mut app = TestApp::with_world().await;
    let sites: Vec<_> = (0..GRANTS)
        .map(|n| format!("00000000-0000-7000-8000-0000000c{n:04}"))
        .collect();
    app.change(sites.iter().map(|site| put_site(site, TEAM)))
        .await;
    let mut large = team_client(ALICE);
    for site in &sites {
        large = large.granted(site, SiteRole::Viewer);
    }
    let large = app.dashboard().await.created(large).await;
    // More than 4 KiB each: some dozens fill what the sides keep for each other. The
    // requests are small, and there is always one more.
    let sent = Arc::new(AtomicUsize::new(0));
    let requests = tokio_stream::iter(std::iter::repeat_with({
        let (sent, request) = (Arc::clone(&sent), introspect(&large.token));
        move || {
            sent.fetch_add(1, Ordering::Relaxed);
            request.clone()
        }
    }));
    let sidecar = app.sidecar().await;
    let mut client = IntrospectionServiceClient::new(sidecar.channel.clone());
    let answers = client.introspect_stream(sidecar.request(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    // No other call waits for that, until no more of them fit.
    let another = app.sidecar().await;
    let (mut asked, mut before, mut unchanged) = (0, 0, 0);
    while unchanged < 100 {
        asked += 1;
        assert_eq!(another.inactive_reason(&large.token).await, None);
        let now = sent.load(Ordering::Relaxed);
        unchanged = if now == before { unchanged + 1 } else { 0 };
        before = now;
        assert!(now < 100_000, "the server reads on and on");
    }
    assert!(before > 1000, "{before} requests were sent");
    // It goes on from where it was.
    let mut size = usize::MAX;
    for _ in 0..READ {
        let answer = answers.message().await.unwrap().expect("one for one");
        assert_eq!(answer.site_grants.len(), GRANTS);
        // In front of each message there are five bytes.
        size = size.min(answer.encoded_len() + 5);
    }
    drop((answers, client, sidecar));
    // Each answer that was made was noted.
    app.stop.send(()).await.unwrap();
    assert_eq!((&mut app.server).await.unwrap(), Ended::Drained);
    let made = app
        .number("SELECT sum(count) FROM api_client_usage_days")
        .await;
    let others = made - asked;
    // The client has not read half of its window, so it gave nothing of it back: however
    // much is asked, so many fit on the way, and the pieces that are being passed on.
    let fit = |bytes: usize| i64::try_from(bytes / size).unwrap();
    let least = fit(CLIENT_WINDOW);
    let most = fit(CLIENT_WINDOW + SEND_BUFFER + PIECES * (PIECE + size));
    assert!(READ < least / 2 && most < i64::try_from(before).unwrap());
    assert!(
        (least..=most).contains(&others),
        "{others} answers of {before}, {size} bytes each, not {least} to {most}"
    );
}

#[tokio::test]
async fn a_caller_that_is_revoked_is_not_answered_any_more() {
    let app = TestApp::with_world().await;
    let token = make_account(&app.store, "soon-revoked", &[Introspect]).await;
    let caller = app.caller(&token).await;
    let mut early = caller.stream().await;
    early.ask(introspect("x")).await.expect("it is known");
    // One that the index knew from the beginning goes another way.
    app.settle().await;
    let mut late = caller.stream().await;
    late.ask(introspect("x")).await.expect("it is known");
    app.psql("UPDATE service_accounts SET revoke_time = now() WHERE name = 'soon-revoked'")
        .await;
    app.settle().await;
    for mut stream in [early, late] {
        let refused = stream.ask(introspect("x")).await;
        assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
        assert_eq!(stream.end().await.unwrap(), None, "that was its last word");
    }
    // Another's goes on.
    let mut stream = app.sidecar().await.stream().await;
    stream.ask(introspect("x")).await.expect("it is known");
}

#[tokio::test]
async fn who_may_not_introspect_gets_no_stream() {
    let app = TestApp::with_world().await;
    let refused = app.permitted(Manage).await.try_stream().await;
    assert_eq!(told(&refused), "PermissionDenied CALLER_NOT_PERMITTED");
    for token in ["", "x", NOBODYS] {
        let refused = app.caller(token).await.try_stream().await;
        assert_eq!(told(&refused), "Unauthenticated CALLER_UNKNOWN");
    }
}

#[tokio::test]
async fn streams_end_with_the_server_and_hold_it_up_no_longer_than_an_answer() {
    let (_, app) = beside_an_impatient_one(Duration::from_millis(500)).await;
    let mut idle = app.sidecar().await.stream().await;
    idle.ask(introspect("x")).await.unwrap();
    let mut busy = app.sidecar().await.stream().await;
    let unreached = pb::IntrospectRequest {
        at_least_revision: Some(1_000_000),
        ..introspect("x")
    };
    busy.ask(introspect("x")).await.unwrap();
    for _ in 0..3 {
        busy.requests.send(unreached.clone()).await.unwrap();
    }
    // The first of them was read: there is no answer to it yet.
    let first = busy.end().await.unwrap().expect("one for one");
    let unreached = ErrorReason::RevisionNotReached;
    assert_eq!(first.error.unwrap().reason(), unreached);
    app.stop.send(()).await.unwrap();
    assert_eq!(told(&idle.end().await), "Unavailable SHUTTING_DOWN");
    // What was read is answered, and no more.
    let mut answers = 0;
    let end = loop {
        match busy.end().await {
            Ok(Some(answer)) => {
                assert_eq!(answer.error.unwrap().reason(), unreached);
                answers += 1;
            }
            end => break end,
        }
    };
    assert_eq!(told(&end), "Unavailable SHUTTING_DOWN");
    assert!(answers <= 1, "{answers}");
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}

/// A call that takes as long as it may, so that time goes by.
async fn take_time(sidecar: &Caller) {
    let unreached = pb::IntrospectRequest {
        at_least_revision: Some(1_000_000),
        ..introspect("x")
    };
    sidecar.introspect(unreached).await.expect_err("unreached");
}

#[tokio::test]
async fn no_deadline_of_ours_ends_an_idle_stream() {
    let (_, impatient) = beside_an_impatient_one(Duration::from_millis(60)).await;
    let sidecar = impatient.sidecar().await;
    let mut stream = sidecar.stream().await;
    for _ in 0..4 {
        take_time(&sidecar).await;
    }
    stream.ask(introspect("x")).await.expect("it goes on");
}

#[tokio::test]
async fn the_callers_own_deadline_ends_a_stream() {
    let app = TestApp::with_world().await;
    let path = "/hitkeep.auth.v1.IntrospectionService/IntrospectStream";
    // A client that sends no more, and does not say so either.
    for (requests, unit) in [(0, "100m"), (3, "100m"), (0, "1n")] {
        let body: Vec<_> = (0..requests)
            .flat_map(|_| framed(&introspect("x")))
            .collect();
        let headers = [("grpc-timeout", unit)];
        let ended = raw_open(&app, Introspect, path, &headers, body).await;
        let ended: Result<(), _> = Err(ended);
        assert_eq!(told(&ended), "DeadlineExceeded DEADLINE_EXCEEDED", "{unit}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_ends_the_stream() {
    let app = TestApp::with_world().await;
    let path = "/hitkeep.auth.v1.IntrospectionService/IntrospectStream";
    let good = framed(&introspect("x"));
    let not_a_message = [0, 0, 0, 0, 2, 0xff, 0xff];
    // A string that is no UTF-8.
    let not_text = [0, 0, 0, 0, 4, 0x0a, 0x02, 0xff, 0xfe];
    let too_large = framed(&introspect(&"x".repeat(5 << 20)));
    for bad in [&not_a_message[..], &not_text[..], &too_large[..]] {
        let body = [&good[..], bad, &good[..]].concat();
        let refused = raw_as(&app, Introspect, path, &[], &body).await;
        let refused: Result<(), _> = Err(refused);
        assert_eq!(told(&refused), "InvalidArgument INVALID_FIELD");
    }
    // Nothing was wrong with the ones before it.
    let fine = raw_as(&app, Introspect, path, &[], &good.repeat(3)).await;
    assert_eq!(fine.code(), Code::Ok);
}
