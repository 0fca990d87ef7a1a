//! Tokens in every state, and routes that need something of each kind.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{caller::CallerPermission, token::Token},
    pb::{self, InstanceRole, SiteRole, TeamRole, owner},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tonic::Status;

use super::envoy::{Sending, answered, asking};
use crate::{
    fixtures::*,
    harness::{Caller, TestApp},
    support::vectors::vectors,
};

/// A site that there is not.
const NO_SITE: &str = "00000000-0000-7000-8000-00000000bbff";
/// Well-formed, and of no client.
const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

/// A request to a route.
pub struct Case {
    /// What it is, for the message of a failure.
    pub what: String,
    /// The token that the request shows.
    pub token: Option<String>,
    /// The settings of the route.
    pub settings: Vec<(&'static str, &'static str)>,
    /// The request's path.
    pub path: String,
    /// The permission that is needed.
    pub permission: Option<&'static str>,
    /// The site that the request is about.
    pub site: Option<&'static str>,
    /// Whether the route is for people alone.
    pub human_only: bool,
}

/// A verdict, whichever door gave it.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The request may pass.
    Allowed {
        client: String,
        owner: String,
        instance_role: String,
        site: Option<(String, String)>,
    },
    /// There is no token.
    NoToken,
    /// The token does not work.
    Inactive,
    /// The token does not carry that permission.
    NotEnough(String),
    /// The token works, and no token is enough.
    HumanOnly,
}

impl Said {
    /// A refusal over HTTP: its status, its error and its challenge have to fit, as the vectors
    /// for the clients have them.
    pub fn refused(status: u16, error: &str, challenge: &str) -> Self {
        let scope = challenge.split_once("scope=\"");
        let scope = scope.map(|(_, rest)| rest.trim_end_matches('"'));
        let fits = |vector: &&Value| {
            let headers = vector["headers"].as_array().expect("headers");
            let mut headers = headers.iter().filter_map(|header| {
                let is_challenge = header[0] == "www-authenticate";
                is_challenge.then(|| header[1].as_str().unwrap_or_default().to_owned())
            });
            let expected = headers.next().unwrap_or_default();
            let expected = match (vector["permission"].as_str(), scope) {
                (Some(example), Some(scope)) => expected.replace(example, scope),
                _ => expected,
            };
            let body: Value = vector["body"]
                .as_str()
                .and_then(|body| serde_json::from_str(body).ok())
                .unwrap_or_default();
            vector["status"] == status && body["error"] == error && expected == challenge
        };
        let vectors = vectors("answers");
        let found = vectors.iter().find(fits);
        let found = found.unwrap_or_else(|| panic!("{status} {error}, {challenge}"));
        match found["verdict"].as_str().unwrap_or_default() {
            "no_token" => Self::NoToken,
            "inactive" => Self::Inactive,
            "human_only" => Self::HumanOnly,
            "forbidden" => Self::NotEnough(scope.expect("a scope").to_owned()),
            other => panic!("{other}"),
        }
    }
}

/// Who can be asked.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    Introspect,
    /// On a stream of its own.
    Stream,
    /// As one of several.
    Batch,
    /// As Envoy asks.
    Check,
    /// As Envoy asks where it is set to encode raw headers.
    CheckRaw,
    /// With the token in the other header.
    CheckApiKey,
}

impl Asker {
    /// All but the first, which the others are compared with.
    pub const OTHERS: [Self; 5] = [
        Self::Stream,
        Self::Batch,
        Self::Check,
        Self::CheckRaw,
        Self::CheckApiKey,
    ];

    pub async fn ask(self, sidecar: &Caller, case: &Case) -> Said {
        let token = case.token.as_deref();
        let bearer = token.map(|token| format!("Bearer {token}"));
        let authorization = bearer.iter().map(|value| ("authorization", value.as_str()));
        let api_key = token.iter().map(|value| ("x-api-key", *value));
        let request = match self {
            Self::Introspect | Self::Stream | Self::Batch => {
                return self.by_introspection(sidecar, case).await;
            }
            Self::Check => asking(&case.settings, &case.path).with(authorization),
            Self::CheckRaw => asking(&case.settings, &case.path).with_raw(authorization),
            Self::CheckApiKey => asking(&case.settings, &case.path).with(api_key),
        };
        answered(&sidecar.check(request).await.expect(&case.what))
    }
}

impl Asker {
    /// What introspection says of it.
    async fn by_introspection(self, sidecar: &Caller, case: &Case) -> Said {
        let Some(token) = case.token.as_deref().filter(|token| !token.is_empty()) else {
            return Said::NoToken;
        };
        let request = match case.permission {
            None => introspect(token),
            Some(permission) => check(token, case.site.unwrap_or_default(), permission),
        };
        let answer = match self {
            Self::Stream => sidecar.stream().await.ask(request).await,
            Self::Batch => in_batch(sidecar, request).await,
            _ => sidecar.introspect(request).await,
        };
        introspected(answer.expect(&case.what), case)
    }
}

