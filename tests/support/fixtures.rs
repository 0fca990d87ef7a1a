//! A small world that most tests begin with, and requests that are valid as they
//! are, to be overridden where a test is about something else.

#![expect(
    clippy::unnecessary_wraps,
    reason = "generated messages want their parts wrapped"
)]

use hitkeep_auth::{
    domain::token::Token,
    pb::{self, InstanceRole, SiteRole, TeamRole, directory_change::Change, owner},
};

use crate::harness::{Caller, TestApp};

/// Instance owner; a member of no team.
pub const ROOT: &str = "00000000-0000-7000-8000-000000000001";
/// Owner of the first team; instance role admin.
pub const ALICE: &str = "00000000-0000-7000-8000-000000000002";
/// Admin of the first team.
pub const ADAM: &str = "00000000-0000-7000-8000-000000000003";
/// Member of the first team, editor of its first site and viewer of its second.
pub const VERA: &str = "00000000-0000-7000-8000-000000000004";
/// Member of the second team alone.
pub const EVE: &str = "00000000-0000-7000-8000-000000000005";
/// An id that no user has.
pub const NOBODY: &str = "00000000-0000-7000-8000-0000000000ff";
/// The first team, with the first two sites.
pub const TEAM: &str = "00000000-0000-7000-8000-00000000aa01";
/// The second team, with the third site.
pub const OTHER_TEAM: &str = "00000000-0000-7000-8000-00000000aa02";
/// Sites of the first team.
pub const SITE: &str = "00000000-0000-7000-8000-00000000bb01";
pub const SECOND_SITE: &str = "00000000-0000-7000-8000-00000000bb02";
/// The other team's.
pub const OTHER_SITE: &str = "00000000-0000-7000-8000-00000000bb03";

pub fn put_user(id: &str, role: InstanceRole, disabled: bool) -> Change {
    Change::PutUser(pb::User {
        id: id.to_owned(),
        instance_role: role.into(),
        disabled,
    })
}

pub fn delete_user(id: &str) -> Change {
    Change::DeleteUser(pb::UserRef { id: id.to_owned() })
}

pub fn put_team(id: &str, archived: bool) -> Change {
    Change::PutTeam(pb::Team {
        id: id.to_owned(),
        archived,
    })
}

pub fn delete_team(id: &str) -> Change {
    Change::DeleteTeam(pb::TeamRef { id: id.to_owned() })
}

pub fn put_team_member(team: &str, user: &str, role: TeamRole) -> Change {
    let (team_id, user_id) = (team.to_owned(), user.to_owned());
    Change::PutTeamMember(pb::TeamMember {
        team_id,
        user_id,
        role: role.into(),
    })
}

pub fn delete_team_member(team: &str, user: &str) -> Change {
    let (team_id, user_id) = (team.to_owned(), user.to_owned());
    Change::DeleteTeamMember(pb::TeamMemberRef { team_id, user_id })
}

pub fn put_site(id: &str, team: &str) -> Change {
    Change::PutSite(pb::Site {
        id: id.to_owned(),
        team_id: team.to_owned(),
    })
}

pub fn delete_site(id: &str) -> Change {
    Change::DeleteSite(pb::SiteRef { id: id.to_owned() })
}

pub fn put_site_member(site: &str, user: &str, role: SiteRole) -> Change {
    let (site_id, user_id) = (site.to_owned(), user.to_owned());
    Change::PutSiteMember(pb::SiteMember {
        site_id,
        user_id,
        role: role.into(),
    })
}

pub fn delete_site_member(site: &str, user: &str) -> Change {
    let (site_id, user_id) = (site.to_owned(), user.to_owned());
    Change::DeleteSiteMember(pb::SiteMemberRef { site_id, user_id })
}

/// A batch of changes.
pub fn batch(changes: impl IntoIterator<Item = Change>) -> pb::ApplyDirectoryChangesRequest {
    let change = |change| pb::DirectoryChange {
        change: Some(change),
    };
    pb::ApplyDirectoryChangesRequest {
        changes: changes.into_iter().map(change).collect(),
        sequence: None,
    }
}

