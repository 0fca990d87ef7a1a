//! `testdata/vectors.json`: what this service makes of tokens, headers, routes and verdicts, and
//! what a replica is sent, for the tests of the clients in Rust and Go and of the proxies. It is
//! written by this test alone: `WRITE_VECTORS=1 cargo test --lib vectors`.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};
use uuid::Uuid;

mod frames;

use crate::{
    domain::{
        access::{Owner, PermissionCheck},
        clock::Entropy,
        id::{ClientId, SiteId, TeamId},
        role::{InstancePermission, InstanceRole, SitePermission, SiteRole},
        token::{PresentedToken, Token, TokenKind},
    },
    grpc::convert::ext_authz::to_denied,
    proxy_auth::{
        credential::{Credential, Credentials},
        route::{Need, NeedError, PathAmbiguity, RouteError, RouteSettings},
        verdict::{Pass, Refused, Verdict},
    },
};
use frames::replication;

const FILE: &str = "testdata/vectors.json";
const ABOUT: &str = "Written by src/grpc/replication/vectors.rs, and not by hand: \
                     WRITE_VECTORS=1 cargo test --lib vectors";

const SITE: &str = "01930000-0000-7000-8000-0000000000aa";
const OTHER_SITE: &str = "01930000-0000-7000-8000-0000000000bb";
/// Of no token that anybody has.
const LEGACY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[tokio::test]
async fn the_file_is_what_the_service_does() {
    let vectors = json!({
        "about": ABOUT,
        "tokens": tokens(),
        "credentials": credentials(),
        "permissions": permissions(),
        "routes": routes(),
        "answers": answers(),
        "replication": replication(),
    });
    let text = serde_json::to_string_pretty(&vectors).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os("WRITE_VECTORS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "{FILE} is not up to date. {ABOUT}");
}

/// A token of no randomness.
struct Fixed(u8);

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(self.0);
    }
}

fn token(kind: TokenKind, number: u8) -> String {
    Token::mint(kind, &Fixed(number)).reveal()
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    digits.collect::<Vec<_>>().concat()
}

/// Texts, with what each is and how it is hashed.
fn tokens() -> Value {
    let good = token(TokenKind::Personal, 7);
    let texts = [
        ("a personal token", good.clone()),
        ("a team's token", token(TokenKind::Team, 0xff)),
        ("a token of zeros", token(TokenKind::Personal, 0)),
        (
            "a service account's token",
            token(TokenKind::ServiceAccount, 7),
        ),
        ("a legacy token", LEGACY.to_owned()),
        ("nothing", String::new()),
        ("a prefix", "hkp_".to_owned()),
        ("an unknown prefix", good.replace("hkp", "hkx")),
        ("the prefix of another kind", good.replace("hkp", "hkt")),
        ("an upper-case prefix", good.replace("hkp", "HKP")),
        ("no underscore", good.replace("hkp_", "hkp-")),
        ("a missing character", good[..good.len() - 1].to_owned()),
        ("a character more", format!("{good}0")),
        ("a space behind", format!("{good} ")),
        ("a wrong checksum", swapped(&good)),
        (
            "a character outside of base62",
            format!("{}_{}", &good[..9], &good[10..]),
        ),
        (
            "a character outside of ASCII",
            format!("{}é", &good[..good.len() - 2]),
        ),
        ("zero bytes", "\0".repeat(good.len())),
        ("an upper-case legacy token", LEGACY.to_uppercase()),
        ("a legacy token that is too short", LEGACY[1..].to_owned()),
        ("a legacy token that is too long", format!("{LEGACY}0")),
        (
            "a legacy token with another letter",
            LEGACY.replace('f', "g"),
        ),
    ];
    let vector = |(what, text): (&str, String)| {
        let (kind, scheme, hash) = match PresentedToken::read(&text) {
            PresentedToken::Hash(hash) => ("own", "blake3", Some(hash.0)),
            PresentedToken::Legacy(token) => ("legacy", "hitkeep_sha256", Some(token.hash().0)),
            PresentedToken::Unknown => ("none", "", None),
        };
        let mut vector = json!({ "what": what, "text": text, "kind": kind });
        if let Some(hash) = hash {
            vector["scheme"] = scheme.into();
            vector["hash"] = hex(&hash).into();
        }
        vector
    };
    texts.into_iter().map(vector).collect()
}

