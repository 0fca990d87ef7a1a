//! From the wire's types to the domain's, and back. Everything that is wrong
//! with a request is found here, and all of it is reported at once.

use std::{collections::HashSet, fmt::Display, net::IpAddr, str::FromStr};

use chrono::{DateTime, TimeDelta};

use super::{
    error::{ApiError, Violation},
    page,
};
use crate::{
    domain::{
        Revision, Timestamp,
        access::{Decision, Delegated, MAX_GRANTS, Owner, PermissionCheck, SiteGrants},
        audit::{self, Action, MAX_USER_AGENT, RecordedEvent},
        client::{
            ApiClient, ClientState, Description, Draft, Expiry, Name, Overlap, Update, check_text,
        },
        directory::{
            Directory, DirectoryChange, MAX_CHANGES, Site, SiteMember, Team, TeamMember, User,
        },
        id::{ClientId, EventId, MalformedId, SiteId, UserId},
        introspection::InactiveReason,
        role::{InstancePermission, InstanceRole, SitePermission, SiteRole, TeamRole},
    },
    pb,
    store::{audit as store_audit, clients},
};

/// A page's size where none is asked for.
const DEFAULT_PAGE_SIZE: u16 = 50;
/// The largest page.
const MAX_PAGE_SIZE: u16 = 500;
/// The paths that an update mask can name.
const UPDATE_PATHS: [&str; 5] = [
    "name",
    "description",
    "instance_role",
    "site_grants",
    "expire_time",
];
/// An update mask's path for all of them.
const ALL_PATHS: &str = "*";
/// The entries that one replacement of the directory can have.
const MAX_DIRECTORY_ENTRIES: usize = 2_000_000;
/// Violations that are reported at most: a response has to fit into a header.
const MAX_VIOLATIONS: usize = 50;

/// Collects what is wrong with a request. A reader that finds something wrong
/// gives `None` and leaves the violation here.
#[derive(Debug, Default)]
pub(super) struct Reader {
    violations: Vec<Violation>,
}

impl Reader {
    fn wrong(&mut self, field: &str, description: impl Display) {
        if self.violations.len() < MAX_VIOLATIONS {
            let description = description.to_string();
            self.violations.push(Violation {
                field: field.to_owned(),
                description,
            });
        }
    }

    /// The request, if nothing was wrong with it.
    fn finish<T>(self, read: Option<T>) -> Result<T, ApiError> {
        match read {
            Some(read) if self.violations.is_empty() => Ok(read),
            // Nothing is ever missing without a violation that says so.
            _ => Err(ApiError::InvalidFields(self.violations)),
        }
    }

