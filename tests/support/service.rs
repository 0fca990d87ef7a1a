//! A server beside the proxies, with a small world in it.

use hitkeep_auth::pb::{
    self, InstanceRole, SiteRole, TeamRole, api_client_service_client::ApiClientServiceClient,
    directory_change::Change, directory_service_client::DirectoryServiceClient,
    introspection_service_client::IntrospectionServiceClient, owner,
};
use tokio::task::JoinHandle;
use tonic::{Request, transport::Endpoint};

use crate::support::{
    postgres,
    process::{Process, account, binary},
    proxy::Proxy,
};

/// A user, owner of the team.
pub const ALICE: &str = "00000000-0000-7000-8000-000000000002";
/// A user, member of the team.
pub const VERA: &str = "00000000-0000-7000-8000-000000000004";
pub const TEAM: &str = "00000000-0000-7000-8000-00000000aa01";
/// A site of the team's, on which the user is an editor.
pub const SITE: &str = "00000000-0000-7000-8000-00000000bb01";
/// One on which the user is nothing.
pub const OTHER_SITE: &str = "00000000-0000-7000-8000-00000000bb03";

/// A server on a database of its own, which it reaches through a proxy that tests
/// can cut.
pub struct Service {
    pub address: String,
    /// Where it listens for HTTP.
    pub http: String,
    pub database: Proxy,
    /// The token of the caller that proxies are.
    pub caller: String,
    url: String,
    process: Process,
    /// The token of the caller that HitKeep is.
    pub dashboard: String,
}

/// A created client.
pub struct Created {
    pub id: String,
    pub token: String,
}

impl Service {
    /// Starts it, and fills the directory.
    pub async fn start(more: &[&str]) -> Self {
        let direct = postgres::migrated_database().await;
        let caller = account(&direct, "proxy", "introspect").await;
        let dashboard = account(&direct, "dashboard", "manage,directory").await;
        let (database, url) = Proxy::start(&direct);
        let anywhere = "127.0.0.1:0";
        let (process, http, address) = serve(&url, anywhere, anywhere, more).await;
        let service = Self {
            address,
            http,
            database,
            caller,
            url,
            process,
            dashboard,
        };
        service.fill().await;
        service
    }

    async fn fill(&self) {
        let changes = [
            put_user(ALICE),
            put_user(VERA),
            Change::PutTeam(pb::Team {
                id: TEAM.to_owned(),
                archived: false,
            }),
            put_team_member(ALICE, TeamRole::Owner),
            put_team_member(VERA, TeamRole::Member),
            put_site(SITE),
            put_site(OTHER_SITE),
            Change::PutSiteMember(pb::SiteMember {
                site_id: SITE.to_owned(),
                user_id: VERA.to_owned(),
                role: SiteRole::Editor.into(),
            }),
        ];
        let change = |change| pb::DirectoryChange {
            change: Some(change),
        };
        let request = pb::ApplyDirectoryChangesRequest {
            changes: changes.into_iter().map(change).collect(),
            sequence: None,
        };
        let mut directory = DirectoryServiceClient::new(self.channel().await);
        let applied = directory.apply_directory_changes(self.asked(request)).await;
        applied.expect("the changes are good");
    }

    /// Makes a client of the user's, an editor of the site.
    pub async fn client(&self) -> Created {
        let api_client = pb::ApiClient {
            owner: Some(pb::Owner {
                owner: Some(owner::Owner::UserId(VERA.to_owned())),
            }),
            name: "a client".to_owned(),
            site_grants: vec![pb::SiteGrant {
                site_id: SITE.to_owned(),
                role: SiteRole::Editor.into(),
            }],
            ..pb::ApiClient::default()
        };
        let request = pb::CreateApiClientRequest {
            actor: Some(actor()),
            api_client: Some(api_client),
            ..pb::CreateApiClientRequest::default()
        };
        let mut clients = ApiClientServiceClient::new(self.channel().await);
        let made = clients.create_api_client(self.asked(request)).await;
        let made = made.expect("a client").into_inner();
        Created {
            id: made.api_client.expect("a client").id,
            token: made.token,
        }
    }

