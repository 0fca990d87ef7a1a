//! What random calls do not make or show: what an update widens, the dashboard's update, and
//! what answers an incident, each case by hand.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use chrono::TimeDelta;
use hitkeep_auth_domain::{
    Timestamp,
    access::{Delegated, Facts, Holder, Owner, OwnerFacts, SiteGrants, SiteStanding, UserStanding},
    audit::{Action, Event, FieldChange},
    client::{
        Activation, ApiClient, Description, Expiry, LeakCircumstances, LeakOrigin, LeakedToken,
        MAX_LEAK_SOURCE, MAX_LEAK_URL, MAX_REVOKED_AT_ONCE, Name, Replaced, Replacement,
        Revocation, RevokedClient, Rotation, Update, check_all_listable, check_reporter,
        check_revocable,
    },
    clock::Entropy,
    id::{ClientId, SiteId, TeamId, UserId},
    refusal::Refusal,
    role::{InstanceRole, SiteRole, TeamRole},
    source::AllowedSources,
    token::{TokenHint, TokenScheme},
};
use uuid::Uuid;

const VERA: UserId = UserId::from_uuid(Uuid::from_u128(1));
const ROOT: UserId = UserId::from_uuid(Uuid::from_u128(2));
const TEAM: TeamId = TeamId::from_uuid(Uuid::from_u128(3));
const SITE: SiteId = SiteId::from_uuid(Uuid::from_u128(4));
/// `now` in the audit trail.
const NOW: &str = "1970-01-02T00:00:00.000000Z";

struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + TimeDelta::days(1)
}

/// A client of Vera's with a value in every field, which works.
fn client() -> ApiClient {
    ApiClient {
        id: ClientId::from_uuid(Uuid::from_u128(5)),
        delegated: Delegated::Personal {
            user: VERA,
            instance_role: InstanceRole::User,
            grants: [(SITE, SiteRole::Viewer)].into(),
        },
        name: Name::parse("a client").unwrap(),
        description: Description::parse("for tests").unwrap(),
        expiry: Expiry::At(now() + TimeDelta::days(1)),
        sources: AllowedSources::new(vec!["192.0.2.0/24".parse().unwrap()]).unwrap(),
        activation: Activation::At(Timestamp::UNIX_EPOCH),
        revoke_time: None,
        created_by: Some(VERA),
        create_time: Timestamp::UNIX_EPOCH,
        update_time: Timestamp::UNIX_EPOCH,
        last_used: None,
        token_hint: TokenHint("an old hint".to_owned()),
        token_scheme: Some(TokenScheme::HitkeepSha256),
    }
}

fn revoked() -> ApiClient {
    ApiClient {
        revoke_time: Some(Timestamp::UNIX_EPOCH),
        ..client()
    }
}

fn holder(id: UserId, instance_role: InstanceRole) -> Holder {
    let site = SiteStanding {
        team: TEAM,
        team_archived: false,
        team_role: Some(TeamRole::Owner),
        site_role: None,
    };
    Holder {
        id,
        user: Some(UserStanding {
            instance_role,
            disabled: false,
        }),
        sites: [(SITE, site)].into(),
    }
}

/// The actor may do everything with Vera's clients, or only oversees them.
fn facts(actor: UserId) -> Facts {
    Facts {
        actor: holder(actor, InstanceRole::Owner),
        owner: OwnerFacts::User {
            id: VERA,
            disabled: false,
        },
    }
}

/// What the dashboard sends of a client that was not edited.
fn unedited(client: &ApiClient) -> Replacement {
    Replacement {
        name: client.name.clone(),
        description: client.description.clone(),
        instance_role: client.delegated.instance_role(),
        grants: client.delegated.grants().clone(),
        expiry: client.expiry,
        revocation: Revocation::Kept,
    }
}

fn replaced(client: &ApiClient, replacement: Replacement) -> Replaced {
    let replaced = client.clone().replace(replacement, &facts(VERA), now());
    replaced.unwrap()
}

fn actions(replaced: &Replaced) -> Vec<Action> {
    replaced.events.iter().map(|event| event.action).collect()
}

/// A text that is one over a limit of characters, and the longest that is within it.
fn around(limit: usize) -> [String; 2] {
    [limit + 1, limit].map(|length| "é".repeat(length))
}

#[test]
fn a_field_that_is_sent_as_it_is_needs_no_right() {
    // Its expiry has passed, and this actor may only oversee it.
    let expired = ApiClient {
        expiry: Expiry::At(now()),
        ..client()
    };
    let unedited = unedited(&expired);
    let same = expired.clone().replace(unedited, &facts(ROOT), now());
    let same = same.unwrap();
    assert_eq!(same.events, []);
    assert_eq!(same.client, expired);
}

