//! The directory against a model of it: random batches and replacements, applied
//! to both, come to the same.

use std::collections::{BTreeMap, BTreeSet};

use diesel_async::AsyncPgConnection;
use hitkeep_auth::pb::{self, InstanceRole, SiteRole, TeamRole, directory_change::Change};

use crate::{
    dice::Dice,
    fixtures::*,
    harness::{TestApp, violations},
    support::postgres::texts,
};

/// A directory in memory. Sites and memberships are kept with what they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    users: BTreeMap<String, (&'static str, bool)>,
    teams: BTreeMap<String, bool>,
    team_members: BTreeMap<(String, String), &'static str>,
    sites: BTreeMap<String, String>,
    site_members: BTreeMap<(String, String), &'static str>,
}

fn instance_role(role: InstanceRole) -> &'static str {
    match role {
        InstanceRole::Unspecified => panic!("no role"),
        InstanceRole::User => "user",
        InstanceRole::Admin => "admin",
        InstanceRole::Owner => "owner",
    }
}

fn team_role(role: TeamRole) -> &'static str {
    match role {
        TeamRole::Unspecified => panic!("no role"),
        TeamRole::Member => "member",
        TeamRole::Admin => "admin",
        TeamRole::Owner => "owner",
    }
}

fn site_role(role: SiteRole) -> &'static str {
    match role {
        SiteRole::Unspecified => panic!("no role"),
        SiteRole::Viewer => "viewer",
        SiteRole::Editor => "editor",
        SiteRole::Admin => "admin",
        SiteRole::Owner => "owner",
    }
}

impl Model {
    /// Applies a change, or gives the first field that names something unknown.
    fn apply(&mut self, change: Change) -> Result<(), &'static str> {
        match change {
            Change::PutUser(user) => {
                let role = instance_role(user.instance_role());
                self.users.insert(user.id, (role, user.disabled));
            }
            Change::DeleteUser(user) => {
                self.users.remove(&user.id);
                self.team_members.retain(|(_, id), _| *id != user.id);
                self.site_members.retain(|(_, id), _| *id != user.id);
            }
            Change::PutTeam(team) => {
                self.teams.insert(team.id, team.archived);
            }
            Change::DeleteTeam(team) => {
                self.teams.remove(&team.id);
                self.team_members.retain(|(id, _), _| *id != team.id);
                self.sites.retain(|_, id| *id != team.id);
                let sites = &self.sites;
                self.site_members
                    .retain(|(id, _), _| sites.contains_key(id));
            }
            Change::PutTeamMember(member) => {
                known(&self.teams, &member.team_id, "put_team_member.team_id")?;
                known(&self.users, &member.user_id, "put_team_member.user_id")?;
                let role = team_role(member.role());
                self.team_members
                    .insert((member.team_id, member.user_id), role);
            }
            Change::DeleteTeamMember(member) => {
                self.team_members.remove(&(member.team_id, member.user_id));
            }
            Change::PutSite(site) => {
                known(&self.teams, &site.team_id, "put_site.team_id")?;
                self.sites.insert(site.id, site.team_id);
            }
            Change::DeleteSite(site) => {
                self.sites.remove(&site.id);
                self.site_members.retain(|(id, _), _| *id != site.id);
            }
            Change::PutSiteMember(member) => {
                known(&self.sites, &member.site_id, "put_site_member.site_id")?;
                known(&self.users, &member.user_id, "put_site_member.user_id")?;
                let role = site_role(member.role());
                self.site_members
                    .insert((member.site_id, member.user_id), role);
            }
            Change::DeleteSiteMember(member) => {
                self.site_members.remove(&(member.site_id, member.user_id));
            }
        }
        Ok(())
    }

    /// The rows of the database when it holds this.
    fn rows(&self) -> BTreeSet<String> {
        let flag = |flag: &bool| if *flag { "t" } else { "f" };
        let users = self.users.iter();
        let mut rows: BTreeSet<String> = users
            .map(|(id, (role, disabled))| format!("users({id},{role},{})", flag(disabled)))
            .collect();
        let teams = self.teams.iter();
        rows.extend(teams.map(|(id, archived)| format!("teams({id},{})", flag(archived))));
        let members = self.team_members.iter();
        rows.extend(
            members.map(|((team, user), role)| format!("team_members({team},{user},{role})")),
        );
        let sites = self.sites.iter();
        rows.extend(sites.map(|(id, team)| format!("sites({id},{team})")));
        let members = self.site_members.iter();
        rows.extend(
            members.map(|((site, user), role)| format!("site_members({site},{user},{role})")),
        );
        rows
    }

    /// How many entries `new` adds to, changes of and removes from this.
    fn difference(&self, new: &Self) -> (u32, u32, u32) {
        let parts = [
            count(&self.users, &new.users),
            count(&self.teams, &new.teams),
            count(&self.team_members, &new.team_members),
            count(&self.sites, &new.sites),
            count(&self.site_members, &new.site_members),
        ];
        let sum = |part: fn(&(u32, u32, u32)) -> u32| parts.iter().map(part).sum();
        (sum(|p| p.0), sum(|p| p.1), sum(|p| p.2))
    }
}

