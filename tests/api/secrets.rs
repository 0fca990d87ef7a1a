//! A token is shown once, in the reply that reveals it, and nowhere else: not in
//! a log with everything in it, what is exported over OTLP, an error, a debug
//! print, an audit event, another reply or the database. The binary itself runs, all of its
//! output is searched for every token that was issued, and for what is kept of each.

use std::time::Duration;

use hitkeep_auth::{
    domain::token::{LegacyToken, Token, TokenKind},
    pb::{self, InactiveReason, InstanceRole, SiteRole, report_leak_request::Leaked},
};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

mod envoy;
mod http;
mod misplaced;
mod rest;
mod said;
mod searched;

use said::Said;

use crate::{
    fixtures::*,
    harness::{Caller, dump},
    support::{
        postgres,
        process::{Process, binary},
    },
    telemetry::collector::Collector,
};

/// A server with a log of everything, and all callers.
struct Run {
    url: String,
    address: String,
    /// Where it listens for HTTP.
    http: String,
    server: Process,
    /// What gets everything that is exported.
    collector: Collector,
    said: Said,
    tokens: Vec<String>,
}

/// Each with the permissions that its name says.
struct Callers {
    dashboard: Caller,
    sidecar: Caller,
    pusher: Caller,
    auditor: Caller,
    /// To be revoked.
    former: Caller,
}

/// Half of what replies are sealed with.
const REQUEST_IDS: [&str; 2] = [
    "7a1c3f0e-9b2d-4e5f-8a6b-1c2d3e4f5a6b",
    "b3d94c1a-52f7-4c0e-9d18-66aa0f2e7c31",
];
/// How this run's commands log.
const LOG: [&str; 4] = ["--log", "trace", "--log-format", "json"];

impl Run {
    async fn start() -> Self {
        let url = postgres::migrated_database().await;
        let anywhere = "127.0.0.1:0";
        let listen = [
            "serve",
            "--hitkeep-rest",
            "--listen",
            anywhere,
            "--http-listen",
            anywhere,
        ];
        // What is written of uses is measured while it serves.
        let options = ["--database-url", &url, "--usage-flush-interval", "50ms"];
        let mut server = binary(listen.iter().chain(&options).chain(&LOG));
        let collector = Collector::start().await;
        collector.of(&mut server);
        let mut server = Process::start(server);
        let http = server.http_address().await;
        let address = server.address().await;
        Self {
            url,
            address,
            http,
            server,
            collector,
            said: Said::default(),
            tokens: Vec::new(),
        }
    }

    /// Makes a service account with the command line.
    async fn account(&mut self, name: &str, allow: &str) -> Caller {
        let command = [
            "service-account",
            "create",
            name,
            "--allow",
            allow,
            "--json",
        ];
        let options = ["--database-url", &self.url];
        let arguments = command.iter().chain(&options).chain(&LOG);
        let ended = Process::start(binary(arguments)).ended().await;
        let made: serde_json::Value = serde_json::from_str(&ended.stdout).expect("an account");
        let token = made["token"].as_str().expect("a token").to_owned();
        self.said.note("service-account create's log", ended.stderr);
        self.tokens.push(token.clone());
        self.caller(&token).await
    }

    async fn callers(&mut self) -> Callers {
        Callers {
            dashboard: self.account("dashboard", "manage").await,
            sidecar: self.account("sidecar", "introspect").await,
            pusher: self.account("pusher", "directory").await,
            auditor: self.account("auditor", "audit").await,
            former: self.account("former", "introspect,manage").await,
        }
    }

    async fn command(&self, command: &[&str]) {
        let options = ["--database-url", &self.url];
        let arguments = command.iter().chain(&options).chain(&LOG);
        let ended = Process::start(binary(arguments)).ended().await;
        self.said
            .note(&command.join(" "), ended.stdout + &ended.stderr);
    }

    async fn caller(&self, token: &str) -> Caller {
        let endpoint =
            Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        Caller::with_token(endpoint.connect().await.expect("it accepts"), token)
    }