    fn required<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.wrong(field, "is required");
        }
        value
    }

    fn id<T: FromStr<Err = MalformedId>>(&mut self, field: &str, text: &str) -> Option<T> {
        if text.is_empty() {
            self.wrong(field, "is required");
            return None;
        }
        self.parsed(field, text.parse())
    }

    fn optional_id<T: FromStr<Err = MalformedId>>(
        &mut self,
        field: &str,
        text: &str,
    ) -> Option<Option<T>> {
        if text.is_empty() {
            Some(None)
        } else {
            self.id(field, text).map(Some)
        }
    }

    fn parsed<T>(&mut self, field: &str, parsed: Result<T, impl Display>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(field, error);
                None
            }
        }
    }

    fn actor(&mut self, actor: Option<pb::Actor>) -> Option<audit::Actor> {
        let actor = self.required("actor", actor)?;
        let user = self.id("actor.user_id", &actor.user_id);
        let ip_address = if actor.ip_address.is_empty() {
            Some(None)
        } else {
            let parsed = actor.ip_address.parse::<IpAddr>();
            let parsed = parsed.or(Err("must be an IPv4 or IPv6 address"));
            self.parsed("actor.ip_address", parsed).map(Some)
        };
        let user_agent = check_text(&actor.user_agent, MAX_USER_AGENT, |_| false);
        self.parsed("actor.user_agent", user_agent)?;
        Some(audit::Actor {
            user: user?,
            ip_address: ip_address?,
            user_agent: actor.user_agent,
        })
    }

    fn owner(&mut self, field: &str, owner: Option<pb::Owner>) -> Option<Owner> {
        match owner.and_then(|owner| owner.owner) {
            None => {
                self.wrong(field, "is required: a user_id or a team_id");
                None
            }
            Some(pb::owner::Owner::UserId(id)) => {
                self.id(&format!("{field}.user_id"), &id).map(Owner::User)
            }
            Some(pb::owner::Owner::TeamId(id)) => {
                self.id(&format!("{field}.team_id"), &id).map(Owner::Team)
            }
        }
    }

    /// Reads an enum's value; unspecified and unknown ones are refused.
    fn word<W: TryFrom<i32>, D>(
        &mut self,
        field: &str,
        value: i32,
        domain: fn(W) -> Option<D>,
    ) -> Option<D> {
        let read = W::try_from(value).ok().and_then(domain);
        if read.is_none() {
            let problem = if value == 0 {
                "must be specified"
            } else {
                "is no known value"
            };
            self.wrong(field, problem);
        }
        read
    }

    fn instance_role(&mut self, field: &str, value: i32) -> Option<InstanceRole> {
        self.word(field, value, |role| match role {
            pb::InstanceRole::Unspecified => None,
            pb::InstanceRole::User => Some(InstanceRole::User),
            pb::InstanceRole::Admin => Some(InstanceRole::Admin),
            pb::InstanceRole::Owner => Some(InstanceRole::Owner),
        })
    }

    fn site_role(&mut self, field: &str, value: i32) -> Option<SiteRole> {
        self.word(field, value, |role| match role {
            pb::SiteRole::Unspecified => None,
            pb::SiteRole::Viewer => Some(SiteRole::Viewer),
            pb::SiteRole::Editor => Some(SiteRole::Editor),
            pb::SiteRole::Admin => Some(SiteRole::Admin),
            pb::SiteRole::Owner => Some(SiteRole::Owner),
        })
    }

    fn team_role(&mut self, field: &str, value: i32) -> Option<TeamRole> {
        self.word(field, value, |role| match role {
            pb::TeamRole::Unspecified => None,
            pb::TeamRole::Member => Some(TeamRole::Member),
            pb::TeamRole::Admin => Some(TeamRole::Admin),
            pb::TeamRole::Owner => Some(TeamRole::Owner),
        })
    }

    fn site_grants(&mut self, field: &str, grants: &[pb::SiteGrant]) -> Option<SiteGrants> {
        if grants.len() > MAX_GRANTS {
            self.wrong(field, format_args!("must have at most {MAX_GRANTS} grants"));
            return None;
        }
        let mut read = SiteGrants::new();
        let mut sound = true;
        for (index, grant) in grants.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let site = self.id::<SiteId>(&format!("{field}.site_id"), &grant.site_id);
            let role = self.site_role(&format!("{field}.role"), grant.role);
            let (Some(site), Some(role)) = (site, role) else {
                sound = false;
                continue;
            };
            if read.insert(site, role).is_some() {
                self.wrong(&format!("{field}.site_id"), "is granted twice");
                sound = false;
            }
        }
        sound.then_some(read)
    }

    fn timestamp(&mut self, field: &str, time: prost_types::Timestamp) -> Option<Timestamp> {
        /// 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z, as google.protobuf.Timestamp says.
        const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
        let nanos = u32::try_from(time.nanos)
            .ok()
            .filter(|nanos| *nanos < 1_000_000_000);
        let read = nanos
            .filter(|_| SECONDS.contains(&time.seconds))
            .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
            // To the microsecond, which is what Postgres keeps.
            .and_then(|time| DateTime::from_timestamp_micros(time.timestamp_micros()));
        let problem = "must be a time from the year 1 to 9999, with 0 to 999,999,999 nanos";
        self.parsed(field, read.ok_or(problem))
    }

    fn optional_timestamp(
        &mut self,
        field: &str,
        time: Option<prost_types::Timestamp>,
    ) -> Option<Option<Timestamp>> {
        match time {
            None => Some(None),
            Some(time) => self.timestamp(field, time).map(Some),
        }
    }

    fn expiry(&mut self, time: Option<prost_types::Timestamp>, now: Timestamp) -> Option<Expiry> {
        let field = "api_client.expire_time";
        let expiry = Expiry::from(self.optional_timestamp(field, time)?);
        if expiry.has_come(now) {
            self.wrong(field, "must be in the future");
            return None;
        }
        Some(expiry)
    }

    fn overlap(&mut self, length: Option<prost_types::Duration>) -> Option<Overlap> {
        let Some(length) = length else {
            return Some(Overlap::default());
        };
        let same_sign = length.seconds.signum() * i64::from(length.nanos.signum()) >= 0;
        let overlap = (same_sign && length.nanos.abs() < 1_000_000_000)
            .then(|| TimeDelta::new(length.seconds, u32::try_from(length.nanos).ok()?))
            .flatten()
            .and_then(|length| Overlap::new(TimeDelta::microseconds(length.num_microseconds()?)));
        self.parsed("overlap", overlap.ok_or("must be from 0 to 7 days"))
    }

    fn page_size(&mut self, size: i32) -> Option<u16> {
        let size = u32::try_from(size).or(Err("must not be negative"));
        let size = self.parsed("page_size", size)?;
        Some(match u16::try_from(size) {
            Ok(0) => DEFAULT_PAGE_SIZE,
            Ok(size) => size.min(MAX_PAGE_SIZE),
            Err(_) => MAX_PAGE_SIZE,
        })
    }

    fn page_token(&mut self, list: &str, token: &str) -> Option<Option<(Timestamp, uuid::Uuid)>> {
        if token.is_empty() {
            return Some(None);
        }
        let problem = "is not the next_page_token of a page of the same list";
        self.parsed("page_token", page::read(list, token).ok_or(problem))
            .map(Some)
    }

    fn sequence(&mut self, sequence: Option<u64>) -> Option<Option<u64>> {
        let limit = i64::MAX.unsigned_abs();
        if sequence.is_some_and(|sequence| sequence > limit) {
            self.wrong("sequence", format_args!("must be at most {limit}"));
            return None;
        }
        Some(sequence)
    }

    fn user(&mut self, field: &str, user: &pb::User) -> Option<User> {
        let id = self.id(&format!("{field}.id"), &user.id);
        let role = self.instance_role(&format!("{field}.instance_role"), user.instance_role);
        Some(User {
            id: id?,
            instance_role: role?,
            disabled: user.disabled,
        })
    }

    fn team(&mut self, field: &str, team: &pb::Team) -> Option<Team> {
        let id = self.id(&format!("{field}.id"), &team.id);
        Some(Team {
            id: id?,
            archived: team.archived,
        })
    }

    fn team_member(&mut self, field: &str, member: &pb::TeamMember) -> Option<TeamMember> {
        let team = self.id(&format!("{field}.team_id"), &member.team_id);
        let user = self.id(&format!("{field}.user_id"), &member.user_id);
        let role = self.team_role(&format!("{field}.role"), member.role);
        Some(TeamMember {
            team: team?,
            user: user?,
            role: role?,
        })
    }

    fn site(&mut self, field: &str, site: &pb::Site) -> Option<Site> {
        let id = self.id(&format!("{field}.id"), &site.id);
        let team = self.id(&format!("{field}.team_id"), &site.team_id);
        Some(Site {
            id: id?,
            team: team?,
        })
    }

    fn site_member(&mut self, field: &str, member: &pb::SiteMember) -> Option<SiteMember> {
        let site = self.id(&format!("{field}.site_id"), &member.site_id);
        let user = self.id(&format!("{field}.user_id"), &member.user_id);
        let role = self.site_role(&format!("{field}.role"), member.role);
        Some(SiteMember {
            site: site?,
            user: user?,
            role: role?,
        })
    }

    fn change(&mut self, index: usize, change: &pb::DirectoryChange) -> Option<DirectoryChange> {
        use pb::directory_change::Change;

        let field = |name: &str| format!("changes[{index}].{name}");
        match self.required(&format!("changes[{index}]"), change.change.as_ref())? {
            Change::PutUser(user) => self
                .user(&field("put_user"), user)
                .map(DirectoryChange::PutUser),
            Change::DeleteUser(user) => self
                .id(&field("delete_user.id"), &user.id)
                .map(DirectoryChange::DeleteUser),
            Change::PutTeam(team) => self
                .team(&field("put_team"), team)
                .map(DirectoryChange::PutTeam),
            Change::DeleteTeam(team) => self
                .id(&field("delete_team.id"), &team.id)
                .map(DirectoryChange::DeleteTeam),
            Change::PutTeamMember(member) => self
                .team_member(&field("put_team_member"), member)
                .map(DirectoryChange::PutTeamMember),
            Change::DeleteTeamMember(member) => {
                let team = self.id(&field("delete_team_member.team_id"), &member.team_id);
                let user = self.id(&field("delete_team_member.user_id"), &member.user_id);
                Some(DirectoryChange::DeleteTeamMember(team?, user?))
            }
            Change::PutSite(site) => self
                .site(&field("put_site"), site)
                .map(DirectoryChange::PutSite),
            Change::DeleteSite(site) => self
                .id(&field("delete_site.id"), &site.id)
                .map(DirectoryChange::DeleteSite),
            Change::PutSiteMember(member) => self
                .site_member(&field("put_site_member"), member)
                .map(DirectoryChange::PutSiteMember),
            Change::DeleteSiteMember(member) => {
                let site = self.id(&field("delete_site_member.site_id"), &member.site_id);
                let user = self.id(&field("delete_site_member.user_id"), &member.user_id);
                Some(DirectoryChange::DeleteSiteMember(site?, user?))
            }
        }
    }
}

