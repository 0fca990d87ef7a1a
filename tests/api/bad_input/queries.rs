//! `IntrospectionService`, where any text is a token, and `AuditService`; and
//! messages that cannot be read at all.

use hitkeep_auth::pb::{self, InactiveReason};
use tonic::{Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use super::{NO_TIMES, missing_ids, no_ids, no_owners, refuses_each, time};
use crate::{
    fixtures::*,
    harness::{Caller, TestApp},
};

#[tokio::test]
async fn any_text_is_a_token_and_most_are_unknown() {
    let app = TestApp::with_world().await;
    let sidecar = app.sidecar().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let before = app.everything().await;
    let (shouted, padded) = (made.token.to_uppercase(), format!(" {}", made.token));
    let (broken, bearer) = (
        format!("{}\n", made.token),
        format!("Bearer {}", made.token),
    );
    let huge = "hkp_".repeat(16_000);
    let mut tokens = missing_ids();
    tokens.extend([shouted, padded, broken, bearer, huge].map(String::from));
    for token in tokens {
        let asked = check(&token, SITE, "site.view");
        let answer = sidecar.introspect(asked).await.unwrap();
        let expected = pb::IntrospectResponse {
            inactive_reason: InactiveReason::UnknownToken.into(),
            revision: 2,
            decision: Some(pb::Decision {
                allowed: false,
                reason: pb::DecisionReason::Inactive.into(),
            }),
            ..pb::IntrospectResponse::default()
        };
        assert_eq!(answer, expected, "{token:.100}");
    }
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn a_check_is_refused_for_each_field_that_is_wrong() {
    let app = TestApp::with_world().await;
    let sidecar = app.sidecar().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let mut cases = Vec::new();
    for token in [made.token.as_str(), "x", ""] {
        for site in missing_ids() {
            let asked = check(token, &site, "site.view");
            cases.push((asked, vec!["check.site_id"]));
        }
        for site in no_ids() {
            let asked = check(token, &site, "instance.view_audit");
            cases.push((asked, vec!["check.site_id"]));
            let asked = check(token, &site, "site.fly");
            cases.push((asked, vec!["check.permission", "check.site_id"]));
        }
        cases.push((
            check(token, SITE, "instance.view_audit"),
            vec!["check.site_id"],
        ));
        let long = "site.view".repeat(1000);
        for permission in [
            "",
            " ",
            "\0",
            "site",
            "site.",
            "site.*",
            "*",
            "SITE.VIEW",
            "site.view ",
            "view",
            "instance",
            "instance.",
            "team.view",
            "site.view,site.delete",
            "instance.viewAudit",
            &long,
        ] {
            let expected = vec!["check.permission"];
            cases.push((check(token, SITE, permission), expected.clone()));
            cases.push((check(token, "", permission), expected));
        }
    }
    refuses_each(
        &app,
        async |request| sidecar.introspect(request).await,
        cases,
    )
    .await;
}

#[tokio::test]
async fn an_audit_query_is_refused_for_each_field_that_is_wrong() {
    let app = TestApp::with_world().await;
    let auditor = app.auditor().await;
    let good = pb::ListAuditEventsRequest::default;
    let mut cases: Vec<(pb::ListAuditEventsRequest, Vec<String>)> = Vec::new();
    // Left out, an owner lets all through.
    for (owner, expected) in no_owners("owner").into_iter().skip(1) {
        cases.push((pb::ListAuditEventsRequest { owner, ..good() }, expected));
    }
    let mut wrong = |field: &str, request| cases.push((request, vec![field.to_owned()]));
    for id in no_ids() {
        let client_id = id.clone();
        wrong(
            "client_id",
            pb::ListAuditEventsRequest {
                client_id,
                ..good()
            },
        );
        let actor_user_id = id.clone();
        let request = pb::ListAuditEventsRequest {
            actor_user_id,
            ..good()
        };
        wrong("actor_user_id", request);
        let action = id.clone();
        wrong("action", pb::ListAuditEventsRequest { action, ..good() });
        let page_token = id;
        wrong(
            "page_token",
            pb::ListAuditEventsRequest {
                page_token,
                ..good()
            },
        );
    }
    for action in [
        "created",
        "api_client",
        "api_client.*",
        "API_CLIENT.CREATED",
        ".created",
    ] {
        let action = action.to_owned();
        wrong("action", pb::ListAuditEventsRequest { action, ..good() });
    }
    for bad in NO_TIMES {
        let (start_time, end_time) = (Some(time(bad)), Some(time(bad)));
        wrong(
            "start_time",
            pb::ListAuditEventsRequest {
                start_time,
                ..good()
            },
        );
        wrong(
            "end_time",
            pb::ListAuditEventsRequest { end_time, ..good() },
        );
    }
    for (start, end) in [
        ((10, 0), (10, 0)),
        ((10, 0), (9, 999_999_999)),
        ((1, 0), (-1, 0)),
    ] {
        let request = pb::ListAuditEventsRequest {
            start_time: Some(time(start)),
            end_time: Some(time(end)),
            ..good()
        };
        wrong("end_time", request);
    }
    for page_size in [-1, i32::MIN] {
        wrong(
            "page_size",
            pb::ListAuditEventsRequest {
                page_size,
                ..good()
            },
        );
    }
    let all_wrong = pb::ListAuditEventsRequest {
        client_id: "x".to_owned(),
        owner: of_team("x"),
        actor_user_id: "x".to_owned(),
        action: "x".to_owned(),
        start_time: Some(time((0, -1))),
        end_time: Some(time((i64::MAX, 0))),
        page_size: -1,
        page_token: "x".to_owned(),
    };
    let everything = [
        "client_id",
        "owner.team_id",
        "actor_user_id",
        "action",
        "start_time",
        "end_time",
        "page_size",
        "page_token",
    ];
    cases.push((all_wrong, everything.map(str::to_owned).to_vec()));
    refuses_each(&app, async |request| auditor.events(request).await, cases).await;
}

#[tokio::test]
async fn times_at_the_edge_of_what_there_is_are_good() {
    let app = TestApp::with_world().await;
    let auditor = app.auditor().await;
    let all = pb::ListAuditEventsRequest {
        start_time: Some(time((-62_135_596_800, 0))),
        end_time: Some(time((253_402_300_799, 999_999_999))),
        page_size: i32::MAX,
        ..pb::ListAuditEventsRequest::default()
    };
    assert_eq!(auditor.events(all).await.unwrap().events.len(), 5);
}

/// Sends bytes as the first field of a request, whatever they are.
async fn raw(caller: &Caller, method: &str, bytes: Vec<u8>) -> Result<(), Status> {
    let mut grpc = Grpc::new(caller.channel.clone());
    grpc.ready().await.expect("the connection is open");
    let path: PathAndQuery = format!("/hitkeep.auth.v1.{method}")
        .parse()
        .expect("a path");
    // A `google.protobuf.BytesValue`, which has one field, of any bytes.
    let codec = ProstCodec::<Vec<u8>, ()>::default();
    let sent = grpc.unary(caller.request(bytes), path, codec).await;
    sent.map(drop)
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_refused() {
    let app = TestApp::with_world().await;
    let methods = [
        (app.sidecar().await, "IntrospectionService/Introspect"),
        (app.auditor().await, "AuditService/ListAuditEvents"),
        (app.dashboard().await, "ApiClientService/CreateApiClient"),
        (app.dashboard().await, "ApiClientService/DeleteApiClient"),
        (app.pusher().await, "DirectoryService/ApplyDirectoryChanges"),
        (app.pusher().await, "DirectoryService/ReplaceDirectory"),
    ];
    for (caller, method) in &methods {
        // No UTF-8 and no message either; and more than 4 MiB.
        let cases = [
            (vec![0xff, 0xfe], ["the message"]),
            (vec![0; 4 * 1024 * 1024], ["the message"]),
        ];
        refuses_each(&app, async |bytes| raw(caller, method, bytes).await, cases).await;
    }
}
