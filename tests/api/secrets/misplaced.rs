//! Tokens where something else belongs: an id, a name, a permission, an address.

use hitkeep_auth::{
    domain::token::LegacyToken,
    pb::{self, report_leak_request::Leaked},
};

use super::{Callers, Run};
use crate::fixtures::*;

impl Run {
    /// Shows a token in each field that is for something else. `client` is one that exists,
    /// with a token that works.
    pub async fn misplace(&self, callers: &Callers, client: (&pb::ApiClient, &str), token: &str) {
        let Callers {
            dashboard,
            sidecar,
            pusher,
            auditor,
            ..
        } = callers;
        let (client, working) = client;
        let managing = &self.tokens[0];
        self.said
            .refusal("a token as id", dashboard.get(get(VERA, token)).await);
        self.said.refusal(
            "a token as actor",
            dashboard.get(get(token, &client.id)).await,
        );
        self.said.refusal(
            "a token as owner",
            dashboard.list(list(VERA, of_user(token))).await,
        );
        let request = pb::ListApiClientsRequest {
            page_token: token.to_owned(),
            ..list(VERA, of_user(VERA))
        };
        self.said
            .refusal("a token as page token", dashboard.list(request).await);
        let changed = pb::ApiClient {
            etag: token.to_owned(),
            ..client.clone()
        };
        self.said.refusal(
            "a token as etag",
            dashboard.update(update(VERA, changed, &["name"])).await,
        );
        let named = personal(VERA).named(&format!("of {token}"));
        self.said
            .refusal("a token as name", dashboard.create(named).await);
        let described = pb::ApiClient {
            description: token.to_owned(),
            etag: String::new(),
            ..client.clone()
        };
        self.said.refusal(
            "a token as description",
            dashboard
                .update(update(VERA, described, &["description"]))
                .await,
        );
        let request = update(VERA, client.clone(), &[token]);
        self.said
            .refusal("a token as mask", dashboard.update(request).await);
        for (hash, source, url) in [
            (token.to_owned(), String::new(), String::new()),
            (String::new(), token.to_owned(), String::new()),
            (String::new(), String::new(), format!("https://x/{token}")),
        ] {
            let leaked = if hash.is_empty() {
                Leaked::Token(managing.clone())
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
            self.said
                .refusal("a token as origin", dashboard.report_leak(report).await);
        }
        let report = pb::ReportLeakRequest {
            leaked: Some(Leaked::Token(managing.clone())),
            ..pb::ReportLeakRequest::default()
        };
        self.said
            .refusal("a caller's token", dashboard.report_leak(report).await);
        let request = check(working, token, "site.view");
        self.said
            .refusal("a token as site", sidecar.introspect(request).await);
        let request = check(working, SITE, token);
        self.said
            .refusal("a token as permission", sidecar.introspect(request).await);
        let request = pb::ListAuditEventsRequest {
            action: token.to_owned(),
            ..pb::ListAuditEventsRequest::default()
        };
        self.said
            .refusal("a token as action", auditor.events(request).await);
        self.said.refusal(
            "a token as user",
            pusher.apply(batch([delete_user(token)])).await,
        );
    }
}