/// A creation, read.
#[derive(Debug)]
pub(super) struct Create {
    pub actor: audit::Actor,
    pub draft: Draft,
}

pub(super) fn create(
    request: pb::CreateApiClientRequest,
    now: Timestamp,
) -> Result<Create, ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let draft = draft(&mut reader, request.api_client, now);
    reader.finish(
        actor
            .zip(draft)
            .map(|(actor, draft)| Create { actor, draft }),
    )
}

fn draft(reader: &mut Reader, client: Option<pb::ApiClient>, now: Timestamp) -> Option<Draft> {
    let client = reader.required("api_client", client)?;
    let owner = reader.owner("api_client.owner", client.owner);
    let name = reader.parsed("api_client.name", Name::parse(&client.name));
    let description = Description::parse(&client.description);
    let description = reader.parsed("api_client.description", description);
    let role_field = "api_client.instance_role";
    let instance_role = match client.instance_role {
        None => Some(InstanceRole::User),
        Some(role) => reader.instance_role(role_field, role),
    };
    let grants = reader.site_grants("api_client.site_grants", &client.site_grants);
    let expiry = reader.expiry(client.expire_time, now);
    if let (Some(Owner::Team(_)), Some(InstanceRole::Admin | InstanceRole::Owner)) =
        (owner, instance_role)
    {
        reader.wrong(
            role_field,
            "must be INSTANCE_ROLE_USER for a team's API client",
        );
    }
    let delegated = match owner? {
        Owner::User(user) => Delegated::Personal {
            user,
            instance_role: instance_role?,
            grants: grants?,
        },
        Owner::Team(team) => Delegated::Team {
            team,
            grants: grants?,
        },
    };
    Some(Draft {
        delegated,
        name: name?,
        description: description?,
        expiry: expiry?,
    })
}

