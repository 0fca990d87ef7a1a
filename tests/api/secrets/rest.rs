//! The same on the routes of HitKeep's dashboard: what manages clients there, and tokens in
//! every place of a request.

use serde_json::{Value, json};

use super::{Run, misspelt};
use crate::fixtures::{ALICE, SITE, TEAM, VERA, becoming_legacy, legacy_for};

const OWN: &str = "/api/user/api-clients";

/// A client that was made over these routes.
pub struct Made {
    pub id: String,
    pub token: String,
}

/// A request that HitKeep hands on, in which a part may be something else.
struct HandedOn<'r> {
    method: &'r str,
    path: &'r str,
    caller: &'r str,
    actor: &'r str,
    more: &'r str,
    body: &'r str,
}

impl Run {
    /// Makes, rotates, changes and deletes clients with both kinds of token. What it gives are
    /// the clients: one that stays, one that got its token by a rotation, and one that is gone.
    pub async fn manage_over_rest(&mut self, caller: &str) -> [Made; 3] {
        let named =
            json!({ "name": "over HTTP", "site_roles": [{ "site_id": SITE, "role": "viewer" }] });
        let made = self.make(caller, VERA, OWN, &named).await;
        let of_team = format!("/api/user/teams/{TEAM}/api-clients");
        let gone = self.make(caller, ALICE, &of_team, &named).await;
        let renewed = self.make(caller, VERA, OWN, &named).await;

        // As an import would have it, and then rotated.
        crate::support::postgres::execute(&self.url, &becoming_legacy(&renewed.token)).await;
        self.tokens.push(legacy_for(&renewed.token));
        let rotate = format!("{OWN}/{}/rotate", renewed.id);
        let rotated = self.hand_on(caller, "POST", VERA, &rotate, "", 200).await;
        let renewed = self.revealed(&rotated);

        let one = format!("{OWN}/{}", renewed.id);
        let rotate = format!("{one}/rotate");
        // One event each, so that the audit trail has one order.
        for (change, rotates) in [
            (json!({ "name": "renamed" }), false),
            (json!({ "name": "renamed", "revoked": true }), true),
            (json!({ "name": "renamed", "revoked": false }), false),
        ] {
            let mut body = json!({ "instance_role": "user", "site_roles": named["site_roles"] });
            body.as_object_mut()
                .unwrap()
                .extend(change.as_object().unwrap().clone());
            let body = body.to_string();
            let seen = self.hand_on(caller, "PUT", VERA, &one, &body, 200).await;
            self.said.note("PUT", seen);
            if rotates {
                let seen = self.hand_on(caller, "POST", VERA, &rotate, "", 409).await;
                self.said.note("a refused rotation", seen);
            }
        }
        let rotated = self.hand_on(caller, "POST", VERA, &rotate, "", 200).await;
        let renewed = self.revealed(&rotated);
        for (path, actor) in [(OWN, VERA), (&of_team, ALICE)] {
            let seen = self.hand_on(caller, "GET", actor, path, "", 200).await;
            self.said.note("GET", seen);
        }
        let path = format!("{of_team}/{}", gone.id);
        let seen = self.hand_on(caller, "DELETE", ALICE, &path, "", 204).await;
        self.said.note("DELETE", seen);
        [made, renewed, gone]
    }

    async fn make(&mut self, caller: &str, actor: &str, path: &str, body: &Value) -> Made {
        let body = body.to_string();
        let made = self.hand_on(caller, "POST", actor, path, &body, 201).await;
        self.revealed(&made)
    }

    /// Takes the token out of a reply that reveals one: the rest must not have it.
    fn revealed(&mut self, reply: &str) -> Made {
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let mut body: Value = serde_json::from_str(body).unwrap();
        let token = body["token"].take();
        let token = token.as_str().unwrap().to_owned();
        self.said
            .note("the reply with a token", format!("{head}{body}"));
        self.tokens.push(token.clone());
        let id = body["client"]["id"].as_str().unwrap().to_owned();
        Made { id, token }
    }

    async fn hand_on(
        &self,
        caller: &str,
        method: &str,
        actor: &str,
        path: &str,
        body: &str,
        status: u16,
    ) -> String {
        let request = HandedOn {
            method,
            path,
            caller,
            actor,
            more: "",
            body,
        };
        let answer = self.handed_on(&request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{method} {path}: {answer}"
        );
        answer
    }

