//! Conversions of `ApiClientService`.

use std::fmt::Write as _;

use chrono::TimeDelta;

use super::{
    reader::{Invalid, Parsed, Reader},
    to_instance_role, to_owner, to_site_grants, to_timestamp,
};
use crate::{
    domain::{
        Timestamp,
        access::{Delegated, Owner},
        audit::Actor,
        client::{
            Activation, ApiClient, ClientState, Description, Draft, Expiry, Name, Overlap,
            Rotation, Update,
        },
        id::ClientId,
        refusal::Refusal,
        replay::{CallerSecret, ReplayKey},
        role::InstanceRole,
        source::AllowedSources,
        token::TokenScheme,
    },
    grpc::{error::ApiError, page},
    pb,
    store::clients::{ClientCursor, ClientFilter, Listing},
};

/// The path in an update mask that stands for all fields.
const ALL_PATHS: &str = "*";

/// A field that an update mask can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpdatePath {
    Name,
    Description,
    InstanceRole,
    SiteGrants,
    ExpireTime,
    AllowedCidrs,
    NotBeforeTime,
}

impl UpdatePath {
    const ALL: [Self; 7] = [
        Self::Name,
        Self::Description,
        Self::InstanceRole,
        Self::SiteGrants,
        Self::ExpireTime,
        Self::AllowedCidrs,
        Self::NotBeforeTime,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Description => "description",
            Self::InstanceRole => "instance_role",
            Self::SiteGrants => "site_grants",
            Self::ExpireTime => "expire_time",
            Self::AllowedCidrs => "allowed_cidrs",
            Self::NotBeforeTime => "not_before_time",
        }
    }
}

/// A validated request about one client.
#[derive(Debug)]
pub(in crate::grpc) struct OnClient {
    pub(in crate::grpc) actor: Actor,
    pub(in crate::grpc) id: ClientId,
}

/// A validated list request.
#[derive(Debug)]
pub(in crate::grpc) struct ListClients {
    pub(in crate::grpc) actor: Actor,
    pub(in crate::grpc) listing: Listing,
    /// The identity of the list, for its page tokens.
    pub(in crate::grpc) list: String,
}

pub(in crate::grpc) fn create(
    request: pb::CreateApiClientRequest,
    secret: Option<&CallerSecret>,
    now: Timestamp,
) -> Result<(Actor, Draft, Option<ReplayKey>), ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let draft = draft(&mut reader, request.api_client, now);
    let key = reader.request_id(&request.request_id, secret);
    reader.finish(|| Ok((actor?, draft?, key?)))
}

pub(in crate::grpc) fn on_client(actor: Option<pb::Actor>, id: &str) -> Result<OnClient, ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(actor);
    let id = reader.id("id", id);
    reader.finish(|| {
        Ok(OnClient {
            actor: actor?,
            id: id?,
        })
    })
}

pub(in crate::grpc) fn rotate(
    request: pb::RotateApiClientRequest,
    secret: Option<&CallerSecret>,
) -> Result<(OnClient, Rotation, Option<ReplayKey>), ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let id = reader.id("id", &request.id);
    let overlap = overlap(&mut reader, request.overlap);
    let etag = etag(request.etag);
    let key = reader.request_id(&request.request_id, secret);
    reader.finish(|| {
        let on_client = OnClient {
            actor: actor?,
            id: id?,
        };
        let overlap = overlap?;
        Ok((on_client, Rotation { overlap, etag }, key?))
    })
}

pub(in crate::grpc) fn update(
    request: pb::UpdateApiClientRequest,
    now: Timestamp,
) -> Result<(OnClient, Update), ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let mask = update_mask(&mut reader, request.update_mask);
    let client = reader.required("api_client", request.api_client);
    let id = client.as_ref().or(Err(&Invalid));
    let id = id
        .map_err(|invalid| *invalid)
        .and_then(|client| reader.id("api_client.id", &client.id));
    let changes = match (client, mask) {
        (Ok(client), Ok(mask)) => changes(&mut reader, client, &mask, now),
        _ => Err(Invalid),
    };
    reader.finish(|| {
        Ok((
            OnClient {
                actor: actor?,
                id: id?,
            },
            changes?,
        ))
    })
}