/// A call about one client, read.
#[derive(Debug)]
pub(super) struct OnClient {
    pub actor: audit::Actor,
    pub id: ClientId,
}

pub(super) fn on_client(actor: Option<pb::Actor>, id: &str) -> Result<OnClient, ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(actor);
    let id = reader.id("id", id);
    reader.finish(actor.zip(id).map(|(actor, id)| OnClient { actor, id }))
}

pub(super) fn rotate(request: pb::RotateApiClientRequest) -> Result<(OnClient, Overlap), ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let id = reader.id("id", &request.id);
    let overlap = reader.overlap(request.overlap);
    let on_client = actor.zip(id).map(|(actor, id)| OnClient { actor, id });
    reader.finish(on_client.zip(overlap))
}

pub(super) fn update(
    request: pb::UpdateApiClientRequest,
    now: Timestamp,
) -> Result<(OnClient, Update), ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let client = reader.required("api_client", request.api_client);
    let mask = update_mask(&mut reader, request.update_mask);
    let Some(client) = client else {
        return reader.finish(None);
    };
    let id = reader.id("api_client.id", &client.id);
    let Some(mask) = mask else {
        return reader.finish(None);
    };
    let changes = changes(&mut reader, client, &mask, now);
    let on_client = actor.zip(id).map(|(actor, id)| OnClient { actor, id });
    reader.finish(on_client.zip(changes))
}

