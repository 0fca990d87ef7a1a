//! docs/access-rules.md against the code: each cell of its tables that the code can
//! answer. Conditions are texts that this file turns into questions, so a row that is
//! reworded has to be reworded here too; roles, reasons, codes and "yes" are compared.

use hitkeep_auth::{
    domain::{
        Timestamp,
        access::{
            CurrentOwner, Decision, Delegated, EffectiveAccess, Holder, OwnerStanding,
            PermissionCheck, SiteStanding, UserStanding,
        },
        clock::Entropy,
        id::{SiteId, TeamId, UserId},
        role::{InstancePermission, InstanceRole, SitePermission, SiteRole, TeamRole},
    },
    pb,
};
use uuid::Uuid;

#[path = "../support/names.rs"]
#[expect(unreachable_pub, reason = "it is for other test binaries too")]
mod names;

mod errors;
mod inactive;
mod managing;
mod page;
mod proto;

use page::{Row, table};

const ACTOR: UserId = UserId::from_uuid(Uuid::from_u128(1));
const OTHER: UserId = UserId::from_uuid(Uuid::from_u128(2));
const TEAM: TeamId = TeamId::from_uuid(Uuid::from_u128(3));
const OTHER_TEAM: TeamId = TeamId::from_uuid(Uuid::from_u128(4));
const SITE: SiteId = SiteId::from_uuid(Uuid::from_u128(5));
const OTHER_SITE: SiteId = SiteId::from_uuid(Uuid::from_u128(6));

/// Enough for ids and tokens that are not looked at.
struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

fn now() -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000, 0).expect("a time")
}

fn yes(is_so: bool) -> String {
    let text = if is_so { "yes" } else { "no" };
    text.to_owned()
}

fn role_or_none(role: Option<SiteRole>) -> &'static str {
    role.map_or("none", SiteRole::as_str)
}

fn options<T: Copy>(all: &[T]) -> Vec<Option<T>> {
    let some = all.iter().copied().map(Some);
    std::iter::once(None).chain(some).collect()
}

#[test]
fn roles_carry_the_permissions_of_the_page() {
    let site = SitePermission::ALL.iter().map(|permission| {
        let carried = SiteRole::ALL
            .iter()
            .map(|role| yes(role.allows(*permission)));
        let name = permission.as_str().to_owned();
        std::iter::once(name).chain(carried).collect()
    });
    let header = "| permission | `viewer` | `editor` | `admin` | `owner` |";
    assert_eq!(table(header), site.collect::<Vec<Row>>());

    let instance = InstancePermission::ALL.iter().map(|permission| {
        let roles = InstanceRole::ALL.iter();
        let carried = roles.map(|role| yes(role.allows(*permission)));
        let name = permission.as_str().to_owned();
        std::iter::once(name).chain(carried).collect()
    });
    let header = "| permission | `user` | `admin` | `owner` |";
    assert_eq!(table(header), instance.collect::<Vec<Row>>());

    let team = TeamRole::ALL.iter().map(|role| {
        vec![
            role.as_str().to_owned(),
            role_or_none(role.derived_site_role()).to_owned(),
            yes(role.manages_clients()),
        ]
    });
    let header = "| team role | gives on the team's sites | manages the team's API clients |";
    assert_eq!(table(header), team.collect::<Vec<Row>>());
}

/// A user, and what they have to do with a site, of which either may be unknown.
struct Case {
    user: Option<UserStanding>,
    site: Option<SiteStanding>,
}

/// Every user with every site that makes a difference.
fn cases() -> Vec<Case> {
    let mut users = vec![None];
    for instance_role in InstanceRole::ALL.iter().copied() {
        users.extend([false, true].map(|disabled| {
            Some(UserStanding {
                instance_role,
                disabled,
            })
        }));
    }
    let mut sites = vec![None];
    for team_archived in [false, true] {
        for team_role in options(TeamRole::ALL) {
            for site_role in options(SiteRole::ALL) {
                sites.push(Some(SiteStanding {
                    team: TEAM,
                    team_archived,
                    team_role,
                    site_role,
                }));
            }
        }
    }
    let with = |user| sites.iter().map(move |site| Case { user, site: *site });
    users.into_iter().flat_map(with).collect()
}

