//! How scripts are drawn.

use hitkeep_auth_domain::{
    access::Owner,
    directory::{DirectoryChange, Site, SiteMember, Team, TeamMember, User},
    id::{SiteId, TeamId, UserId},
    role::{InstanceRole, SiteRole, TeamRole},
};
use proptest::{collection::vec, option::weighted, prelude::*, sample::select};

use super::{
    Beginning, Creation, Cut, Deed, Edit, Ending, Etag, GrantsEdit, Replacement, SITES, Script,
    Step, TEAMS, Turn, USERS, Wait, Which, Who, Wish, site, team, user,
};
use crate::model::places::SETS;

/// Scripts of a directory, a few clients and up to that many steps.
pub(crate) fn scripts(steps: usize) -> impl Strategy<Value = Script> {
    let clients = vec(creation().prop_map(Step::Create), 2..5);
    let several = prop_oneof![
        60 => step().prop_map(|step| vec![step]),
        1 => shortened_overlap(),
    ];
    (directories(), clients, vec(several, steps / 2..=steps)).prop_map(|(start, clients, steps)| {
        Script {
            start,
            steps: [clients, steps.concat()].concat(),
        }
    })
}

/// An overlap that ends early because the client expires, and the expiry is put off after that:
/// too rare by chance.
fn shortened_overlap() -> impl Strategy<Value = Vec<Step>> {
    any::<u8>().prop_map(|n| {
        let on_client = |deed| Step::OnClient(Who::Manager(n), Which::Present(n), deed);
        let expiring = |hours| {
            on_client(Deed::Update(Edit {
                name: None,
                description: None,
                instance_role: None,
                grants: None,
                expiry: Some(Ending::In(hours)),
                ranges: None,
                activation: None,
                etag: Etag::Omitted,
            }))
        };
        vec![
            on_client(Deed::Rotate(168, Etag::Omitted)),
            expiring(1),
            Step::Wait(Wait::Hours(24)),
            expiring(240),
        ]
    })
}

/// Directories with most of the pools' users, teams and sites in them.
pub(crate) fn directories() -> impl Strategy<Value = Vec<DirectoryChange>> {
    let users = each(USERS, 0.95, |n| put_user(Just(user(n))).boxed());
    let teams = each(TEAMS, 0.98, |n| put_team(Just(team(n))).boxed());
    let sites = each(SITES, 0.95, |n| put_site(Just(site(n))).boxed());
    let team_members = each(USERS * TEAMS, 0.7, |n| {
        put_team_member(Just(team(n / USERS)), Just(user(n % USERS))).boxed()
    });
    let site_members = each(USERS * SITES, 0.3, |n| {
        put_site_member(Just(site(n / USERS)), Just(user(n % USERS))).boxed()
    });
    let changes = (users, teams, sites, team_members, site_members);
    changes.prop_map(|(users, teams, sites, team_members, site_members)| {
        [users, teams, sites, team_members, site_members]
            .into_iter()
            .flatten()
            .flatten()
            .collect()
    })
}

/// For each of a pool, a change or none.
fn each(
    pool: u8,
    likely: f64,
    change: impl Fn(u8) -> BoxedStrategy<DirectoryChange>,
) -> Vec<impl Strategy<Value = Option<DirectoryChange>>> {
    (0..pool).map(|n| weighted(likely, change(n))).collect()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => change().prop_map(Step::Directory),
        8 => (any::<u8>(), turn()).prop_map(|(client, turn)| Step::Around(client, turn)),
        2 => replacement().prop_map(Step::Replace),
        3 => wait().prop_map(Step::Wait),
        5 => creation().prop_map(Step::Create),
        1 => (who(), owner()).prop_map(|(who, owner)| Step::List(who, owner)),
        20 => (who(), which(), deed()).prop_map(|(who, which, deed)| {
            Step::OnClient(who, which, deed)
        }),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        3 => select(InstanceRole::ALL).prop_map(Turn::InstanceRole),
        2 => prop::bool::weighted(0.35).prop_map(Turn::Disabled),
        4 => weighted(0.85, select(TeamRole::ALL)).prop_map(Turn::TeamRole),
        8 => weighted(0.85, select(SiteRole::ALL)).prop_map(Turn::SiteRole),
        2 => prop::bool::weighted(0.35).prop_map(Turn::Archived),
        3 => (0..TEAMS).prop_map(|n| Turn::Team(team(n))),
    ]
}

