//! One turn of a history: what changes in HitKeep, and what in this service.

use hitkeep_auth::domain::{
    client::Name,
    id::ClientId,
    token::{StoredHash, TokenHash},
};

use super::{CLIENTS, ClientThere, Here, SITES, TEAMS, There, USERS, at, uuid};
use crate::dice::Dice;

const SITE_ROLES: [&str; 6] = ["viewer", "editor", "admin", "owner", "owner", "auditor"];

const TEAM_ROLES: [&str; 4] = ["member", " Admin", "owner", "guest"];

const INSTANCE_ROLES: [&str; 5] = ["user", "user", "admin", "owner", "root"];

/// One change in HitKeep.
pub fn change_there(there: &mut There, dice: &mut Dice, secret: &mut u64) {
    let (user, team) = (dice.below(USERS), dice.below(TEAMS));
    let (site, number) = (dice.below(SITES), dice.below(CLIENTS));
    match dice.below(16) {
        0 => drop(
            there
                .instance_roles
                .insert(user, *dice.one_of(&INSTANCE_ROLES)),
        ),
        1 => drop(there.archived.insert(team)),
        2 => drop(there.archived.remove(&team)),
        3 | 4 => drop(
            there
                .team_members
                .insert((team, user), *dice.one_of(&TEAM_ROLES)),
        ),
        5 => drop(there.team_members.remove(&(team, user))),
        6 => drop(
            there
                .sites
                .insert(site, (dice.percent(70).then_some(team), user)),
        ),
        7 if dice.percent(20) => drop(there.sites.remove(&site)),
        7 | 8 => drop(
            there
                .site_members
                .insert((site, user), *dice.one_of(&SITE_ROLES)),
        ),
        9 => drop(there.active.insert(user, team)),
        10..=12 => {
            *secret += 1;
            let is_personal = dice.percent(70);
            there.clients.entry(number).or_insert_with(|| ClientThere {
                user: (is_personal || dice.percent(5)).then_some(user),
                team: (!is_personal || dice.percent(5)).then_some(team),
                name: format!("client {number}"),
                role: if is_personal {
                    dice.one_of::<&str>(&INSTANCE_ROLES)
                } else {
                    "user"
                },
                secret: *secret,
                revoked: dice.percent(10),
                grants: (0..SITES)
                    .filter(|_| dice.percent(50))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|site| (site, SITE_ROLES[site]))
                    .collect(),
            });
        }
        _ => {
            let Some(client) = there.clients.get_mut(&number) else {
                return;
            };
            match dice.below(8) {
                0 => client.name = format!("there {}", dice.below(3)),
                1 => {
                    *secret += 1;
                    client.secret = *secret;
                }
                2 => client.revoked = true,
                3 => client.revoked = false,
                4 => drop(client.grants.insert(site, *dice.one_of(&SITE_ROLES))),
                5 => drop(client.grants.remove(&site)),
                6 => "\u{7}".clone_into(&mut client.name),
                _ => drop(there.clients.remove(&number)),
            }
        }
    }
}

/// One change by an actor of this service.
pub fn change_here(here: &mut Here, dice: &mut Dice, secret: &mut u64) {
    let id = ClientId::from_uuid(uuid(4, dice.below(CLIENTS)));
    let Some(known) = here.state.known.get_mut(&id) else {
        return;
    };
    match dice.below(5) {
        0 => known.client.name = Name::parse(&format!("here {}", dice.below(3))).unwrap(),
        1 => {
            *secret += 1;
            let mut hash = [0xff; 32];
            hash[..8].copy_from_slice(&secret.to_le_bytes());
            let hash = StoredHash::Blake3(TokenHash(hash));
            known.newest_token = Some(hash);
            here.tokens.insert(hash, id);
        }
        // Of one that is revoked already, a revocation is no change.
        2 if known.client.revoke_time.is_some() => {}
        2 => {
            known.client.revoke_time = Some(at(1));
            here.ended.insert(id);
        }
        3 => {
            known.client.revoke_time = None;
            here.ended.remove(&id);
        }
        _ => {
            here.state.known.remove(&id);
            here.ended.insert(id);
        }
    }
}