fn update_mask(
    reader: &mut Reader,
    mask: Option<prost_types::FieldMask>,
) -> Option<Vec<&'static str>> {
    let paths = mask
        .map(|mask| mask.paths)
        .filter(|paths| !paths.is_empty());
    let paths = reader.required("update_mask", paths)?;
    if paths == [ALL_PATHS] {
        return Some(UPDATE_PATHS.to_vec());
    }
    let mut read = Vec::new();
    let mut sound = true;
    for (index, path) in paths.iter().enumerate() {
        let field = format!("update_mask.paths[{index}]");
        let known = UPDATE_PATHS.into_iter().find(|known| known == path);
        match known {
            Some(path) if !read.contains(&path) => read.push(path),
            Some(_) => {
                reader.wrong(&field, "is named twice");
                sound = false;
            }
            None => {
                let known = UPDATE_PATHS.join(", ");
                reader.wrong(&field, format_args!("must be one of {known}, or * alone"));
                sound = false;
            }
        }
    }
    sound.then_some(read)
}

fn changes(
    reader: &mut Reader,
    client: pb::ApiClient,
    mask: &[&'static str],
    now: Timestamp,
) -> Option<Update> {
    let mut update = Update {
        etag: Some(client.etag).filter(|etag| !etag.is_empty()),
        ..Update::default()
    };
    let mut sound = true;
    for path in mask {
        let read = match *path {
            "name" => {
                update.name = reader.parsed("api_client.name", Name::parse(&client.name));
                update.name.is_some()
            }
            "description" => {
                let description = Description::parse(&client.description);
                update.description = reader.parsed("api_client.description", description);
                update.description.is_some()
            }
            "instance_role" => {
                update.instance_role = match client.instance_role {
                    // Cleared: what a client has that was given none.
                    None => Some(InstanceRole::User),
                    Some(role) => reader.instance_role("api_client.instance_role", role),
                };
                update.instance_role.is_some()
            }
            "site_grants" => {
                let grants = reader.site_grants("api_client.site_grants", &client.site_grants);
                update.grants = grants;
                update.grants.is_some()
            }
            "expire_time" => {
                update.expiry = reader.expiry(client.expire_time, now);
                update.expiry.is_some()
            }
            other => unreachable!("{other} is none of UPDATE_PATHS"),
        };
        sound &= read;
    }
    sound.then_some(update)
}

/// A listing of clients, read.
#[derive(Debug)]
pub(super) struct ListClients {
    pub actor: audit::Actor,
    pub listing: clients::Listing,
    /// Which list it is, for its page tokens.
    pub list: String,
}

pub(super) fn list_clients(request: pb::ListApiClientsRequest) -> Result<ListClients, ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let owner = reader.owner("owner", request.owner);
    let limit = reader.page_size(request.page_size);
    let include_inactive = request.include_inactive;
    let read = owner.and_then(|owner| {
        let list = format!("clients {owner} {include_inactive}");
        let after = reader.page_token(&list, &request.page_token)?;
        let after = after.map(|(create_time, id)| clients::Cursor {
            create_time,
            id: ClientId::from_uuid(id),
        });
        let listing = clients::Listing {
            owner,
            include_inactive,
            after,
            limit: limit?,
        };
        Some(ListClients {
            actor: actor?,
            listing,
            list,
        })
    });
    reader.finish(read)
}

/// The token that leads to the page after that client.
pub(super) fn clients_page_token(list: &str, last: &ApiClient) -> String {
    page::write(list, last.create_time, last.id.uuid())
}

/// An introspection, read; the token is not, since any text is one.
#[derive(Debug)]
pub(super) struct Introspect {
    pub check: Option<PermissionCheck>,
    pub at_least: Option<Revision>,
}

pub(super) fn introspect(request: &pb::IntrospectRequest) -> Result<Introspect, ApiError> {
    let mut reader = Reader::default();
    let check = match &request.check {
        None => Some(None),
        Some(check) => permission_check(&mut reader, check).map(Some),
    };
    let at_least = request.at_least_revision.map(Revision);
    reader.finish(check.map(|check| Introspect { check, at_least }))
}

