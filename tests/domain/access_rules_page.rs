//! docs/access-rules.md against the code: each cell of its tables that the code can
//! answer. Conditions are texts that this file turns into questions, so a row that is
//! reworded has to be reworded here too; roles, reasons, codes and "yes" are compared.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        Revision, Timestamp,
        access::{
            CurrentOwner, Decision, Delegated, EffectiveAccess, Facts, Holder, Owner, OwnerFacts,
            OwnerStanding, PermissionCheck, SiteGrants, SiteStanding, UserStanding,
        },
        caller::{CallerName, CallerPermission},
        client::{
            Activation, ApiClient, ClientState, Description, Draft, Expiry, Name, Quota, Rotation,
            Update, check_listable,
        },
        clock::Entropy,
        directory::{Removal, order::DirectoryChanged},
        id::{ClientId, SiteId, TeamId, UserId},
        introspection::{BaseState, InactiveReason, ResolvedClient, Restrictions, TokenStanding},
        refusal::Refusal,
        role::{InstancePermission, InstanceRole, SitePermission, SiteRole, TeamRole},
        source::{AllowedSources, Cidr, Source},
        token::{TokenHint, TokenScheme},
    },
    grpc::error::ApiError,
    pb,
    replica::Unanswerable,
    store::error::StoreError,
};
use uuid::Uuid;

const PAGE: &str = "docs/access-rules.md";
const ACTOR: UserId = UserId::from_uuid(Uuid::from_u128(1));
const OTHER: UserId = UserId::from_uuid(Uuid::from_u128(2));
const TEAM: TeamId = TeamId::from_uuid(Uuid::from_u128(3));
const OTHER_TEAM: TeamId = TeamId::from_uuid(Uuid::from_u128(4));
const SITE: SiteId = SiteId::from_uuid(Uuid::from_u128(5));
const OTHER_SITE: SiteId = SiteId::from_uuid(Uuid::from_u128(6));

/// Enough for ids and tokens that nobody looks at.
struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

/// The cells of a row, without backticks.
type Row = Vec<String>;

/// The rows of the table whose first row is `header`.
fn table(header: &str) -> Vec<Row> {
    let page = std::fs::read_to_string(PAGE).expect(PAGE);
    let mut lines = page.lines().skip_while(|line| *line != header);
    assert!(lines.next().is_some(), "no table {header}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    let columns = header.matches('|').count() - 1;
    let rows: Vec<Row> = rows
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            let row: Row = cells.map(|cell| cell.trim().replace('`', "")).collect();
            assert_eq!(row.len(), columns, "{line}");
            row
        })
        .collect();
    assert!(rows.len() > 1, "{header} is empty");
    rows
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

/// A client with a grant as site admin, which expires in a day.
fn client(delegated: Delegated) -> ApiClient {
    ApiClient {
        id: ClientId::mint(now(), &Sevens),
        delegated,
        name: Name::parse("a client").expect("a name"),
        description: Description::default(),
        expiry: Expiry::At(now() + TimeDelta::days(1)),
        sources: AllowedSources::new(vec![range("192.0.2.0/24")]).expect("one range"),
        activation: Activation::At(now() + TimeDelta::hours(1)),
        revoke_time: None,
        created_by: Some(OTHER),
        create_time: now(),
        update_time: now(),
        last_used: None,
        token_hint: TokenHint("hkp_…abcd".to_owned()),
        token_scheme: Some(TokenScheme::Blake3),
    }
}

fn draft(delegated: Delegated) -> Draft {
    Draft {
        delegated,
        name: Name::parse("a client").expect("a name"),
        description: Description::default(),
        expiry: Expiry::Never,
        sources: AllowedSources::default(),
        activation: Activation::AtOnce,
    }
}

fn range(text: &str) -> Cidr {
    text.parse().expect("a range")
}

/// What comes of a call: "yes", or the reason of the error.
fn answer<T>(result: Result<T, Refusal>) -> String {
    match result {
        Ok(_) => "yes".to_owned(),
        Err(refusal) => word(&ApiError::from(refusal)),
    }
}