    /// Makes a client, whose token is then one of those that are searched for.
    async fn client(&mut self, dashboard: &Caller, request: pb::CreateApiClientRequest) -> Created {
        self.said.revealing("a request to create", &request);
        let made = dashboard.create(request).await.expect("a client");
        self.said.revealing("the reply to a creation", &made);
        self.tokens.push(made.token.clone());
        let made = Created::of(made);
        self.said.reply("a created client", &made.client);
        made
    }

    /// Makes the client of a token have a legacy one instead, as an import would have, and
    /// gives that.
    async fn importing(&mut self, token: &str) -> String {
        postgres::execute(&self.url, &becoming_legacy(token)).await;
        let legacy = legacy_for(token);
        self.tokens.push(legacy.clone());
        legacy
    }

    async fn rotate(&mut self, dashboard: &Caller, request: pb::RotateApiClientRequest) -> String {
        let rotated = dashboard.rotate(request).await.expect("a token");
        self.said.revealing("the reply to a rotation", &rotated);
        self.said
            .reply("a rotated client", &rotated.api_client.expect("a client"));
        self.tokens.push(rotated.token.clone());
        rotated.token
    }

    /// All rows of all tables, as text.
    async fn database(&self) -> String {
        dump(&mut postgres::connect(&self.url).await).await
    }
}

/// One character of the secret is another: the checksum no longer fits. A legacy token has
/// none, and is another one then.
fn misspelt(token: &str) -> String {
    let others = if LegacyToken::parse(token).is_ok() {
        ["a", "b"]
    } else {
        ["x", "y"]
    };
    let other = others[usize::from(token[10..].starts_with(others[0]))];
    format!("{}{other}{}", &token[..10], &token[11..])
}

/// A token that could have been issued and was not.
fn unknown(kind: TokenKind) -> String {
    Token::mint(kind, &crate::support::doubles::SeededEntropy::default()).reveal()
}

