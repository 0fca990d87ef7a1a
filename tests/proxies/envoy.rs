//! Envoy, with `deploy/envoy/envoy.yaml` as it is but for the addresses, and with
//! `deploy/envoy/envoy-http.yaml`, where it asks over HTTP.

use crate::{
    forward_auth,
    service::{OTHER_SITE, SITE, Service, VERA},
    support::{
        by_hand::{Answer, ask, get},
        envoy,
        process::Process,
        waiting::until,
    },
};

const CONFIGURATION: &str = include_str!("../../deploy/envoy/envoy.yaml");
const OVER_HTTP: &str = include_str!("../../deploy/envoy/envoy-http.yaml");
/// Well-formed, and of no client.
const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

/// A running Envoy.
struct Envoy {
    address: String,
    process: Process,
}

impl Envoy {
    /// Starts one in front of an upstream; none where it is not installed.
    async fn start(service: &Service) -> Option<Self> {
        Self::start_with(CONFIGURATION, (50051, &service.address), service).await
    }

    /// The same, where it asks over HTTP.
    async fn start_over_http(service: &Service) -> Option<Self> {
        Self::start_with(OVER_HTTP, (50052, &service.http), service).await
    }

    async fn start_with(written: &str, auth: (u16, &str), service: &Service) -> Option<Self> {
        Self::start_as(&service.caller, written, auth).await
    }

    /// The same, with that caller's token.
    async fn start_as(caller: &str, written: &str, auth: (u16, &str)) -> Option<Self> {
        // On a busy machine an answer takes its time, and these tests are not about that.
        assert!(written.contains("timeout: 1s"));
        let written = written.replace("timeout: 1s", "timeout: 60s");
        let started = envoy::Envoy::start(&written, auth, caller).await?;
        Some(Self {
            address: started.address,
            process: started.process,
        })
    }

    async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        get(&self.address, target, headers).await
    }

    /// Asks until the answer has that status, and it has another one of `meanwhile`.
    async fn until(&self, status: u16, meanwhile: &[u16], target: &str, headers: &[(&str, &str)]) {
        until("the answer has that status", async || {
            let answer = self.get(target, headers).await;
            if answer.status == status {
                return Ok(());
            }
            assert!(meanwhile.contains(&answer.status), "{answer:?}");
            Err(answer)
        })
        .await;
    }
}

#[tokio::test]
async fn what_may_pass_passes_and_says_as_whom() {
    let service = Service::start(&[]).await;
    let Some(envoy) = Envoy::start(&service).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let path = format!("/api/sites/{SITE}/hits?from=1");
    let answer = envoy.get(&path, &[("Authorization", &bearer)]).await;
    assert_eq!(answer.arrived("x-hitkeep-client-id"), [&*made.id]);
    assert_eq!(answer.arrived("x-hitkeep-owner"), [format!("user:{VERA}")]);
    assert_eq!(answer.arrived("x-hitkeep-instance-role"), ["user"]);
    assert_eq!(answer.arrived("x-hitkeep-site-id"), [SITE]);
    assert_eq!(answer.arrived("x-hitkeep-site-role"), ["editor"]);
    assert!(answer.body.starts_with(&format!("GET {path} ")));

    // Any token that works, in each place where it may be.
    let odd = format!("bEaReR   {}", made.token);
    for header in [
        ("AUTHORIZATION", &*bearer),
        ("authorization", &odd),
        ("X-Api-Key", &made.token),
    ] {
        let answer = envoy.get("/", &[header]).await;
        assert_eq!(answer.arrived("x-hitkeep-client-id"), [&*made.id]);
        assert_eq!(answer.arrived("x-hitkeep-site-id"), [""; 0]);
    }
    let basic = ("authorization", "Basic dXNlcjpwYXNz");
    let answer = envoy.get("/", &[basic, ("x-api-key", &made.token)]).await;
    assert_eq!(answer.status, 200);

    // The name in the access log comes from the check as well.
    let mut process = envoy.process;
    let line = process.stdout.line(&made.id).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["client"], *made.id);
    // Of a query, nothing is logged.
    assert_eq!(line["path"], format!("/api/sites/{SITE}/hits"));
}