fn word(error: &ApiError) -> String {
    let name = error.code_and_reason().1.as_str_name();
    name.strip_prefix("ERROR_REASON_").expect(name).to_owned()
}

/// Makes the call that a column or a row of the page names.
fn call(name: &str, delegated: &Delegated, facts: &Facts) -> String {
    let client = client(delegated.clone());
    let update = |update: Update| answer(client.clone().update(update, facts, now()));
    match name {
        "create" => {
            let quota = Quota { used: 0, limit: 1 };
            let draft = draft(delegated.clone());
            answer(ApiClient::create(draft, facts, quota, now(), &Sevens))
        }
        "list" => answer(check_listable(facts)),
        "get, usage" => answer(ApiClient::require_visible(facts)),
        "update" | "update that narrows or renames" => update(Update {
            name: Some(Name::parse("another name").expect("a name")),
            description: Some(Description::default()),
            instance_role: Some(InstanceRole::User),
            grants: Some(SiteGrants::new()),
            expiry: Some(Expiry::At(now() + TimeDelta::hours(3))),
            sources: AllowedSources::new(vec![range("192.0.2.0/25")]).ok(),
            activation: Some(Activation::At(now() + TimeDelta::hours(2))),
            etag: None,
        }),
        "rotate" => answer(client.rotate(&Rotation::default(), facts, now(), &Sevens)),
        "reactivate" => answer(client.reactivate(facts, now())),
        "revoke" => answer(client.revoke(facts, now())),
        "delete" => answer(client.delete(facts)),
        other => panic!("what is {other:?}?"),
    }
}

fn user(instance_role: InstanceRole) -> UserStanding {
    UserStanding {
        instance_role,
        disabled: false,
    }
}

fn facts(user: Option<UserStanding>, owner: OwnerFacts) -> Facts {
    Facts {
        actor: Holder {
            id: ACTOR,
            user,
            sites: BTreeMap::new(),
        },
        owner,
    }
}

/// Every way to be the actor that a row of the page names.
fn actors(row: &str) -> Vec<(Delegated, Facts)> {
    let personal = |user| Delegated::Personal {
        user,
        instance_role: InstanceRole::User,
        grants: SiteGrants::new(),
    };
    let of_team = Delegated::Team {
        team: TEAM,
        grants: SiteGrants::new(),
    };
    let someones = |id| OwnerFacts::User {
        id,
        disabled: false,
    };
    let team = |archived, actor_role| OwnerFacts::Team {
        id: TEAM,
        archived,
        actor_role,
    };
    let users = InstanceRole::ALL.iter().map(|role| user(*role));
    let humble = [user(InstanceRole::User), user(InstanceRole::Admin)];
    let managers = [Some(TeamRole::Admin), Some(TeamRole::Owner)];
    match row {
        "the owning user" => users
            .map(|user| (personal(ACTOR), facts(Some(user), someones(ACTOR))))
            .collect(),
        "an admin or owner of the owning team" => users
            .flat_map(|user| managers.map(|role| facts(Some(user), team(false, role))))
            .map(|facts| (of_team.clone(), facts))
            .collect(),
        "another owner of the instance" => {
            let owner = Some(user(InstanceRole::Owner));
            vec![
                (personal(OTHER), facts(owner, someones(OTHER))),
                (of_team.clone(), facts(owner, team(false, None))),
                (
                    of_team.clone(),
                    facts(owner, team(false, Some(TeamRole::Member))),
                ),
                (of_team, facts(owner, team(true, Some(TeamRole::Owner)))),
            ]
        }
        "a member of the owning team" => humble
            .map(|user| facts(Some(user), team(false, Some(TeamRole::Member))))
            .map(|facts| (of_team.clone(), facts))
            .into(),
        "an admin or owner of the owning team, which is archived" => humble
            .into_iter()
            .flat_map(|user| managers.map(|role| facts(Some(user), team(true, role))))
            .map(|facts| (of_team.clone(), facts))
            .collect(),
        "any other user" => humble
            .into_iter()
            .flat_map(|user| {
                [
                    (personal(OTHER), facts(Some(user), someones(OTHER))),
                    (of_team.clone(), facts(Some(user), team(false, None))),
                    (personal(OTHER), facts(Some(user), OwnerFacts::Absent)),
                ]
            })
            .collect(),
        "an unknown or disabled user" => {
            let disabled = InstanceRole::ALL.iter().map(|role| {
                Some(UserStanding {
                    instance_role: *role,
                    disabled: true,
                })
            });
            let users = std::iter::once(None).chain(disabled);
            users
                .flat_map(|user| {
                    [
                        (personal(ACTOR), facts(user, someones(ACTOR))),
                        (
                            of_team.clone(),
                            facts(user, team(false, Some(TeamRole::Owner))),
                        ),
                    ]
                })
                .collect()
        }
        other => panic!("what is {other:?}?"),
    }
}

