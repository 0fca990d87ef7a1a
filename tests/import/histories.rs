//! Random histories on the pure plan: both sides change, imports come in between, and some are
//! taken back. After each import, a small model that is written by hand says what must hold.

use std::collections::{BTreeMap, BTreeSet};

use hitkeep_auth::{
    domain::{
        Timestamp,
        access::Owner,
        client::ApiClient,
        id::{ClientId, SiteId},
        imports::{ImportState, KnownClient},
        role::{InstanceRole, SiteRole},
        token::StoredHash,
    },
    import::{
        answers::{Answers, Surface},
        compare::{Place, compare},
        hitkeep::{self, HitKeep},
        plan::{DirectoryMode, Fate, Missing, OnConflict, Plan, PlanOptions, plan},
        tables::{Column, ReadError, Rows, Tables, Value},
        undo::undo,
    },
};
use uuid::Uuid;

mod turns;

use turns::{change_here, change_there};

use crate::dice::Dice;

/// How many histories are run, and how long each is.
const HISTORIES: u64 = 10_000;
const STEPS: usize = 14;

const USERS: usize = 3;
const TEAMS: usize = 3;
const SITES: usize = 4;
const CLIENTS: usize = 4;

fn uuid(kind: u128, number: usize) -> Uuid {
    Uuid::from_u128(kind << 64 | (number as u128 + 1))
}

/// HitKeep's database, as plain as it can be.
#[derive(Clone, Default)]
struct There {
    instance_roles: BTreeMap<usize, &'static str>,
    archived: BTreeSet<usize>,
    team_members: BTreeMap<(usize, usize), &'static str>,
    /// The team, if it is not the default one, and the owner.
    sites: BTreeMap<usize, (Option<usize>, usize)>,
    site_members: BTreeMap<(usize, usize), &'static str>,
    active: BTreeMap<usize, usize>,
    clients: BTreeMap<usize, ClientThere>,
}

#[derive(Clone)]
struct ClientThere {
    user: Option<usize>,
    team: Option<usize>,
    name: String,
    role: &'static str,
    secret: u64,
    revoked: bool,
    grants: BTreeMap<usize, &'static str>,
}