/// What the role in a site's team gives on the site.
fn derived_role(site: &SiteStanding) -> Option<SiteRole> {
    site.team_role?.derived_site_role()
}

impl Case {
    /// Whether a condition of the page applies.
    fn is(&self, condition: &str) -> bool {
        let site = self.site.as_ref();
        match condition {
            "the user is unknown or disabled" => self.user.is_none_or(|user| user.disabled),
            "the site is unknown" => site.is_none(),
            "the site's team is archived" => site.is_some_and(|site| site.team_archived),
            "the user's instance role is owner" => self
                .user
                .is_some_and(|user| user.instance_role == InstanceRole::Owner),
            "the user is not a member of the site's team" => {
                site.is_some_and(|site| site.team_role.is_none())
            }
            "the user has a role on the site itself, and the team role gives one" => {
                site.is_some_and(|site| site.site_role.is_some() && derived_role(site).is_some())
            }
            "the user has a role on the site itself, and the team role gives none" => {
                site.is_some_and(|site| site.site_role.is_some() && derived_role(site).is_none())
            }
            "the user has only a role in the team" => {
                site.is_some_and(|site| site.team_role.is_some() && site.site_role.is_none())
            }
            other => panic!("what is {other:?}?"),
        }
    }

    /// The role that a cell of the page names.
    fn role(&self, cell: &str) -> Option<SiteRole> {
        match cell {
            "none" => None,
            "the role on the site itself" => self.site?.site_role,
            "what the team role gives" => derived_role(&self.site?),
            "the weaker of both" => {
                let site = self.site?;
                Some(site.site_role?.min(derived_role(&site)?))
            }
            role => Some(role.parse().expect(role)),
        }
    }

    fn current_role(&self) -> Option<SiteRole> {
        let holder = Holder {
            id: ACTOR,
            user: self.user,
            sites: self.site.iter().map(|site| (SITE, *site)).collect(),
        };
        holder.site_role(SITE)
    }
}

#[test]
fn the_current_role_follows_from_the_first_row_that_applies() {
    let rows = table("| if | the user's role on the site |");
    let mut applied = vec![0; rows.len()];
    for case in cases() {
        let row = rows.iter().position(|row| case.is(&row[0]));
        let row = row.expect("a row applies");
        applied[row] += 1;
        assert_eq!(
            case.current_role(),
            case.role(&rows[row][1]),
            "{:?}",
            rows[row]
        );
    }
    assert!(!applied.contains(&0), "a row never applies: {applied:?}");
}

#[test]
fn effective_access_is_that_of_the_page() {
    let on_instance = table("| owner | effective instance role |");
    let on_sites = table("| owner | if | effective role on a granted site |");
    let find = |owner: &str| {
        let row = on_instance.iter().find(|row| row[0] == owner);
        row.expect(owner)[1].as_str()
    };
    for case in cases() {
        // A client without its owner does not exist, and one of a disabled user is inactive.
        let Some(user) = case.user.filter(|user| !user.disabled) else {
            continue;
        };
        for granted in SiteRole::ALL.iter().copied() {
            for delegated in InstanceRole::ALL.iter().copied() {
                let effective = effective(
                    CurrentOwner::User(ACTOR, user),
                    case.site,
                    &Delegated::Personal {
                        user: ACTOR,
                        instance_role: delegated,
                        grants: [(SITE, granted)].into(),
                    },
                );
                let promised = match find("user") {
                    "the weaker of the delegated role and the user's current one" => {
                        delegated.min(user.instance_role)
                    }
                    role => role.parse().expect(role),
                };
                assert_eq!(effective.instance_role, promised);
                let current = case.current_role();
                let on_site = promised_on_site(&on_sites, "user", granted, current, |condition| {
                    match condition {
                        "the user has a role on the site" => current.is_some(),
                        "the user has no role on the site" => current.is_none(),
                        other => panic!("what is {other:?}?"),
                    }
                });
                assert_eq!(effective.grants.get(SITE), on_site);
            }
        }
    }
    for granted in SiteRole::ALL.iter().copied() {
        for team in [TEAM, OTHER_TEAM] {
            let site = SiteStanding {
                team,
                team_archived: false,
                team_role: None,
                site_role: None,
            };
            let owner = CurrentOwner::Team {
                id: TEAM,
                archived: false,
            };
            let delegated = Delegated::Team {
                team: TEAM,
                grants: [(SITE, granted)].into(),
            };
            let effective = effective(owner, Some(site), &delegated);
            assert_eq!(effective.instance_role.as_str(), find("team"));
            let on_site =
                promised_on_site(
                    &on_sites,
                    "team",
                    granted,
                    None,
                    |condition| match condition {
                        "the site is in the team" => team == TEAM,
                        "the site is not in the team" => team != TEAM,
                        other => panic!("what is {other:?}?"),
                    },
                );
            assert_eq!(effective.grants.get(SITE), on_site);
        }
    }
}

