//! `introspect`: asks whether a token is good, and for what.

use super::{Server, owner_text, print_response, time_text, word};
use crate::{
    cli::{Failure, explain::presented},
    config::remote::IntrospectArgs,
    pb::{self, introspection_service_client::IntrospectionServiceClient},
};

pub(in crate::cli) async fn run(args: &IntrospectArgs) -> Result<(), Failure> {
    // Before any slow work, because the program that pipes the token in may exit.
    let token = presented()?.trim().to_owned();
    let server = Server::connect(&args.server).await?;
    let check = args
        .permission
        .as_ref()
        .map(|permission| pb::PermissionCheck {
            site_id: args.site.map(|site| site.to_string()).unwrap_or_default(),
            permission: permission.clone(),
        });
    let request = server.request(pb::IntrospectRequest {
        token,
        check,
        at_least_revision: args.at_least_revision,
        source_ip: args.source_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    });
    let answer = IntrospectionServiceClient::new(server.channel())
        .introspect(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    print_response(&args.server, "IntrospectResponse", &answer, || {
        describe(&answer)
    })
}

fn describe(answer: &pb::IntrospectResponse) -> String {
    if !answer.active {
        let reason = word(answer.inactive_reason().as_str_name(), "INACTIVE_REASON_");
        return format!("inactive: {reason}");
    }
    let expires = match &answer.expire_time {
        None => "never".to_owned(),
        time => time_text(time.as_ref()),
    };
    let mut lines = vec![
        "active".to_owned(),
        format!(
            "client         {} ({:?})",
            answer.client_id, answer.client_name
        ),
        format!("owner          {}", owner_text(answer.owner.as_ref())),
        format!(
            "instance role  {}",
            word(answer.instance_role().as_str_name(), "INSTANCE_ROLE_")
        ),
        format!("expires        {expires}"),
    ];
    lines.extend(answer.site_grants.iter().map(|grant| {
        let role = word(grant.role().as_str_name(), "SITE_ROLE_");
        format!("grant          {}={role}", grant.site_id)
    }));
    lines.extend(answer.decision.as_ref().map(|decision| {
        let verdict = if decision.allowed {
            "allowed"
        } else {
            "denied"
        };
        let reason = word(decision.reason().as_str_name(), "DECISION_REASON_");
        if decision.allowed {
            format!("decision       {verdict}")
        } else {
            format!("decision       {verdict}: {reason}")
        }
    }));
    lines.join("\n")
}