/// Any change of the directory, also one that names something unknown.
fn change() -> impl Strategy<Value = DirectoryChange> {
    let users = || (0..USERS).prop_map(user);
    let teams = || (0..TEAMS).prop_map(team);
    let sites = || (0..SITES).prop_map(site);
    prop_oneof![
        6 => put_user(users()),
        2 => users().prop_map(DirectoryChange::DeleteUser),
        4 => put_team(teams()),
        1 => teams().prop_map(DirectoryChange::DeleteTeam),
        6 => put_team_member(teams(), users()),
        3 => (teams(), users()).prop_map(|(t, u)| DirectoryChange::DeleteTeamMember(t, u)),
        4 => put_site(sites()),
        2 => sites().prop_map(DirectoryChange::DeleteSite),
        4 => put_site_member(sites(), users()),
        2 => (sites(), users()).prop_map(|(s, u)| DirectoryChange::DeleteSiteMember(s, u)),
    ]
}

/// Most of them are what several changes would have come to.
fn replacement() -> impl Strategy<Value = Replacement> {
    let changes = prop_oneof![
        3 => vec(change(), 0..6).prop_map(|changes| (true, changes)),
        1 => directories().prop_map(|changes| (false, changes)),
    ];
    (changes, prop::bool::weighted(0.3)).prop_map(|((from_present, changes), allowed)| {
        Replacement {
            from_present,
            changes,
            allow_mass_removal: allowed,
        }
    })
}

fn put_user(ids: impl Strategy<Value = UserId>) -> impl Strategy<Value = DirectoryChange> {
    let role = prop_oneof![
        3 => Just(InstanceRole::User),
        2 => Just(InstanceRole::Admin),
        2 => Just(InstanceRole::Owner),
    ];
    (ids, role, prop::bool::weighted(0.08)).prop_map(|(id, instance_role, disabled)| {
        DirectoryChange::PutUser(User {
            id,
            instance_role,
            disabled,
        })
    })
}

fn put_team(ids: impl Strategy<Value = TeamId>) -> impl Strategy<Value = DirectoryChange> {
    (ids, prop::bool::weighted(0.1))
        .prop_map(|(id, archived)| DirectoryChange::PutTeam(Team { id, archived }))
}

fn put_team_member(
    teams: impl Strategy<Value = TeamId>,
    users: impl Strategy<Value = UserId>,
) -> impl Strategy<Value = DirectoryChange> {
    (teams, users, select(TeamRole::ALL)).prop_map(|(team, user, role)| {
        DirectoryChange::PutTeamMember(TeamMember { team, user, role })
    })
}

fn put_site(ids: impl Strategy<Value = SiteId>) -> impl Strategy<Value = DirectoryChange> {
    (ids, (0..TEAMS).prop_map(team))
        .prop_map(|(id, team)| DirectoryChange::PutSite(Site { id, team }))
}

fn put_site_member(
    sites: impl Strategy<Value = SiteId>,
    users: impl Strategy<Value = UserId>,
) -> impl Strategy<Value = DirectoryChange> {
    (sites, users, select(SiteRole::ALL)).prop_map(|(site, user, role)| {
        DirectoryChange::PutSiteMember(SiteMember { site, user, role })
    })
}

fn wait() -> impl Strategy<Value = Wait> {
    prop_oneof![
        2 => select(&[1_i64, 24, 72][..]).prop_map(Wait::Hours),
        1 => Just(Wait::UntilNextEnd),
        1 => Just(Wait::UntilJustBeforeNextEnd),
    ]
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        7 => any::<u8>().prop_map(Who::Manager),
        1 => any::<u8>().prop_map(Who::Overseer),
        1 => (0..=USERS).prop_map(|n| Who::Any(user(n))),
    ]
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        9 => (0..USERS).prop_map(|n| Owner::User(user(n))),
        9 => (0..TEAMS).prop_map(|n| Owner::Team(team(n))),
        1 => Just(Owner::User(user(USERS))),
        1 => Just(Owner::Team(team(TEAMS))),
    ]
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![
        19 => any::<u8>().prop_map(Which::Present),
        1 => any::<u8>().prop_map(Which::Gone),
    ]
}

