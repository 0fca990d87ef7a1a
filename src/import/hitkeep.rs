//! HitKeep's tables as the domain's types.
//!
//! Words that HitKeep itself does not know are read as it treats them: they give nothing. Rows
//! that refer to nothing are left out, and noted. Users, teams, sites and memberships become
//! the directory; API clients are checked one by one.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::tables::{Column, Kind, ReadError, Tables, Value};
use crate::domain::{
    Timestamp,
    directory::{Directory, Site, SiteMember, Team, TeamMember, User},
    id::{SiteId, TeamId, UserId},
    role::{InstanceRole, SiteRole, TeamRole},
};

mod clients;
mod refused;

pub use clients::{
    BackupClientRow, BackupGrantRow, ClientThere, Clients, DroppedGrant, WhyDropped,
};
pub use refused::{Reason, RefusedRow, shown};

/// The tables that an import needs.
pub const NEEDED: [&str; 10] = [
    "users",
    "instance_roles",
    "tenants",
    "tenant_archives",
    "tenant_members",
    "sites",
    "site_tenants",
    "site_members",
    "api_clients",
    "api_client_site_roles",
];
/// The tables that an import uses, and that may be missing.
pub const OPTIONAL: [&str; 2] = ["user_preferences", "instance_audit_log"];
/// The action of HitKeep's audit log that says who created a client.
const CREATED: &str = "api_client.created";
/// How HitKeep names the users that hold a person's rows while the person's e-mail address
/// changes. They are left behind if that breaks off.
const SHADOW: (&str, &str) = ("__shadow_", "@hitkeep.invalid");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    pub role: TeamRole,
    pub added: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteRow {
    /// The team it is in; the default team, if it is in none.
    pub team: TeamId,
    /// The user that HitKeep counts as an owner without a membership.
    pub owner: Option<UserId>,
}

