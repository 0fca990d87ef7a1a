//! The commands of `client`.

use clap::{ArgGroup, Args, Subcommand};
use uuid::Uuid;

use super::{
    moment::{Grant, Moment},
    remote::{OwnerArgs, ServerArgs},
    values::{boolean, overlap},
    words::{client_state, instance_role},
};
use crate::domain::{
    client::{ClientState, Overlap},
    id::{ClientId, SiteId, UserId},
    role::InstanceRole,
    source::Cidr,
};

#[derive(Debug, Args)]
pub struct ClientArgs {
    #[command(subcommand)]
    pub command: ClientCommand,
}

/// On whose behalf API clients are managed.
#[derive(Debug, Args)]
pub struct ActorArgs {
    /// User on whose behalf to act; the user's rights decide what is allowed
    #[arg(long, env = "HITKEEP_AUTH_ACTOR", value_name = "USER")]
    pub actor: UserId,
}

/// One existing API client, and on whose behalf to act on it.
#[derive(Debug, Args)]
pub struct OneClientArgs {
    /// Id of the API client
    pub id: ClientId,
    #[command(flatten)]
    pub actor: ActorArgs,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Create an API client, and print its token, which is shown only this once
    #[command(
        override_usage = "hitkeep-auth client create [OPTIONS] --actor <USER> --name <TEXT> <OWNER>"
    )]
    Create(Box<CreateClientArgs>),
    /// Show an API client
    Get(OneClientArgs),
    /// List API clients, newest first
    ///
    /// Without --user and --team it lists everybody's, if the actor is an owner of the
    /// instance, and the actor's own otherwise.
    List(Box<ListClientsArgs>),
    /// Change an API client; what is not given stays as it is
    #[command(
        override_usage = "hitkeep-auth client update [OPTIONS] --actor <USER> <CHANGES> <ID>"
    )]
    Update(Box<UpdateClientArgs>),
    /// Give an API client a new token, and print it; the old one ends
    Rotate(RotateClientArgs),
    /// Revoke an API client: its tokens stop working everywhere
    Revoke(OneClientArgs),
    /// Let a revoked API client work again
    Reactivate(OneClientArgs),
    /// Delete an API client
    Delete(OneClientArgs),
    /// Show how often an API client was used and refused, by day
    Usage(ClientUsageArgs),
    /// End a token that was found where it must not be: its API client is revoked
    ///
    /// The token is read from standard input, so that it appears neither in the process list
    /// nor in the shell history, unless it is named by its hash.
    ReportLeak(ReportLeakArgs),
    /// Revoke all API clients of an owner, with a grant on a site, or that a user created
    #[command(
        override_usage = "hitkeep-auth client revoke-all [OPTIONS] --actor <USER> <SELECTION>"
    )]
    RevokeAll(RevokeAllArgs),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("owner").args(["user", "team"]).required(true)))]
