//! The routes of HitKeep's dashboard, as a HitKeep sees them that hands its requests on.

mod callers;
mod failing;
mod refused;
mod replace;
mod requests;

use bytes::Bytes;
use hitkeep_auth::{domain::caller::CallerPermission, server};
use http::{Request, StatusCode, request};
use serde_json::{Value, json};

use super::client::Answer;
use crate::{fixtures::*, harness::TestApp};

const OWN: &str = "/api/user/api-clients";

/// The routes of the first team's clients.
fn of_team() -> String {
    format!("/api/user/teams/{TEAM}/api-clients")
}

fn options() -> server::Options {
    let mut options = server::Options::default();
    options.grpc.hitkeep_rest = true;
    options
}

/// A server with the routes and the world's directory.
async fn start() -> TestApp {
    start_with(options()).await
}

async fn start_with(options: server::Options) -> TestApp {
    let app = TestApp::with(options).await;
    app.change(world()).await;
    app
}

/// A request that HitKeep hands on for that user.
fn request(app: &TestApp, method: &str, path: &str, user: &str) -> request::Builder {
    let caller = app.token(CallerPermission::Manage);
    Request::builder()
        .method(method)
        .uri(path)
        .header("x-hitkeep-caller", caller)
        .header("x-hitkeep-actor", user)
}

/// The same with a body, answered.
async fn send(app: &TestApp, method: &str, path: &str, user: &str, body: &Value) -> Answer {
    let request = request(app, method, path, user).header("content-type", "application/json");
    app.ask(request, body.to_string()).await
}

/// The same without one.
async fn call(app: &TestApp, method: &str, path: &str, user: &str) -> Answer {
    let request = request(app, method, path, user);
    app.ask(request, Bytes::new()).await
}

/// The JSON of an answer that has to have that status.
fn of_status(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    answer.json()
}

/// A client that can be created, and its token.
async fn created(app: &TestApp, path: &str, user: &str, body: &Value) -> (Value, String) {
    let made = of_status(&send(app, "POST", path, user, body).await, 201);
    let token = made["token"].as_str().unwrap().to_owned();
    (made["client"].clone(), token)
}

/// The path of a client below a collection.
fn path_of(collection: &str, client: &Value) -> String {
    format!("{collection}/{}", client["id"].as_str().unwrap())
}

/// What the dashboard sends of a client that it has read, with something changed.
fn edited(client: &Value, changes: &Value) -> Value {
    let mut body = json!({});
    let fields = [
        "name",
        "description",
        "instance_role",
        "expires_at",
        "site_roles",
    ];
    for field in fields {
        body[field] = client[field].clone();
    }
    for (field, value) in changes.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

fn site_role(site: &str, role: &str) -> Value {
    json!({ "site_id": site, "role": role })
}

/// What an error says: `404 no such API client`.
fn told(answer: &Answer) -> String {
    let Answer {
        status,
        headers: _,
        body,
    } = answer;
    assert!(
        status.is_client_error() || status.is_server_error(),
        "{answer:?}"
    );
    let header = |name| answer.header(name);
    assert_eq!(header("content-type").unwrap(), "text/plain; charset=utf-8");
    assert_eq!(header("x-content-type-options").unwrap(), "nosniff");
    assert_eq!(header("cache-control").unwrap(), "no-store");
    let is_temporary = *status == StatusCode::SERVICE_UNAVAILABLE;
    assert_eq!(header("retry-after").is_some(), is_temporary);
    assert!(header("x-request-id").is_some());
    format!("{} {}", status.as_u16(), body.strip_suffix('\n').unwrap())
}