#[test]
fn actors_may_do_what_the_page_says() {
    let header = "| actor | create | list | get, usage | update | rotate | reactivate | revoke | \
                  delete |";
    let calls: Vec<_> = header.trim_matches('|').split('|').map(str::trim).collect();
    let rows = table(header);
    assert_eq!(rows.len(), 7, "a row is missing, or was added");
    for row in rows {
        for (delegated, facts) in actors(&row[0]) {
            for (name, promised) in calls.iter().zip(&row).skip(1) {
                let given = call(name, &delegated, &facts);
                assert_eq!(given, *promised, "{} by {}: {facts:?}", name, row[0]);
            }
        }
    }
}

/// What an actor of that role on the instance and on a site can do with a client that
/// carries more or less.
fn delegates(name: &str, carried: SiteRole, held: SiteRole) -> String {
    let delegated = |role: InstanceRole, grants: SiteGrants| Delegated::Personal {
        user: ACTOR,
        instance_role: role,
        grants,
    };
    let standing = SiteStanding {
        team: TEAM,
        team_archived: false,
        team_role: Some(TeamRole::Member),
        site_role: Some(held),
    };
    let owner = OwnerFacts::User {
        id: ACTOR,
        disabled: false,
    };
    let mut facts = facts(Some(user(InstanceRole::Admin)), owner);
    facts.actor.sites = [SITE, OTHER_SITE].map(|site| (site, standing)).into();
    let carries = delegated(InstanceRole::User, [(SITE, carried)].into());
    let update = |update: Update| answer(client(carries.clone()).update(update, &facts, now()));
    let grants = |grants| Update {
        grants: Some(grants),
        ..Update::default()
    };
    match name {
        "update to a later expiry, or to none" => {
            let later = Expiry::At(now() + TimeDelta::days(2));
            let [later, never] = [later, Expiry::Never].map(|expiry| {
                update(Update {
                    expiry: Some(expiry),
                    ..Update::default()
                })
            });
            assert_eq!(later, never);
            later
        }
        "update to an earlier activation, or to none" => {
            let earlier = Activation::At(now() + TimeDelta::minutes(1));
            let [earlier, at_once] = [earlier, Activation::AtOnce].map(|activation| {
                update(Update {
                    activation: Some(activation),
                    ..Update::default()
                })
            });
            assert_eq!(earlier, at_once);
            earlier
        }
        "update to more addresses, or to all" => {
            let more = [range("192.0.2.0/24"), range("198.51.100.1/32")];
            let more = AllowedSources::new(more.into()).expect("two ranges");
            let [more, all] = [more, AllowedSources::default()].map(|sources| {
                update(Update {
                    sources: Some(sources),
                    ..Update::default()
                })
            });
            assert_eq!(more, all);
            more
        }
        "update to a higher role on a site, or to one more site" => {
            let more = update(grants([(SITE, carried), (OTHER_SITE, carried)].into()));
            let from_viewer = client(delegated(
                InstanceRole::User,
                [(SITE, SiteRole::Viewer)].into(),
            ));
            let higher = grants([(SITE, carried)].into());
            let higher = answer(from_viewer.update(higher, &facts, now()));
            assert_eq!(more, higher);
            more
        }
        name => call(name, &carries, &facts),
    }
}