/// Asks between two texts that are no tokens.
async fn in_batch(
    sidecar: &Caller,
    request: pb::IntrospectRequest,
) -> Result<pb::IntrospectResponse, Status> {
    let item = |request: pb::IntrospectRequest| pb::BatchIntrospectItem {
        token: request.token,
        check: request.check,
        source_ip: request.source_ip,
    };
    let requests = [introspect("x"), request, introspect("")];
    let batch = pb::BatchIntrospectRequest {
        requests: requests.into_iter().map(item).collect(),
        at_least_revision: None,
    };
    let mut responses = sidecar.batch(batch).await?.responses;
    assert_eq!(responses.len(), 3);
    let answer = responses.swap_remove(1);
    assert_eq!(answer.error, None);
    Ok(answer)
}

/// The verdict of an introspection.
fn introspected(answer: pb::IntrospectResponse, case: &Case) -> Said {
    if !answer.active {
        return Said::Inactive;
    }
    if case.human_only {
        return Said::HumanOnly;
    }
    if let Some(permission) = case.permission
        && !answer.decision.expect("a decision").allowed
    {
        return Said::NotEnough(permission.to_owned());
    }
    let role_on = |site: &str| {
        let grant = answer.site_grants.iter().find(|g| g.site_id == site)?;
        Some((site.to_owned(), word(grant.role().as_str_name())))
    };
    let instance_role = word(answer.instance_role().as_str_name());
    let owner = answer.owner.as_ref().expect("an owner");
    Said::Allowed {
        site: case.site.and_then(role_on),
        instance_role,
        owner: match owner.owner.as_ref().expect("an owner") {
            owner::Owner::UserId(id) => format!("user:{id}"),
            owner::Owner::TeamId(id) => format!("team:{id}"),
        },
        client: answer.client_id,
    }
}

/// A role's word: the end of its name in the proto.
fn word(name: &str) -> String {
    name.rsplit('_').next().unwrap().to_lowercase()
}

/// A route's settings as they stand in the path of `/forward-auth`, before the path of the
/// request.
pub fn path_prefix(settings: &[(&str, &str)]) -> String {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let settings = settings.iter();
    let settings = settings.map(|(name, value)| format!("{name}={}", encoded(value)));
    format!("/forward-auth;{}", settings.collect::<Vec<_>>().join(";"))
}

/// Every token at every route.
pub async fn cases(app: &TestApp) -> Vec<Case> {
    let tokens = tokens(app).await;
    let mut cases = Vec::new();
    for (state, token) in &tokens {
        for (settings, path, permission, site) in routes() {
            cases.push(Case {
                what: format!("{state} token at {settings:?}, {path}"),
                human_only: settings.contains(&("human_only", "true")),
                token: token.clone(),
                settings,
                path,
                permission,
                site,
            });
        }
    }
    cases
}

/// The same cases with legacy tokens: each client that has a token has a legacy one from
/// now on, and no other. What was no token stays as it is.
pub async fn with_legacy_tokens(app: &TestApp, cases: Vec<Case>) -> Vec<Case> {
    let is_token = |token: &&String| Token::parse(token).is_ok();
    let tokens = cases.iter().filter_map(|case| case.token.as_ref());
    let tokens: BTreeSet<_> = tokens.filter(is_token).collect();
    let sql: Vec<_> = tokens.iter().map(|token| becoming_legacy(token)).collect();
    app.psql(&sql.join("; ")).await;
    app.settle().await;
    let legacy = |case: Case| Case {
        what: format!("legacy: {}", case.what),
        token: case.token.map(|token| match Token::parse(&token) {
            Ok(_) => legacy_for(&token),
            Err(_) => token,
        }),
        ..case
    };
    cases.into_iter().map(legacy).collect()
}

/// Its settings, a path, and what is needed there: a permission, and a site.
pub type Route = (
    Vec<(&'static str, &'static str)>,
    String,
    Option<&'static str>,
    Option<&'static str>,
);