fn permission_check(reader: &mut Reader, check: &pb::PermissionCheck) -> Option<PermissionCheck> {
    let permission = check.permission.as_str();
    if permission.is_empty() {
        reader.wrong("check.permission", "is required");
    }
    if let Ok(permission) = permission.parse::<InstancePermission>() {
        if !check.site_id.is_empty() {
            reader.wrong(
                "check.site_id",
                "must be left out for an instance permission",
            );
            return None;
        }
        return Some(PermissionCheck::Instance(permission));
    }
    let permission = match permission.parse::<SitePermission>() {
        Ok(permission) => Some(permission),
        Err(_) => {
            if !check.permission.is_empty() {
                reader.wrong("check.permission", "is no known permission");
            }
            None
        }
    };
    // Without a known permission it is open whether there must be a site.
    if permission.is_none() && check.site_id.is_empty() {
        return None;
    }
    let site = reader.id("check.site_id", &check.site_id);
    Some(PermissionCheck::Site {
        site: site?,
        permission: permission?,
    })
}

/// A batch of directory changes, read.
#[derive(Debug)]
pub(super) struct Batch {
    pub changes: Vec<DirectoryChange>,
    pub sequence: Option<u64>,
}

pub(super) fn directory_changes(
    request: &pb::ApplyDirectoryChangesRequest,
) -> Result<Batch, ApiError> {
    let mut reader = Reader::default();
    let sequence = reader.sequence(request.sequence);
    if request.changes.is_empty() && request.sequence.is_none() {
        reader.wrong("changes", "is required");
    }
    if request.changes.len() > MAX_CHANGES {
        reader.wrong(
            "changes",
            format_args!("must have at most {MAX_CHANGES} changes"),
        );
        return reader.finish(None);
    }
    let each = request.changes.iter().enumerate();
    let changes: Vec<_> = each
        .map(|(index, change)| reader.change(index, change))
        .collect();
    let changes: Option<Vec<_>> = changes.into_iter().collect();
    reader.finish(
        changes
            .zip(sequence)
            .map(|(changes, sequence)| Batch { changes, sequence }),
    )
}

/// A replacement of the directory, read chunk by chunk.
#[derive(Debug, Default)]
pub(super) struct Replacement {
    reader: Reader,
    pub directory: Directory,
    pub allow_mass_removal: bool,
    pub sequence: Option<u64>,
    chunks: usize,
}

impl Replacement {
    /// Takes in a chunk.
    ///
    /// # Errors
    /// Where there is too much to go on.
    pub(super) fn add(&mut self, chunk: &pb::ReplaceDirectoryRequest) -> Result<(), ApiError> {
        if self.chunks == 0 {
            self.allow_mass_removal = chunk.allow_mass_removal;
            self.sequence = self.reader.sequence(chunk.sequence).flatten();
        }
        self.chunks += 1;
        let Self {
            reader, directory, ..
        } = self;
        let entries = directory.users.len()
            + directory.teams.len()
            + directory.team_members.len()
            + directory.sites.len()
            + directory.site_members.len();
        if entries > MAX_DIRECTORY_ENTRIES {
            let problem = format_args!("must have at most {MAX_DIRECTORY_ENTRIES} entries");
            reader.wrong("the directory", problem);
        }
        for (index, user) in (directory.users.len()..).zip(&chunk.users) {
            directory
                .users
                .extend(reader.user(&format!("users[{index}]"), user));
        }
        for (index, team) in (directory.teams.len()..).zip(&chunk.teams) {
            directory
                .teams
                .extend(reader.team(&format!("teams[{index}]"), team));
        }
        for (index, member) in (directory.team_members.len()..).zip(&chunk.team_members) {
            directory
                .team_members
                .extend(reader.team_member(&format!("team_members[{index}]"), member));
        }
        for (index, site) in (directory.sites.len()..).zip(&chunk.sites) {
            directory
                .sites
                .extend(reader.site(&format!("sites[{index}]"), site));
        }
        for (index, member) in (directory.site_members.len()..).zip(&chunk.site_members) {
            directory
                .site_members
                .extend(reader.site_member(&format!("site_members[{index}]"), member));
        }
        // What is wrong already need not be sent to its end.
        if reader.violations.is_empty() {
            Ok(())
        } else {
            std::mem::take(reader).finish(None)
        }
    }

