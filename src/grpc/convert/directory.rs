//! Conversions of `DirectoryService`.

use std::{collections::HashSet, fmt::Display, hash::Hash};

use super::reader::{Invalid, Parsed, Reader};
use crate::{
    domain::directory::{
        Directory, DirectoryChange, MAX_CHANGES, Site, SiteMember, Team, TeamMember, User,
        order::ReplacementMode,
    },
    grpc::error::ApiError,
    pb,
};

/// The most entries of one replacement.
const MAX_ENTRIES: usize = 2_000_000;

/// A validated batch of changes.
#[derive(Debug)]
pub(in crate::grpc) struct Batch {
    pub(in crate::grpc) changes: Vec<DirectoryChange>,
    pub(in crate::grpc) sequence: Option<u64>,
}

pub(in crate::grpc) fn batch(
    request: &pb::ApplyDirectoryChangesRequest,
) -> Result<Batch, ApiError> {
    let mut reader = Reader::default();
    let sequence = reader.sequence(request.sequence);
    let changes = changes(&mut reader, &request.changes, request.sequence.is_some());
    reader.finish(|| {
        Ok(Batch {
            changes: changes?,
            sequence: sequence?,
        })
    })
}

fn changes(
    reader: &mut Reader,
    changes: &[pb::DirectoryChange],
    may_be_empty: bool,
) -> Parsed<Vec<DirectoryChange>> {
    if changes.is_empty() && !may_be_empty {
        return Err(reader.violation("changes", "is required"));
    }
    if changes.len() > MAX_CHANGES {
        let problem = format_args!("must have at most {MAX_CHANGES} changes");
        return Err(reader.violation("changes", problem));
    }
    let each = changes.iter().enumerate();
    // All changes are read, including those after an invalid one.
    let read: Vec<_> = each
        .map(|(index, change)| reader.change(index, change))
        .collect();
    read.into_iter().collect()
}

/// A replacement of the whole directory, read chunk by chunk.
#[derive(Debug, Default)]
pub(in crate::grpc) struct Replacement {
    reader: Reader,
    chunks: usize,
    pub(in crate::grpc) directory: Directory,
    pub(in crate::grpc) allow_mass_removal: bool,
    pub(in crate::grpc) sequence: Option<u64>,
    pub(in crate::grpc) mode: ReplacementMode,
}

impl Replacement {
    /// Adds a chunk.
    ///
    /// # Errors
    /// As soon as something is invalid, since the rest need not be sent.
    pub(in crate::grpc) fn add(
        &mut self,
        chunk: &pb::ReplaceDirectoryRequest,
    ) -> Result<(), ApiError> {
        let Self {
            reader, directory, ..
        } = self;
        if self.chunks == 0 {
            self.allow_mass_removal = chunk.allow_mass_removal;
            self.sequence = reader.sequence(chunk.sequence).unwrap_or_default();
            self.mode = if chunk.start_over {
                ReplacementMode::StartOver
            } else {
                ReplacementMode::Forward
            };
        }
        self.chunks += 1;
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
            let field = format!("team_members[{index}]");
            directory
                .team_members
                .extend(reader.team_member(&field, member));
        }
        for (index, site) in (directory.sites.len()..).zip(&chunk.sites) {
            directory
                .sites
                .extend(reader.site(&format!("sites[{index}]"), site));
        }
        for (index, member) in (directory.site_members.len()..).zip(&chunk.site_members) {
            let field = format!("site_members[{index}]");
            directory
                .site_members
                .extend(reader.site_member(&field, member));
        }
        let entries = directory.users.len()
            + directory.teams.len()
            + directory.team_members.len()
            + directory.sites.len()
            + directory.site_members.len();
        if entries > MAX_ENTRIES {
            let problem = format_args!("must have at most {MAX_ENTRIES} entries");
            reader.violation("the directory", problem);
        }
        if reader.has_no_violations() {
            Ok(())
        } else {
            std::mem::take(reader).finish(|| Err(Invalid))
        }
    }

    /// Checks the whole directory: no duplicates, and no dangling references.
    pub(in crate::grpc) fn finish(mut self) -> Result<Self, ApiError> {
        if self.chunks == 0 {
            self.reader
                .violation("the stream", "must have at least one chunk");
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
        for (index, member) in directory.team_members.iter().enumerate() {
            let field = |name| format!("team_members[{index}].{name}");
            known(reader, &teams, member.team, || field("team_id"));
            known(reader, &users, member.user, || field("user_id"));
        }
        for (index, site) in directory.sites.iter().enumerate() {
            known(reader, &teams, site.team, || {
                format!("sites[{index}].team_id")
            });
        }
        for (index, member) in directory.site_members.iter().enumerate() {
            let field = |name| format!("site_members[{index}].{name}");
            known(reader, &sites, member.site, || field("site_id"));
            known(reader, &users, member.user, || field("user_id"));
        }
        std::mem::take(reader).finish(|| Ok(self))
    }
}

