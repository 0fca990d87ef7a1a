//! The facts that decisions about API clients depend on: the actor's roles, and the actor's
//! relation to the owner. They are consistent: of one snapshot, or read under the write
//! lock.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use futures_util::future::join3;
use uuid::Uuid;

use super::{
    Snapshot, Transaction,
    connection::Connection,
    error::StoreError,
    schema::{site_members, sites, team_members, teams, users},
    types::{self, StandingColumns},
};
use crate::domain::{
    access::{Facts, Holder, Owner, OwnerFacts, SiteStanding, UserStanding},
    id::{SiteId, TeamId, UserId},
};

#[derive(Queryable)]
struct SiteRow {
    id: Uuid,
    team_id: Uuid,
    team_archived: bool,
    team_role: Option<String>,
    site_role: Option<String>,
}

impl Snapshot {
    /// Loads the facts that reading an owner's clients depends on.
    pub async fn facts(&mut self, actor: UserId, owner: Owner) -> Result<Facts, StoreError> {
        facts(self.connection(), actor, owner, &[]).await
    }
}

impl Transaction {
    /// Loads the facts that changing an owner's client depends on, with the actor's standing
    /// on each of the sites.
    pub async fn facts(
        &mut self,
        actor: UserId,
        owner: Owner,
        sites: &[SiteId],
    ) -> Result<Facts, StoreError> {
        facts(self.connection(), actor, owner, sites).await
    }
}

async fn facts(
    connection: &Connection,
    actor: UserId,
    owner: Owner,
    requested: &[SiteId],
) -> Result<Facts, StoreError> {
    let of_user = |id, user: Option<UserStanding>| match user {
        Some(user) => OwnerFacts::User {
            id,
            disabled: user.disabled,
        },
        None => OwnerFacts::Absent,
    };
    let find_owner = async {
        Ok::<_, StoreError>(match owner {
            Owner::User(id) if id == actor => None,
            Owner::User(id) => Some(of_user(id, find_user(connection, id).await?)),
            Owner::Team(id) => Some(find_team(connection, id, actor).await?),
        })
    };
    // Pipelined.
    let (user, sites, owner) = join3(
        find_user(connection, actor),
        site_standings(connection, actor, requested),
        find_owner,
    )
    .await;
    let (user, sites) = (user?, sites?);
    let owner = owner?.unwrap_or_else(|| of_user(actor, user));
    Ok(Facts {
        actor: Holder {
            id: actor,
            user,
            sites,
        },
        owner,
    })
}

async fn find_user(
    mut connection: &Connection,
    id: UserId,
) -> Result<Option<UserStanding>, StoreError> {
    let row: Option<(String, bool)> = users::table
        .find(id.uuid())
        .select((users::instance_role, users::disabled))
        .first(&mut connection)
        .await
        .optional()?;
    row.map(|(role, disabled)| {
        Ok(UserStanding {
            instance_role: types::word(&role)?,
            disabled,
        })
    })
    .transpose()
}

async fn find_team(
    mut connection: &Connection,
    id: TeamId,
    actor: UserId,
) -> Result<OwnerFacts, StoreError> {
    let of_actor = team_members::user_id.eq(actor.uuid());
    let membership = team_members::table.on(team_members::team_id.eq(teams::id).and(of_actor));
    let row: Option<(bool, Option<String>)> = teams::table
        .left_join(membership)
        .filter(teams::id.eq(id.uuid()))
        .select((teams::archived, team_members::role.nullable()))
        .first(&mut connection)
        .await
        .optional()?;
    let Some((archived, role)) = row else {
        return Ok(OwnerFacts::Absent);
    };
    let actor_role = role.as_deref().map(types::word).transpose()?;
    Ok(OwnerFacts::Team {
        id,
        archived,
        actor_role,
    })
}

async fn site_standings(
    mut connection: &Connection,
    user: UserId,
    requested: &[SiteId],
) -> Result<BTreeMap<SiteId, SiteStanding>, StoreError> {
    if requested.is_empty() {
        return Ok(BTreeMap::new());
    }
    let in_team = team_members::user_id.eq(user.uuid());
    let in_team = team_members::table.on(team_members::team_id.eq(sites::team_id).and(in_team));
    let on_site = site_members::user_id.eq(user.uuid());
    let on_site = site_members::table.on(site_members::site_id.eq(sites::id).and(on_site));
    let ids: Vec<Uuid> = requested.iter().map(|site| site.uuid()).collect();
    let rows: Vec<SiteRow> = sites::table
        .inner_join(teams::table)
        .left_join(in_team)
        .left_join(on_site)
        .filter(sites::id.eq_any(ids))
        .select((
            sites::id,
            sites::team_id,
            teams::archived,
            team_members::role.nullable(),
            site_members::role.nullable(),
        ))
        .load(&mut connection)
        .await?;
    let standing = |row: SiteRow| {
        let columns = StandingColumns {
            team: row.team_id,
            team_archived: row.team_archived,
            team_role: row.team_role.as_deref(),
            site_role: row.site_role.as_deref(),
        };
        Ok((SiteId::from_uuid(row.id), columns.read()?))
    };
    rows.into_iter().map(standing).collect()
}