pub(in crate::grpc) fn list(request: pb::ListApiClientsRequest) -> Result<ListClients, ApiError> {
    let mut reader = Reader::default();
    let actor = reader.actor(request.actor);
    let owner = reader.optional_owner("owner", request.owner);
    let limit = reader.page_size(request.page_size);
    let include_inactive = request.include_inactive;
    let expire_before = reader.optional_bound("expire_before", request.expire_before);
    let unused_since = reader.optional_bound("unused_since", request.unused_since);
    let created_by = reader.optional_id("created_by_user_id", &request.created_by_user_id);
    let state = request
        .state
        .map(|state| reader.client_state("state", state));
    let site = reader.optional_id("site_id", &request.site_id);
    let filter = (|| {
        Ok(ClientFilter {
            expire_before: expire_before?,
            unused_since: unused_since?,
            created_by: created_by?,
            state: state.transpose()?,
            site: site?,
        })
    })();
    let list = match (owner, filter) {
        (Ok(owner), Ok(filter)) => Ok(list_identity(owner, include_inactive, &filter)),
        _ => Err(Invalid),
    };
    let after = reader.page_token(list.as_deref().ok(), &request.page_token);
    reader.finish(|| {
        let after = after?.map(|(create_time, id)| {
            let id = ClientId::from_uuid(id);
            ClientCursor { create_time, id }
        });
        let listing = Listing {
            owner: owner?,
            filter: filter?,
            include_inactive,
            after,
            limit: limit?,
        };
        Ok(ListClients {
            actor: actor?,
            listing,
            list: list?,
        })
    })
}

/// Everything that selects a list's clients. Page tokens are bound to it, also on other
/// servers and in other versions: what a list is not filtered by is not in it.
fn list_identity(owner: Option<Owner>, include_inactive: bool, filter: &ClientFilter) -> String {
    let ClientFilter {
        expire_before,
        unused_since,
        created_by,
        state,
        site,
    } = filter;
    let owner = owner.map_or_else(|| "all".to_owned(), |owner| owner.to_string());
    let micros = |time: Timestamp| time.timestamp_micros().to_string();
    let parts = [
        ("expire_before", expire_before.map(micros)),
        ("unused_since", unused_since.map(micros)),
        ("created_by", created_by.map(|user| user.to_string())),
        ("state", state.map(|state| state.to_string())),
        ("site", site.map(|site| site.to_string())),
    ];
    let mut identity = format!("clients {owner} {include_inactive}");
    for (name, value) in parts {
        if let Some(value) = value {
            // Writing to a String does not fail.
            let _infallible = write!(identity, " {name}={value}");
        }
    }
    identity
}

/// The token of the page after that client.
pub(in crate::grpc) fn page_token(list: &str, last: &ApiClient) -> String {
    page::format(list, last.create_time, last.id.uuid())
}

pub(in crate::grpc) fn to_api_client(
    client: &ApiClient,
    owner_can_act: bool,
    now: Timestamp,
) -> pb::ApiClient {
    let state = match client.state(owner_can_act, now) {
        ClientState::Active => pb::ApiClientState::Active,
        ClientState::Revoked => pb::ApiClientState::Revoked,
        ClientState::Expired => pb::ApiClientState::Expired,
        ClientState::OwnerInactive => pb::ApiClientState::OwnerInactive,
    };
    pb::ApiClient {
        id: client.id.to_string(),
        owner: Some(to_owner(client.delegated.owner())),
        name: client.name.as_str().to_owned(),
        description: client.description.as_str().to_owned(),
        instance_role: Some(to_instance_role(client.delegated.instance_role()).into()),
        site_grants: to_site_grants(client.delegated.grants().iter()),
        state: state.into(),
        create_time: Some(to_timestamp(client.create_time)),
        update_time: Some(to_timestamp(client.update_time)),
        expire_time: client.expiry.time().map(to_timestamp),
        revoke_time: client.revoke_time.map(to_timestamp),
        last_used_time: client.last_used.map(to_timestamp),
        created_by_user_id: client
            .created_by
            .map(|user| user.to_string())
            .unwrap_or_default(),
        token_hint: client.token_hint.0.clone(),
        etag: client.etag(),
        allowed_cidrs: client
            .sources
            .iter()
            .map(|range| range.to_string())
            .collect(),
        not_before_time: client.activation.time().map(to_timestamp),
        token_scheme: to_token_scheme(client.token_scheme).into(),
    }
}