pub struct CreateClientArgs {
    #[command(flatten)]
    pub actor: ActorArgs,
    #[command(flatten)]
    pub owner: OwnerArgs,
    /// Name, of 1 to 120 characters
    #[arg(long, env = "HITKEEP_AUTH_NAME", value_name = "TEXT")]
    pub name: String,
    /// Description, of at most 500 characters
    #[arg(long, env = "HITKEEP_AUTH_DESCRIPTION", value_name = "TEXT")]
    pub description: Option<String>,
    /// Role on a site, such as SITE=viewer; repeat the option, or separate grants by commas
    #[arg(
        long,
        env = "HITKEEP_AUTH_GRANT",
        value_delimiter = ',',
        value_name = "SITE=ROLE"
    )]
    pub grant: Vec<Grant>,
    /// Role on the instance: user, admin or owner [default: user]
    #[arg(long, env = "HITKEEP_AUTH_INSTANCE_ROLE", value_parser = instance_role(), hide_possible_values = true, value_name = "ROLE")]
    pub instance_role: Option<InstanceRole>,
    /// When it expires, as a time (RFC 3339) or a duration from now, such as 30d [default: never]
    #[arg(long, env = "HITKEEP_AUTH_EXPIRE_TIME", value_name = "TIME")]
    pub expire_time: Option<Moment>,
    /// Range of addresses from which its tokens work, such as 192.0.2.0/24; repeat the option, or
    /// separate ranges by commas [default: from everywhere]
    #[arg(
        long,
        env = "HITKEEP_AUTH_ALLOW_CIDR",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    pub allow_cidr: Vec<Cidr>,
    /// When its tokens begin to work, as --expire-time [default: at once]
    #[arg(long, env = "HITKEEP_AUTH_NOT_BEFORE", value_name = "TIME")]
    pub not_before: Option<Moment>,
    /// UUID of this request: sent again within 24 hours, it gives the same token; --expire-time and
    /// --not-before must then be times, such as 2026-12-31T00:00:00Z, and no durations
    #[arg(long, env = "HITKEEP_AUTH_REQUEST_ID", value_name = "UUID")]
    pub request_id: Option<Uuid>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ListClientsArgs {
    #[command(flatten)]
    pub actor: ActorArgs,
    #[command(flatten)]
    pub owner: OwnerArgs,
    /// List those that are revoked, expired or otherwise inactive, too
    #[arg(long, env = "HITKEEP_AUTH_INCLUDE_INACTIVE", value_parser = boolean)]
    pub include_inactive: bool,
    /// Only those that expire before then, as a time (RFC 3339) or a duration from now, such as
    /// 30d
    #[arg(long, env = "HITKEEP_AUTH_EXPIRE_BEFORE", value_name = "TIME")]
    pub expire_before: Option<Moment>,
    /// Only those that are older than that and were not used since, as a time (RFC 3339) or a
    /// duration before now, such as 90d
    #[arg(long, env = "HITKEEP_AUTH_UNUSED_SINCE", value_name = "TIME")]
    pub unused_since: Option<Moment>,
    /// Only those that this user created
    #[arg(long, env = "HITKEEP_AUTH_LIST_CREATED_BY", value_name = "USER")]
    pub created_by: Option<UserId>,
    /// Only those in this state: active, revoked, expired or owner-inactive
    #[arg(long, env = "HITKEEP_AUTH_STATE", value_parser = client_state(), hide_possible_values = true, value_name = "STATE")]
    pub state: Option<ClientState>,
    /// Only those that have a grant on this site
    #[arg(long, env = "HITKEEP_AUTH_LIST_SITE", value_name = "ID")]
    pub site: Option<SiteId>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ReportLeakArgs {
    /// Hash of the token, as 64 hexadecimal digits [default: read the token from standard input]
    #[arg(long, env = "HITKEEP_AUTH_HASH", value_name = "HEX")]
    pub hash: Option<String>,
    /// What found it, such as gitleaks, for the audit trail
    #[arg(long, env = "HITKEEP_AUTH_SOURCE", value_name = "TEXT")]
    pub source: Option<String>,
    /// Where it was found, for the audit trail
    #[arg(long, env = "HITKEEP_AUTH_URL", value_name = "URL")]
    pub url: Option<String>,
    /// User on whose behalf it is reported, for the audit trail
    #[arg(long, env = "HITKEEP_AUTH_ACTOR", value_name = "USER")]
    pub actor: Option<UserId>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("selection").args(["user", "team", "site", "created_by"]).required(true).multiple(true)
))]
// Up to 10,000 API clients are one call, which the server too gives more time than others.
#[command(mut_arg("timeout", |timeout| timeout.default_value("1m")))]
// An owner in the environment is one to create and to list for, and not one to revoke all of.
#[command(mut_arg("user", |user| user.env("HITKEEP_AUTH_REVOKE_USER")))]
#[command(mut_arg("team", |team| team.env("HITKEEP_AUTH_REVOKE_TEAM")))]
pub struct RevokeAllArgs {
    #[command(flatten)]
    pub actor: ActorArgs,
    #[command(flatten)]
    pub owner: OwnerArgs,
    /// Those that have a grant on this site
    #[arg(long, env = "HITKEEP_AUTH_REVOKE_SITE", value_name = "ID")]
    pub site: Option<SiteId>,
    /// Those that this user created
    #[arg(long, env = "HITKEEP_AUTH_REVOKE_CREATED_BY", value_name = "USER")]
    pub created_by: Option<UserId>,
    /// Only show which would be revoked
    #[arg(long, env = "HITKEEP_AUTH_DRY_RUN", value_parser = boolean)]
    pub dry_run: bool,
    /// Do not ask whether it is meant
    #[arg(long, env = "HITKEEP_AUTH_YES", value_parser = boolean)]
    pub yes: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct UpdateClientArgs {
    /// Id of the API client
    pub id: ClientId,
    #[command(flatten)]
    pub actor: ActorArgs,
    #[command(flatten)]
    pub changes: ClientChanges,
    /// Version that must still be the current one, as `client get` shows it
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_ETAG", value_name = "ETAG")]
    pub etag: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct ClientChanges {
    /// New name
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_NAME", value_name = "TEXT")]
    pub name: Option<String>,
    /// New description; an empty one clears it
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_DESCRIPTION", value_name = "TEXT")]
    pub description: Option<String>,
    /// New roles on sites, in place of all present ones; repeat the option, or use commas
    #[arg(
        long,
        env = "HITKEEP_AUTH_UPDATE_GRANT",
        value_delimiter = ',',
        value_name = "SITE=ROLE"
    )]
    pub grant: Vec<Grant>,
    /// Take away all roles on sites
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_NO_GRANTS", conflicts_with = "grant", value_parser = boolean)]
    pub no_grants: bool,
    /// New role on the instance: user, admin or owner
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_INSTANCE_ROLE", value_parser = instance_role(), hide_possible_values = true, value_name = "ROLE")]
    pub instance_role: Option<InstanceRole>,
    /// New expiry, as a time (RFC 3339) or a duration from now, such as 30d
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_EXPIRE_TIME", value_name = "TIME")]
    pub expire_time: Option<Moment>,
    /// Let it never expire
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_NEVER_EXPIRE", conflicts_with = "expire_time", value_parser = boolean)]
    pub never_expire: bool,
    /// New ranges of addresses from which its tokens work, in place of all present ones; repeat
    /// the option, or use commas
    #[arg(
        long,
        env = "HITKEEP_AUTH_UPDATE_ALLOW_CIDR",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    pub allow_cidr: Vec<Cidr>,
    /// Let its tokens work from everywhere
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_ALLOW_EVERYWHERE", conflicts_with = "allow_cidr", value_parser = boolean)]
    pub allow_everywhere: bool,
    /// New time at which its tokens begin to work, as --expire-time
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_NOT_BEFORE", value_name = "TIME")]
    pub not_before: Option<Moment>,
    /// Let its tokens work at once
    #[arg(long, env = "HITKEEP_AUTH_UPDATE_NO_NOT_BEFORE", conflicts_with = "not_before", value_parser = boolean)]
    pub no_not_before: bool,
}

#[derive(Debug, Args)]
pub struct RotateClientArgs {
    #[command(flatten)]
    pub client: OneClientArgs,
    /// How long the old token still works, such as 1h; at most 7 days
    #[arg(long, env = "HITKEEP_AUTH_OVERLAP", default_value = "0s", value_parser = overlap, value_name = "TIME")]
    pub overlap: Overlap,
    /// UUID of this request: sent again within 24 hours, it gives the same token
    #[arg(long, env = "HITKEEP_AUTH_ROTATE_REQUEST_ID", value_name = "UUID")]
    pub request_id: Option<Uuid>,
    /// Version that must still be the current one, as `client get` shows it
    #[arg(long, env = "HITKEEP_AUTH_ROTATE_ETAG", value_name = "ETAG")]
    pub etag: Option<String>,
}

#[derive(Debug, Args)]
pub struct ClientUsageArgs {
    #[command(flatten)]
    pub client: OneClientArgs,
    /// Days to show, up to today
    #[arg(long, env = "HITKEEP_AUTH_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=400), value_name = "N")]
    pub days: u16,
}