    async fn handed_on(&self, request: &HandedOn<'_>) -> String {
        let HandedOn {
            method,
            path,
            caller,
            actor,
            more,
            body,
        } = request;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             x-hitkeep-caller: {caller}\r\nx-hitkeep-actor: {actor}\r\n{more}\
             content-length: {length}\r\n\r\n{body}"
        );
        self.raw(&request).await
    }

    /// Shows a token in every place of such a request: nothing of it is done.
    pub async fn show_over_rest(&self, caller: &str, client: &str, token: &str) {
        let one = format!("{OWN}/{client}");
        let plain = HandedOn {
            method: "GET",
            path: OWN,
            caller,
            actor: VERA,
            more: "",
            body: "",
        };
        let other = misspelt(token);
        let basic = format!("Basic {token}");
        // The browser's own headers are handed on, and are not read.
        let browsers = format!(
            "authorization: Bearer {token}\r\ncookie: session={token}\r\nx-api-key: {token}\r\n\
             x-hitkeep-{token}: {token}\r\nreferer: https://x/?{token}\r\n"
        );
        let seen = HandedOn {
            more: &browsers,
            ..plain
        };
        let answer = self.handed_on(&seen).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        self.said.note("a list", answer);
        let address = format!("x-hitkeep-actor-ip: {token}\r\n");
        let twice = format!("x-hitkeep-caller: {token}\r\n");
        let kind = format!("content-type: {token}\r\n");
        let (below, team) = (
            format!("{OWN}/{token}"),
            format!("/api/user/teams/{token}/api-clients"),
        );
        let (query, rotation) = (format!("{OWN}/x?{token}"), format!("{below}/rotate"));
        let nowhere = format!("{one}/{token}");
        let field = json!({ token: 1 }).to_string();
        let name = json!({ "name": [token] }).to_string();
        let named = json!({ "name": token }).to_string();
        let described = json!({ "name": "x", "description": token }).to_string();
        let expiry = json!({ "name": "x", "expires_at": token }).to_string();
        let role = json!({ "name": "x", "instance_role": token }).to_string();
        let site = json!({ "name": "x", "site_roles": [{ "site_id": token, "role": "viewer" }] });
        let on_site = json!({ "name": "x", "site_roles": [{ "site_id": SITE, "role": token }] });
        let revoked = json!({ "name": "x", "instance_role": "user", "revoked": token }).to_string();
        let (site, on_site) = (site.to_string(), on_site.to_string());
        let cut_off = format!("{{\"name\":\"x\",\"{token}");
        let creating = |body| HandedOn {
            method: "POST",
            body,
            ..plain
        };
        for request in [
            HandedOn {
                caller: token,
                ..plain
            },
            HandedOn {
                caller: &other,
                ..plain
            },
            HandedOn {
                caller: &basic,
                ..plain
            },
            HandedOn {
                actor: token,
                ..plain
            },
            HandedOn {
                more: &address,
                ..plain
            },
            HandedOn {
                more: &twice,
                ..plain
            },
            HandedOn {
                path: &team,
                ..plain
            },
            HandedOn {
                path: &nowhere,
                ..plain
            },
            HandedOn {
                method: "PUT",
                path: &below,
                body: r#"{"name":"x"}"#,
                ..plain
            },
            HandedOn {
                method: "DELETE",
                path: &below,
                ..plain
            },
            HandedOn {
                method: "DELETE",
                path: &query,
                ..plain
            },
            HandedOn {
                method: "POST",
                path: &rotation,
                ..plain
            },
            HandedOn {
                method: "PUT",
                path: &one,
                body: &revoked,
                ..plain
            },
            HandedOn {
                more: &kind,
                ..creating(r#"{"name":"x"}"#)
            },
            creating(token),
            creating(&field),
            creating(&name),
            creating(&named),
            creating(&described),
            creating(&expiry),
            creating(&role),
            creating(&site),
            creating(&on_site),
            creating(&cut_off),
        ] {
            let answer = self.handed_on(&request).await;
            // The caller's own token is one that may call.
            let is_good = request.caller == caller && request.more.is_empty() && token == caller;
            let is_plain = request.path == OWN && request.actor == VERA && request.method == "GET";
            if !(is_good && is_plain) {
                assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
            }
            self.said.note("a refused request of HitKeep's", answer);
        }
    }

    /// What fails because of the service itself says nothing of it either.
    pub async fn fail_over_rest(&self, caller: &str, client: &str) {
        let body = json!({ "name": "x" }).to_string();
        let rotate = format!("{OWN}/{client}/rotate");
        for (path, body) in [(OWN, &*body), (&rotate, "")] {
            let seen = self.hand_on(caller, "POST", VERA, path, body, 500).await;
            self.said.note("a spoilt table", seen);
        }
    }
}