#[tokio::test]
async fn no_token_is_seen_but_in_the_reply_that_reveals_it() {
    let mut run = Run::start().await;
    let callers = run.callers().await;
    let Callers {
        dashboard,
        sidecar,
        pusher,
        auditor,
        former,
    } = &callers;
    run.command(&["service-account", "revoke", "former"]).await;
    run.command(&["service-account", "list"]).await;
    run.command(&["service-account", "list", "--json"]).await;
    run.command(&["service-account", "create", "sidecar", "--allow", "audit"])
        .await;

    let applied = pusher.apply(batch(world())).await.unwrap();
    run.said.reply("ApplyDirectoryChanges", &applied);

    // Everything that works.
    let mut creation = personal(VERA).granted(SITE, SiteRole::Viewer);
    REQUEST_IDS[0].clone_into(&mut creation.request_id);
    let vera = run.client(dashboard, creation.clone()).await;
    // What was sealed is opened again.
    run.client(dashboard, creation).await;
    let request = team_client(ALICE).granted(SITE, SiteRole::Editor);
    let team = run.client(dashboard, request).await;
    let request = personal(ALICE).with_role(InstanceRole::Admin);
    let gone = run.client(dashboard, request).await;
    // Two that are as an import makes them, of which one is rotated below.
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    let imported = run.client(dashboard, request.clone()).await;
    let renewed = run.client(dashboard, request).await;
    let legacy = run.importing(&imported.token).await;
    let ended_legacy = run.importing(&renewed.token).await;
    let overlapping = run
        .rotate(dashboard, rotate_with_overlap(VERA, &vera.id, 600))
        .await;
    let rotation = pb::RotateApiClientRequest {
        request_id: REQUEST_IDS[1].to_owned(),
        ..rotate_with_overlap(VERA, &vera.id, 600)
    };
    let current = run.rotate(dashboard, rotation.clone()).await;
    assert_eq!(run.rotate(dashboard, rotation.clone()).await, current);
    let mut other = rotation;
    other.overlap = None;
    run.said
        .refusal("another request", dashboard.rotate(other).await);
    let team_token = run.rotate(dashboard, rotate(ALICE, &team.id)).await;

    run.rotate(dashboard, rotate(VERA, &renewed.id)).await;

    for id in [&vera.id, &imported.id] {
        let seen = dashboard.get(get(VERA, id)).await.unwrap();
        run.said.reply("GetApiClient", &seen);
    }
    let seen = dashboard.usage(usage(VERA, &vera.id)).await.unwrap();
    run.said.reply("GetApiClientUsage", &seen);
    let seen = dashboard.list(list(VERA, of_user(VERA))).await.unwrap();
    run.said.reply("ListApiClients", &seen);
    let renamed = pb::ApiClient {
        name: "another name".to_owned(),
        etag: String::new(),
        ..vera.client.clone()
    };
    let seen = dashboard
        .update(update(VERA, renamed, &["name"]))
        .await
        .unwrap();
    run.said.reply("UpdateApiClient", &seen);
    let seen = dashboard.revoke(revoke(ALICE, &team.id)).await.unwrap();
    run.said.reply("RevokeApiClient", &seen);
    let seen = dashboard
        .reactivate(reactivate(ALICE, &team.id))
        .await
        .unwrap();
    run.said.reply("ReactivateApiClient", &seen);
    let seen = dashboard.delete(delete(ALICE, &gone.id)).await.unwrap();
    run.said.reply("DeleteApiClient", &seen);

    let managing = run.tokens[0].clone();
    let over_rest = run.manage_over_rest(&managing).await;

    let known: Vec<String> = run.tokens.clone();
    for (token, expected) in [
        (&current, InactiveReason::Unspecified),
        (&overlapping, InactiveReason::Unspecified),
        (&team_token, InactiveReason::Unspecified),
        (&vera.token, InactiveReason::TokenRotated),
        (&team.token, InactiveReason::TokenRotated),
        (&gone.token, InactiveReason::UnknownToken),
        (&legacy, InactiveReason::Unspecified),
        (&ended_legacy, InactiveReason::TokenRotated),
        (&misspelt(&legacy), InactiveReason::UnknownToken),
        (&format!("Bearer {legacy}"), InactiveReason::UnknownToken),
        (&misspelt(&current), InactiveReason::UnknownToken),
        (&format!("{current} "), InactiveReason::UnknownToken),
        (&format!("Bearer {current}"), InactiveReason::UnknownToken),
        (&known[0], InactiveReason::UnknownToken),
        (&over_rest[0].token, InactiveReason::Unspecified),
        (&over_rest[2].token, InactiveReason::UnknownToken),
    ] {
        for request in [introspect(token), check(token, SITE, "site.view")] {
            run.said.note(
                "a request to introspect",
                format!("{request:?} {request:#?}"),
            );
            let answer = sidecar.introspect(request).await.unwrap();
            assert_eq!(answer.inactive_reason(), expected);
            run.said.reply("Introspect", &answer);
        }
    }

    for token in [
        &current,
        &vera.token,
        &misspelt(&current),
        &known[0],
        &legacy,
        &misspelt(&legacy),
    ] {
        run.show_to_envoy(sidecar, token).await;
        run.show_over_http(&known[1], token).await;
        run.show_over_rest(&managing, &over_rest[0].id, token).await;
    }
    run.scrape().await;

    // Tokens that are shown as a caller's, and are none that may call.
    let as_metadata = async |values: &[String]| {
        let mut caller = sidecar.clone();
        caller.metadata = values
            .iter()
            .map(|value| ("authorization", value.clone()))
            .collect();
        caller.introspect(introspect(&current)).await
    };
    for token in known.iter().skip(4) {
        let bearer = format!("Bearer {token}");
        run.said
            .refusal("a client as caller", as_metadata(&[bearer]).await);
        run.said
            .refusal("no scheme", as_metadata(std::slice::from_ref(token)).await);
        let basic = format!("Basic {token}");
        run.said
            .refusal("another scheme", as_metadata(&[basic]).await);
    }
    let sidecars = sidecar.metadata[0].1.clone();
    run.said.refusal(
        "two callers",
        as_metadata(&[sidecars.clone(), sidecars.clone()]).await,
    );
    run.said.refusal(
        "a misspelt caller",
        as_metadata(&[misspelt(&sidecars)]).await,
    );
    run.said.refusal("no caller", as_metadata(&[]).await);
    run.said.refusal(
        "a former caller",
        former.introspect(introspect(&current)).await,
    );
    run.said.refusal(
        "not permitted",
        dashboard.introspect(introspect(&current)).await,
    );
    run.said
        .refusal("not permitted", sidecar.create(personal(VERA)).await);
    run.said
        .refusal("not permitted", auditor.apply(batch(world())).await);

    // What has leaked, by its text and by its hash.
    let of_team = pb::RevokeApiClientsRequest {
        actor: actor(ALICE),
        owner: of_team(TEAM),
        ..pb::RevokeApiClientsRequest::default()
    };
    let seen = dashboard.revoke_all(of_team).await.unwrap();
    run.said.reply("RevokeApiClients", &seen);
    let hash = Token::parse(&team_token).unwrap().hash().0;
    let hash = hash.map(|byte| format!("{byte:02x}")).concat();
    for (leaked, known) in [
        (Leaked::TokenHash(hash), true),
        (Leaked::Token(vera.token.clone()), true),
        (Leaked::Token(ended_legacy.clone()), true),
        (Leaked::Token(legacy.clone()), true),
        (Leaked::Token(misspelt(&legacy)), false),
        (Leaked::Token(misspelt(&current)), false),
        (Leaked::Token(format!("Bearer {current}")), false),
    ] {
        let report = pb::ReportLeakRequest {
            leaked: Some(leaked),
            actor: actor(EVE),
            source: "a scanner".to_owned(),
            url: "https://git.example/a".to_owned(),
        };
        let shown = format!("{report:?} {report:#?} {:?}", report.leaked);
        run.said.note("a report", shown);
        let answer = dashboard.report_leak(report).await.unwrap();
        assert_eq!(answer.known, known);
        run.said.reply("ReportLeak", &answer);
    }

    // Tokens where something else belongs, and calls that fail for other reasons.
    for token in [
        &current,
        &known[0],
        &unknown(TokenKind::Team),
        &legacy,
        &misspelt(&legacy),
    ] {
        run.tokens.push((*token).clone());
        run.misplace(&callers, (&vera.client, &current), token)
            .await;
    }
    run.said
        .refusal("not found", dashboard.get(get(EVE, &vera.id)).await);
    run.said
        .refusal("exceeding", dashboard.rotate(rotate(ROOT, &vera.id)).await);
    let too_much = personal(VERA).granted(OTHER_SITE, SiteRole::Owner);
    run.said
        .refusal("exceeding", dashboard.create(too_much).await);
    let mut later = introspect(&current);
    later.at_least_revision = Some(1_000_000);
    let impatient = sidecar.clone().within(Duration::from_millis(200));
    run.said
        .refusal("no such revision", impatient.introspect(later).await);

    // What Postgres says of a row that it refuses has the row in it.
    let spoil = "ALTER TABLE api_client_tokens ADD CONSTRAINT spoilt CHECK (false) NOT VALID";
    postgres::execute(&run.url, spoil).await;
    run.said
        .refusal("a spoilt table", dashboard.create(personal(VERA)).await);
    run.said.refusal(
        "a spoilt table",
        dashboard.rotate(rotate(VERA, &vera.id)).await,
    );
    run.fail_over_rest(&managing, &over_rest[0].id).await;
    postgres::execute(
        &run.url,
        "ALTER TABLE api_client_tokens DROP CONSTRAINT spoilt",
    )
    .await;
    let spoil = "ALTER TABLE audit_events RENAME TO renamed";
    postgres::execute(&run.url, spoil).await;
    let query = pb::ListAuditEventsRequest::default();
    run.said
        .refusal("a missing table", auditor.events(query).await);
    postgres::execute(&run.url, "ALTER TABLE renamed RENAME TO audit_events").await;
    let healthy = HealthClient::new(sidecar.channel.clone())
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    run.said.note("health", format!("{healthy:?}"));

    let done = [
        ("created", &vera.id),
        ("created", &team.id),
        ("created", &gone.id),
        ("rotated", &vera.id),
        ("rotated", &team.id),
        ("updated", &vera.id),
        ("revoked", &team.id),
        ("reactivated", &team.id),
        ("deleted", &gone.id),
        ("created", &over_rest[0].id),
        ("rotated", &over_rest[1].id),
        ("deleted", &over_rest[2].id),
    ];
    let done = done.map(|(done, id)| format!("{done} API client {id}"));
    run.search(auditor, &done).await;
}