fn known<V>(
    there: &BTreeMap<String, V>,
    id: &str,
    field: &'static str,
) -> Result<(), &'static str> {
    there.contains_key(id).then_some(()).ok_or(field)
}

fn count<K: Ord, V: PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> (u32, u32, u32) {
    let (mut added, mut changed) = (0, 0);
    for (key, value) in new {
        match old.get(key) {
            None => added += 1,
            Some(before) if before != value => changed += 1,
            Some(_) => {}
        }
    }
    let removed = old.keys().filter(|key| !new.contains_key(key)).count();
    (added, changed, u32::try_from(removed).expect("a few"))
}

/// The rows that the database holds.
async fn stored(database: &mut AsyncPgConnection) -> BTreeSet<String> {
    let tables = ["users", "teams", "team_members", "sites", "site_members"];
    let each = tables.map(|table| format!("SELECT '{table}' || t::text FROM {table} AS t"));
    let sql = each.join(" UNION ALL ");
    texts(database, &sql).await.into_iter().collect()
}

impl Dice {
    fn id(&mut self, kind: &str) -> String {
        format!("00000000-0000-7000-8000-0000000{kind}00{}", self.below(4))
    }

    /// Some change, of a few things.
    fn change(&mut self) -> Change {
        use {InstanceRole as Instance, SiteRole as Site, TeamRole as Team};

        let (user, team, site) = (self.id("aa"), self.id("bb"), self.id("cc"));
        let flag = self.below(2) == 0;
        match self.below(15) {
            0 | 1 => {
                let role = *self.one_of(&[Instance::User, Instance::Admin, Instance::Owner]);
                put_user(&user, role, flag)
            }
            2 => delete_user(&user),
            3 | 4 => put_team(&team, flag),
            5 => delete_team(&team),
            6 | 7 => {
                let role = *self.one_of(&[Team::Member, Team::Admin, Team::Owner]);
                put_team_member(&team, &user, role)
            }
            8 => delete_team_member(&team, &user),
            9 | 10 => put_site(&site, &team),
            11 => delete_site(&site),
            12 | 13 => {
                let role = *self.one_of(&[Site::Viewer, Site::Editor, Site::Admin, Site::Owner]);
                put_site_member(&site, &user, role)
            }
            _ => delete_site_member(&site, &user),
        }
    }
}

/// Applies a batch to a model, all or none. Gives whether any change did
/// anything, or the first field that is wrong.
fn apply_all(model: &mut Model, changes: &[Change]) -> Result<bool, String> {
    let mut next = model.clone();
    let mut did = false;
    for (index, change) in changes.iter().enumerate() {
        let before = next.clone();
        let done = next.apply(change.clone());
        done.map_err(|field| format!("changes[{index}].{field}"))?;
        did |= next != before;
    }
    *model = next;
    Ok(did)
}