fn effective(
    current: CurrentOwner,
    site: Option<SiteStanding>,
    delegated: &Delegated,
) -> EffectiveAccess {
    let sites = site.into_iter().map(|site| (SITE, site)).collect();
    delegated.effective(&OwnerStanding { current, sites })
}

/// What the page says of a grant.
fn promised_on_site(
    rows: &[Row],
    owner: &str,
    granted: SiteRole,
    current: Option<SiteRole>,
    applies: impl Fn(&str) -> bool,
) -> Option<SiteRole> {
    let mut of_owner = rows.iter().filter(|row| row[0] == owner);
    let row = of_owner
        .find(|row| applies(&row[1]))
        .expect("a row applies");
    match row[2].as_str() {
        "none" => None,
        "the granted role" => Some(granted),
        "the weaker of the granted role and the user's current one" => {
            Some(granted.min(current.expect("a role")))
        }
        other => panic!("what is {other:?}?"),
    }
}

#[test]
fn a_check_is_decided_by_the_first_row_that_applies() {
    let rows = table("| decision | if |");
    let mut applied = vec![0; rows.len()];
    for instance_role in InstanceRole::ALL.iter().copied() {
        for granted in options(SiteRole::ALL) {
            let grants = granted.into_iter().map(|role| (SITE, role)).collect();
            let access = EffectiveAccess {
                instance_role,
                grants,
            };
            let on_site = SitePermission::ALL.iter().map(|permission| {
                let check = PermissionCheck::Site {
                    site: SITE,
                    permission: *permission,
                };
                (check, granted.is_some_and(|role| role.allows(*permission)))
            });
            let on_instance = InstancePermission::ALL.iter().map(|permission| {
                let check = PermissionCheck::Instance(*permission);
                (check, instance_role.allows(*permission))
            });
            for (check, carried) in on_site.chain(on_instance) {
                let is_of_site = matches!(check, PermissionCheck::Site { .. });
                let applies = |condition: &str| match condition {
                    // Asked of active tokens only: the others are not decided on.
                    "the token is inactive" => false,
                    "the permission is one of a site, and there is no effective role on that \
                     site" => is_of_site && granted.is_none(),
                    "the effective role does not carry the permission" => !carried,
                    "the effective role carries the permission" => carried,
                    other => panic!("what is {other:?}?"),
                };
                let row = rows.iter().position(|row| applies(&row[1]));
                let row = row.expect("a row applies");
                applied[row] += 1;
                let reason = match access.decide(&check) {
                    Decision::Allowed => pb::DecisionReason::Allowed,
                    Decision::Inactive => pb::DecisionReason::Inactive,
                    Decision::NoSiteGrant => pb::DecisionReason::NoSiteGrant,
                    Decision::RoleTooLow => pb::DecisionReason::RoleTooLow,
                };
                let name = format!("DECISION_REASON_{}", rows[row][0]);
                assert_eq!(reason.as_str_name(), name);
            }
        }
    }
    assert_eq!(applied.iter().filter(|times| **times == 0).count(), 1);
    assert_eq!(rows[0], ["INACTIVE", "the token is inactive"]);
    assert!(pb::DecisionReason::from_str_name("DECISION_REASON_INACTIVE").is_some());
}