/// Something in the tables that an import does not take over as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// A row without a readable key.
    UnreadableRow(&'static str),
    /// A row that refers to something that does not exist.
    Dangling(&'static str, String),
    /// A user that is left of a change of an e-mail address.
    ShadowUser(UserId),
    /// A role that HitKeep does not know, and so gives nothing.
    UnknownRole(&'static str, String),
    /// A site's owner without a membership on it, who gets one.
    LegacyOwner(SiteId, UserId),
    /// An optional table could not be read.
    LeftOut(&'static str, String),
}

/// HitKeep's tables.
#[derive(Clone, Debug, Default)]
pub struct HitKeep {
    /// Every user but shadow users.
    pub users: BTreeMap<UserId, InstanceRole>,
    /// The users that are left of a change of an e-mail address.
    pub shadows: BTreeSet<UserId>,
    /// Every team, and whether it is archived.
    pub teams: BTreeMap<TeamId, bool>,
    /// The team of sites without one.
    pub default_team: Option<TeamId>,
    pub team_members: BTreeMap<(TeamId, UserId), Membership>,
    pub sites: BTreeMap<SiteId, SiteRow>,
    /// Every explicit role on a site. `None` is a role that HitKeep does not know.
    pub site_members: BTreeMap<(SiteId, UserId), Option<SiteRole>>,
    /// The team that a user last chose.
    pub chosen: BTreeMap<UserId, TeamId>,
    pub creators: BTreeMap<Uuid, UserId>,
    /// The rows of API clients, unchecked.
    pub clients: Vec<BackupClientRow>,
    /// The rows of grants, unchecked.
    pub grants: Vec<BackupGrantRow>,
    /// What is not taken over as it is.
    pub notes: Vec<Note>,
}

/// The non-nil UUID of a value.
fn id(value: &Value) -> Option<Uuid> {
    value.id().filter(|id| !id.is_nil())
}

const fn column(name: &'static str) -> Column {
    Column::required(name, Kind::Id)
}

const fn word(name: &'static str) -> Column {
    Column::required(name, Kind::Text)
}

impl HitKeep {
    /// Reads the tables.
    ///
    /// # Errors
    /// If a needed table cannot be read.
    pub fn read(
        tables: &dyn Tables,
        step: &(dyn Fn(&'static str) + Sync),
    ) -> Result<Self, ReadError> {
        let mut all = Self::default();
        step("users");
        all.read_users(tables)?;
        step("teams");
        all.read_teams(tables)?;
        step("sites");
        all.read_sites(tables)?;
        step("API clients");
        all.clients = BackupClientRow::read(tables)?;
        all.grants = BackupGrantRow::read(tables)?;
        step("preferences and the audit log");
        all.read_preferences(tables);
        all.read_creators(tables);
        all.notes.sort_unstable();
        Ok(all)
    }

    fn read_users(&mut self, tables: &dyn Tables) -> Result<(), ReadError> {
        let email = Column::optional("email", Kind::Text);
        for row in tables.rows("users", &[column("id"), email])? {
            let Some(user) = id(&row[0]).map(UserId::from_uuid) else {
                self.notes.push(Note::UnreadableRow("users"));
                continue;
            };
            if row[1].text().is_some_and(is_shadow) {
                self.shadows.insert(user);
                self.notes.push(Note::ShadowUser(user));
            } else {
                self.users.insert(user, InstanceRole::User);
            }
        }
        for row in tables.rows("instance_roles", &[column("user_id"), word("role")])? {
            let Some(user) = id(&row[0]).map(UserId::from_uuid) else {
                self.notes.push(Note::UnreadableRow("instance_roles"));
                continue;
            };
            let Some(role) = self.users.get_mut(&user) else {
                if !self.shadows.contains(&user) {
                    let note = Note::Dangling("instance_roles", user.to_string());
                    self.notes.push(note);
                }
                continue;
            };
            if let Some(known) = row[1].text().and_then(|word| word.parse().ok()) {
                *role = known;
            } else {
                let note = Note::UnknownRole("instance_roles", user.to_string());
                self.notes.push(note);
            }
        }
        Ok(())
    }

    fn read_teams(&mut self, tables: &dyn Tables) -> Result<(), ReadError> {
        let default = Column::required("is_default", Kind::Flag);
        for row in tables.rows("tenants", &[column("id"), default])? {
            let Some(team) = id(&row[0]).map(TeamId::from_uuid) else {
                self.notes.push(Note::UnreadableRow("tenants"));
                continue;
            };
            self.teams.insert(team, false);
            if row[1] == Value::Flag(true) {
                self.default_team = self.default_team.or(Some(team));
            }
        }
        for row in tables.rows("tenant_archives", &[column("tenant_id")])? {
            let team = id(&row[0]).map(TeamId::from_uuid);
            match team.and_then(|team| self.teams.get_mut(&team)) {
                Some(archived) => *archived = true,
                None => self.notes.push(Note::UnreadableRow("tenant_archives")),
            }
        }
        let columns = [
            column("tenant_id"),
            column("user_id"),
            word("role"),
            Column::optional("added_at", Kind::Time),
        ];
        for row in tables.rows("tenant_members", &columns)? {
            let (Some(team), Some(user)) = (id(&row[0]), id(&row[1])) else {
                self.notes.push(Note::UnreadableRow("tenant_members"));
                continue;
            };
            let (team, user) = (TeamId::from_uuid(team), UserId::from_uuid(user));
            if !self.teams.contains_key(&team) || !self.users.contains_key(&user) {
                self.dangling("tenant_members", &[team.uuid(), user.uuid()], user);
                continue;
            }
            // Of all roles, HitKeep trims and lower-cases this one alone.
            let role = row[2].text().map(|word| word.trim().to_lowercase());
            let role = role.and_then(|word| word.parse().ok()).unwrap_or_else(|| {
                let note = Note::UnknownRole("tenant_members", format!("{team} {user}"));
                self.notes.push(note);
                TeamRole::Member
            });
            let added = match &row[3] {
                Value::Time(time) => Some(*time),
                _ => None,
            };
            let membership = Membership { role, added };
            self.team_members.insert((team, user), membership);
        }
        Ok(())
    }

    fn read_sites(&mut self, tables: &dyn Tables) -> Result<(), ReadError> {
        let columns = [column("site_id"), column("tenant_id")];
        let mut teams = BTreeMap::new();
        for row in tables.rows("site_tenants", &columns)? {
            match (id(&row[0]), id(&row[1])) {
                (Some(site), Some(team)) => {
                    teams.insert(SiteId::from_uuid(site), TeamId::from_uuid(team));
                }
                _ => self.notes.push(Note::UnreadableRow("site_tenants")),
            }
        }
        for row in tables.rows("sites", &[column("id"), column("user_id")])? {
            let Some(site) = id(&row[0]).map(SiteId::from_uuid) else {
                self.notes.push(Note::UnreadableRow("sites"));
                continue;
            };
            let team = teams.get(&site).copied().or(self.default_team);
            let Some(team) = team.filter(|team| self.teams.contains_key(team)) else {
                self.notes.push(Note::Dangling("sites", site.to_string()));
                continue;
            };
            let owner = id(&row[1]).map(UserId::from_uuid);
            let owner = owner.filter(|owner| self.users.contains_key(owner));
            self.sites.insert(site, SiteRow { team, owner });
        }
        let columns = [column("site_id"), column("user_id"), word("role")];
        for row in tables.rows("site_members", &columns)? {
            let (Some(site), Some(user)) = (id(&row[0]), id(&row[1])) else {
                self.notes.push(Note::UnreadableRow("site_members"));
                continue;
            };
            let (site, user) = (SiteId::from_uuid(site), UserId::from_uuid(user));
            if !self.sites.contains_key(&site) || !self.users.contains_key(&user) {
                self.dangling("site_members", &[site.uuid(), user.uuid()], user);
                continue;
            }
            let role: Option<SiteRole> = row[2].text().and_then(|word| word.parse().ok());
            if role.is_none() {
                let note = Note::UnknownRole("site_members", format!("{site} {user}"));
                self.notes.push(note);
            }
            self.site_members.insert((site, user), role);
        }
        Ok(())
    }

    /// Notes a row that refers to nothing. What shadow users have is noted with the user.
    fn dangling(&mut self, table: &'static str, ids: &[Uuid], user: UserId) {
        if !self.shadows.contains(&user) {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            self.notes.push(Note::Dangling(table, ids.join(" ")));
        }
    }

    /// Reads the chosen teams, which only comparing needs.
    fn read_preferences(&mut self, tables: &dyn Tables) {
        let columns = [column("user_id"), column("active_tenant_id")];
        match tables.rows("user_preferences", &columns) {
            Ok(rows) => {
                for row in rows {
                    if let (Some(user), Some(team)) = (id(&row[0]), id(&row[1])) {
                        let (user, team) = (UserId::from_uuid(user), TeamId::from_uuid(team));
                        self.chosen.insert(user, team);
                    }
                }
            }
            Err(why) => self.left_out("user_preferences", &why),
        }
    }

    /// Reads who created clients, which is the only trace of a team client's creator.
    fn read_creators(&mut self, tables: &dyn Tables) {
        let columns = [word("action"), word("target_id"), column("actor_id")];
        match tables.rows("instance_audit_log", &columns) {
            Ok(rows) => {
                for row in rows {
                    let target = row[1].text().and_then(|id| Uuid::try_parse(id.trim()).ok());
                    if let (Some(CREATED), Some(target), Some(actor)) =
                        (row[0].text(), target, id(&row[2]))
                    {
                        self.creators.insert(target, UserId::from_uuid(actor));
                    }
                }
            }
            Err(why) => self.left_out("instance_audit_log", &why),
        }
    }

    fn left_out(&mut self, table: &'static str, why: &ReadError) {
        self.notes.push(Note::LeftOut(table, why.to_string()));
    }

    /// The directory. A site's owner without a membership becomes a member with that role, and a
    /// membership with an unknown role one with the weakest if its user would otherwise get more
    /// from the team.
    pub fn directory(&self) -> (Directory, Vec<Note>) {
        let mut notes = Vec::new();
        let mut members: BTreeMap<(SiteId, UserId), SiteRole> = BTreeMap::new();
        for ((site, user), role) in &self.site_members {
            let of_team = self.sites.get(site).and_then(|site| {
                let member = self.team_members.get(&(site.team, *user))?;
                member.role.derived_site_role()
            });
            if let Some(role) = role.or(of_team.map(|_| SiteRole::Viewer)) {
                members.insert((*site, *user), role);
            }
        }
        for (site, row) in &self.sites {
            if let Some(owner) = row.owner
                && !self.site_members.contains_key(&(*site, owner))
            {
                members.insert((*site, owner), SiteRole::Owner);
                notes.push(Note::LegacyOwner(*site, owner));
            }
        }
        let users = self.users.iter().map(|(id, role)| User {
            id: *id,
            instance_role: *role,
            disabled: false,
        });
        let teams = self.teams.iter().map(|(id, archived)| Team {
            id: *id,
            archived: *archived,
        });
        let team_members = self.team_members.iter();
        let team_members = team_members.map(|((team, user), membership)| TeamMember {
            team: *team,
            user: *user,
            role: membership.role,
        });
        let sites = self.sites.iter().map(|(id, row)| Site {
            id: *id,
            team: row.team,
        });
        let site_members =
            members
                .into_iter()
                .map(|((site, user), role)| SiteMember { site, user, role });
        let directory = Directory {
            users: users.collect(),
            teams: teams.collect(),
            team_members: team_members.collect(),
            sites: sites.collect(),
            site_members: site_members.collect(),
        };
        (directory, notes)
    }
}

fn is_shadow(email: &str) -> bool {
    email.starts_with(SHADOW.0) && email.ends_with(SHADOW.1)
}