    /// Checks the whole: nothing twice, and nothing that refers to what is not
    /// in it.
    pub(super) fn finish(mut self) -> Result<Self, ApiError> {
        if self.chunks == 0 {
            self.reader
                .wrong("the stream", "must have at least one chunk");
        }
        let Self {
            reader, directory, ..
        } = &mut self;
        let users = distinct(reader, "users", ".id", directory.users.iter().map(|u| u.id));
        let teams = distinct(reader, "teams", ".id", directory.teams.iter().map(|t| t.id));
        let sites = distinct(reader, "sites", ".id", directory.sites.iter().map(|s| s.id));
        let members = directory.team_members.iter().map(|m| (m.team, m.user));
        distinct(reader, "team_members", "", members);
        let members = directory.site_members.iter().map(|m| (m.site, m.user));
        distinct(reader, "site_members", "", members);

        let mut known = |field: String, id: &dyn Display, known: bool| {
            if !known {
                reader.wrong(&field, format_args!("names {id}, which is unknown"));
            }
        };
        for (index, member) in directory.team_members.iter().enumerate() {
            let (team, user) = (&member.team, &member.user);
            known(
                format!("team_members[{index}].team_id"),
                team,
                teams.contains(team),
            );
            known(
                format!("team_members[{index}].user_id"),
                user,
                users.contains(user),
            );
        }
        for (index, site) in directory.sites.iter().enumerate() {
            known(
                format!("sites[{index}].team_id"),
                &site.team,
                teams.contains(&site.team),
            );
        }
        for (index, member) in directory.site_members.iter().enumerate() {
            let (site, user) = (&member.site, &member.user);
            known(
                format!("site_members[{index}].site_id"),
                site,
                sites.contains(site),
            );
            known(
                format!("site_members[{index}].user_id"),
                user,
                users.contains(user),
            );
        }
        std::mem::take(reader).finish(Some(self))
    }
}

fn distinct<T: Copy + Eq + std::hash::Hash>(
    reader: &mut Reader,
    list: &str,
    field: &str,
    keys: impl Iterator<Item = T>,
) -> HashSet<T> {
    let mut seen = HashSet::new();
    for (index, key) in keys.enumerate() {
        if !seen.insert(key) {
            reader.wrong(&format!("{list}[{index}]{field}"), "is there twice");
        }
    }
    seen
}

/// A listing of audit events, read.
#[derive(Debug)]
pub(super) struct ListEvents {
    pub filter: audit::Filter,
    pub after: Option<store_audit::Cursor>,
    pub limit: u16,
    /// Which list it is, for its page tokens.
    pub list: String,
}

