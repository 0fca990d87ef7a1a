//! The last release and this one on one database, in the orders that docs/OPERATIONS.md allows:
//! the migrations first, then one server after the other, and back again. `.ci/upgrade.sh`
//! builds the last release and names its binary in `HITKEEP_AUTH_PREVIOUS`; where there is
//! none, these tests are skipped, and say so.

use std::{io::Write as _, path::PathBuf};

use hitkeep_auth::pb::{
    self, DirectoryChange, InactiveReason, InstanceRole, IntrospectRequest, IntrospectResponse,
    api_client_service_client::ApiClientServiceClient, directory_change::Change,
    directory_service_client::DirectoryServiceClient,
    introspection_service_client::IntrospectionServiceClient, owner,
};
use tokio::process::Command;

use crate::{
    empty::empty_database,
    process::{Process, without_settings},
    run::{connect, from_caller},
    waiting::{until, wanted},
};

const PREVIOUS: &str = "HITKEEP_AUTH_PREVIOUS";
const USER: &str = "00000000-0000-7000-8000-000000000001";

/// The binary of one release.
#[derive(Clone)]
struct Release(PathBuf);

impl Release {
    /// The one that is tested.
    fn this() -> Self {
        Self(env!("CARGO_BIN_EXE_hitkeep-auth").into())
    }