const fn to_token_scheme(scheme: Option<TokenScheme>) -> pb::TokenScheme {
    match scheme {
        None => pb::TokenScheme::Unspecified,
        Some(TokenScheme::Blake3) => pb::TokenScheme::Blake3,
        Some(TokenScheme::HitkeepSha256) => pb::TokenScheme::HitkeepSha256,
    }
}

fn draft(reader: &mut Reader, client: Option<pb::ApiClient>, now: Timestamp) -> Parsed<Draft> {
    let client = reader.required("api_client", client)?;
    let owner = reader.owner("api_client.owner", client.owner);
    let name = reader.parsed("api_client.name", Name::from_caller(&client.name));
    let description = Description::from_caller(&client.description);
    let description = reader.parsed("api_client.description", description);
    let instance_role = instance_role(reader, client.instance_role);
    let grants = reader.site_grants("api_client.site_grants", &client.site_grants);
    let expiry = expiry(reader, client.expire_time, now);
    let sources = sources(reader, &client.allowed_cidrs);
    let activation = activation(reader, client.not_before_time, expiry.ok());
    if let (Ok(Owner::Team(_)), Ok(InstanceRole::Admin | InstanceRole::Owner)) =
        (owner, instance_role)
    {
        let problem = "must be INSTANCE_ROLE_USER for a team's API client";
        return Err(reader.violation("api_client.instance_role", problem));
    }
    let delegated = match owner? {
        Owner::User(user) => Delegated::Personal {
            user,
            instance_role: instance_role?,
            grants: grants?,
        },
        Owner::Team(team) => Delegated::Team {
            team,
            grants: grants?,
        },
    };
    Ok(Draft {
        delegated,
        name: name?,
        description: description?,
        expiry: expiry?,
        sources: sources?,
        activation: activation?,
    })
}

/// If the role is absent (at creation, or when an update clears it), it is the default; if
/// present, it must be specified.
fn instance_role(reader: &mut Reader, role: Option<i32>) -> Parsed<InstanceRole> {
    match role {
        None => Ok(InstanceRole::User),
        Some(role) => reader.instance_role("api_client.instance_role", role),
    }
}

fn expiry(
    reader: &mut Reader,
    time: Option<prost_types::Timestamp>,
    now: Timestamp,
) -> Parsed<Expiry> {
    let field = "api_client.expire_time";
    let expiry = Expiry::from(reader.optional_timestamp(field, time)?);
    if expiry.has_come(now) {
        return Err(reader.violation(field, "must be in the future"));
    }
    Ok(expiry)
}

fn sources(reader: &mut Reader, ranges: &[String]) -> Parsed<AllowedSources> {
    reader.allowed_sources("api_client.allowed_cidrs", ranges)
}

/// The activation, which must come before the expiry that is sent with it.
fn activation(
    reader: &mut Reader,
    time: Option<prost_types::Timestamp>,
    expiry: Option<Expiry>,
) -> Parsed<Activation> {
    let field = "api_client.not_before_time";
    let activation = Activation::from(reader.optional_timestamp(field, time)?);
    if expiry.is_some_and(|expiry| !activation.is_before(expiry)) {
        return Err(reader.violation(field, Refusal::ActivationTooLate));
    }
    Ok(activation)
}

