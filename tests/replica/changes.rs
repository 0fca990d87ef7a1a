//! What the random test changes in the directory, and in rows by hand.

use hitkeep_auth::pb::{InstanceRole, SiteRole, TeamRole, directory_change::Change};

use crate::{dice::Dice, fixtures::*};

pub const USERS: [&str; 5] = [ROOT, ALICE, ADAM, VERA, EVE];
pub const TEAMS: [&str; 2] = [TEAM, OTHER_TEAM];
pub const SITES: [&str; 3] = [SITE, SECOND_SITE, OTHER_SITE];
/// Lower ones are refused less often.
pub const SITE_ROLES: [SiteRole; 6] = [
    SiteRole::Viewer,
    SiteRole::Viewer,
    SiteRole::Editor,
    SiteRole::Editor,
    SiteRole::Admin,
    SiteRole::Owner,
];
pub const TEAM_ROLES: [TeamRole; 3] = [TeamRole::Member, TeamRole::Admin, TeamRole::Owner];
pub const INSTANCE_ROLES: [InstanceRole; 4] = [
    InstanceRole::User,
    InstanceRole::User,
    InstanceRole::Admin,
    InstanceRole::Owner,
];

/// A change of the directory.
pub fn any_change(dice: &mut Dice) -> Change {
    let user = *dice.one_of(&[ALICE, ADAM, VERA, VERA, EVE]);
    let team = *dice.one_of(&TEAMS);
    let site = *dice.one_of(&SITES);
    match dice.below(20) {
        0..4 => {
            let role = *dice.one_of(&INSTANCE_ROLES);
            put_user(user, role, dice.percent(15))
        }
        4..6 => put_team(team, dice.percent(25)),
        6..9 => put_team_member(team, user, *dice.one_of(&TEAM_ROLES)),
        9..11 => delete_team_member(team, user),
        11..13 => put_site(site, team),
        13..16 => put_site_member(site, user, *dice.one_of(&SITE_ROLES)),
        16..18 => delete_site_member(site, user),
        18 => delete_site(site),
        _ if dice.percent(50) => delete_user(user),
        _ => put_team(team, false),
    }
}

/// A change of that client's rows, or of any in the directory, by hand. What was
/// there before may be anything, so each statement works with anything.
pub fn any_statement(dice: &mut Dice, client: &str) -> String {
    let user = *dice.one_of(&USERS);
    let team = *dice.one_of(&TEAMS);
    let site = *dice.one_of(&SITES);
    let other = *dice.one_of(&USERS);
    let role = *dice.one_of(&["viewer", "editor", "admin", "owner"]);
    match dice.below(18) {
        0 => format!("UPDATE users SET disabled = NOT disabled WHERE id = '{user}'"),
        1 => "UPDATE users SET disabled = false; UPDATE teams SET archived = false".to_owned(),
        2 => format!("UPDATE users SET instance_role = 'admin' WHERE id = '{user}'"),
        3 => format!("UPDATE teams SET archived = NOT archived WHERE id = '{team}'"),
        4 => format!("UPDATE team_members SET role = 'admin' WHERE user_id = '{user}'"),
        5 => format!("DELETE FROM team_members WHERE user_id = '{user}'"),
        6 => format!("UPDATE site_members SET role = '{role}' WHERE user_id = '{user}'"),
        7 => format!("DELETE FROM site_members WHERE site_id = '{site}'"),
        // From one user to another: both are touched.
        8 => format!(
            "UPDATE site_members AS old SET user_id = '{other}' WHERE user_id = '{user}' \
             AND EXISTS (SELECT FROM users WHERE id = '{other}') AND NOT EXISTS \
             (SELECT FROM site_members WHERE site_id = old.site_id AND user_id = '{other}')"
        ),
        9 => format!(
            "UPDATE sites SET team_id = '{team}' WHERE id = '{site}' \
             AND EXISTS (SELECT FROM teams WHERE id = '{team}')"
        ),
        10 => format!("DELETE FROM sites WHERE id = '{site}'"),
        11 => format!("UPDATE api_clients SET revoke_time = now() WHERE id = '{client}'"),
        12 => format!("UPDATE api_clients SET revoke_time = NULL WHERE id = '{client}'"),
        13 => format!("UPDATE api_clients SET name = name || '!' WHERE id = '{client}'"),
        14 => format!("UPDATE api_client_grants SET role = '{role}' WHERE client_id = '{client}'"),
        15 => format!("DELETE FROM api_client_grants WHERE client_id = '{client}'"),
        16 => format!(
            "UPDATE api_client_tokens SET end_time = now() - interval '1 minute' \
                       WHERE client_id = '{client}' AND end_time IS NOT NULL"
        ),
        _ => "TRUNCATE site_members".to_owned(),
    }
}