/// Name, description, instance role, grants, and expiry: each alone is a change, of itself.
#[test]
fn each_field_is_replaced_by_itself() {
    type Edit = fn(&mut Replacement);
    let edits: [(&str, Edit); 5] = [
        ("name", |new| new.name = Name::parse("another").unwrap()),
        ("description", |new| {
            new.description = Description::default();
        }),
        ("instance_role", |new| {
            new.instance_role = InstanceRole::Admin;
        }),
        ("site_grants", |new| new.grants = SiteGrants::new()),
        ("expire_time", |new| new.expiry = Expiry::Never),
    ];
    for (field, edit) in edits {
        let mut replacement = unedited(&client());
        edit(&mut replacement);
        let Replaced {
            client: new,
            events,
        } = replaced(&client(), replacement.clone());
        let [event] = &events[..] else {
            panic!("{field}: {events:?}")
        };
        assert_eq!(event.action, Action::ClientUpdated);
        let [change] = &event.changes[..] else {
            panic!("{field}: {event:?}")
        };
        assert!(change.field.starts_with(field), "{field}: {change:?}");
        assert_eq!(new.name, replacement.name);
        assert_eq!(new.description, replacement.description);
        assert_eq!(new.delegated.instance_role(), replacement.instance_role);
        assert_eq!(new.delegated.grants(), &replacement.grants);
        assert_eq!(new.expiry, replacement.expiry);
        // What the dashboard does not know stays.
        assert_eq!(new.sources, client().sources);
        assert_eq!(new.activation, client().activation);
        assert_eq!(new.update_time, now());
    }
}

#[test]
fn a_replacement_revokes_first_and_reactivates_last() {
    let with = |client: &ApiClient, revocation| Replacement {
        revocation,
        ..unedited(client)
    };
    for (before, revocation, expected) in [
        (client(), Revocation::Kept, &[][..]),
        (client(), Revocation::Lifted, &[]),
        (client(), Revocation::Revoked, &[Action::ClientRevoked]),
        (revoked(), Revocation::Kept, &[]),
        (revoked(), Revocation::Revoked, &[]),
        (revoked(), Revocation::Lifted, &[Action::ClientReactivated]),
    ] {
        let after = replaced(&before, with(&before, revocation));
        assert_eq!(actions(&after), expected, "{revocation:?}");
        if expected.is_empty() {
            assert_eq!(after.client, before);
        }
        let name = Name::parse("another").unwrap();
        let renaming = Replacement {
            name,
            ..with(&before, revocation)
        };
        let mut both = [expected, &[Action::ClientUpdated]].concat();
        if revocation == Revocation::Lifted {
            both.reverse();
        }
        assert_eq!(actions(&replaced(&before, renaming)), both);
    }
    // The dashboard sends that with every edit, also of an expired client.
    let expired = ApiClient {
        expiry: Expiry::At(now()),
        ..client()
    };
    let edited = replaced(&expired, with(&expired, Revocation::Lifted));
    assert_eq!(edited.events, []);
}