fn creation() -> impl Strategy<Value = Creation> {
    (
        who(),
        owner(),
        name(),
        wish(select(InstanceRole::ALL)),
        vec(grant(), 0..4),
        ending(),
        prop_oneof![3 => Just(0), 1 => 0..SETS],
        prop_oneof![2 => Just(Beginning::AtOnce), 1 => beginning()],
    )
        .prop_map(
            |(who, owner, name, instance_role, grants, expiry, ranges, activation)| Creation {
                who,
                owner,
                name,
                instance_role,
                grants,
                expiry,
                ranges,
                activation,
            },
        )
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        1 => Just(Deed::Get),
        12 => edit().prop_map(Deed::Update),
        6 => (select(&[0_i64, 1, 48, 168][..]), etag())
            .prop_map(|(hours, etag)| Deed::Rotate(hours, etag)),
        3 => Just(Deed::Revoke),
        5 => Just(Deed::Reactivate),
        1 => Just(Deed::Delete),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let description = select(&["", "for the nightly build"][..]);
    let fields = (
        weighted(0.3, name()),
        weighted(0.25, description),
        weighted(0.25, wish(select(InstanceRole::ALL))),
        weighted(0.6, grants_edit()),
        weighted(0.3, ending()),
        weighted(0.25, 0..SETS),
        weighted(0.3, beginning()),
        etag(),
    );
    fields.prop_map(
        |(name, description, instance_role, grants, expiry, ranges, activation, etag)| Edit {
            name,
            description,
            instance_role,
            grants,
            expiry,
            ranges,
            activation,
            etag,
        },
    )
}

fn etag() -> impl Strategy<Value = Etag> {
    prop_oneof![
        6 => Just(Etag::Omitted),
        1 => Just(Etag::Current),
        1 => Just(Etag::Stale),
    ]
}

fn grants_edit() -> impl Strategy<Value = GrantsEdit> {
    let cut = select(&[Cut::Keep, Cut::ToViewer, Cut::Drop][..]);
    prop_oneof![
        1 => vec(grant(), 0..4).prop_map(GrantsEdit::Replace),
        4 => grant().prop_map(GrantsEdit::Put),
        2 => (any::<u8>(), select(SiteRole::ALL)).prop_map(|(n, role)| GrantsEdit::Set(n, role)),
        3 => vec(cut, 1..4).prop_map(GrantsEdit::Narrow),
    ]
}

fn name() -> impl Strategy<Value = &'static str> {
    select(&["build", "deploy", "report"][..])
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        9 => Just(Ending::Never),
        18 => select(&[1_i64, 24, 48, 240][..]).prop_map(Ending::In),
        1 => select(&[-1_i64, 0][..]).prop_map(Ending::In),
        9 => Just(Ending::Sooner),
        3 => Just(Ending::Unchanged),
    ]
}

fn beginning() -> impl Strategy<Value = Beginning> {
    prop_oneof![
        4 => Just(Beginning::AtOnce),
        6 => select(&[-1_i64, 24, 72, 200, 400][..]).prop_map(Beginning::In),
        3 => Just(Beginning::Sooner),
        1 => Just(Beginning::Unchanged),
    ]
}

fn grant() -> impl Strategy<Value = Wish<(u8, SiteRole)>> {
    wish((any::<u8>(), select(SiteRole::ALL)))
}

fn wish<T: std::fmt::Debug>(wanted: impl Strategy<Value = T>) -> impl Strategy<Value = Wish<T>> {
    (wanted, prop::bool::weighted(0.85)).prop_map(|(wanted, modest)| Wish { wanted, modest })
}
