//! Who may manage which API clients, and what a call must be delegated.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        access::{Delegated, Facts, Holder, OwnerFacts, SiteGrants, SiteStanding, UserStanding},
        client::{
            Activation, ApiClient, Description, Draft, Expiry, Name, Quota, Rotation, Update,
            check_listable,
        },
        id::ClientId,
        refusal::Refusal,
        role::{InstanceRole, SiteRole, TeamRole},
        source::{AllowedSources, Cidr},
        token::{TokenHint, TokenScheme},
    },
    grpc::error::ApiError,
};

use super::{ACTOR, OTHER, OTHER_SITE, SITE, Sevens, TEAM, errors::word, now, page::table};

/// A client with a grant as site admin, which expires in a day.
pub(super) fn client(delegated: Delegated) -> ApiClient {
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

pub(super) fn range(text: &str) -> Cidr {
    text.parse().expect("a range")
}

/// What comes of a call: "yes", or the reason of the error.
fn answer<T>(result: Result<T, Refusal>) -> String {
    match result {
        Ok(_) => "yes".to_owned(),
        Err(refusal) => word(&ApiError::from(refusal)),
    }
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

pub(super) fn user(instance_role: InstanceRole) -> UserStanding {
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