    /// The one before, if there is one to test with.
    fn previous() -> Option<Self> {
        let program = std::env::var_os(PREVIOUS).filter(|program| !program.is_empty());
        if program.is_none() {
            // Not by a macro: what those print is only shown of tests that fail.
            let line = format!("\nSKIPPED, because {PREVIOUS} names no binary\n\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        }
        program.map(|program| Self(program.into()))
    }

    fn command(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.args(arguments);
        without_settings(&mut command);
        command.env("HITKEEP_AUTH_DATABASE_URL", url);
        command
    }

    /// Applies its migrations, and says how many.
    async fn migrate(&self, url: &str) -> usize {
        let migrate = self.command(url, &["migrate", "--json"]);
        let applied = Process::start(migrate).ended().await.given_json();
        applied["applied"].as_array().unwrap().len()
    }

    /// Makes a service account, and gives its token.
    async fn account(&self, url: &str, name: &str, allow: &str) -> String {
        let create = [
            "service-account",
            "create",
            name,
            "--allow",
            allow,
            "--json",
        ];
        let made = Process::start(self.command(url, &create)).ended().await;
        made.given_json()["token"].as_str().unwrap().to_owned()
    }

    /// A server that answers.
    async fn serve(&self, url: &str) -> Server {
        let serve = self.command(url, &["serve", "--listen", "127.0.0.1:0"]);
        Server::started(Process::start(serve)).await
    }

    /// A replica of a server that answers.
    async fn replica(&self, upstream: &Server, token: &str) -> Server {
        let mut command = Command::new(&self.0);
        command.args(["replica", "--listen", "127.0.0.1:0"]);
        without_settings(&mut command);
        let upstream = format!("http://{}", upstream.address);
        command.env("HITKEEP_AUTH_UPSTREAM", upstream);
        command.env("HITKEEP_AUTH_UPSTREAM_TOKEN", token);
        Server::started(Process::start(command)).await
    }
}

/// A running server or replica.
struct Server {
    process: Process,
    address: String,
}

/// A created client.
struct Created {
    id: String,
    token: String,
    revision: u64,
}

impl Server {
    async fn started(mut process: Process) -> Self {
        let address = process.address().await;
        process.stderr.line("introspection serves").await;
        Self { process, address }
    }

    /// Ends it, with every call finished.
    async fn stop(self) {
        self.process.signal("TERM").await;
        let ended = self.process.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    async fn put_user(&self, caller: &str) {
        let change = Change::PutUser(pb::User {
            id: USER.to_owned(),
            instance_role: InstanceRole::User.into(),
            disabled: false,
        });
        let request = pb::ApplyDirectoryChangesRequest {
            changes: vec![DirectoryChange {
                change: Some(change),
            }],
            sequence: None,
        };
        let mut directory = DirectoryServiceClient::new(connect(&self.address).await);
        let applied = directory.apply_directory_changes(from_caller(caller, request));
        applied.await.unwrap();
    }

    async fn create(&self, caller: &str, name: &str) -> Created {
        let request = pb::CreateApiClientRequest {
            actor: Some(actor()),
            api_client: Some(pb::ApiClient {
                owner: Some(pb::Owner {
                    owner: Some(owner::Owner::UserId(USER.to_owned())),
                }),
                name: name.to_owned(),
                ..pb::ApiClient::default()
            }),
            ..pb::CreateApiClientRequest::default()
        };
        let mut clients = ApiClientServiceClient::new(connect(&self.address).await);
        let made = clients.create_api_client(from_caller(caller, request));
        let made = made.await.unwrap().into_inner();
        Created {
            id: made.api_client.unwrap().id,
            token: made.token,
            revision: made.revision,
        }
    }

    async fn rotate(&self, caller: &str, id: &str) -> Created {
        let request = pb::RotateApiClientRequest {
            actor: Some(actor()),
            id: id.to_owned(),
            ..pb::RotateApiClientRequest::default()
        };
        let mut clients = ApiClientServiceClient::new(connect(&self.address).await);
        let rotated = clients.rotate_api_client(from_caller(caller, request));
        let rotated = rotated.await.unwrap().into_inner();
        Created {
            id: id.to_owned(),
            token: rotated.token,
            revision: rotated.revision,
        }
    }

    async fn revoke(&self, caller: &str, id: &str) -> u64 {
        let request = pb::RevokeApiClientRequest {
            actor: Some(actor()),
            id: id.to_owned(),
        };
        let mut clients = ApiClientServiceClient::new(connect(&self.address).await);
        let revoked = clients.revoke_api_client(from_caller(caller, request));
        revoked.await.unwrap().into_inner().revision
    }

    /// What it answers once it has that revision.
    async fn answer(&self, caller: &str, token: &str, revision: u64) -> IntrospectResponse {
        let request = IntrospectRequest {
            token: token.to_owned(),
            at_least_revision: Some(revision),
            ..IntrospectRequest::default()
        };
        let mut introspection = IntrospectionServiceClient::new(connect(&self.address).await);
        let answer = introspection.introspect(from_caller(caller, request));
        answer.await.unwrap().into_inner()
    }

    async fn accepts(&self, caller: &str, created: &Created) {
        let answer = self.answer(caller, &created.token, created.revision).await;
        assert!(answer.active, "{}: {answer:?}", self.address);
    }

    async fn refuses(&self, caller: &str, token: &str, revision: u64, why: InactiveReason) {
        let answer = self.answer(caller, token, revision).await;
        assert_eq!(answer.inactive_reason(), why, "{}", self.address);
    }
}

fn actor() -> pb::Actor {
    pb::Actor {
        user_id: USER.to_owned(),
        ..pb::Actor::default()
    }
}

#[tokio::test]
async fn servers_are_replaced_one_after_the_other_and_put_back() {
    let Some(previous) = Release::previous() else {
        return;
    };
    let this = Release::this();
    let url = empty_database().await;
    assert!(previous.migrate(&url).await > 0);
    let allow = "introspect,manage,directory";
    let caller = &*previous.account(&url, "before", allow).await;
    let old = previous.serve(&url).await;
    old.put_user(caller).await;
    let first = old.create(caller, "first").await;
    let to_rotate = old.create(caller, "to rotate").await;

    // The migrations come first: until then, the new server does not start where there are
    // any, and the old one does not notice them.
    let serve = this.command(&url, &["serve", "--listen", "127.0.0.1:0"]);
    let pending = this.command(&url, &["doctor", "--json"]);
    let pending = Process::start(pending).ended().await.stdout;
    if pending.contains("hitkeep-auth migrate") {
        let refused = Process::start(serve).ended().await.refused(1);
        assert!(refused.contains("hitkeep-auth migrate"), "{refused}");
        assert!(this.migrate(&url).await > 0);
    }
    assert_eq!(this.migrate(&url).await, 0);
    assert_eq!(previous.migrate(&url).await, 0);
    old.accepts(caller, &first).await;
    let second = old
        .create(caller, "by the old one, on the new tables")
        .await;

    // Beside each other, each accepts what the other issues, and refuses what it ends.
    let new = this.serve(&url).await;
    let later = &*this.account(&url, "after", allow).await;
    for created in [&first, &to_rotate, &second] {
        new.accepts(caller, created).await;
    }
    let third = new.create(later, "by the new one").await;
    for caller in [caller, later] {
        old.accepts(caller, &third).await;
        new.accepts(caller, &third).await;
    }
    let by_new = new.revoke(caller, &first.id).await;
    let by_old = old.revoke(later, &third.id).await;
    for server in [&old, &new] {
        let revoked = InactiveReason::Revoked;
        server.refuses(caller, &first.token, by_new, revoked).await;
        server.refuses(caller, &third.token, by_old, revoked).await;
    }
    let by_old = old.rotate(caller, &to_rotate.id).await;
    let by_new = new.rotate(caller, &to_rotate.id).await;
    for server in [&old, &new] {
        server.accepts(caller, &by_new).await;
        for replaced in [&to_rotate.token, &by_old.token] {
            let rotated = InactiveReason::TokenRotated;
            server
                .refuses(caller, replaced, by_new.revision, rotated)
                .await;
        }
    }

    // The last old server goes; and then back, with what the new one has written.
    old.stop().await;
    let fourth = new.create(later, "with no old server").await;
    new.stop().await;
    let old = previous.serve(&url).await;
    for created in [&second, &by_new, &fourth] {
        old.accepts(later, created).await;
    }
    let refused = InactiveReason::Revoked;
    old.refuses(caller, &first.token, fourth.revision, refused)
        .await;
    let revoked = old.revoke(caller, &fourth.id).await;
    let fifth = old.create(caller, "after it was put back").await;
    old.stop().await;
    let new = this.serve(&url).await;
    new.accepts(caller, &fifth).await;
    new.refuses(caller, &fourth.token, revoked, refused).await;
    new.stop().await;
}

/// Servers before replicas, so an old replica follows a new server; and one that is put back
/// is followed by new replicas.
#[tokio::test]
async fn replicas_follow_a_server_of_the_other_release() {
    let Some(previous) = Release::previous() else {
        return;
    };
    let this = Release::this();
    let url = empty_database().await;
    this.migrate(&url).await;
    let caller = &*this
        .account(&url, "caller", "introspect,manage,directory")
        .await;
    let follows = &*this.account(&url, "follows", "replicate").await;
    for (server, replica) in [(&this, &previous), (&previous, &this)] {
        let server = server.serve(&url).await;
        server.put_user(caller).await;
        let before = server.create(caller, "before it follows").await;
        let replica = replica.replica(&server, follows).await;
        replica.accepts(caller, &before).await;
        let after = server.create(caller, "while it follows").await;
        replica.accepts(caller, &after).await;
        let revision = server.revoke(caller, &before.id).await;
        let revoked = InactiveReason::Revoked;
        replica
            .refuses(caller, &before.token, revision, revoked)
            .await;
        // Its uses arrive.
        until("the use is counted", async || {
            let request = pb::GetApiClientRequest {
                actor: Some(actor()),
                id: after.id.clone(),
            };
            let mut clients = ApiClientServiceClient::new(connect(&server.address).await);
            let got = clients.get_api_client(from_caller(caller, request)).await;
            let client = got.unwrap().into_inner().api_client.unwrap();
            wanted(client.last_used_time.is_some())
        })
        .await;
        replica.stop().await;
        server.stop().await;
    }
}