/// The token with its last two different characters swapped.
fn swapped(token: &str) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let at = (1..bytes.len())
        .rev()
        .find(|at| bytes[*at] != bytes[at - 1]);
    let at = at.expect("a token has different characters");
    bytes.swap(at, at - 1);
    String::from_utf8(bytes).unwrap()
}

/// The headers of requests, with the token that is found in them.
fn credentials() -> Value {
    let requests: [&[(&str, &str)]; 17] = [
        &[],
        &[("authorization", "Bearer t")],
        &[("authorization", "bEARER   t  ")],
        &[("authorization", " Bearer \tt\t")],
        &[("authorization", "Bearer\tt")],
        &[("authorization", "Bearert")],
        &[("authorization", "Bearer")],
        &[("authorization", "Basic dDp0")],
        &[("authorization", "Bearer t,Bearer u")],
        &[("authorization", "Bearer t"), ("authorization", "Bearer t")],
        &[("x-api-key", "t")],
        &[("x-api-key", "\tt ")],
        &[("x-api-key", " ")],
        &[("x-api-key", "t"), ("x-api-key", "t")],
        &[("authorization", "Bearer t"), ("x-api-key", "u")],
        &[("authorization", "Bearer "), ("x-api-key", "t")],
        &[
            ("authorization", "Basic dDp0"),
            ("x-api-key", "t"),
            ("x-api-key", "t"),
        ],
    ];
    let vector = |headers: &[(&str, &str)]| {
        let mut seen = Credentials::default();
        for (name, value) in headers {
            seen.see(name.as_bytes(), value.as_bytes());
        }
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| json!([name, value]))
            .collect();
        let mut vector = json!({ "headers": headers });
        match seen.credential() {
            Credential::Missing => vector["found"] = "none".into(),
            Credential::Several => vector["found"] = "several".into(),
            Credential::Text(text) => {
                vector["found"] = "token".into();
                vector["token"] = String::from_utf8_lossy(text).into();
            }
        }
        vector
    };
    requests.into_iter().map(vector).collect()
}

/// What each role carries.
fn permissions() -> Value {
    let site = SiteRole::ALL.iter().map(|role| {
        let carried = SitePermission::ALL
            .iter()
            .filter(|carried| role.allows(**carried));
        let carried: Value = carried.map(|carried| carried.as_str()).collect();
        (role.as_str().to_owned(), carried)
    });
    let instance = InstanceRole::ALL.iter().map(|role| {
        let carried = InstancePermission::ALL
            .iter()
            .filter(|carried| role.allows(**carried));
        let carried: Value = carried.map(|carried| carried.as_str()).collect();
        (role.as_str().to_owned(), carried)
    });
    json!({
        "site": site.collect::<Map<_, _>>(),
        "instance": instance.collect::<Map<_, _>>(),
    })
}

/// The settings of routes and the paths of requests, with what is needed there.
fn routes() -> Value {
    let in_path = [("permission", "site.view"), ("site_path", "/s/{site_id}")];
    let below = [
        ("permission", "site.manage_data"),
        ("site_path", "/api/*/{site_id}/**"),
    ];
    let paths = [
        (&in_path[..], format!("/s/{SITE}")),
        (&in_path, format!("/s/{}", SITE.to_uppercase())),
        (&in_path, format!("/s/{SITE}?from=1")),
        (&in_path, format!("/s/{}", SITE.replace('-', ""))),
        (&in_path, format!("/s/urn:uuid:{SITE}")),
        (&in_path, format!("/s/{{{SITE}}}")),
        (&in_path, format!("/s/{}", &SITE[1..])),
        (&in_path, "/s/new".to_owned()),
        (&in_path, format!("/s//{SITE}")),
        (&in_path, format!("/s/../s/{SITE}")),
        (&in_path, format!("/s/%30{}", &SITE[1..])),
        (&in_path, "/t".to_owned()),
        (&below, format!("/api/sites/{SITE}/hits")),
        (&below, format!("/api/sites/{SITE}/hits/{OTHER_SITE}")),
        (&below, format!("/api/{SITE}/hits")),
        (&[], "/anywhere".to_owned()),
        (&[("site_id", SITE)], "/anywhere".to_owned()),
        (
            &[("permission", "instance.view_audit")],
            "/anywhere".to_owned(),
        ),
        (&[("human_only", "true")], "/anywhere".to_owned()),
        (&[("permission", "site.view")], "/anywhere".to_owned()),
        (
            &[("permission", "site.fly"), ("site_id", SITE)],
            "/anywhere".to_owned(),
        ),
        (&[("permision", "site.view")], "/anywhere".to_owned()),
        (
            &[("permission", "instance.view_audit"), ("site_id", SITE)],
            "/anywhere".to_owned(),
        ),
    ];
    let vector = |(settings, path): (&[(&str, &str)], String)| {
        let read = RouteSettings::read_without_method(settings.iter().copied());
        let need = read
            .map_err(NeedError::Route)
            .and_then(|route| route.need(Some(&path)));
        let mut vector = json!({
            "settings": settings.iter().map(|(name, value)| json!([name, value])).collect::<Value>(),
            "path": path,
        });
        match need {
            Ok(need) => vector["needs"] = needed(need),
            Err(error) => vector["answer"] = Refused::from(error).answer().status.into(),
        }
        vector
    };
    paths.into_iter().map(vector).collect()
}

