//! gRPC-Web, as `buf curl` speaks it.

use std::process::{Output, Stdio};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use prost::Message;
use serde_json::{Value, json};
use tokio::process::Command;
use tonic_types::pb::ErrorInfo;

use crate::{
    service::{SITE, Service, VERA},
    support::programs,
};

const BUF: &str = "target/ci-tools/node_modules/.bin/buf";

/// Calls a method with that message.
async fn call(
    service: &Service,
    method: &str,
    token: &str,
    message: &Value,
    more: &[&str],
) -> Output {
    let program = programs::find("buf", BUF).expect("it was found before");
    Command::new(program)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["curl", "--schema", ".", "--protocol", "grpcweb"])
        .args(["--header", &format!("authorization: Bearer {token}")])
        .args(["--data", &message.to_string()])
        .args(more)
        .arg(format!("http://{}/hitkeep.auth.v1.{method}", service.http))
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap()
}

/// The response.
fn given(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The error's code and our reason.
fn refused(output: &Output) -> (String, String) {
    assert!(!output.status.success(), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).expect("an error in JSON");
    let detail = &error["details"][0];
    assert_eq!(detail["type"], "google.rpc.ErrorInfo", "{output:?}");
    let info = BASE64_STANDARD_NO_PAD.decode(detail["value"].as_str().unwrap());
    let info = ErrorInfo::decode(&*info.unwrap()).unwrap();
    (error["code"].as_str().unwrap().to_owned(), info.reason)
}

#[tokio::test]
async fn buf_curl_issues_checks_and_revokes_a_token() {
    if programs::find("buf", BUF).is_none() {
        return;
    }
    let service = Service::start(&["--grpc-web"]).await;
    for more in [&[][..], &["--http2-prior-knowledge"]] {
        let create = json!({
            "actor": { "user_id": VERA },
            "api_client": {
                "owner": { "user_id": VERA },
                "name": "over gRPC-Web",
                "site_grants": [{ "site_id": SITE, "role": "SITE_ROLE_VIEWER" }],
            },
        });
        let dashboard = &service.dashboard;
        let method = "ApiClientService/CreateApiClient";
        let created = given(&call(&service, method, dashboard, &create, more).await);
        let introspect = json!({
            "token": created["token"],
            "check": { "site_id": SITE, "permission": "site.view" },
        });
        let said = async || {
            let method = "IntrospectionService/Introspect";
            given(&call(&service, method, &service.caller, &introspect, more).await)
        };
        let answer = said().await;
        assert_eq!(answer["active"], true, "{answer}");
        assert_eq!(answer["decision"]["allowed"], true, "{answer}");
        let revoke = json!({ "actor": { "user_id": VERA }, "id": created["apiClient"]["id"] });
        let method = "ApiClientService/RevokeApiClient";
        given(&call(&service, method, dashboard, &revoke, more).await);
        let answer = said().await;
        assert_eq!(
            answer["inactiveReason"], "INACTIVE_REASON_REVOKED",
            "{answer}"
        );
    }
    service.stop().await;
}

#[tokio::test]
async fn buf_curl_is_told_why_a_call_failed() {
    if programs::find("buf", BUF).is_none() {
        return;
    }
    let service = Service::start(&["--grpc-web"]).await;
    let method = "IntrospectionService/Introspect";
    for (token, code, reason) in [
        ("hks_nonsense", "unauthenticated", "CALLER_UNKNOWN"),
        (
            &*service.dashboard,
            "permission_denied",
            "CALLER_NOT_PERMITTED",
        ),
    ] {
        let output = call(&service, method, token, &json!({ "token": "x" }), &[]).await;
        assert_eq!(
            refused(&output),
            (code.to_owned(), reason.to_owned()),
            "{output:?}"
        );
    }
    let get = json!({ "actor": { "user_id": VERA }, "id": "nonsense" });
    let method = "ApiClientService/GetApiClient";
    let output = call(&service, method, &service.dashboard, &get, &[]).await;
    assert_eq!(refused(&output).1, "INVALID_FIELD", "{output:?}");
    // Streams are refused, and so is Connect.
    let method = "IntrospectionService/IntrospectStream";
    let http2 = ["--http2-prior-knowledge"];
    let output = call(&service, method, &service.caller, &json!({}), &http2).await;
    assert_eq!(refused(&output).1, "METHOD_UNKNOWN", "{output:?}");
    let method = "IntrospectionService/Introspect";
    let connect = ["--protocol", "connect"];
    let output = call(&service, method, &service.caller, &json!({}), &connect).await;
    assert!(!output.status.success(), "{output:?}");
    service.stop().await;
}