    /// Revokes a client.
    pub async fn revoke(&self, id: &str) {
        let request = pb::RevokeApiClientRequest {
            actor: Some(actor()),
            id: id.to_owned(),
        };
        let mut clients = ApiClientServiceClient::new(self.channel().await);
        let revoked = clients.revoke_api_client(self.asked(request)).await;
        revoked.expect("it is revoked");
    }

    /// Begins to ask for what does not come: it takes a place of those who wait, until
    /// it is aborted.
    pub async fn begin_to_wait(&self) -> JoinHandle<()> {
        let request = pb::IntrospectRequest {
            at_least_revision: Some(u64::MAX),
            ..pb::IntrospectRequest::default()
        };
        let mut waiting = IntrospectionServiceClient::new(self.channel().await);
        let request = asked(&self.caller, request);
        tokio::spawn(async move {
            loop {
                let mut again = Request::new(request.get_ref().clone());
                *again.metadata_mut() = request.metadata().clone();
                waiting
                    .introspect(again)
                    .await
                    .expect_err("there is no such revision");
            }
        })
    }

    /// Makes another service account, and gives its token.
    pub async fn account(&self, name: &str, allow: &str) -> String {
        account(&self.url, name, allow).await
    }

    /// Starts another server on the same database, and says where it listens for HTTP and
    /// for gRPC.
    pub async fn another(&self) -> (Process, String, String) {
        serve(&self.url, "127.0.0.1:0", "127.0.0.1:0", &[]).await
    }

    /// Ends the server, and gives its log.
    pub async fn stop(self) -> (Stopped, String) {
        self.process.signal("TERM").await;
        let ended = self.process.ended().await;
        assert_eq!(ended.code, Some(0));
        let stopped = Stopped {
            address: self.address,
            http: self.http,
            database: self.database,
            caller: self.caller,
            url: self.url,
            dashboard: self.dashboard,
        };
        (stopped, ended.stderr)
    }

    async fn channel(&self) -> tonic::transport::Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.unwrap().connect().await.expect("it accepts")
    }

    fn asked<T>(&self, message: T) -> Request<T> {
        asked(&self.dashboard, message)
    }
}

/// A message from the caller with that token.
fn asked<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// A server that is not there right now.
pub struct Stopped {
    address: String,
    http: String,
    database: Proxy,
    caller: String,
    url: String,
    dashboard: String,
}

impl Stopped {
    /// Starts it again, where it was.
    pub async fn start(self) -> Service {
        let (process, http, address) = serve(&self.url, &self.address, &self.http, &[]).await;
        assert_eq!((&http, &address), (&self.http, &self.address));
        Service {
            address,
            http,
            database: self.database,
            caller: self.caller,
            url: self.url,
            process,
            dashboard: self.dashboard,
        }
    }
}

/// Starts a server, and says where it listens for HTTP and for gRPC.
async fn serve(url: &str, listen: &str, http: &str, more: &[&str]) -> (Process, String, String) {
    let listeners = ["serve", "--listen", listen, "--http-listen", http];
    let database = ["--database-url", url];
    let arguments = listeners.iter().chain(&database).chain(more);
    let mut process = Process::start(binary(arguments));
    let http = process.http_address().await;
    let address = process.address().await;
    process.stderr.line("introspection serves").await;
    (process, http, address)
}

fn put_user(id: &str) -> Change {
    Change::PutUser(pb::User {
        id: id.to_owned(),
        instance_role: InstanceRole::User.into(),
        disabled: false,
    })
}

fn put_team_member(user: &str, role: TeamRole) -> Change {
    Change::PutTeamMember(pb::TeamMember {
        team_id: TEAM.to_owned(),
        user_id: user.to_owned(),
        role: role.into(),
    })
}

fn put_site(id: &str) -> Change {
    Change::PutSite(pb::Site {
        id: id.to_owned(),
        team_id: TEAM.to_owned(),
    })
}

fn actor() -> pb::Actor {
    pb::Actor {
        user_id: VERA.to_owned(),
        ..pb::Actor::default()
    }
}
