//! Imports beside a server that answers: what was imported works at once, what was taken back
//! does not, and callers get answers meanwhile.

use std::fmt::Write as _;

use hitkeep_auth::pb::{
    InactiveReason, IntrospectRequest, IntrospectResponse, SiteRole,
    introspection_service_client::IntrospectionServiceClient,
};
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tokio::sync::oneshot;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use crate::{
    database::{imported, undone},
    deltas::BASE,
    hitkeep::{Backup, id},
    postgres::migrated_database,
    process::{Process, binary},
};

/// A running server, and a caller that may introspect.
struct Server {
    process: Process,
    channel: Channel,
    caller: String,
}

impl Server {
    async fn start(url: &str) -> Self {
        let create = ["service-account", "create", "proxy", "--allow"];
        let options = ["introspect", "--json", "--database-url", url];
        let made = Process::start(binary(create.iter().chain(&options)));
        let made: Value = serde_json::from_str(&made.ended().await.stdout).unwrap();
        let serve = ["serve", "--listen", "127.0.0.1:0", "--database-url", url];
        let mut serve = binary(serve);
        // However long the machine takes for something else.
        serve.args(["--max-staleness", "5m"]);
        let mut process = Process::start(serve);
        let address = process.address().await;
        process.stderr.line_so_far("introspection serves").await;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self {
            process,
            channel: endpoint.connect().await.unwrap(),
            caller: format!("Bearer {}", made["token"].as_str().unwrap()),
        }
    }

    /// Asks about a token. What the server knows has to be of that revision or a later one.
    async fn introspect(
        &self,
        token: &str,
        at_least: impl Into<Option<u64>>,
    ) -> IntrospectResponse {
        ask(self.channel.clone(), &self.caller, token, at_least.into()).await
    }

    /// Asks about a token over and over while something else is done, each answer of which has
    /// to be that it works.
    async fn working_throughout<T>(&self, token: &str, done: impl Future<Output = T>) -> T {
        let (channel, caller) = (self.channel.clone(), self.caller.clone());
        let token = token.to_owned();
        let (stop, mut stopped) = oneshot::channel::<()>();
        let asking = tokio::spawn(async move {
            // At least once, also if the other is done before this begins.
            loop {
                let answer = ask(channel.clone(), &caller, &token, None).await;
                assert!(answer.active, "{answer:?}");
                if !matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                    return;
                }
            }
        });
        let result = done.await;
        drop(stop);
        asking.await.unwrap();
        result
    }
}

async fn ask(
    channel: Channel,
    caller: &str,
    token: &str,
    at_least: Option<u64>,
) -> IntrospectResponse {
    let mut request = Request::new(IntrospectRequest {
        token: token.to_owned(),
        at_least_revision: at_least,
        ..IntrospectRequest::default()
    });
    let metadata = request.metadata_mut();
    metadata.insert("authorization", caller.parse().unwrap());
    let mut client = IntrospectionServiceClient::new(channel);
    let answer = client.introspect(request).await;
    answer.expect("an answer").into_inner()
}

/// The token that HitKeep issued, of which `h` is what it kept.
fn token(secret: u32) -> String {
    let digest = digest(&SHA256, format!("the secret of {secret}").as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// The revision in which it was done.
fn revision(report: &Value) -> u64 {
    report["revision"].as_u64().expect("something was done")
}

#[tokio::test]
async fn an_import_and_its_end_reach_a_running_server() {
    let backup = Backup::new();
    if !backup.export("2026-03-08T120000Z", BASE) {
        return;
    }
    let url = migrated_database().await;
    let server = Server::start(&url).await;
    for client in [401, 402, 403] {
        let answer = server.introspect(&token(client), None).await;
        assert_eq!(answer.inactive_reason(), InactiveReason::UnknownToken);
    }

    let report = imported(&url, backup.path(), &["--apply"], 0).await;
    for client in [401, 402, 403] {
        let answer = server.introspect(&token(client), revision(&report)).await;
        assert_eq!((answer.active, &answer.client_id), (true, &id(client)));
        let grants = answer.site_grants.iter();
        let grants: Vec<_> = grants.map(|g| (g.site_id.clone(), g.role())).collect();
        assert_eq!(grants, [(id(301), SiteRole::Editor)]);
    }

    // A dry run takes nothing away.
    undone(&url, &[], 0).await;
    let answer = server.introspect(&token(401), revision(&report)).await;
    assert!(answer.active, "{answer:?}");

    let report = undone(&url, &["--apply"], 0).await;
    for client in [401, 402, 403] {
        let answer = server.introspect(&token(client), revision(&report)).await;
        assert_eq!(answer.inactive_reason(), InactiveReason::UnknownToken);
        assert_eq!((answer.active, &*answer.client_id), (false, ""));
    }
    server.process.signal("TERM").await;
    assert_eq!(server.process.ended().await.code, Some(0));
}

#[tokio::test]
async fn a_server_answers_while_imports_run() {
    let backup = Backup::new();
    if !backup.export("2026-03-08T120000Z", BASE) {
        return;
    }
    let url = migrated_database().await;
    let server = Server::start(&url).await;
    let first = imported(&url, backup.path(), &["--apply"], 0).await;
    let answer = server.introspect(&token(402), revision(&first)).await;
    assert!(answer.active, "{answer:?}");

    // The first client is rotated and the third revoked in HitKeep; the second stays as it is.
    let changed = format!(
        "{BASE}
         UPDATE api_clients SET secret_hash = h(9) WHERE id = u(401);
         UPDATE api_clients SET revoked_at = now() WHERE id = u(403);"
    );
    backup.export("2026-03-08T130000Z", &changed);
    let importing = imported(&url, backup.path(), &["--apply"], 0);
    let second = server.working_throughout(&token(402), importing).await;
    for (secret, reason) in [
        (9, InactiveReason::Unspecified),
        (401, InactiveReason::TokenRotated),
        (402, InactiveReason::Unspecified),
        (403, InactiveReason::Revoked),
    ] {
        let answer = server.introspect(&token(secret), revision(&second)).await;
        assert_eq!(answer.inactive_reason(), reason, "{secret}");
    }
}