#[tokio::test]
async fn random_batches_come_to_what_the_model_comes_to() {
    let app = TestApp::start().await;
    let (pusher, mut database) = (app.pusher().await, app.database().await);
    let (mut model, mut dice, mut revision) = (Model::default(), Dice::new(1), 0);
    let (mut applied, mut refused) = (0, 0);
    for round in 0..400 {
        // What is refused at random is mostly a long batch, and those that are
        // good must be long as well now and then.
        let length = 1 + dice.below(6);
        let mut changes: Vec<Change> = Vec::new();
        for _ in 0..length {
            let change = dice.change();
            let mut trial = model.clone();
            let good = apply_all(
                &mut trial,
                &[&changes[..], std::slice::from_ref(&change)].concat(),
            );
            if good.is_ok() || dice.below(8) == 0 {
                changes.push(change);
            }
        }
        if changes.is_empty() {
            continue;
        }
        let before = model.clone();
        let answer = pusher.apply(batch(changes.clone())).await;
        match apply_all(&mut model, &changes) {
            Ok(did) => {
                let reached = answer.unwrap().revision;
                // A batch that undoes itself may be one revision or none.
                if model != before {
                    assert_eq!(reached, revision + 1, "round {round}");
                } else if !did {
                    assert_eq!(reached, revision, "round {round}");
                }
                revision = reached;
                applied += 1;
            }
            Err(field) => {
                assert_eq!(violations(&answer)[0], field, "round {round}");
                refused += 1;
            }
        }
        assert_eq!(stored(&mut database).await, model.rows(), "round {round}");
    }
    assert!(applied > 200, "{applied}");
    assert!(refused > 20, "{refused}");
}

/// A directory that is consistent, and the chunks that it is sent as.
fn random_directory(dice: &mut Dice) -> (Model, Vec<pb::ReplaceDirectoryRequest>) {
    let mut model = Model::default();
    let mut kept: BTreeMap<String, Change> = BTreeMap::new();
    for _ in 0..60 {
        let change = dice.change();
        let key = match &change {
            Change::PutUser(user) => user.id.clone(),
            Change::PutTeam(team) => team.id.clone(),
            Change::PutSite(site) => site.id.clone(),
            Change::PutTeamMember(member) => format!("{}{}", member.team_id, member.user_id),
            Change::PutSiteMember(member) => format!("{}{}", member.site_id, member.user_id),
            _ => continue,
        };
        if model.apply(change.clone()).is_ok() {
            kept.insert(key, change);
        }
    }
    let mut chunks = vec![pb::ReplaceDirectoryRequest {
        allow_mass_removal: true,
        ..pb::ReplaceDirectoryRequest::default()
    }];
    // In no order at all: what a part refers to may come later.
    for change in kept.into_values() {
        if dice.below(4) == 0 {
            chunks.push(pb::ReplaceDirectoryRequest::default());
        }
        let at = dice.below(chunks.len());
        let chunk = &mut chunks[at];
        match change {
            Change::PutUser(user) => chunk.users.push(user),
            Change::PutTeam(team) => chunk.teams.push(team),
            Change::PutTeamMember(member) => chunk.team_members.push(member),
            Change::PutSite(site) => chunk.sites.push(site),
            Change::PutSiteMember(member) => chunk.site_members.push(member),
            other => panic!("{other:?} was left out"),
        }
    }
    (model, chunks)
}

#[tokio::test]
async fn random_replacements_come_to_what_was_sent_and_are_counted() {
    let app = TestApp::start().await;
    let (pusher, mut database) = (app.pusher().await, app.database().await);
    let (mut model, mut dice, mut revision) = (Model::default(), Dice::new(2), 0);
    for round in 0..100 {
        let (next, chunks) = random_directory(&mut dice);
        let answer = pusher.replace(chunks).await.unwrap();
        let counted = (answer.added, answer.changed, answer.removed);
        assert_eq!(counted, model.difference(&next), "round {round}");
        let did = u64::from(counted != (0, 0, 0));
        assert_eq!(answer.revision, revision + did, "round {round}");
        (model, revision) = (next, answer.revision);
        assert_eq!(stored(&mut database).await, model.rows(), "round {round}");
    }
}
