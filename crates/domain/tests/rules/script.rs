//! Random scripts: a directory to start from, then steps in which it changes,
//! time moves on and actors make calls. A step says what an actor is after, not
//! with which ids, so that it stays to the point however a script is cut down;
//! `resolve` turns it into a call once it is known what there is.
//!
//! The pools of ids are small: what goes comes back, and paths cross.

use hitkeep_auth_domain::{
    access::Owner,
    directory::DirectoryChange,
    id::{SiteId, TeamId, UserId},
    role::{InstanceRole, SiteRole, TeamRole},
};
use uuid::Uuid;

mod strategies;

pub(crate) use strategies::{directories, scripts};

/// How many users there can be.
pub(crate) const USERS: u8 = 4;
/// How many teams there can be.
pub(crate) const TEAMS: u8 = 2;
/// How many sites there can be.
pub(crate) const SITES: u8 = 3;

/// A directory, and what happens from then on.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Changes that make the directory.
    pub(crate) start: Vec<DirectoryChange>,
    /// What happens.
    pub(crate) steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The directory changes.
    Directory(DirectoryChange),
    /// The directory changes where a client is concerned: something about its
    /// owner, or about a site that it was granted.
    Around(u8, Turn),
    /// The whole directory is replaced.
    Replace(Replacement),
    /// Time moves on.
    Wait(Wait),
    /// An actor makes a client.
    Create(Creation),
    /// An actor lists an owner's clients.
    List(Who, Owner),
    /// An actor does something with a client.
    OnClient(Who, Which, Deed),
}

/// What changes around a client. A team's client is turned against one of its
/// managers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Turn {
    /// The user's role on the instance.
    InstanceRole(InstanceRole),
    /// Whether the user is disabled.
    Disabled(bool),
    /// The user's role in the site's team.
    TeamRole(Option<TeamRole>),
    /// The user's explicit role on the site.
    SiteRole(Option<SiteRole>),
    /// Whether the site's team is archived.
    Archived(bool),
    /// The site's team.
    Team(TeamId),
}

/// What takes the directory's place.
#[derive(Clone, Debug)]
pub(crate) struct Replacement {
    /// What it starts from: the directory as it is, or nothing at all.
    pub(crate) from_present: bool,
    /// What is different from that.
    pub(crate) changes: Vec<DirectoryChange>,
    /// Whether it may remove more than half.
    pub(crate) allow_mass_removal: bool,
}

/// How far time moves on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// By some hours.
    Hours(i64),
    /// To the very moment at which the next expiry comes or overlap ends.
    UntilNextEnd,
    /// To the last moment before it.
    UntilJustBeforeNextEnd,
}

/// Who acts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    /// A user who manages the owner's clients, if there is anybody.
    Manager(u8),
    /// A user who sees the owner's clients without managing them, if there is
    /// anybody.
    Overseer(u8),
    /// Anybody.
    Any(UserId),
}

/// Which client it is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// One of those that there are.
    Present(u8),
    /// One that was deleted, or never was.
    Gone(u8),
}

/// What a client is to be made of.
#[derive(Clone, Debug)]
pub(crate) struct Creation {
    pub(crate) who: Who,
    pub(crate) owner: Owner,
    pub(crate) name: &'static str,
    pub(crate) instance_role: Wish<InstanceRole>,
    pub(crate) grants: Vec<Wish<(u8, SiteRole)>>,
    pub(crate) expiry: Ending,
    /// The number of the ranges.
    pub(crate) ranges: usize,
    pub(crate) activation: Beginning,
}

/// When a client is to begin to work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beginning {
    /// At once.
    AtOnce,
    /// So many hours from now.
    In(i64),
    /// Halfway from now to when it does.
    Sooner,
    /// When it does.
    Unchanged,
}

/// Something to delegate; a site is picked by a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<T> {
    /// What.
    pub(crate) wanted: T,
    /// Cut down to what the actor may delegate.
    pub(crate) modest: bool,
}

/// When a client is to stop working.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Never.
    Never,
    /// So many hours from now; none and fewer are refused.
    In(i64),
    /// Halfway from now to when it does.
    Sooner,
    /// When it does.
    Unchanged,
}

/// What an actor does with a client.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Get,
    Update(Edit),
    /// With an overlap of so many hours.
    Rotate(i64, Etag),
    Revoke,
    Reactivate,
    Delete,
}

/// The fields that an update changes.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) name: Option<&'static str>,
    pub(crate) description: Option<&'static str>,
    pub(crate) instance_role: Option<Wish<InstanceRole>>,
    pub(crate) grants: Option<GrantsEdit>,
    pub(crate) expiry: Option<Ending>,
    pub(crate) ranges: Option<usize>,
    pub(crate) activation: Option<Beginning>,
    pub(crate) etag: Etag,
}

/// How an update changes the grants.
#[derive(Clone, Debug)]
pub(crate) enum GrantsEdit {
    /// Others in their place.
    Replace(Vec<Wish<(u8, SiteRole)>>),
    /// One more, or one with another role.
    Put(Wish<(u8, SiteRole)>),
    /// Another role for one of them, whatever the actor holds.
    Set(u8, SiteRole),
    /// Fewer, and lower ones: what becomes of each.
    Narrow(Vec<Cut>),
}

/// What becomes of a grant that is narrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    Keep,
    ToViewer,
    Drop,
}

/// Which etag an update or a rotation names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Etag {
    Omitted,
    Current,
    Stale,
}

/// A user of the pool; from [`USERS`] on, one that never exists.
pub(crate) const fn user(n: u8) -> UserId {
    UserId::from_uuid(Uuid::from_u128(0xa0 + n as u128))
}

/// A team of the pool; from [`TEAMS`] on, one that never exists.
pub(crate) const fn team(n: u8) -> TeamId {
    TeamId::from_uuid(Uuid::from_u128(0xb0 + n as u128))
}

/// A site of the pool; from [`SITES`] on, one that never exists.
pub(crate) const fn site(n: u8) -> SiteId {
    SiteId::from_uuid(Uuid::from_u128(0xc0 + n as u128))
}