pub(super) fn list_events(request: pb::ListAuditEventsRequest) -> Result<ListEvents, ApiError> {
    let mut reader = Reader::default();
    let subject = reader.optional_id::<ClientId>("client_id", &request.client_id);
    let owner = match request.owner {
        None => Some(None),
        owner => reader.owner("owner", owner).map(Some),
    };
    let actor = reader.optional_id::<UserId>("actor_user_id", &request.actor_user_id);
    let action = if request.action.is_empty() {
        Some(None)
    } else {
        let known = Action::ALL
            .iter()
            .map(|action| action.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        let action = request.action.parse::<Action>();
        let action = action.or_else(|_| Err(format!("must be one of {known}")));
        reader.parsed("action", action).map(Some)
    };
    let start = reader.optional_timestamp("start_time", request.start_time);
    let end = reader.optional_timestamp("end_time", request.end_time);
    if let (Some(Some(start)), Some(Some(end))) = (start, end)
        && end <= start
    {
        reader.wrong("end_time", "must be after start_time");
    }
    let limit = reader.page_size(request.page_size);
    let filter = (|| {
        Some(audit::Filter {
            subject: subject?.map(ClientId::uuid),
            owner: owner?,
            actor: actor?,
            action: action?,
            start: start?,
            end: end?,
        })
    })();
    let read = filter.and_then(|filter| {
        let list = format!("events {filter:?}");
        let after = reader.page_token(&list, &request.page_token)?;
        let after = after.map(|(time, id)| store_audit::Cursor {
            time,
            id: EventId::from_uuid(id),
        });
        Some(ListEvents {
            filter,
            after,
            limit: limit?,
            list,
        })
    });
    reader.finish(read)
}

/// The token that leads to the page after that event.
pub(super) fn events_page_token(list: &str, last: &RecordedEvent) -> String {
    page::write(list, last.time, last.id.uuid())
}

pub(super) fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn to_duration(length: TimeDelta) -> prost_types::Duration {
    prost_types::Duration {
        seconds: length.num_seconds(),
        nanos: length.subsec_nanos(),
    }
}

pub(super) fn to_owner(owner: Owner) -> pb::Owner {
    let owner = match owner {
        Owner::User(id) => pb::owner::Owner::UserId(id.to_string()),
        Owner::Team(id) => pb::owner::Owner::TeamId(id.to_string()),
    };
    pb::Owner { owner: Some(owner) }
}

pub(super) const fn to_instance_role(role: InstanceRole) -> pb::InstanceRole {
    match role {
        InstanceRole::User => pb::InstanceRole::User,
        InstanceRole::Admin => pb::InstanceRole::Admin,
        InstanceRole::Owner => pb::InstanceRole::Owner,
    }
}

const fn to_site_role(role: SiteRole) -> pb::SiteRole {
    match role {
        SiteRole::Viewer => pb::SiteRole::Viewer,
        SiteRole::Editor => pb::SiteRole::Editor,
        SiteRole::Admin => pb::SiteRole::Admin,
        SiteRole::Owner => pb::SiteRole::Owner,
    }
}

pub(super) fn to_site_grants(grants: &SiteGrants) -> Vec<pb::SiteGrant> {
    let grant = |(site, role): (&SiteId, &SiteRole)| pb::SiteGrant {
        site_id: site.to_string(),
        role: to_site_role(*role).into(),
    };
    grants.iter().map(grant).collect()
}

pub(super) fn to_api_client(
    client: &ApiClient,
    owner_can_act: bool,
    now: Timestamp,
) -> pb::ApiClient {
    let state = match client.state(owner_can_act, now) {
        ClientState::Active => pb::ApiClientState::Active,
        ClientState::Revoked => pb::ApiClientState::Revoked,
        ClientState::Expired => pb::ApiClientState::Expired,
        ClientState::OwnerInactive => pb::ApiClientState::OwnerInactive,
    };
    pb::ApiClient {
        id: client.id.to_string(),
        owner: Some(to_owner(client.delegated.owner())),
        name: client.name.as_str().to_owned(),
        description: client.description.as_str().to_owned(),
        instance_role: Some(to_instance_role(client.delegated.instance_role()).into()),
        site_grants: to_site_grants(client.delegated.grants()),
        state: state.into(),
        create_time: Some(to_timestamp(client.create_time)),
        update_time: Some(to_timestamp(client.update_time)),
        expire_time: client.expiry.time().map(to_timestamp),
        revoke_time: client.revoke_time.map(to_timestamp),
        last_used_time: None,
        created_by_user_id: client.created_by.to_string(),
        token_hint: client.token_hint.0.clone(),
        etag: client.etag(),
    }
}

pub(super) const fn to_inactive_reason(reason: InactiveReason) -> pb::InactiveReason {
    match reason {
        InactiveReason::UnknownToken => pb::InactiveReason::UnknownToken,
        InactiveReason::TokenRotated => pb::InactiveReason::TokenRotated,
        InactiveReason::Revoked => pb::InactiveReason::Revoked,
        InactiveReason::Expired => pb::InactiveReason::Expired,
        InactiveReason::OwnerInactive => pb::InactiveReason::OwnerInactive,
    }
}

pub(super) fn to_decision(decision: Decision) -> pb::Decision {
    let reason = match decision {
        Decision::Allowed => pb::DecisionReason::Allowed,
        Decision::Inactive => pb::DecisionReason::Inactive,
        Decision::NoSiteGrant => pb::DecisionReason::NoSiteGrant,
        Decision::RoleTooLow => pb::DecisionReason::RoleTooLow,
    };
    pb::Decision {
        allowed: decision == Decision::Allowed,
        reason: reason.into(),
    }
}

pub(super) fn to_audit_event(recorded: RecordedEvent) -> pb::AuditEvent {
    let RecordedEvent {
        id,
        time,
        event,
        provenance,
    } = recorded;
    let actor = |actor: audit::Actor| pb::Actor {
        user_id: actor.user.to_string(),
        ip_address: actor
            .ip_address
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
        user_agent: actor.user_agent,
    };
    let change = |change: audit::FieldChange| pb::AuditChange {
        field: change.field,
        before: change.before,
        after: change.after,
    };
    pb::AuditEvent {
        id: id.to_string(),
        event_time: Some(to_timestamp(time)),
        action: event.action.as_str().to_owned(),
        client_id: event.subject.to_string(),
        client_name: event.subject_name,
        owner: event.owner.map(to_owner),
        actor: provenance.actor.map(actor),
        caller: provenance.caller,
        request_id: provenance.request_id,
        changes: event.changes.into_iter().map(change).collect(),
    }
}