#[tokio::test]
async fn what_may_not_pass_is_refused_as_it_should_be() {
    let service = Service::start(&[]).await;
    let Some(envoy) = Envoy::start(&service).await else {
        return;
    };
    let made = service.client().await;
    let revoked = service.client().await;
    service.revoke(&revoked.id).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let (good, gone, nobodys) = (bearer(&made.token), bearer(&revoked.token), bearer(NOBODYS));
    let caller = bearer(&service.caller);
    let twice = [("authorization", &*good), ("Authorization", &*good)];
    let inactive = "Bearer realm=\"hitkeep\", error=\"invalid_token\"";
    let scope = |scope: &str| {
        format!("Bearer realm=\"hitkeep\", error=\"insufficient_scope\", scope=\"{scope}\"")
    };
    let (views, system) = (scope("site.view"), scope("instance.view_system"));
    let site = |site: &str| format!("/api/sites/{site}/hits");
    for (target, headers, status, error, challenge) in [
        (
            "/",
            &[][..],
            401,
            "unauthorized",
            "Bearer realm=\"hitkeep\"",
        ),
        (
            &site(SITE),
            &[],
            401,
            "unauthorized",
            "Bearer realm=\"hitkeep\"",
        ),
        (
            "/",
            &[("authorization", &*nobodys)],
            401,
            "invalid_token",
            inactive,
        ),
        (
            "/",
            &[("authorization", "Bearer x")],
            401,
            "invalid_token",
            inactive,
        ),
        (
            "/",
            &[("authorization", &*gone)],
            401,
            "invalid_token",
            inactive,
        ),
        (
            "/",
            &[("authorization", &*caller)],
            401,
            "invalid_token",
            inactive,
        ),
        ("/", &twice, 401, "invalid_token", inactive),
        (
            &site(OTHER_SITE),
            &twice[..1],
            403,
            "insufficient_scope",
            &views,
        ),
        (
            "/api/system/status",
            &twice[..1],
            403,
            "insufficient_scope",
            &system,
        ),
    ] {
        let answer = envoy.get(target, headers).await;
        assert_eq!(answer.status, status, "{target} {headers:?}: {answer:?}");
        assert_eq!(answer.error(), error);
        assert_eq!(answer.header("www-authenticate"), [challenge]);
        assert_eq!(answer.header("content-type"), ["application/json"]);
        assert_eq!(answer.header("cache-control"), ["no-store"]);
    }
    let good = &twice[..1];
    let misconfigured = envoy.get("/api/sites/", good).await;
    assert_eq!(misconfigured.status, 500);
    assert_eq!(misconfigured.error(), "server_error");
    for target in ["/api/sites/new", &format!("/api/sites/{SITE};x/hits")] {
        let unclear = envoy.get(target, good).await;
        assert_eq!(
            (unclear.status, &*unclear.error()),
            (400, "invalid_request")
        );
    }
    // The mistake is named for the operator, once, and no token anywhere.
    for _ in 0..20 {
        assert_eq!(envoy.get("/api/sites/", good).await.status, 500);
    }
    let (_, log) = service.stop().await;
    let mistakes: Vec<_> = log
        .lines()
        .filter(|l| l.contains("misconfigured"))
        .collect();
    assert_eq!(mistakes.len(), 1, "{log}");
    assert!(mistakes[0].contains("/api/sites/{site_id}/**"));
    for token in [&made.token, &revoked.token] {
        assert!(!log.contains(&token[4..]));
    }
}

/// A setting is a text, so that YAML's own `true` would not be one.
#[tokio::test]
async fn a_route_can_be_closed_to_all_tokens() {
    let service = Service::start(&[]).await;
    let system = "{ permission: instance.view_system }";
    assert_eq!(CONFIGURATION.matches(system).count(), 1);
    let closed = CONFIGURATION.replace(system, "{ human_only: \"true\" }");
    let auth = (50051, &*service.address);
    let Some(envoy) = Envoy::start_with(&closed, auth, &service).await else {
        return;
    };
    let made = service.client().await;
    let (good, nobodys) = (
        format!("Bearer {}", made.token),
        format!("Bearer {NOBODYS}"),
    );
    let challenge = |error: &str| format!("Bearer realm=\"hitkeep\"{error}");
    for (target, headers, status, error) in [
        ("/", &[("authorization", &*good)][..], 200, ""),
        (
            "/api/system/status",
            &[("authorization", &good)],
            403,
            ", error=\"insufficient_scope\"",
        ),
        (
            "/api/system/status",
            &[("authorization", &nobodys)],
            401,
            ", error=\"invalid_token\"",
        ),
        ("/api/system/status", &[], 401, ""),
    ] {
        let answer = envoy.get(target, headers).await;
        assert_eq!(answer.status, status, "{target}: {answer:?}");
        if status != 200 {
            assert_eq!(answer.header("www-authenticate"), [challenge(error)]);
        }
    }
}