#[test]
fn calls_need_the_delegation_of_the_page() {
    const EXCEEDS: &str = "DELEGATION_EXCEEDS_ACTOR";
    let rows = table("| call | the actor must be able to delegate |");
    assert_eq!(rows.len(), 11, "a row is missing, or was added");
    for row in rows {
        let (name, needed) = (row[0].as_str(), row[1].as_str());
        if name == "update to a higher instance role" {
            assert_eq!(needed, "that role");
            let [within, beyond] = [InstanceRole::Admin, InstanceRole::Owner].map(|role| {
                let owner = OwnerFacts::User {
                    id: ACTOR,
                    disabled: false,
                };
                // A grant that the actor does not hold is not widened, so it does not matter.
                let client = client(Delegated::Personal {
                    user: ACTOR,
                    instance_role: InstanceRole::User,
                    grants: [(SITE, SiteRole::Owner)].into(),
                });
                let update = Update {
                    instance_role: Some(role),
                    ..Update::default()
                };
                let facts = facts(Some(user(InstanceRole::Admin)), owner);
                answer(client.update(update, &facts, now()))
            });
            assert_eq!(
                (within.as_str(), beyond.as_str()),
                ("yes", EXCEEDS),
                "{name}"
            );
            continue;
        }
        let within = delegates(name, SiteRole::Admin, SiteRole::Admin);
        let beyond = delegates(name, SiteRole::Admin, SiteRole::Viewer);
        let promised = match needed {
            "everything that the client carries" | "that grant" => EXCEEDS,
            "nothing" => "yes",
            other => panic!("what is {other:?}?"),
        };
        assert_eq!(
            (within.as_str(), beyond.as_str()),
            ("yes", promised),
            "{name}"
        );
    }
}

#[test]
fn inactive_tokens_have_the_first_reason_that_applies() {
    let rows = table("| reason | if |");
    // That no client has it is for the index to find.
    assert_eq!(rows[0][0], "UNKNOWN_TOKEN");
    let past = now() - TimeDelta::seconds(1);
    for bits in 1_u8..128 {
        let [
            rotated,
            revoked,
            expired,
            owner_inactive,
            cut_off,
            early,
            elsewhere,
        ] = [1, 2, 4, 8, 16, 32, 64].map(|bit| bits & bit != 0);
        let ranges = elsewhere.then(|| range("192.0.2.0/24"));
        let sources = AllowedSources::new(ranges.into_iter().collect()).expect("one range");
        let starts = early.then(|| now() + TimeDelta::seconds(1));
        let limit = if cut_off {
            Expiry::At(past)
        } else {
            Expiry::Never
        };
        let token = if rotated {
            TokenStanding::ReplacedUntil(past)
        } else {
            TokenStanding::Current
        };
        let client = ResolvedClient {
            client: ClientId::mint(now(), &Sevens),
            owner: Owner::Team(TEAM),
            base_state: BaseState::of(revoked, !owner_inactive),
            access: EffectiveAccess {
                instance_role: InstanceRole::User,
                grants: std::iter::empty().collect(),
            },
            expiry: if expired {
                Expiry::At(past)
            } else {
                Expiry::Never
            },
            name: "a client".into(),
            restrictions: Restrictions::of(sources, starts.into()),
        };
        let row = rows[1..].iter().find(|row| match row[1].as_str() {
            "a rotation replaced the token, and its overlap has ended" => rotated,
            "the client is revoked" => revoked,
            "the client's expire_time has come, or the token is a legacy one and these are no \
             longer accepted" => expired || cut_off,
            "the owning user is disabled, or the owning team is archived" => owner_inactive,
            "the client's not_before_time has not come" => early,
            "the client has allowed_cidrs, and the address that the caller states is in none of \
             them, or it states none" => elsewhere,
            other => panic!("what is {other:?}?"),
        });
        let source = if bits & 1 == 0 {
            Source::Unknown
        } else {
            Source::Text("198.51.100.1")
        };
        let judged = client.evaluate_until(token, limit, source, now());
        let reason = match judged.expect_err("it is inactive") {
            InactiveReason::UnknownToken => pb::InactiveReason::UnknownToken,
            InactiveReason::TokenRotated => pb::InactiveReason::TokenRotated,
            InactiveReason::Revoked => pb::InactiveReason::Revoked,
            InactiveReason::Expired => pb::InactiveReason::Expired,
            InactiveReason::OwnerInactive => pb::InactiveReason::OwnerInactive,
            InactiveReason::NotYetActive => pb::InactiveReason::NotYetActive,
            InactiveReason::SourceNotAllowed => pb::InactiveReason::SourceNotAllowed,
        };
        let promised = format!("INACTIVE_REASON_{}", row.expect("a row applies")[0]);
        assert_eq!(reason.as_str_name(), promised);
    }
    let known = (1..).map_while(|number| pb::InactiveReason::try_from(number).ok());
    assert_eq!(rows.len(), known.count());
}