impl Tables for There {
    fn rows(&self, table: &'static str, columns: &[Column]) -> Result<Rows, ReadError> {
        let text = |text: &str| Value::Text(text.to_owned());
        let id = |kind, number: usize| Value::Id(uuid(kind, number));
        let optional = |kind, number: Option<usize>| number.map_or(Value::Null, |n| id(kind, n));
        let rows: Vec<Vec<Value>> = match table {
            "users" => (0..USERS)
                .map(|user| vec![id(1, user), Value::Null])
                .collect(),
            "instance_roles" => { self.instance_roles.iter() }
                .map(|(user, role)| vec![id(1, *user), text(role)])
                .collect(),
            "tenants" => (0..TEAMS)
                .map(|team| vec![id(2, team), Value::Flag(team == 0)])
                .collect(),
            "tenant_archives" => self
                .archived
                .iter()
                .map(|team| vec![id(2, *team)])
                .collect(),
            "tenant_members" => { self.team_members.iter() }
                .map(|((team, user), role)| {
                    vec![id(2, *team), id(1, *user), text(role), Value::Null]
                })
                .collect(),
            "sites" => { self.sites.iter() }
                .map(|(site, (_, owner))| vec![id(3, *site), id(1, *owner)])
                .collect(),
            "site_tenants" => { self.sites.iter() }
                .filter_map(|(site, (team, _))| Some(vec![id(3, *site), id(2, (*team)?)]))
                .collect(),
            "site_members" => { self.site_members.iter() }
                .map(|((site, user), role)| vec![id(3, *site), id(1, *user), text(role)])
                .collect(),
            "user_preferences" => { self.active.iter() }
                .map(|(user, team)| vec![id(1, *user), id(2, *team)])
                .collect(),
            "api_clients" => { self.clients.iter() }
                .map(|(number, client)| {
                    let time = Value::Time(at(0));
                    vec![
                        id(4, *number),
                        optional(1, client.user),
                        optional(2, client.team),
                        text(&client.name),
                        Value::Null,
                        text(&format!("{:064x}", client.secret)),
                        text(client.role),
                        Value::Null,
                        Value::Null,
                        if client.revoked {
                            time.clone()
                        } else {
                            Value::Null
                        },
                        time.clone(),
                        time,
                    ]
                })
                .collect(),
            "api_client_site_roles" => { self.clients.iter() }
                .flat_map(|(number, client)| {
                    let grants = client.grants.iter();
                    grants.map(move |(site, role)| vec![id(4, *number), id(3, *site), text(role)])
                })
                .collect(),
            other => return Err(ReadError::NoTable(other)),
        };
        assert!(rows.iter().all(|row| row.len() == columns.len()), "{table}");
        Ok(rows)
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

/// This service's database: what the plan's writes make of it.
#[derive(Clone, Default)]
struct Here {
    state: ImportState,
    /// Every token that a client ever had.
    tokens: BTreeMap<StoredHash, ClientId>,
    /// Every client that was revoked or deleted here by an actor, since the last time that one
    /// reactivated it.
    ended: BTreeSet<ClientId>,
}

impl Here {
    /// The state as it would be loaded for a snapshot.
    fn load(&self, there: &HitKeep) -> ImportState {
        let mut state = self.state.clone();
        let tokens = there.clients_there().filter_map(|client| client.token);
        state.holders = tokens
            .filter_map(|hash| Some((hash, *self.tokens.get(&hash.into())?)))
            .collect();
        state.owned.clear();
        for known in state.known.values() {
            let owner = known.client.delegated.owner();
            *state.owned.entry(owner).or_default() += 1;
        }
        state
    }

    fn apply(&mut self, plan: &Plan) {
        let writes = &plan.writes;
        let state = &mut self.state;
        if let Some(directory) = &writes.directory {
            state.directory = directory.clone();
            let has = |owner: Owner| plan.directory_after.has_owner(owner);
            state
                .known
                .retain(|_, known| has(known.client.delegated.owner()));
            for known in state.known.values_mut() {
                strip(&mut known.client, |site| {
                    plan.directory_after.has_site(site)
                });
            }
        }
        for update in &writes.updates {
            let known = state.known.get_mut(&update.new.id).expect("it is there");
            known.client = update.new.clone();
        }
        for client in &writes.creates {
            let known = KnownClient {
                client: client.to_client(),
                newest_token: Some(client.token.into()),
                record: None,
            };
            assert!(state.known.insert(client.id, known).is_none());
            assert!(self.tokens.insert(client.token.into(), client.id).is_none());
        }
        for (id, hash) in &writes.rotations {
            let known = state.known.get_mut(id).expect("it is there");
            known.newest_token = Some((*hash).into());
            assert!(
                self.tokens.insert((*hash).into(), *id).is_none(),
                "a token comes back"
            );
        }
        for (id, record) in &writes.records {
            state.records.insert(*id, *record);
        }
        for (id, known) in &mut state.known {
            known.record = state.records.get(id).copied();
        }
        state.last_snapshot = Some(writes.snapshot_time);
    }
}

fn strip(client: &mut ApiClient, has: impl Fn(SiteId) -> bool) {
    use hitkeep_auth::domain::access::Delegated;
    let (Delegated::Personal { grants, .. } | Delegated::Team { grants, .. }) =
        &mut client.delegated;
    grants.retain(|site, _| has(*site));
}

/// What HitKeep answers over REST, written down once more: its rules as sentences.
fn rest(there: &There, client: &ClientThere, site: usize) -> Option<SiteRole> {
    let word = |word: &str| word.parse::<SiteRole>().ok();
    let instance = |word: Option<&&str>| {
        word.and_then(|word| word.parse::<InstanceRole>().ok())
            .unwrap_or(InstanceRole::User)
    };
    let team_of = |site: usize| there.sites.get(&site).map(|(team, _)| team.unwrap_or(0));
    let granted = client.grants.get(&site).and_then(|role| word(role));
    let Some(user) = client.user else {
        return granted.filter(|_| team_of(site) == client.team);
    };
    let everywhere =
        match instance(Some(&client.role)).min(instance(there.instance_roles.get(&user))) {
            InstanceRole::Owner => Some(SiteRole::Owner),
            InstanceRole::Admin => Some(SiteRole::Viewer),
            InstanceRole::User => None,
        };
    let team_role = |team: usize| {
        let role = there.team_members.get(&(team, user))?;
        Some(match role.trim().to_lowercase().as_str() {
            "owner" => 2,
            "admin" => 1,
            _ => 0,
        })
    };
    let can_act_in = |team: &usize| team_role(*team).is_some() && !there.archived.contains(team);
    let chosen = there.active.get(&user).copied().filter(can_act_in);
    let teams = (0..TEAMS).filter(can_act_in);
    // The first of the strongest.
    let best = teams.rev().max_by_key(|team| team_role(*team));
    let active = chosen.or(best).unwrap_or(0);
    let held = || {
        let team = team_of(site).filter(|team| *team == active)?;
        let explicit = match there.site_members.get(&(site, user)) {
            None => None,
            Some(role) => Some(word(role)?),
        };
        let owns = (there.sites[&site].1 == user).then_some(SiteRole::Owner);
        let derived = match team_role(team).filter(|_| !there.archived.contains(&team)) {
            Some(2) => Some(SiteRole::Owner),
            Some(1) => Some(SiteRole::Admin),
            _ => None,
        };
        [explicit, owns, derived].into_iter().flatten().min()
    };
    let by_grant = granted.and_then(|role| held().map(|held| held.min(role)));
    everywhere.max(by_grant)
}

/// Whether HitKeep has rotated the token of the last import, and it is still the newest here.
fn live_rotated(before: &Here, after: &Here, client: &hitkeep::ClientThere) -> bool {
    let imported = before
        .state
        .records
        .get(&client.id)
        .map(|record| record.token);
    let newest = |here: &Here| here.state.known.get(&client.id)?.newest_token;
    let is_rotated_there = client.token.is_some() && client.token != imported;
    is_rotated_there && imported.is_some() && newest(after) == imported.map(StoredHash::from)
}

/// What an import must leave behind.
fn check(there: &There, tables: &HitKeep, before: &Here, after: &Here, plan: &Plan, seed: u64) {
    let answers = Answers::of(tables);
    let comparison = compare(&answers, plan, at(10));
    for client in tables.clients_there() {
        let number = (0..CLIENTS)
            .find(|number| uuid(4, *number) == client.id.uuid())
            .unwrap();
        let raw = &there.clients[&number];
        let known = after.state.known.get(&client.id);
        if raw.revoked {
            let works = known
                .is_some_and(|known| known.record.is_some() && known.client.revoke_time.is_none());
            assert!(
                !works,
                "{seed}: client {number} is revoked there, and works here"
            );
        }
        let lives_on = live_rotated(before, after, &client);
        let named = |remark| {
            let mut rows = plan.rows.iter();
            rows.any(|row| row.id == Some(client.id) && row.remarks.contains(&remark))
        };
        assert!(
            !lives_on || named("rotation_withheld"),
            "{seed}: client {number} was rotated there, and its token lives on, unnamed"
        );
        if raw.user.is_some() && raw.team.is_some() {
            continue;
        }
        let works_there = answers.works(&client, at(10));
        for site in 0..SITES {
            let id = SiteId::from_uuid(uuid(3, site));
            let expected = rest(there, raw, site);
            assert_eq!(
                answers.role(&client, id, Surface::Rest),
                expected,
                "{seed}: {number} {site}"
            );
            let theirs = expected.filter(|_| works_there);
            let ours = known.and_then(|known| {
                let token = client.token.map(StoredHash::from);
                let works = known.client.revoke_time.is_none() && known.newest_token == token;
                let owner = known.client.delegated.owner();
                let standing = plan.directory_after.standing(owner, [&id])?;
                let works = works && standing.current.can_act();
                known
                    .client
                    .delegated
                    .effective(&standing)
                    .grants
                    .get(id)
                    .filter(|_| works)
            });
            if ours > theirs {
                let named = comparison.differences.iter().any(|found| {
                    (found.client, found.place) == (client.id, Place::Site(id))
                        && found.surface == Surface::Rest
                        && found.is_wider()
                        && !found.causes.is_empty()
                });
                assert!(
                    named,
                    "{seed}: {number} on {site}: {ours:?} over {theirs:?}, unnamed"
                );
            }
        }
    }
    // What was ended here stays so.
    for (id, known) in &after.state.known {
        let was = before.state.known.get(id);
        assert!(
            !before.ended.contains(id) || was.is_some(),
            "{seed}: a deleted client is back"
        );
        if was.is_some_and(|was| was.client.revoke_time.is_some()) {
            assert!(
                known.client.revoke_time.is_some(),
                "{seed}: a revocation is taken back"
            );
        }
    }
    // Another time, nothing happens.
    let state = after.load(tables);
    let options = PlanOptions {
        missing: Missing::Report,
        ..OPTIONS
    };
    let again = plan_again(tables, plan, &state, options);
    let is_settled = plan
        .rows
        .iter()
        .all(|row| !matches!(row.fate, Fate::Refused(_)));
    if is_settled {
        assert!(again.writes.is_empty(), "{seed}: {:#?}", again.writes);
    }
    assert!(again.writes.updates.is_empty(), "{seed}: {:#?}", again.rows);
}

const OPTIONS: PlanOptions = PlanOptions {
    on_conflict: OnConflict::Refuse,
    missing: Missing::Report,
    directory: DirectoryMode::Replace {
        allow_mass_removal: true,
        over_pushed: false,
    },
    max_clients_per_owner: 100,
};

fn plan_again(tables: &HitKeep, last: &Plan, state: &ImportState, options: PlanOptions) -> Plan {
    plan(tables, last.writes.snapshot_time, state, options).expect("it is the same snapshot")
}

#[test]
fn no_history_revives_a_client_or_widens_one_in_silence() {
    let mut fates: BTreeMap<&str, u32> = BTreeMap::new();
    let mut undone = 0;
    for seed in 0..HISTORIES {
        let mut dice = Dice::new(seed);
        let (mut there, mut here) = (There::default(), Here::default());
        let mut secret = 0;
        for _ in 0..12 {
            change_there(&mut there, &mut dice, &mut secret);
        }
        for step in 0..STEPS {
            match dice.below(10) {
                0..=3 => change_there(&mut there, &mut dice, &mut secret),
                4 | 5 => change_here(&mut here, &mut dice, &mut secret),
                6..=8 => {
                    let tables = HitKeep::read(&there, &|_| ()).unwrap();
                    let options = PlanOptions {
                        on_conflict: *dice.one_of(&[
                            OnConflict::Refuse,
                            OnConflict::Keep,
                            OnConflict::Take,
                        ]),
                        missing: *dice.one_of(&[Missing::Report, Missing::Revoke]),
                        ..OPTIONS
                    };
                    let before = here.clone();
                    here.state.now = at(10);
                    let state = here.load(&tables);
                    let time = at(i64::try_from(step).unwrap());
                    let planned = plan(&tables, time, &state, options).unwrap();
                    here.apply(&planned);
                    for row in &planned.rows {
                        *fates.entry(row.fate.as_str()).or_default() += 1;
                    }
                    check(&there, &tables, &before, &here, &planned, seed);
                }
                _ => {
                    let done = undo(&here.state);
                    undone += done.removed.len();
                    for client in &done.removed {
                        assert!(
                            !here.ended.contains(&client.id),
                            "{seed}: what was revoked here goes unnamed"
                        );
                        here.state.known.remove(&client.id);
                        here.state.records.remove(&client.id);
                        here.tokens.retain(|_, holder| *holder != client.id);
                    }
                    for id in here.state.known.keys() {
                        assert!(done.kept.iter().any(|client| client.id == *id), "{seed}");
                    }
                    if here.state.records.is_empty() {
                        here.state.last_snapshot = None;
                    }
                }
            }
        }
    }
    // All of it was put to the test.
    for fate in [
        "created",
        "unchanged",
        "updated",
        "rotated",
        "revoked",
        "kept",
        "deleted_here",
        "missing",
        "refused",
    ] {
        assert!(
            fates.get(fate).copied().unwrap_or_default() > 100,
            "{fate}: {fates:?}"
        );
    }
    assert!(undone > 100);
}
