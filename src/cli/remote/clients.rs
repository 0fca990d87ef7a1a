//! `client`: manages API clients.

use std::io::{self, IsTerminal};

use chrono::{TimeDelta, Utc};
use tonic::Status;
use tonic_types::StatusExt;

use super::{
    MAX_PAGE_BYTES, Server, as_json,
    client_text::{describe, or_everywhere, or_never, usage_row},
    incident, owner_text, print_response, table, time_text, to_actor, to_owner, to_time, word,
};
use crate::{
    cli::{Failure, USAGE, counted, print_error, print_secret, progress::Progress},
    config::{
        Grant, Moment,
        clients::{
            ActorArgs, ClientCommand, ClientUsageArgs, CreateClientArgs, ListClientsArgs,
            OneClientArgs, RotateClientArgs, UpdateClientArgs,
        },
        remote::ServerArgs,
    },
    domain::{
        Timestamp,
        access::Owner,
        client::ClientState,
        clock::Clock,
        role::{InstanceRole, SiteRole},
        source::Cidr,
    },
    pb::{self, api_client_service_client::ApiClientServiceClient},
    system::SystemClock,
};

/// Clients of one page, and so of one call.
const PAGE_SIZE: i32 = 500;

pub(in crate::cli) async fn run(command: &ClientCommand) -> Result<(), Failure> {
    match command {
        ClientCommand::Create(args) => create(args).await,
        ClientCommand::Get(args) => get(args).await,
        ClientCommand::List(args) => list(args).await,
        ClientCommand::Update(args) => update(args).await,
        ClientCommand::Rotate(args) => rotate(args).await,
        ClientCommand::Revoke(args) => revoke(args).await,
        ClientCommand::Reactivate(args) => reactivate(args).await,
        ClientCommand::Delete(args) => delete(args).await,
        ClientCommand::Usage(args) => usage(args).await,
        ClientCommand::ReportLeak(args) => incident::report_leak(args).await,
        ClientCommand::RevokeAll(args) => incident::revoke_all(args).await,
    }
}

