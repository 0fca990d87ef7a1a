//! `client report-leak` and `client revoke-all`: what is done in an incident.

use std::io::{self, IsTerminal, Write as _};

use super::{Server, owner_text, print_response, to_actor, to_owner, word};
use crate::{
    cli::{Failure, USAGE, counted, explain::presented, progress::Progress},
    config::clients::{ReportLeakArgs, RevokeAllArgs},
    domain::token::Token,
    pb::{self, api_client_service_client::ApiClientServiceClient, report_leak_request::Leaked},
};

pub(super) async fn report_leak(args: &ReportLeakArgs) -> Result<(), Failure> {
    let leaked = match &args.hash {
        Some(hash) => Leaked::TokenHash(hash.clone()),
        // Before any slow work, because the program that pipes the token in may exit.
        None => Leaked::Token(leaked_token()?),
    };
    let server = Server::connect(&args.server).await?;
    let request = server.request(pb::ReportLeakRequest {
        leaked: Some(leaked),
        actor: args.actor.map(to_actor),
        source: args.source.clone().unwrap_or_default(),
        url: args.url.clone().unwrap_or_default(),
    });
    let reported = ApiClientServiceClient::new(server.channel())
        .report_leak(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    print_response(&args.server, "ReportLeakResponse", &reported, || {
        describe(&reported)
    })
}

/// The token on standard input. A text that is none is refused here, where it can be said what
/// is wrong with it: the answer to it would be that it is not known.
fn leaked_token() -> Result<String, Failure> {
    let token = presented()?.trim().to_owned();
    match Token::defect(&token) {
        None => Ok(token),
        Some(defect) => Err(Failure::new(format_args!("this is no token: {defect}"))),
    }
}

fn describe(reported: &pb::ReportLeakResponse) -> String {
    let Some(client) = &reported.api_client else {
        return "It is not known: no API client has this token, or its client was deleted."
            .to_owned();
    };
    let ended = match (reported.was_live, reported.revoked) {
        (true, _) => "The token worked until now. Its API client is revoked.",
        (false, true) => "The token did not work at present. Its API client is revoked for good.",
        (false, false) if client.revoke_time.is_some() => {
            "The token did not work: its API client was revoked before."
        }
        (false, false) => "The token had ended before, with a rotation. Nothing was changed.",
    };
    let mut lines = vec![
        ended.to_owned(),
        format!("client         {} ({:?})", client.id, client.name),
        format!("owner          {}", owner_text(client.owner.as_ref())),
    ];
    lines.extend(client.site_grants.iter().map(|grant| {
        let role = word(grant.role().as_str_name(), "SITE_ROLE_");
        format!("grant          {}={role}", grant.site_id)
    }));
    lines.push(format!("revision       {}", reported.revision));
    lines.join("\n")
}

pub(super) async fn revoke_all(args: &RevokeAllArgs) -> Result<(), Failure> {
    let asks = !args.dry_run && !args.yes;
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure {
            why: "there is no terminal to ask on whether it is meant: look with --dry-run, and \
                  revoke with --yes"
                .to_owned(),
            code: USAGE,
        });
    }
    let server = Server::connect(&args.server).await?;
    let text = |id: Option<String>| id.unwrap_or_default();
    let mut wanted = pb::RevokeApiClientsRequest {
        actor: Some(to_actor(args.actor.actor)),
        owner: args.owner.owner().map(to_owner),
        site_id: text(args.site.map(|site| site.to_string())),
        created_by_user_id: text(args.created_by.map(|user| user.to_string())),
        validate_only: args.dry_run,
    };
    let mut service = ApiClientServiceClient::new(server.channel());
    let mut call = async |wanted: &pb::RevokeApiClientsRequest| {
        let _progress = Progress::of(if wanted.validate_only {
            "looking for API clients"
        } else {
            "revoking API clients"
        });
        let revoked = service.revoke_api_clients(server.request(wanted.clone()));
        let revoked = revoked.await.map_err(|status| server.failure(&status));
        Ok::<_, Failure>(revoked?.into_inner())
    };
    if asks {
        wanted.validate_only = true;
        let found = call(&wanted).await?;
        if found.revoked_count > 0 && !is_meant(found.revoked_count)? {
            return Err(Failure::new("no API client was revoked"));
        }
        wanted.validate_only = false;
    }
    let revoked = call(&wanted).await?;
    print_response(&args.server, "RevokeApiClientsResponse", &revoked, || {
        let count = revoked.revoked_count;
        let clients = client_count(count);
        let first = if args.dry_run {
            format!("{clients} would be revoked.")
        } else {
            format!("Revoked {clients}.")
        };
        let ids = revoked.ids.iter().map(String::as_str);
        let lines: Vec<_> = std::iter::once(&*first).chain(ids).collect();
        lines.join("\n")
    })
}

fn client_count(count: i32) -> String {
    counted(count, "API client")
}

/// Asks on the terminal.
fn is_meant(count: i32) -> Result<bool, Failure> {
    let mut terminal = io::stderr().lock();
    write!(terminal, "Revoke {}? Type yes: ", client_count(count))?;
    terminal.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}