/// The keys of a list, which must be unique.
fn distinct<T: Copy + Eq + Hash>(
    reader: &mut Reader,
    list: &str,
    field: &str,
    keys: impl Iterator<Item = T>,
) -> HashSet<T> {
    let mut seen = HashSet::new();
    for (index, key) in keys.enumerate() {
        if !seen.insert(key) {
            reader.violation(&format!("{list}[{index}]{field}"), "is there twice");
        }
    }
    seen
}

/// Refuses a dangling reference.
fn known<T: Copy + Eq + Hash + Display>(
    reader: &mut Reader,
    known: &HashSet<T>,
    named: T,
    field: impl FnOnce() -> String,
) {
    if !known.contains(&named) {
        reader.violation(&field(), format_args!("names {named}, which is unknown"));
    }
}

impl Reader {
    fn user(&mut self, field: &str, user: &pb::User) -> Parsed<User> {
        let id = self.id(&format!("{field}.id"), &user.id);
        let role = self.instance_role(&format!("{field}.instance_role"), user.instance_role);
        Ok(User {
            id: id?,
            instance_role: role?,
            disabled: user.disabled,
        })
    }

    fn team(&mut self, field: &str, team: &pb::Team) -> Parsed<Team> {
        let id = self.id(&format!("{field}.id"), &team.id);
        Ok(Team {
            id: id?,
            archived: team.archived,
        })
    }

    fn team_member(&mut self, field: &str, member: &pb::TeamMember) -> Parsed<TeamMember> {
        let team = self.id(&format!("{field}.team_id"), &member.team_id);
        let user = self.id(&format!("{field}.user_id"), &member.user_id);
        let role = self.team_role(&format!("{field}.role"), member.role);
        Ok(TeamMember {
            team: team?,
            user: user?,
            role: role?,
        })
    }

    fn site(&mut self, field: &str, site: &pb::Site) -> Parsed<Site> {
        let id = self.id(&format!("{field}.id"), &site.id);
        let team = self.id(&format!("{field}.team_id"), &site.team_id);
        Ok(Site {
            id: id?,
            team: team?,
        })
    }

    fn site_member(&mut self, field: &str, member: &pb::SiteMember) -> Parsed<SiteMember> {
        let site = self.id(&format!("{field}.site_id"), &member.site_id);
        let user = self.id(&format!("{field}.user_id"), &member.user_id);
        let role = self.site_role(&format!("{field}.role"), member.role);
        Ok(SiteMember {
            site: site?,
            user: user?,
            role: role?,
        })
    }

    fn change(&mut self, index: usize, change: &pb::DirectoryChange) -> Parsed<DirectoryChange> {
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
                Ok(DirectoryChange::DeleteTeamMember(team?, user?))
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
                Ok(DirectoryChange::DeleteSiteMember(site?, user?))
            }
        }
    }
}