/// The actor manages the client and holds nothing on its site, so that what an update widens
/// shows by its refusal.
#[test]
fn only_what_an_update_widens_must_be_delegable() {
    type Edit = fn(&mut Update);
    let facts = Facts {
        actor: Holder {
            sites: [].into(),
            ..holder(VERA, InstanceRole::User)
        },
        ..facts(VERA)
    };
    let waiting = ApiClient {
        activation: Activation::At(now() + TimeDelta::hours(1)),
        ..client()
    };
    let admin = ApiClient {
        delegated: Delegated::Personal {
            user: VERA,
            instance_role: InstanceRole::Admin,
            grants: SiteGrants::new(),
        },
        ..client()
    };
    let activate = |hours| Update {
        activation: Some(Activation::At(now() + TimeDelta::hours(hours))),
        ..Update::default()
    };
    let expire = |hours| Update {
        expiry: Some(Expiry::At(now() + TimeDelta::hours(hours))),
        ..Update::default()
    };
    let with = |edit: Edit| {
        let mut update = Update::default();
        edit(&mut update);
        update
    };
    let never = with(|update| update.expiry = Some(Expiry::Never));
    let at_once = with(|update| update.activation = Some(Activation::AtOnce));
    let everywhere = with(|update| update.sources = Some(AllowedSources::default()));
    let fewer = with(|update| {
        let range = "192.0.2.0/25".parse().unwrap();
        update.sources = Some(AllowedSources::new(vec![range]).unwrap());
    });
    let rename = with(|update| update.name = Some(Name::parse("another").unwrap()));
    let editor = with(|update| update.grants = Some([(SITE, SiteRole::Editor)].into()));
    let viewer = with(|update| update.grants = Some([(SITE, SiteRole::Viewer)].into()));
    let dropped = with(|update| update.grants = Some(SiteGrants::new()));
    let as_admin = with(|update| update.instance_role = Some(InstanceRole::Admin));
    let as_user = with(|update| update.instance_role = Some(InstanceRole::User));
    let on_site = Refusal::SiteNotDelegable { site: SITE };
    let on_instance = Refusal::ExceedsInstanceRole {
        wanted: InstanceRole::Admin,
    };
    for (what, client, update, expected) in [
        ("a name", &waiting, &rename, None),
        ("an earlier start", &waiting, &activate(0), Some(&on_site)),
        ("no start", &waiting, &at_once, Some(&on_site)),
        ("the same start", &waiting, &activate(1), None),
        ("a later start", &waiting, &activate(2), None),
        ("a start in the past", &client(), &activate(-48), None),
        ("no start any more", &client(), &at_once, None),
        ("a later expiry", &waiting, &expire(25), Some(&on_site)),
        ("no expiry", &waiting, &never, Some(&on_site)),
        ("the same expiry", &waiting, &expire(24), None),
        ("an earlier expiry", &waiting, &expire(23), None),
        ("every address", &waiting, &everywhere, Some(&on_site)),
        ("fewer addresses", &waiting, &fewer, None),
        ("a stronger role", &waiting, &editor, Some(&on_site)),
        ("the same role", &waiting, &viewer, None),
        ("no role", &waiting, &dropped, None),
        ("a new role", &admin, &viewer, Some(&on_site)),
        ("on the instance", &waiting, &as_admin, Some(&on_instance)),
        ("the same there", &admin, &as_admin, None),
        ("a name of an admin", &admin, &rename, None),
        ("less there", &admin, &as_user, None),
    ] {
        let updated = client.clone().update(update.clone(), &facts, now());
        assert_eq!(updated.err().as_ref(), expected, "{what}");
    }
}

#[test]
fn a_replacement_is_all_or_nothing() {
    let unseen = Facts {
        owner: OwnerFacts::Absent,
        ..facts(VERA)
    };
    let unedited = unedited(&client());
    let refused = client().replace(unedited.clone(), &unseen, now());
    assert_eq!(refused.unwrap_err(), Refusal::NotFound);
    // The revocation alone would be allowed.
    let renaming = Replacement {
        name: Name::parse("another").unwrap(),
        revocation: Revocation::Revoked,
        ..unedited
    };
    let refused = client().replace(renaming, &facts(ROOT), now());
    assert_eq!(refused.unwrap_err(), Refusal::OwnerNotManaged);
}

#[test]
fn a_transition_writes_its_time_and_its_event() {
    let facts = facts(VERA);
    let change = |after: &str, before: &str| FieldChange::new("revoke_time", before, after);
    let ended = client().revoke(&facts, now()).unwrap();
    assert_eq!(ended.client.revoke_time, Some(now()));
    assert_eq!(ended.client.update_time, now());
    let event = ended.event.unwrap();
    assert_eq!(event.changes, [change(NOW, "")]);
    let row = RevokedClient {
        id: client().id,
        name: "a client".to_owned(),
        owner: Owner::User(VERA),
    };
    assert_eq!(row.event(now()), event);
    assert_eq!(event.owner, Some(Owner::User(VERA)));
    assert_eq!(event.subject_name, "a client");
    assert_eq!(event.subject, client().id.uuid());

    let lifted = revoked().reactivate(&facts, now()).unwrap();
    assert_eq!(lifted.client.revoke_time, None);
    assert_eq!(lifted.client.update_time, now());
    let event = lifted.event.unwrap();
    assert_eq!(event.changes, [change("", "1970-01-01T00:00:00.000000Z")]);

    // A legacy token is replaced by one of this service.
    let rotated = client().rotate(&Rotation::default(), &facts, now(), &Sevens);
    let rotated = rotated.unwrap();
    let issued = rotated.issued;
    assert_eq!(rotated.old_token_ends, now());
    assert_eq!(issued.client.token_scheme, Some(TokenScheme::Blake3));
    assert_eq!(issued.client.token_hint, issued.token.hint());
    assert_eq!(issued.client.update_time, now());
    let expected = [
        FieldChange::new("token_hint", "an old hint", &issued.token.hint().0),
        FieldChange::new("overlap_end_time", "", NOW),
    ];
    assert_eq!(issued.event.changes, expected);
}