fn needed(need: Need) -> Value {
    let mut needed = json!({});
    match need {
        Need::Active => {}
        Need::ActiveOn(site) => needed["site"] = site.to_string().into(),
        Need::Human => needed["human_only"] = true.into(),
        Need::Permission(check) => {
            needed["permission"] = check.permission().into();
            if let PermissionCheck::Site { site, .. } = check {
                needed["site"] = site.to_string().into();
            }
        }
    }
    needed
}

/// Verdicts, with what is answered over HTTP and gRPC.
fn answers() -> Value {
    let on_site = PermissionCheck::Site {
        site: site(SITE),
        permission: SitePermission::ManageGoals,
    };
    let on_instance = PermissionCheck::Instance(InstancePermission::ViewAudit);
    let refusals = [
        ("no_token", Refused::NoToken),
        ("inactive", Refused::Inactive),
        ("forbidden", Refused::PermissionDenied(on_site)),
        ("forbidden", Refused::PermissionDenied(on_instance)),
        ("human_only", Refused::HumanOnly),
        ("cannot_tell", Refused::Unanswerable),
        (
            "misconfigured",
            Refused::Misconfigured(RouteError::SiteTwice),
        ),
        (
            "ambiguous_path",
            Refused::AmbiguousPath(PathAmbiguity::Path),
        ),
        ("no_site", Refused::AmbiguousPath(PathAmbiguity::Site)),
    ];
    let refusal = |(verdict, refused): (&str, Refused)| {
        let mut vector = answer(verdict, &Verdict::Refused(refused.clone()));
        vector["grpc_code"] = to_denied(&refused).status.map(|status| status.code).into();
        vector["description"] = refused.description().into();
        if let Refused::PermissionDenied(check) = refused {
            vector["permission"] = check.permission().into();
            if let PermissionCheck::Site { site, .. } = check {
                vector["site"] = site.to_string().into();
            }
        }
        vector
    };
    let owner = Owner::Team(TeamId::from_uuid(uuid(0x7ea)));
    let pass = |site| Pass {
        client: client_id(1),
        owner,
        instance_role: InstanceRole::User,
        site,
    };
    let allowed = [
        Verdict::Allowed(pass(None)),
        Verdict::Allowed(pass(Some((site(SITE), SiteRole::Editor)))),
    ];
    let allowed = allowed.iter().map(|verdict| answer("allowed", verdict));
    refusals.into_iter().map(refusal).chain(allowed).collect()
}

fn answer(verdict: &str, given: &Verdict) -> Value {
    let answer = given.answer();
    let headers = answer.headers.iter();
    let headers: Value = headers.map(|(name, value)| json!([name, value])).collect();
    json!({
        "verdict": verdict,
        "status": answer.status,
        "headers": headers,
        "body": answer.body,
    })
}

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128((0x0193_0000_0000_7000_8000_u128 << 48) | number)
}

fn client_id(number: u128) -> ClientId {
    ClientId::from_uuid(uuid(0xc000 + number))
}

fn site(text: &str) -> SiteId {
    text.parse().unwrap()
}