/// Whichever way a client tries to get another site past the check, what arrives is
/// about the site that was checked.
#[tokio::test]
async fn the_check_and_the_upstream_see_the_same_path() {
    let service = Service::start(&[]).await;
    let Some(envoy) = Envoy::start(&service).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let mut passed = 0;
    for pattern in forward_auth::PATHS {
        let target = pattern.replace("SITE", SITE).replace("OTHER", OTHER_SITE);
        let answer = envoy.get(&target, &[("authorization", &bearer)]).await;
        passed += u32::from(forward_auth::is_about_what_was_checked(&answer, pattern));
    }
    assert!(passed >= 8, "{passed}");
}

#[tokio::test]
async fn nobody_says_who_they_are_but_the_check() {
    let service = Service::start(&[]).await;
    let Some(envoy) = Envoy::start(&service).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let spoofed = [
        ("x-hitkeep-owner", "user:root"),
        ("X-HITKEEP-Client-Id", "1"),
        ("x-hitkeep-client-id", "2"),
        ("x-hitkeep-site-id", OTHER_SITE),
        ("X-HitKeep-Site-Role", "owner"),
        ("x-hitkeep-future", "1"),
        ("x.hitkeep.owner", "user:root"),
        // Nor which headers are for one hop alone.
        ("connection", "x-hitkeep-owner, X-HitKeep-Client-Id"),
        ("authorization", &bearer),
    ];
    let answer = envoy.get("/", &spoofed).await;
    assert_eq!(answer.arrived("x-hitkeep-client-id"), [&*made.id]);
    assert_eq!(answer.arrived("x-hitkeep-owner"), [format!("user:{VERA}")]);
    // Where nothing is checked, nothing is said.
    let open = envoy.get("/healthz", &spoofed).await;
    assert_eq!(open.arrived("authorization"), [&*bearer]);
    for (answer, ours) in [(answer, 3), (open, 0)] {
        let arrived = answer.body.to_lowercase().replace('.', "-");
        assert_eq!(arrived.matches("x-hitkeep-").count(), ours, "{arrived}");
    }
    let underscore = [
        ("x_hitkeep_owner", "user:root"),
        ("authorization", &*bearer),
    ];
    assert_eq!(envoy.get("/", &underscore).await.status, 400);
}

#[tokio::test]
async fn an_outage_is_503_and_over_when_it_is_over() {
    let service = Service::start(&["--max-staleness", "2s"]).await;
    let Some(envoy) = Envoy::start(&service).await else {
        return;
    };
    let made = service.client().await;
    let (good, nobodys) = (
        format!("Bearer {}", made.token),
        format!("Bearer {NOBODYS}"),
    );
    let (good, nobodys) = ([("authorization", &*good)], [("authorization", &*nobodys)]);
    envoy.until(200, &[503], "/", &good).await;
    envoy.until(401, &[503], "/", &nobodys).await;

    // Postgres is gone: from memory for as long as that may be, and then not.
    service.database.cut();
    let unknown = envoy.get("/", &nobodys).await;
    assert_eq!(
        (unknown.status, &*unknown.error()),
        (503, "temporarily_unavailable")
    );
    assert_eq!(unknown.header("retry-after"), ["1"]);
    envoy.until(503, &[200], "/", &good).await;
    service.database.mend();
    envoy.until(200, &[503], "/", &good).await;
    envoy.until(401, &[503], "/", &nobodys).await;

    // The service itself is gone.
    let (stopped, _) = service.stop().await;
    envoy.until(503, &[200], "/", &good).await;
    assert_eq!(envoy.get("/", &nobodys).await.status, 503);
    assert_eq!(envoy.get("/healthz", &[]).await.status, 200);
    let _service = stopped.start().await;
    envoy.until(200, &[503], "/", &good).await;
}