/// The world's directory, as changes.
pub fn world() -> Vec<Change> {
    vec![
        put_user(ROOT, InstanceRole::Owner, false),
        put_user(ALICE, InstanceRole::Admin, false),
        put_user(ADAM, InstanceRole::User, false),
        put_user(VERA, InstanceRole::User, false),
        put_user(EVE, InstanceRole::User, false),
        put_team(TEAM, false),
        put_team(OTHER_TEAM, false),
        put_team_member(TEAM, ALICE, TeamRole::Owner),
        put_team_member(TEAM, ADAM, TeamRole::Admin),
        put_team_member(TEAM, VERA, TeamRole::Member),
        put_team_member(OTHER_TEAM, EVE, TeamRole::Member),
        put_site(SITE, TEAM),
        put_site(SECOND_SITE, TEAM),
        put_site(OTHER_SITE, OTHER_TEAM),
        put_site_member(SITE, VERA, SiteRole::Editor),
        put_site_member(SECOND_SITE, VERA, SiteRole::Viewer),
    ]
}

impl TestApp {
    /// A server whose directory is the world's.
    pub async fn with_world() -> Self {
        let app = Self::start().await;
        app.change(world()).await;
        app
    }

    /// The same, and HitKeep's dashboard.
    pub async fn with_dashboard() -> (Self, Caller) {
        let app = Self::with_world().await;
        let dashboard = app.dashboard().await;
        (app, dashboard)
    }

    /// The same, and a client of Vera's.
    pub async fn with_client() -> (Self, Caller, Created) {
        let (app, dashboard) = Self::with_dashboard().await;
        let made = dashboard.created(personal(VERA)).await;
        (app, dashboard, made)
    }

    /// Applies changes to the directory.
    pub async fn change(&self, changes: impl IntoIterator<Item = Change>) -> u64 {
        self.pusher()
            .await
            .apply(batch(changes))
            .await
            .expect("the changes are good")
            .revision
    }
}

pub fn actor(user: &str) -> Option<pb::Actor> {
    let user_id = user.to_owned();
    Some(pb::Actor {
        user_id,
        ip_address: "203.0.113.7".to_owned(),
        user_agent: "test".to_owned(),
    })
}

pub fn of_user(id: &str) -> Option<pb::Owner> {
    Some(pb::Owner {
        owner: Some(owner::Owner::UserId(id.to_owned())),
    })
}

pub fn of_team(id: &str) -> Option<pb::Owner> {
    Some(pb::Owner {
        owner: Some(owner::Owner::TeamId(id.to_owned())),
    })
}

pub fn grant(site: &str, role: SiteRole) -> pb::SiteGrant {
    pb::SiteGrant {
        site_id: site.to_owned(),
        role: role.into(),
    }
}

/// A personal client of the actor's own, without grants.
pub fn personal(user: &str) -> pb::CreateApiClientRequest {
    client_of(user, of_user(user))
}

/// A client of the first team, without grants.
pub fn team_client(user: &str) -> pb::CreateApiClientRequest {
    client_of(user, of_team(TEAM))
}

fn client_of(user: &str, owner: Option<pb::Owner>) -> pb::CreateApiClientRequest {
    let name = "a client".to_owned();
    let api_client = Some(pb::ApiClient {
        owner,
        name,
        ..pb::ApiClient::default()
    });
    pb::CreateApiClientRequest {
        actor: actor(user),
        api_client,
        ..pb::CreateApiClientRequest::default()
    }
}

/// Adds to a creation.
pub trait Overrides {
    fn granted(self, site: &str, role: SiteRole) -> Self;
    fn with_role(self, role: InstanceRole) -> Self;
    fn named(self, name: &str) -> Self;
    fn expiring(self, time: prost_types::Timestamp) -> Self;
}

impl Overrides for pb::CreateApiClientRequest {
    fn granted(mut self, site: &str, role: SiteRole) -> Self {
        self.api_client
            .as_mut()
            .unwrap()
            .site_grants
            .push(grant(site, role));
        self
    }

    fn with_role(mut self, role: InstanceRole) -> Self {
        self.api_client.as_mut().unwrap().instance_role = Some(role.into());
        self
    }

    fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.api_client.as_mut().unwrap().name);
        self
    }

    fn expiring(mut self, time: prost_types::Timestamp) -> Self {
        self.api_client.as_mut().unwrap().expire_time = Some(time);
        self
    }
}

pub fn get(user: &str, id: &str) -> pb::GetApiClientRequest {
    pb::GetApiClientRequest {
        actor: actor(user),
        id: id.to_owned(),
    }
}

pub fn list(user: &str, owner: Option<pb::Owner>) -> pb::ListApiClientsRequest {
    pb::ListApiClientsRequest {
        actor: actor(user),
        owner,
        ..pb::ListApiClientsRequest::default()
    }
}