#[test]
fn a_leak_is_recorded_with_what_is_known_of_its_origin() {
    let token = LeakedToken {
        end: Expiry::Never,
        scheme: TokenScheme::Blake3,
        hint: TokenHint("leaked".to_owned()),
    };
    let circumstances = LeakCircumstances {
        owner_can_act: true,
        legacy_tokens_until: Expiry::Never,
        now: now(),
    };
    for (source, url) in [
        ("", ""),
        ("gitleaks", ""),
        ("", "https://git.example/a"),
        ("gitleaks", "https://git.example/a"),
    ] {
        let origin = LeakOrigin::new(source, url);
        let reported = client().report_leak(&token, &origin, circumstances);
        let mut changes = vec![FieldChange::new("token_hint", "", "leaked")];
        for (field, text) in [("source", source), ("url", url)] {
            if !text.is_empty() {
                changes.push(FieldChange::new(field, "", text));
            }
        }
        let expected = Event {
            action: Action::ClientLeaked,
            subject: client().id.uuid(),
            subject_name: "a client".to_owned(),
            owner: Some(Owner::User(VERA)),
            changes,
        };
        assert_eq!(reported.leak, expected);
        assert_eq!(reported.client.revoke_time, Some(now()));
    }
}

#[test]
fn an_origin_has_its_limits() {
    for (check, limit) in [
        (LeakOrigin::check_source as fn(&str) -> _, MAX_LEAK_SOURCE),
        (LeakOrigin::check_url, MAX_LEAK_URL),
    ] {
        let [over, longest] = around(limit);
        assert!(check("").is_ok());
        assert!(check(&longest).is_ok());
        assert!(check(&over).is_err());
    }
}

#[test]
fn every_field_of_an_update_that_is_wrong_is_named() {
    let of_team = ApiClient {
        delegated: Delegated::Team {
            team: TEAM,
            grants: SiteGrants::new(),
        },
        activation: Activation::At(now() + TimeDelta::hours(1)),
        ..client()
    };
    let refused = |instance_role, expiry, activation| {
        let update = Update {
            instance_role,
            expiry,
            activation,
            ..Update::default()
        };
        let updated = of_team.clone().update(update, &facts(VERA), now());
        updated.map(drop).unwrap_err()
    };
    let (role, late) = (
        Some(InstanceRole::Admin),
        Some(Activation::At(now() + TimeDelta::days(1))),
    );
    let (past, early) = (
        Some(Expiry::At(now())),
        Some(Expiry::At(now() + TimeDelta::hours(1))),
    );
    use Refusal::{ActivationTooLate, ExpiryPast, ExpiryTooEarly, Several, TeamInstanceRole};
    assert_eq!(refused(role, None, None), TeamInstanceRole);
    // Of one field, one thing is said.
    assert_eq!(refused(None, past, None), ExpiryPast);
    let both = Several(vec![TeamInstanceRole, ActivationTooLate]);
    assert_eq!(refused(role, None, late), both);
    let both = Several(vec![TeamInstanceRole, ExpiryTooEarly]);
    assert_eq!(refused(role, early, None), both);
    let all = Several(vec![TeamInstanceRole, ExpiryPast, ActivationTooLate]);
    assert_eq!(refused(role, past, late), all);
}

#[test]
fn only_an_owner_of_the_instance_sees_every_client() {
    let disabled = Holder {
        user: Some(UserStanding {
            instance_role: InstanceRole::Owner,
            disabled: true,
        }),
        ..holder(ROOT, InstanceRole::Owner)
    };
    let unknown = Holder {
        user: None,
        ..disabled.clone()
    };
    for actor in [
        holder(ROOT, InstanceRole::Admin),
        holder(ROOT, InstanceRole::User),
        disabled,
        unknown,
    ] {
        let refused = check_all_listable(&actor);
        assert_eq!(refused, Err(Refusal::OwnerNotManaged), "{actor:?}");
        // A leak is reported by anybody who may act at all.
        let may_act = actor.instance_role().is_some();
        let refused = (!may_act).then_some(Refusal::NotFound);
        assert_eq!(check_reporter(&actor).err(), refused, "{actor:?}");
    }
    let owner = holder(ROOT, InstanceRole::Owner);
    assert_eq!(check_all_listable(&owner), Ok(()));
}

#[test]
fn so_many_clients_are_revoked_at_once_and_no_more() {
    let limit = MAX_REVOKED_AT_ONCE;
    for few in [0, 1, limit as usize] {
        assert_eq!(check_revocable(few), Ok(()));
    }
    for many in [limit as usize + 1, usize::MAX] {
        assert_eq!(
            check_revocable(many),
            Err(Refusal::TooManyClients { limit })
        );
    }
}