/// The questions of a real Envoy are those that the fast path reads: on the slow one
/// there is no room here.
#[tokio::test]
async fn envoys_own_questions_go_the_short_way() {
    let service = Service::start(&["--max-introspections", "1"]).await;
    let Some(envoy) = Envoy::start(&service).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let good = [("authorization", &*bearer), ("cookie", "a=b")];
    let path = format!("/api/sites/{SITE}/hits");
    let waiting = service.begin_to_wait().await;
    // A mistake is answered on the slow path, and so is an answer as long as it lasts.
    envoy.until(503, &[500], "/api/sites/", &good).await;
    assert_eq!(envoy.get(&path, &good).await.status, 200);
    assert_eq!(envoy.get("/api/system/", &good).await.status, 403);
    assert_eq!(envoy.get("/api/sites/new", &good).await.status, 400);
    assert_eq!(envoy.get("/", &[]).await.status, 401);
    assert_eq!(envoy.get("/api/sites/", &good).await.status, 503);
    waiting.abort();
    envoy.until(500, &[503], "/api/sites/", &good).await;
}

#[tokio::test]
async fn a_preflight_passes_where_its_route_says_so() {
    let service = Service::start(&[]).await;
    if let Some(envoy) = Envoy::start(&service).await {
        forward_auth::passes_preflights(&envoy.address).await;
    }
    if let Some(envoy) = Envoy::start_over_http(&service).await {
        forward_auth::passes_preflights(&envoy.address).await;
    }
}

/// The request's own method and target go behind the settings, and none of them is the
/// client's to say.
#[tokio::test]
async fn it_may_ask_over_http() {
    let service = Service::start(&[]).await;
    let Some(envoy) = Envoy::start_over_http(&service).await else {
        return;
    };
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    let site = |site: &str| format!("/api/sites/{site}/hits");
    let injecting = format!("{}?site_id={OTHER_SITE}&permission=x", site(SITE));
    let spoofed = [
        ("authorization", &*bearer),
        ("x-hitkeep-caller", "hks_x"),
        ("x-hitkeep-owner", "user:root"),
        ("x-hitkeep-site-id", OTHER_SITE),
        ("x-hitkeep-future", "1"),
        ("x-forwarded-uri", &site(OTHER_SITE)),
        ("connection", "x-hitkeep-owner"),
    ];
    for method in ["GET", "DELETE"] {
        for (target, set) in [(&*site(SITE), 5), (&injecting, 5), ("/x?permission=y", 3)] {
            let answer = ask(&envoy.address, method, target, &spoofed).await;
            assert_eq!(answer.arrived("x-hitkeep-client-id"), [&*made.id]);
            assert_eq!(answer.arrived("x-hitkeep-owner"), [format!("user:{VERA}")]);
            let site: &[&str] = if set == 5 { &[SITE] } else { &[] };
            assert_eq!(answer.arrived("x-hitkeep-site-id"), site);
            let arrived = answer.body.to_lowercase();
            assert_eq!(arrived.matches("x-hitkeep-").count(), set, "{arrived}");
            assert!(answer.body.starts_with(&format!("{method} {target} ")));
        }
    }
    for (target, authorization, status) in [
        (&*site(SITE), "Bearer x", 401),
        ("/", "", 401),
        (&site(OTHER_SITE), &bearer, 403),
        ("/api/system/status", &bearer, 403),
        ("/api/sites/new", &bearer, 400),
        // Envoy takes 500 for no answer, and says what its configuration says then.
        ("/api/sites/", &bearer, 503),
    ] {
        let answer = envoy.get(target, &[("authorization", authorization)]).await;
        assert_eq!(answer.status, status, "{target}: {answer:?}");
    }
    let unauthorized = envoy.get("/", &[]).await;
    let challenge = ["Bearer realm=\"hitkeep\""];
    assert_eq!(unauthorized.header("www-authenticate"), challenge);
    assert_eq!(unauthorized.error(), "unauthorized");
    assert_eq!(envoy.get("/healthz", &[]).await.status, 200);
}

/// That hitkeep-auth does not know Envoy is not the client's fault, whose token may be good.
#[tokio::test]
async fn a_caller_token_that_does_not_work_is_503_either_way() {
    let service = Service::start(&[]).await;
    let made = service.client().await;
    let bearer = format!("Bearer {}", made.token);
    for (written, auth) in [
        (CONFIGURATION, (50051, &*service.address)),
        (OVER_HTTP, (50052, &*service.http)),
    ] {
        let Some(envoy) = Envoy::start_as("hks_x", written, auth).await else {
            return;
        };
        for target in ["/", &format!("/api/sites/{SITE}/hits")] {
            let answer = envoy.get(target, &[("authorization", &bearer)]).await;
            assert_eq!(answer.status, 503, "{answer:?}");
            assert_eq!(answer.header("www-authenticate"), [""; 0]);
        }
    }
}
