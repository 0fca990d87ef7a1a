//! A token is shown once, in the reply that reveals it, and nowhere else: not in
//! a log with everything in it, what is exported over OTLP, an error, a debug
//! print, an audit event, another reply or the database. The binary itself runs, all of its output is searched
//! for every token that was issued, and for what is kept of each.

use std::{collections::BTreeSet, time::Duration};

use diesel_async::RunQueryDsl;
use hitkeep_auth::{
    domain::token::{LegacyToken, StoredHash, Token, TokenKind},
    pb::{self, InactiveReason, InstanceRole, SiteRole, report_leak_request::Leaked},
};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

mod http;
mod rest;
mod said;

use said::{Said, hashed, plain};

use crate::{
    fixtures::*,
    harness::Caller,
    sidecars::envoy::{Sending, asking},
    support::{
        postgres,
        process::{Process, binary},
    },
    telemetry::{
        collector::{Collector, text},
        metrics,
    },
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

/// Half of what replies are sealed with.
const REQUEST_IDS: [&str; 2] = [
    "7a1c3f0e-9b2d-4e5f-8a6b-1c2d3e4f5a6b",
    "b3d94c1a-52f7-4c0e-9d18-66aa0f2e7c31",
];
/// How this run's commands log.
const LOG: [&str; 4] = ["--log", "trace", "--log-format", "json"];

/// What the audit trail has of the run, oldest first.
const DONE: [&str; 34] = [
    "service_account.created",
    "service_account.created",
    "service_account.created",
    "service_account.created",
    "service_account.created",
    "service_account.revoked",
    "api_client.created",
    "api_client.created",
    "api_client.created",
    "api_client.created",
    "api_client.created",
    "api_client.rotated",
    "api_client.rotated",
    "api_client.rotated",
    "api_client.rotated",
    "api_client.updated",
    "api_client.revoked",
    "api_client.reactivated",
    "api_client.deleted",
    // Over HTTP.
    "api_client.created",
    "api_client.created",
    "api_client.created",
    "api_client.rotated",
    "api_client.updated",
    "api_client.revoked",
    "api_client.reactivated",
    "api_client.rotated",
    "api_client.deleted",
    "api_client.revoked",
    "api_client.leaked",
    "api_client.leaked",
    "api_client.leaked",
    // These two are of one moment.
    "api_client.leaked",
    "api_client.revoked",
];

/// The spans that the run must have exported: every method that it calls over gRPC, every
/// route that it asks over HTTP, and what these do in the database.
const SPANS: [&str; 31] = [
    "hitkeep.auth.v1.ApiClientService/CreateApiClient",
    "hitkeep.auth.v1.ApiClientService/GetApiClient",
    "hitkeep.auth.v1.ApiClientService/GetApiClientUsage",
    "hitkeep.auth.v1.ApiClientService/ListApiClients",
    "hitkeep.auth.v1.ApiClientService/UpdateApiClient",
    "hitkeep.auth.v1.ApiClientService/RotateApiClient",
    "hitkeep.auth.v1.ApiClientService/RevokeApiClient",
    "hitkeep.auth.v1.ApiClientService/ReactivateApiClient",
    "hitkeep.auth.v1.ApiClientService/DeleteApiClient",
    "hitkeep.auth.v1.ApiClientService/ReportLeak",
    "hitkeep.auth.v1.ApiClientService/RevokeApiClients",
    "hitkeep.auth.v1.AuditService/ListAuditEvents",
    "hitkeep.auth.v1.DirectoryService/ApplyDirectoryChanges",
    "hitkeep.auth.v1.IntrospectionService/Introspect",
    "envoy.service.auth.v3.Authorization/Check",
    "grpc.health.v1.Health/Check",
    "POST /oauth2/introspect",
    "GET /forward-auth",
    "POST none",
    "GET /api/user/api-clients",
    "POST /api/user/api-clients",
    "PUT /api/user/api-clients/{client}",
    "DELETE /api/user/api-clients/{client}",
    "POST /api/user/api-clients/{client}/rotate",
    "GET /api/user/teams/{team}/api-clients",
    "POST /api/user/teams/{team}/api-clients",
    "DELETE /api/user/teams/{team}/api-clients/{client}",
    "GET none",
    "store.connection",
    "store.transaction",
    "store.flush_usage",
];

/// The log records that it must have exported: of its start and end, and of failures that
/// had a token in the request. The changes to its clients are wanted beside them.
const RECORDS: [&str; 9] = [
    "introspection serves",
    "stopped: every call in flight was finished",
    "\"/hitkeep.auth.v1.ApiClientService/GetApiClient\" failed: \
     \"id must be a UUID in lower-case text\"",
    "\"/hitkeep.auth.v1.ApiClientService/CreateApiClient\" failed: \"internal error\"",
    "POST /oauth2/introspect failed with 401 Unauthorized",
    "POST /api/user/api-clients failed with 400 Bad Request",
    "GET /api/user/api-clients failed with 401 Unauthorized",
    "POST /api/user/api-clients failed with 500 Internal Server Error",
    "a route is misconfigured: there is no permission that holds a token",
];

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
        Caller {
            channel: endpoint.connect().await.expect("it accepts"),
            metadata: vec![("authorization", format!("Bearer {token}"))],
            timeout: None,
        }
    }

    /// Makes a client, whose token is then one of those that are searched for.
    async fn client(&mut self, dashboard: &Caller, request: pb::CreateApiClientRequest) -> Created {
        self.said.revealing("a request to create", &request);
        let made = dashboard.create(request).await.expect("a client");
        self.said.revealing("the reply to a creation", &made);
        self.tokens.push(made.token.clone());
        let client = made.api_client.expect("a client");
        self.said.reply("a created client", &client);
        Created {
            id: client.id.clone(),
            client,
            token: made.token,
            revision: made.revision,
        }
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
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::Text)]
            text: String,
        }
        let mut connection = postgres::connect(&self.url).await;
        let mut texts = async |sql: &str| -> Vec<String> {
            let rows: Vec<Row> = diesel::sql_query(sql)
                .load(&mut connection)
                .await
                .expect("the database tells");
            rows.into_iter().map(|row| row.text).collect()
        };
        let tables = "SELECT oid::regclass::text AS text FROM pg_class \
                      WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        let mut all = Vec::new();
        for table in texts(tables).await {
            all.extend(texts(&format!("SELECT t::text AS text FROM {table} AS t")).await);
        }
        all.join("\n")
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
    let dashboard = run.account("dashboard", "manage").await;
    let sidecar = run.account("sidecar", "introspect").await;
    let pusher = run.account("pusher", "directory").await;
    let auditor = run.account("auditor", "audit").await;
    let former = run.account("former", "introspect,manage").await;
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
    let vera = run.client(&dashboard, creation.clone()).await;
    // What was sealed is opened again.
    run.client(&dashboard, creation).await;
    let request = team_client(ALICE).granted(SITE, SiteRole::Editor);
    let team = run.client(&dashboard, request).await;
    let request = personal(ALICE).with_role(InstanceRole::Admin);
    let gone = run.client(&dashboard, request).await;
    // Two that are as an import makes them, of which one is rotated below.
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    let imported = run.client(&dashboard, request.clone()).await;
    let renewed = run.client(&dashboard, request).await;
    let legacy = run.importing(&imported.token).await;
    let ended_legacy = run.importing(&renewed.token).await;
    let overlapping = run
        .rotate(&dashboard, rotate_with_overlap(VERA, &vera.id, 600))
        .await;
    let rotation = pb::RotateApiClientRequest {
        request_id: REQUEST_IDS[1].to_owned(),
        ..rotate_with_overlap(VERA, &vera.id, 600)
    };
    let current = run.rotate(&dashboard, rotation.clone()).await;
    assert_eq!(run.rotate(&dashboard, rotation.clone()).await, current);
    let mut other = rotation;
    other.overlap = None;
    run.said
        .refusal("another request", dashboard.rotate(other).await);
    let team_token = run.rotate(&dashboard, rotate(ALICE, &team.id)).await;

    run.rotate(&dashboard, rotate(VERA, &renewed.id)).await;

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

    // What Envoy asks, with tokens where they belong and where they do not.
    for token in [
        &current,
        &vera.token,
        &misspelt(&current),
        &known[0],
        &legacy,
        &misspelt(&legacy),
    ] {
        let bearer = format!("Bearer {token}");
        // Envoy is told the names of the headers to remove, in lower case: so a legacy token
        // would be in the answer.
        let spoofed = format!("x-hitkeep-{}", &token[..40]);
        for settings in [
            vec![],
            vec![("site_id", SITE), ("permission", "site.delete")],
            vec![("permission", token.as_str())],
            vec![("site_id", token)],
            vec![("site_path", token)],
            vec![("human_only", token)],
            vec![(token, "site.view")],
            vec![("site_path", "/{site_id}")],
        ] {
            let path = format!("/{token}?token={token}");
            for request in [
                asking(&settings, &path).bearing(token),
                asking(&settings, &path).with([("x-api-key", token.as_str()), (&spoofed, "1")]),
                asking(&settings, &path).with_raw([("authorization", bearer.as_str())]),
            ] {
                // The settings are the operator's, who has no token there.
                let mut shown = request.clone();
                shown
                    .attributes
                    .as_mut()
                    .unwrap()
                    .context_extensions
                    .clear();
                run.said.note("a check", format!("{shown:?} {shown:#?}"));
                run.said
                    .note("its parts", format!("{:?}", shown.attributes));
                run.said.note("its parts", format!("{:#?}", shown.http()));
                let answer = sidecar.check(request).await.unwrap();
                run.said.note("Check", format!("{answer:?} {answer:#?}"));
            }
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
        run.said
            .refusal("a token as id", dashboard.get(get(VERA, token)).await);
        run.said.refusal(
            "a token as actor",
            dashboard.get(get(token, &vera.id)).await,
        );
        run.said.refusal(
            "a token as owner",
            dashboard.list(list(VERA, of_user(token))).await,
        );
        let request = pb::ListApiClientsRequest {
            page_token: token.clone(),
            ..list(VERA, of_user(VERA))
        };
        run.said
            .refusal("a token as page token", dashboard.list(request).await);
        let changed = pb::ApiClient {
            etag: token.clone(),
            ..vera.client.clone()
        };
        run.said.refusal(
            "a token as etag",
            dashboard.update(update(VERA, changed, &["name"])).await,
        );
        let request = update(VERA, vera.client.clone(), &[token]);
        run.said
            .refusal("a token as mask", dashboard.update(request).await);
        for (hash, source, url) in [
            (token.clone(), String::new(), String::new()),
            (String::new(), token.clone(), String::new()),
            (String::new(), String::new(), format!("https://x/{token}")),
        ] {
            let leaked = if hash.is_empty() {
                Leaked::Token(known[0].clone())
            } else if LegacyToken::parse(&hash).is_ok() {
                // It has the form of a hash.
                continue;
            } else {
                Leaked::TokenHash(hash)
            };
            let report = pb::ReportLeakRequest {
                leaked: Some(leaked),
                source,
                url,
                ..pb::ReportLeakRequest::default()
            };
            run.said
                .refusal("a token as origin", dashboard.report_leak(report).await);
        }
        let report = pb::ReportLeakRequest {
            leaked: Some(Leaked::Token(known[0].clone())),
            ..pb::ReportLeakRequest::default()
        };
        run.said
            .refusal("a caller's token", dashboard.report_leak(report).await);
        let request = check(&current, token, "site.view");
        run.said
            .refusal("a token as site", sidecar.introspect(request).await);
        let request = check(&current, SITE, token);
        run.said
            .refusal("a token as permission", sidecar.introspect(request).await);
        let request = pb::ListAuditEventsRequest {
            action: token.clone(),
            ..pb::ListAuditEventsRequest::default()
        };
        run.said
            .refusal("a token as action", auditor.events(request).await);
        run.said.refusal(
            "a token as user",
            pusher.apply(batch([delete_user(token)])).await,
        );
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

    let events = auditor
        .events(pb::ListAuditEventsRequest::default())
        .await
        .unwrap();
    let mut actions: Vec<_> = events.events.iter().map(|event| &*event.action).collect();
    actions.reverse();
    let simultaneous = actions.len() - 2;
    actions[simultaneous..].sort_unstable();
    assert_eq!(actions, DONE);
    run.said.reply("ListAuditEvents", &events);
    run.said.note("the database", run.database().await);
    for token in &run.tokens {
        let hash: StoredHash = if let Ok(token) = LegacyToken::parse(token) {
            let printed = format!("{token:?} {token:#?}");
            run.said.note("a LegacyToken", printed);
            token.hash().into()
        } else {
            let token = Token::parse(token).unwrap();
            run.said.note("a Token", format!("{token:?} {token:#?}"));
            token.hash().into()
        };
        run.said.note("a hash", format!("{hash:?} {hash:#?}"));
    }

    // Some of them have a value only while it serves.
    run.collector.instruments(&metrics::instruments()).await;
    run.server.signal("TERM").await;
    let ended = run.server.ended().await;
    assert_eq!((ended.code, &*ended.stdout), (Some(0), ""));
    // That the log has everything in it, the frames of the transport as well.
    for logged in [
        r#""level":"TRACE""#,
        r#""target":"h2::codec::framed_read""#,
        r#""target":"hitkeep_auth::grpc::management""#,
        "a statement failed",
        "revoked API client ",
        "deleted API client ",
    ] {
        assert!(ended.stderr.contains(logged), "{logged}");
    }
    run.said.note("the log", ended.stderr.clone());
    let exported = run.collector.kept();
    // That everything was exported: calls and what they did, and what was logged of both.
    let spans: BTreeSet<_> = exported.spans.iter().map(|span| &*span.name).collect();
    let missing: Vec<_> = SPANS.iter().filter(|name| !spans.contains(*name)).collect();
    assert!(missing.is_empty(), "no spans {missing:?} in {spans:?}");
    let records: BTreeSet<_> = exported
        .logs
        .iter()
        .map(|log| text(log.body.as_ref()))
        .collect();
    let done = [
        ("created", &vera),
        ("created", &team),
        ("created", &gone),
        ("rotated", &vera),
        ("rotated", &team),
        ("updated", &vera),
        ("revoked", &team),
        ("reactivated", &team),
        ("deleted", &gone),
    ]
    .map(|(done, client)| format!("{done} API client {}", client.id));
    let [made, renewed, gone] = &over_rest;
    let over_rest = [("created", made), ("rotated", renewed), ("deleted", gone)]
        .map(|(done, client)| format!("{done} API client {}", client.id));
    let wanted = RECORDS.iter().map(ToString::to_string);
    let wanted = wanted.chain(done).chain(over_rest);
    let missing: Vec<_> = wanted.filter(|body| !records.contains(body)).collect();
    assert!(missing.is_empty(), "no records {missing:?} in {records:?}");
    run.said.note("what was exported", &exported.bytes);

    let mut plain: Vec<_> = run.tokens.iter().flat_map(|token| plain(token)).collect();
    for id in REQUEST_IDS {
        plain.push(("a request id".to_owned(), id.to_owned()));
        plain.push(("a request id in hex".to_owned(), id.replace('-', "")));
    }
    assert_eq!(run.said.found(&plain), Vec::<String>::new());
    let log = Said::default();
    log.note("the log", ended.stderr);
    log.note("what was exported", exported.bytes);
    let hashed: Vec<_> = run.tokens.iter().flat_map(|token| hashed(token)).collect();
    assert_eq!(log.found(&hashed), Vec::<String>::new());
    // That one would be found: the database has them, and as base64 in XML.
    assert!(!run.said.found(&hashed).is_empty());
}