/// An error for each reason. The compiler does not see one that is missing here; the
/// comparison with the proto's list does.
fn errors() -> Vec<ApiError> {
    let failure = || std::io::Error::other("no answer").into();
    let wrong_state = Refusal::WrongState {
        state: ClientState::Revoked,
    };
    let removal = Removal {
        kind: "users",
        known: 3,
        removed: 2,
    };
    vec![
        ApiError::InvalidFields(Vec::new()),
        Refusal::ExpiryPast.into(),
        Refusal::TeamInstanceRole.into(),
        Refusal::NotFound.into(),
        Refusal::OwnerNotManaged.into(),
        Refusal::ExceedsInstanceRole {
            wanted: InstanceRole::Owner,
        }
        .into(),
        Refusal::ExceedsSiteRole {
            site: SITE,
            wanted: SiteRole::Owner,
        }
        .into(),
        Refusal::SiteNotDelegable { site: SITE }.into(),
        wrong_state.into(),
        Refusal::EtagMismatch.into(),
        ApiError::MassRemoval(removal),
        Refusal::Quota { limit: 1 }.into(),
        ApiError::CallerUnknown,
        ApiError::CallerNotPermitted(CallerPermission::Audit),
        ApiError::DeadlineExceeded,
        ApiError::Overloaded,
        StoreError::Overloaded(failure()).into(),
        StoreError::Collision(failure()).into(),
        ApiError::Defect("a defect"),
        StoreError::Defect(failure()).into(),
        StoreError::Inconsistent("a role".to_owned()).into(),
        Unanswerable::Loading.into(),
        Unanswerable::Stale(std::time::Duration::ZERO).into(),
        Unanswerable::Behind.into(),
        Unanswerable::NoAnswer.into(),
        StoreError::Unavailable(failure()).into(),
        ApiError::RevisionNotReached {
            wanted: Revision(2),
            reached: Revision(1),
        },
        ApiError::MethodUnknown("no such method".to_owned()),
        ApiError::ShuttingDown,
        ApiError::DirectoryChanged(DirectoryChanged {
            applied_sequence: None,
        }),
        ApiError::ReplyGone,
        ApiError::ServiceAccountToken(CallerName::parse("sidecar").expect("a name")),
        Refusal::TooManyClients { limit: 1 }.into(),
    ]
}

/// A code as the protos spell it.
fn spelt(code: tonic::Code) -> String {
    let mut spelt = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !spelt.is_empty() {
            spelt.push('_');
        }
        spelt.extend(c.to_uppercase());
    }
    spelt
}

#[test]
fn every_error_is_on_the_page_with_its_code() {
    let rows = table("| reason | code | when |");
    let known = (1..).map_while(|number| pb::ErrorReason::try_from(number).ok());
    let names = known.map(|reason| {
        let name = reason.as_str_name();
        name.strip_prefix("ERROR_REASON_").expect(name)
    });
    let documented: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(documented, names.collect::<Vec<_>>());
    let mut made = BTreeMap::new();
    for error in errors() {
        made.insert(word(&error), spelt(error.code_and_reason().0));
    }
    for row in &rows {
        assert_eq!(made.get(&row[0]), Some(&row[1]), "{}", row[0]);
        assert!(!row[2].is_empty(), "{}", row[0]);
    }
}