fn overlap(reader: &mut Reader, length: Option<prost_types::Duration>) -> Parsed<Overlap> {
    let Some(length) = length else {
        return Ok(Overlap::default());
    };
    // A negative length is refused, and so are negative nanos.
    let nanos = u32::try_from(length.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    let length = nanos.and_then(|nanos| TimeDelta::new(length.seconds, nanos));
    let problem = "must be from 0 to 7 days";
    reader.parsed("overlap", length.and_then(Overlap::new).ok_or(problem))
}

/// The etag that the client must still have; None if the caller sent none.
fn etag(named: String) -> Option<String> {
    Some(named).filter(|etag| !etag.is_empty())
}

fn update_mask(
    reader: &mut Reader,
    mask: Option<prost_types::FieldMask>,
) -> Parsed<Vec<UpdatePath>> {
    let paths = mask
        .map(|mask| mask.paths)
        .filter(|paths| !paths.is_empty());
    let paths = reader.required("update_mask", paths)?;
    if paths == [ALL_PATHS] {
        return Ok(UpdatePath::ALL.to_vec());
    }
    // All paths are read, so that violations of one do not hide those of another.
    let mut read = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let field = format!("update_mask.paths[{index}]");
        match UpdatePath::ALL
            .into_iter()
            .find(|known| known.as_str() == path)
        {
            Some(path) if !read.contains(&path) => read.push(path),
            Some(_) => {
                reader.violation(&field, "is named twice");
            }
            None => {
                let known = UpdatePath::ALL.map(UpdatePath::as_str).join(", ");
                reader.violation(&field, format_args!("must be one of {known}, or * alone"));
            }
        }
    }
    Ok(read)
}

fn changes(
    reader: &mut Reader,
    client: pb::ApiClient,
    mask: &[UpdatePath],
    now: Timestamp,
) -> Parsed<Update> {
    let mut update = Update {
        etag: etag(client.etag),
        ..Update::default()
    };
    for path in mask {
        match path {
            UpdatePath::Name => {
                update.name = reader
                    .parsed("api_client.name", Name::from_caller(&client.name))
                    .ok();
            }
            UpdatePath::Description => {
                let description = Description::from_caller(&client.description);
                update.description = reader.parsed("api_client.description", description).ok();
            }
            UpdatePath::InstanceRole => {
                update.instance_role = instance_role(reader, client.instance_role).ok();
            }
            UpdatePath::SiteGrants => {
                let grants = reader.site_grants("api_client.site_grants", &client.site_grants);
                update.grants = grants.ok();
            }
            UpdatePath::ExpireTime => {
                update.expiry = expiry(reader, client.expire_time, now).ok();
            }
            UpdatePath::AllowedCidrs => {
                update.sources = sources(reader, &client.allowed_cidrs).ok();
            }
            // Below, when the expiry is known.
            UpdatePath::NotBeforeTime => {}
        }
    }
    if mask.contains(&UpdatePath::NotBeforeTime) {
        update.activation = activation(reader, client.not_before_time, update.expiry).ok();
    }
    // An invalid field left a violation, so the update is refused anyway.
    if reader.has_no_violations() {
        Ok(update)
    } else {
        Err(Invalid)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::{SiteId, TeamId, UserId};

    /// A change of these texts invalidates the page tokens of servers of another version.
    #[test]
    fn a_list_is_known_by_all_that_selects_its_clients() {
        let id = Uuid::from_u128(0xab);
        let time = |seconds| Timestamp::from_timestamp(seconds, 1000);
        let all = ClientFilter {
            expire_before: time(7),
            unused_since: time(8),
            created_by: Some(UserId::from_uuid(id)),
            state: Some(ClientState::Expired),
            site: Some(SiteId::from_uuid(id)),
        };
        let team = Some(Owner::Team(TeamId::from_uuid(id)));
        let id = "00000000-0000-0000-0000-0000000000ab";
        assert_eq!(
            list_identity(None, true, &all),
            format!(
                "clients all true expire_before=7000001 unused_since=8000001 created_by={id} \
                 state=EXPIRED site={id}"
            )
        );
        assert_eq!(
            list_identity(team, false, &ClientFilter::default()),
            format!("clients team:{id} false")
        );
    }
}
