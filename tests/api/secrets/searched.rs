//! What must have been recorded of the run, so that there is something to search, and the search
//! of all of it.

use std::collections::BTreeSet;

use hitkeep_auth::{
    domain::token::{LegacyToken, StoredHash, Token},
    pb,
};

use super::{
    REQUEST_IDS, Run,
    said::{Said, hashed, plain},
};
use crate::{
    harness::Caller,
    telemetry::{collector::text, metrics},
};

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
    /// Ends the server, and searches all that it said for every token. `done` are the log
    /// records of the changes that were made.
    pub async fn search(self, auditor: &Caller, done: &[String]) {
        let events = auditor
            .events(pb::ListAuditEventsRequest::default())
            .await
            .unwrap();
        let mut actions: Vec<_> = events.events.iter().map(|event| &*event.action).collect();
        actions.reverse();
        let simultaneous = actions.len() - 2;
        actions[simultaneous..].sort_unstable();
        assert_eq!(actions, DONE);
        self.said.reply("ListAuditEvents", &events);
        self.said.note("the database", self.database().await);
        for token in &self.tokens {
            let hash: StoredHash = if let Ok(token) = LegacyToken::parse(token) {
                let printed = format!("{token:?} {token:#?}");
                self.said.note("a LegacyToken", printed);
                token.hash().into()
            } else {
                let token = Token::parse(token).unwrap();
                self.said.note("a Token", format!("{token:?} {token:#?}"));
                token.hash().into()
            };
            self.said.note("a hash", format!("{hash:?} {hash:#?}"));
        }

        // Some of them have a value only while it serves.
        self.collector.instruments(&metrics::instruments()).await;
        self.server.signal("TERM").await;
        let ended = self.server.ended().await;
        assert_eq!((ended.code, &*ended.stdout), (Some(0), ""));
        // That the log has everything in it, the frames of the transport as well.
        for logged in [
            r#""level":"TRACE""#,
            r#""target":"h2::codec::framed_read""#,
            r#""target":"hitkeep_auth::store::change_log""#,
            "a statement failed",
            "revoked API client ",
            "deleted API client ",
        ] {
            assert!(ended.stderr.contains(logged), "{logged}");
        }
        self.said.note("the log", ended.stderr.clone());
        let exported = self.collector.kept();
        // That everything was exported: calls and what they did, and what was logged of both.
        let spans: BTreeSet<_> = exported.spans.iter().map(|span| &*span.name).collect();
        let missing: Vec<_> = SPANS.iter().filter(|name| !spans.contains(*name)).collect();
        assert!(missing.is_empty(), "no spans {missing:?} in {spans:?}");
        let records: BTreeSet<_> = exported
            .logs
            .iter()
            .map(|log| text(log.body.as_ref()))
            .collect();
        let wanted = RECORDS.iter().map(ToString::to_string);
        let wanted = wanted.chain(done.iter().cloned());
        let missing: Vec<_> = wanted.filter(|body| !records.contains(body)).collect();
        assert!(missing.is_empty(), "no records {missing:?} in {records:?}");
        self.said.note("what was exported", &exported.bytes);

        let mut plain: Vec<_> = self.tokens.iter().flat_map(|token| plain(token)).collect();
        for id in REQUEST_IDS {
            plain.push(("a request id".to_owned(), id.to_owned()));
            plain.push(("a request id in hex".to_owned(), id.replace('-', "")));
        }
        assert_eq!(self.said.found(&plain), Vec::<String>::new());
        let log = Said::default();
        log.note("the log", ended.stderr);
        log.note("what was exported", exported.bytes);
        let hashed: Vec<_> = self.tokens.iter().flat_map(|token| hashed(token)).collect();
        assert_eq!(log.found(&hashed), Vec::<String>::new());
        // That one would be found: the database has them, and as base64 in XML.
        assert!(!self.said.found(&hashed).is_empty());
    }
}