async fn create(args: &CreateClientArgs) -> Result<(), Failure> {
    if args.request_id.is_some() {
        repeatable("--expire-time", args.expire_time)?;
        repeatable("--not-before", args.not_before)?;
    }
    let expire_time = from_now("--expire-time", args.expire_time)?;
    let not_before_time = from_now("--not-before", args.not_before)?;
    let server = Server::connect(&args.server).await?;
    let request = server.request(pb::CreateApiClientRequest {
        actor: Some(actor(&args.actor)),
        api_client: Some(pb::ApiClient {
            owner: args.owner.owner().map(to_owner),
            name: args.name.clone(),
            description: args.description.clone().unwrap_or_default(),
            instance_role: args.instance_role.map(|role| to_instance_role(role).into()),
            site_grants: args.grant.iter().map(to_grant).collect(),
            expire_time: expire_time.map(to_time),
            allowed_cidrs: args.allow_cidr.iter().map(Cidr::to_string).collect(),
            not_before_time: not_before_time.map(to_time),
            ..pb::ApiClient::default()
        }),
        request_id: args.request_id.map(|id| id.to_string()).unwrap_or_default(),
    });
    let created = ApiClientServiceClient::new(server.channel())
        .create_api_client(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    let json = as_json("CreateApiClientResponse", &created);
    let client = created.api_client.unwrap_or_default();
    let repeat = args.request_id.is_some();
    print_token(
        &args.server,
        &json,
        &created.token,
        &client,
        "Created",
        repeat,
    )
}

async fn rotate(args: &RotateClientArgs) -> Result<(), Failure> {
    let one = &args.client;
    let overlap = args.overlap.length();
    let server = Server::connect(&one.server).await?;
    let request = server.request(pb::RotateApiClientRequest {
        actor: Some(actor(&one.actor)),
        id: one.id.to_string(),
        overlap: Some(prost_types::Duration {
            seconds: overlap.num_seconds(),
            nanos: overlap.subsec_nanos(),
        }),
        request_id: args.request_id.map(|id| id.to_string()).unwrap_or_default(),
        etag: args.etag.clone().unwrap_or_default(),
    });
    let rotated = ApiClientServiceClient::new(server.channel())
        .rotate_api_client(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    let json = as_json("RotateApiClientResponse", &rotated);
    let client = rotated.api_client.unwrap_or_default();
    let repeat = args.request_id.is_some();
    print_token(
        &one.server,
        &json,
        &rotated.token,
        &client,
        "Rotated",
        repeat,
    )
}

/// Prints a new token, which exists nowhere else. It goes to standard output alone, so that a
/// script can store the output in a variable; what else there is to say goes to standard error.
fn print_token(
    args: &ServerArgs,
    json: &serde_json::Value,
    token: &str,
    client: &pb::ApiClient,
    done: &str,
    is_repeatable: bool,
) -> Result<(), Failure> {
    let id = &client.id;
    let remedy = if is_repeatable {
        "run the same command again, with the same --request-id: it gives the same token".to_owned()
    } else {
        format!(
            "rotate the API client {id} with `hitkeep-auth client rotate {id}`, which gives \
             another one and ends those before, also one that still worked because of --overlap"
        )
    };
    if args.output.json {
        return print_secret(&json.to_string(), remedy);
    }
    print_secret(token, remedy)?;
    if io::stdout().is_terminal() {
        print_error(&format!(
            "{done} {id} ({:?}). The token is shown only once: store it now.",
            client.name
        ));
    } else {
        print_error(&format!("{done} {id} ({:?}).", client.name));
    }
    Ok(())
}

async fn get(args: &OneClientArgs) -> Result<(), Failure> {
    let server = Server::connect(&args.server).await?;
    let request = server.request(pb::GetApiClientRequest {
        actor: Some(actor(&args.actor)),
        id: args.id.to_string(),
    });
    let got = ApiClientServiceClient::new(server.channel())
        .get_api_client(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    print_response(&args.server, "GetApiClientResponse", &got, || {
        describe(&got.api_client.clone().unwrap_or_default())
    })
}

async fn list(args: &ListClientsArgs) -> Result<(), Failure> {
    let now = SystemClock::default().now();
    let far = |option: &str| Failure {
        why: format!("{option} is too far away"),
        code: USAGE,
    };
    let expire_before = args.expire_before.map(|moment| moment.after(now));
    let unused_since = args.unused_since.map(|moment| moment.before(now));
    let mut wanted = pb::ListApiClientsRequest {
        actor: Some(actor(&args.actor)),
        owner: args.owner.owner().map(to_owner),
        page_size: PAGE_SIZE,
        include_inactive: args.include_inactive,
        expire_before: { expire_before }
            .map(|time| time.ok_or_else(|| far("--expire-before")))
            .transpose()?
            .map(to_time),
        unused_since: { unused_since }
            .map(|time| time.ok_or_else(|| far("--unused-since")))
            .transpose()?
            .map(to_time),
        created_by_user_id: args
            .created_by
            .map(|user| user.to_string())
            .unwrap_or_default(),
        state: args.state.map(|state| to_state(state).into()),
        site_id: args.site.map(|site| site.to_string()).unwrap_or_default(),
        ..pb::ListApiClientsRequest::default()
    };
    let progress = Progress::of("listing API clients");
    let server = Server::connect(&args.server).await?;
    let mut service =
        ApiClientServiceClient::new(server.channel()).max_decoding_message_size(MAX_PAGE_BYTES);
    let mut all = pb::ListApiClientsResponse::default();
    loop {
        wanted.page_token = std::mem::take(&mut all.next_page_token);
        let page = match service
            .list_api_clients(server.request(wanted.clone()))
            .await
        {
            Ok(page) => page.into_inner(),
            Err(status) if wanted.owner.is_none() && is_not_managed(&status) => {
                let actor = args.actor.actor;
                progress.clear();
                // A script gets what it asked for before there was such a list, and nothing else.
                if io::stderr().is_terminal() {
                    print_error(&format!(
                        "{actor} is no owner of the instance: these are the user's own API clients"
                    ));
                }
                progress.say("listing the user's own API clients");
                wanted.owner = Some(to_owner(Owner::User(actor)));
                all = pb::ListApiClientsResponse::default();
                continue;
            }
            Err(status) => return Err(server.failure(&status)),
        };
        all.api_clients.extend(page.api_clients);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
        let so_far = counted(all.api_clients.len(), "API client");
        progress.say(&format!("listing API clients: {so_far} so far"));
    }
    drop(progress);
    print_response(&args.server, "ListApiClientsResponse", &all, || {
        if all.api_clients.is_empty() {
            return "There are no API clients.".to_owned();
        }
        let rows: Vec<_> = all
            .api_clients
            .iter()
            .map(|client| {
                [
                    client.id.clone(),
                    client.name.clone(),
                    word(client.state().as_str_name(), "API_CLIENT_STATE_"),
                    client.token_hint.clone(),
                    or_everywhere(&client.allowed_cidrs),
                    time_text(client.not_before_time.as_ref()),
                    or_never(client.expire_time.as_ref()),
                    or_never(client.last_used_time.as_ref()),
                    owner_text(client.owner.as_ref()),
                ]
            })
            .collect();
        let headings = [
            "ID",
            "NAME",
            "STATE",
            "TOKEN",
            "WORKS FROM",
            "NOT BEFORE",
            "EXPIRES",
            "LAST USED",
            "OWNER",
        ];
        table(headings, &rows)
    })
}

async fn update(args: &UpdateClientArgs) -> Result<(), Failure> {
    let changes = &args.changes;
    let expire_time = from_now("--expire-time", changes.expire_time)?;
    let not_before_time = from_now("--not-before", changes.not_before)?;
    let masked = [
        ("name", changes.name.is_some()),
        ("description", changes.description.is_some()),
        ("instance_role", changes.instance_role.is_some()),
        (
            "site_grants",
            changes.no_grants || !changes.grant.is_empty(),
        ),
        ("expire_time", changes.never_expire || expire_time.is_some()),
        (
            "allowed_cidrs",
            changes.allow_everywhere || !changes.allow_cidr.is_empty(),
        ),
        (
            "not_before_time",
            changes.no_not_before || not_before_time.is_some(),
        ),
    ];
    let paths = masked.iter().filter(|(_, is_masked)| *is_masked);
    let server = Server::connect(&args.server).await?;
    let request = server.request(pb::UpdateApiClientRequest {
        actor: Some(actor(&args.actor)),
        api_client: Some(pb::ApiClient {
            id: args.id.to_string(),
            name: changes.name.clone().unwrap_or_default(),
            description: changes.description.clone().unwrap_or_default(),
            instance_role: changes
                .instance_role
                .map(|role| to_instance_role(role).into()),
            site_grants: changes.grant.iter().map(to_grant).collect(),
            expire_time: expire_time.map(to_time),
            allowed_cidrs: changes.allow_cidr.iter().map(Cidr::to_string).collect(),
            not_before_time: not_before_time.map(to_time),
            etag: args.etag.clone().unwrap_or_default(),
            ..pb::ApiClient::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.map(|(path, _)| (*path).to_owned()).collect(),
        }),
    });
    let updated = ApiClientServiceClient::new(server.channel())
        .update_api_client(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    print_response(&args.server, "UpdateApiClientResponse", &updated, || {
        describe(&updated.api_client.clone().unwrap_or_default())
    })
}

async fn revoke(args: &OneClientArgs) -> Result<(), Failure> {
    let server = Server::connect(&args.server).await?;
    let request = server.request(pb::RevokeApiClientRequest {
        actor: Some(actor(&args.actor)),
        id: args.id.to_string(),
    });
    let revoked = ApiClientServiceClient::new(server.channel())
        .revoke_api_client(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    print_response(&args.server, "RevokeApiClientResponse", &revoked, || {
        let client = revoked.api_client.clone().unwrap_or_default();
        let since = time_text(client.revoke_time.as_ref());
        format!("Revoked {} ({:?}), as of {since}.", client.id, client.name)
    })
}

async fn reactivate(args: &OneClientArgs) -> Result<(), Failure> {
    let server = Server::connect(&args.server).await?;
    let request = server.request(pb::ReactivateApiClientRequest {
        actor: Some(actor(&args.actor)),
        id: args.id.to_string(),
    });
    let reactivated = ApiClientServiceClient::new(server.channel())
        .reactivate_api_client(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    print_response(
        &args.server,
        "ReactivateApiClientResponse",
        &reactivated,
        || {
            let client = reactivated.api_client.clone().unwrap_or_default();
            let done = format!("Reactivated {} ({:?}).", client.id, client.name);
            let works = client.state() == pb::ApiClientState::Active;
            if works && client.not_before_time.is_none() {
                format!("{done} Its token works.")
            } else {
                done
            }
        },
    )
}

async fn delete(args: &OneClientArgs) -> Result<(), Failure> {
    let server = Server::connect(&args.server).await?;
    let request = server.request(pb::DeleteApiClientRequest {
        actor: Some(actor(&args.actor)),
        id: args.id.to_string(),
    });
    let deleted = ApiClientServiceClient::new(server.channel())
        .delete_api_client(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    print_response(&args.server, "DeleteApiClientResponse", &deleted, || {
        format!("Deleted {}.", args.id)
    })
}

async fn usage(args: &ClientUsageArgs) -> Result<(), Failure> {
    let one = &args.client;
    let server = Server::connect(&one.server).await?;
    let to = today() + TimeDelta::days(1);
    let request = server.request(pb::GetApiClientUsageRequest {
        actor: Some(actor(&one.actor)),
        id: one.id.to_string(),
        from: Some(to_time(to - TimeDelta::days(args.days.into()))),
        to: Some(to_time(to)),
    });
    let usage = ApiClientServiceClient::new(server.channel())
        .get_api_client_usage(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    print_response(&one.server, "GetApiClientUsageResponse", &usage, || {
        if usage.days.is_empty() {
            let days = counted(args.days, "day");
            return format!("It was not used in the last {days}.");
        }
        let rows: Vec<_> = usage.days.iter().map(usage_row).collect();
        table(["DAY", "USES", "REFUSED"], &rows)
    })
}

fn actor(args: &ActorArgs) -> pb::Actor {
    to_actor(args.actor)
}

/// Whether the actor may not list these clients.
fn is_not_managed(status: &Status) -> bool {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    reason == Some("OWNER_NOT_MANAGED")
}

const fn to_state(state: ClientState) -> pb::ApiClientState {
    match state {
        ClientState::Active => pb::ApiClientState::Active,
        ClientState::Revoked => pb::ApiClientState::Revoked,
        ClientState::Expired => pb::ApiClientState::Expired,
        ClientState::OwnerInactive => pb::ApiClientState::OwnerInactive,
    }
}

fn to_grant(grant: &Grant) -> pb::SiteGrant {
    let role = match grant.role {
        SiteRole::Viewer => pb::SiteRole::Viewer,
        SiteRole::Editor => pb::SiteRole::Editor,
        SiteRole::Admin => pb::SiteRole::Admin,
        SiteRole::Owner => pb::SiteRole::Owner,
    };
    pb::SiteGrant {
        site_id: grant.site.to_string(),
        role: role.into(),
    }
}

const fn to_instance_role(role: InstanceRole) -> pb::InstanceRole {
    match role {
        InstanceRole::User => pb::InstanceRole::User,
        InstanceRole::Admin => pb::InstanceRole::Admin,
        InstanceRole::Owner => pb::InstanceRole::Owner,
    }
}

/// A time from now on, by this machine's clock: durations on a command line are of days.
fn from_now(option: &str, moment: Option<Moment>) -> Result<Option<Timestamp>, Failure> {
    let Some(moment) = moment else {
        return Ok(None);
    };
    let time = moment.after(SystemClock::default().now());
    let too_far = || Failure {
        why: format!("{option} is too far away"),
        code: USAGE,
    };
    time.ok_or_else(too_far).map(Some)
}

/// Refuses a duration: counted from now, it is another time in each repetition, which the server
/// would refuse as another request with the same id.
fn repeatable(option: &str, moment: Option<Moment>) -> Result<(), Failure> {
    match moment {
        None | Some(Moment::At(_)) => Ok(()),
        Some(Moment::FromNow(_)) => Err(Failure {
            why: format!(
                "{option} must be a time such as 2026-12-31T00:00:00Z if there is a --request-id: \
                 a duration is counted from now, and so it would be another time when the request \
                 is sent again"
            ),
            code: USAGE,
        }),
    }
}

/// The beginning of this day in UTC.
fn today() -> Timestamp {
    let now: chrono::DateTime<Utc> = SystemClock::default().now();
    now.date_naive().and_time(chrono::NaiveTime::MIN).and_utc()
}