/// An update of the fields that the mask names, to those of `client`.
pub fn update(user: &str, client: pb::ApiClient, mask: &[&str]) -> pb::UpdateApiClientRequest {
    let paths = mask.iter().map(|path| (*path).to_owned()).collect();
    pb::UpdateApiClientRequest {
        actor: actor(user),
        api_client: Some(client),
        update_mask: Some(prost_types::FieldMask { paths }),
    }
}

pub fn rotate(user: &str, id: &str) -> pb::RotateApiClientRequest {
    pb::RotateApiClientRequest {
        actor: actor(user),
        id: id.to_owned(),
        ..pb::RotateApiClientRequest::default()
    }
}

pub fn rotate_with_overlap(user: &str, id: &str, seconds: i64) -> pb::RotateApiClientRequest {
    let overlap = Some(prost_types::Duration { seconds, nanos: 0 });
    pb::RotateApiClientRequest {
        overlap,
        ..rotate(user, id)
    }
}

pub fn revoke(user: &str, id: &str) -> pb::RevokeApiClientRequest {
    pb::RevokeApiClientRequest {
        actor: actor(user),
        id: id.to_owned(),
    }
}

pub fn reactivate(user: &str, id: &str) -> pb::ReactivateApiClientRequest {
    pb::ReactivateApiClientRequest {
        actor: actor(user),
        id: id.to_owned(),
    }
}

pub fn delete(user: &str, id: &str) -> pb::DeleteApiClientRequest {
    pb::DeleteApiClientRequest {
        actor: actor(user),
        id: id.to_owned(),
    }
}

pub fn usage(user: &str, id: &str) -> pb::GetApiClientUsageRequest {
    pb::GetApiClientUsageRequest {
        actor: actor(user),
        id: id.to_owned(),
        ..pb::GetApiClientUsageRequest::default()
    }
}

pub fn introspect(token: &str) -> pb::IntrospectRequest {
    pb::IntrospectRequest {
        token: token.to_owned(),
        ..pb::IntrospectRequest::default()
    }
}

pub fn check(token: &str, site: &str, permission: &str) -> pb::IntrospectRequest {
    let (site_id, permission) = (site.to_owned(), permission.to_owned());
    pb::IntrospectRequest {
        check: Some(pb::PermissionCheck {
            site_id,
            permission,
        }),
        ..introspect(token)
    }
}

/// A legacy token that stands for another one: 64 digits that no other client has.
pub fn legacy_for(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

/// What makes the client of a token have a legacy one instead, as if it had come from an
/// import. Nothing else of the token's row changes.
pub fn becoming_legacy(token: &str) -> String {
    let token_hash = Token::parse(token).expect("a token").hash();
    let hex: String = { token_hash.0 }.map(|byte| format!("{byte:02x}")).concat();
    let legacy = legacy_for(token);
    format!(
        "UPDATE api_client_tokens SET scheme = 'hitkeep_sha256', hash = sha256('{legacy}'), \
             hint = 'sha256_' || left(encode(sha256('{legacy}'), 'hex'), 6) \
         WHERE hash = '\\x{hex}'"
    )
}

impl TestApp {
    /// Makes the client of a token have a legacy one instead, and gives that.
    pub async fn legacy(&self, token: &str) -> String {
        self.psql(&becoming_legacy(token)).await;
        self.settle().await;
        legacy_for(token)
    }
}

/// That many seconds after the clock's time.
pub fn in_seconds(app: &TestApp, seconds: i64) -> prost_types::Timestamp {
    use hitkeep_auth::domain::clock::Clock;

    let time = app.clock.now() + chrono::TimeDelta::seconds(seconds);
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: 0,
    }
}

/// A created client: itself, its id and its token.
pub struct Created {
    pub client: pb::ApiClient,
    pub id: String,
    pub token: String,
    pub revision: u64,
}

impl Created {
    pub fn of(made: pb::CreateApiClientResponse) -> Self {
        let client = made.api_client.expect("the client is shown");
        Self {
            id: client.id.clone(),
            client,
            token: made.token,
            revision: made.revision,
        }
    }
}

impl Caller {
    /// Creates a client that can be created.
    pub async fn created(&self, request: pb::CreateApiClientRequest) -> Created {
        let made = self.create(request).await;
        Created::of(made.expect("the client can be created"))
    }

    /// Why a token does not work; `None` where it does.
    pub async fn inactive_reason(&self, token: &str) -> Option<pb::InactiveReason> {
        let answer = self
            .introspect(introspect(token))
            .await
            .expect("introspection answers");
        assert_eq!(
            answer.active,
            answer.inactive_reason() == pb::InactiveReason::Unspecified
        );
        (!answer.active).then(|| answer.inactive_reason())
    }
}