pub fn routes() -> Vec<Route> {
    let anywhere = || "/anywhere?at=all".to_owned();
    let mut routes = vec![
        (vec![], anywhere(), None, None),
        (vec![("site_id", SITE)], anywhere(), None, Some(SITE)),
        (
            vec![("site_path", "/s/{site_id}/**")],
            format!("/s/{OTHER_SITE}"),
            None,
            Some(OTHER_SITE),
        ),
    ];
    let closed = ("human_only", "true");
    let with_site = [("permission", "site.view"), ("site_id", SITE)];
    routes.extend([
        (vec![closed], anywhere(), None, None),
        (
            [&with_site[..], &[closed]].concat(),
            anywhere(),
            Some("site.view"),
            Some(SITE),
        ),
        (
            vec![closed, ("permission", "instance.view_audit")],
            anywhere(),
            Some("instance.view_audit"),
            None,
        ),
        (
            [&with_site[..], &[("human_only", "false")]].concat(),
            anywhere(),
            Some("site.view"),
            Some(SITE),
        ),
    ]);
    for permission in ["instance.view_audit", "instance.manage_users"] {
        let settings = vec![("permission", permission)];
        routes.push((settings, anywhere(), Some(permission), None));
    }
    for site in [SITE, SECOND_SITE, OTHER_SITE, NO_SITE] {
        for permission in ["site.view", "site.manage_goals", "site.manage_data"] {
            let settings = vec![("site_id", site), ("permission", permission)];
            routes.push((settings, anywhere(), Some(permission), Some(site)));
        }
        let settings = vec![
            ("permission", "site.view"),
            ("site_path", "/api/*/{site_id}/**"),
        ];
        let path = format!("/api/sites/{}/hits?x=/../", site.to_uppercase());
        routes.push((settings, path, Some("site.view"), Some(site)));
    }
    routes
}

/// A token in each state that there is.
async fn tokens(app: &TestApp) -> Vec<(&'static str, Option<String>)> {
    app.change(world()).await;
    app.change([
        put_user(ROOT, InstanceRole::Owner, false),
        put_team_member(OTHER_TEAM, VERA, TeamRole::Admin),
        put_team_member(OTHER_TEAM, ADAM, TeamRole::Admin),
    ])
    .await;
    let dashboard = app.dashboard().await;
    let made = async |request: pb::CreateApiClientRequest| dashboard.created(request).await;
    let of_vera = || {
        personal(VERA)
            .granted(SITE, SiteRole::Editor)
            .granted(OTHER_SITE, SiteRole::Viewer)
    };
    let granted = made(of_vera()).await;
    let bare = made(personal(VERA)).await;
    let of_team = team_client(ALICE)
        .granted(SITE, SiteRole::Admin)
        .granted(SECOND_SITE, SiteRole::Viewer);
    let team = made(of_team).await;
    let admin = made(personal(ALICE).with_role(InstanceRole::Admin)).await;
    let owner = made(
        personal(ROOT)
            .with_role(InstanceRole::Owner)
            .granted(SITE, SiteRole::Viewer),
    )
    .await;
    let revoked = made(of_vera()).await;
    dashboard.revoke(revoke(VERA, &revoked.id)).await.unwrap();
    let rotated = made(of_vera()).await;
    let newer = dashboard.rotate(rotate(VERA, &rotated.id)).await.unwrap();
    let overlapping = made(of_vera()).await;
    let overlap = rotate_with_overlap(VERA, &overlapping.id, 3600);
    dashboard.rotate(overlap).await.unwrap();
    let expired = made(of_vera().expiring(in_seconds(app, 60))).await;
    let expiring = made(of_vera().expiring(in_seconds(app, 600))).await;
    let disabled = made(personal(EVE)).await;
    let dormant = made(personal(ADAM).granted(OTHER_SITE, SiteRole::Admin)).await;
    let deleted = made(of_vera()).await;
    dashboard.delete(delete(VERA, &deleted.id)).await.unwrap();
    app.change([
        put_user(EVE, InstanceRole::User, true),
        delete_team_member(OTHER_TEAM, ADAM),
    ])
    .await;
    app.clock.advance(TimeDelta::seconds(60));
    let misspelt = granted.token.replace("hkp_", "hkt_");
    let text = |text: &str| Some(text.to_owned());
    vec![
        ("a user's", Some(granted.token)),
        ("a bare", Some(bare.token)),
        ("a team's", Some(team.token)),
        ("an admin's", Some(admin.token)),
        ("an instance owner's", Some(owner.token)),
        ("a revoked", Some(revoked.token)),
        ("a rotated", Some(rotated.token)),
        ("a rotation's", Some(newer.token)),
        ("an overlapping", Some(overlapping.token)),
        ("an expired", Some(expired.token)),
        ("an expiring", Some(expiring.token)),
        ("a disabled user's", Some(disabled.token)),
        ("a token with dormant grants as the", Some(dormant.token)),
        ("a deleted client's", Some(deleted.token)),
        ("a misspelt", Some(misspelt)),
        ("nobody's", text(NOBODYS)),
        ("a caller's", text(app.token(CallerPermission::Introspect))),
        ("not a", text("hkp_nothing")),
        ("not an ASCII", text("é")),
        ("an empty", text("")),
        ("no", None),
    ]
}
