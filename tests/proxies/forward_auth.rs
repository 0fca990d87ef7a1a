//! What holds of every proxy that asks `/forward-auth`, with the routes that all of
//! `deploy/` has.

use crate::{
    service::{OTHER_SITE, SITE, Service, VERA},
    support::{
        by_hand::{Answer, ask, get},
        folder::{Folder, text},
        process::Process,
        waiting::until,
    },
};

/// Well-formed, and of no client.
const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

/// Ways to get another site past the check.
pub const PATHS: [&str; 19] = [
    "/api/sites/SITE",
    "/api/sites/SITE/",
    "/api/sites/SITE//hits",
    "//api/sites/SITE",
    "/api/sites/./SITE",
    "/api/sites/OTHER/../SITE",
    "/api/sites/OTHER/%2e%2e/SITE",
    "/api/sites/SITE/../OTHER",
    "/api/sites/SITE/%2e%2e/OTHER",
    "/api/sites/SITE/..%2fOTHER",
    "/api/sites/SITE%2f..%2fOTHER",
    "/api/sites/SITE/..%5cOTHER",
    "/api/sites/SITE\\..\\OTHER",
    "/api/sites/SITE/..;/OTHER",
    "/api/sites/SITE/%252e%252e/OTHER",
    "/api/sites/SITE#/../OTHER",
    "/api/sites/SITE?/../OTHER",
    "http://test/api/sites/SITE/../OTHER",
    "http://test/api/sites/SITE",
];

/// A running proxy, which listens where no other program can have been first.
pub struct Front {
    /// An address, or the path of a Unix socket.
    pub address: String,
    /// Goes when dropped.
    pub _folder: Folder,
    /// Ends when dropped.
    pub _process: Process,
}

impl Folder {
    /// A Unix socket for the proxy to listen on.
    pub fn socket(&self) -> String {
        text(&self.path("socket")).to_owned()
    }

    /// Puts a file into it, with each of those replaced, which has to be there.
    pub fn put(&self, name: &str, text: &str, replaced: &[(&str, &str)]) {
        let mut text = text.to_owned();
        for (from, to) in replaced {
            assert!(text.contains(from), "{from} in {name}");
            text = text.replace(from, to);
        }
        self.write(name, &text);
    }
}

impl Front {
    pub async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        get(&self.address, target, headers).await
    }

    /// Asks until the answer has that status.
    pub async fn until(&self, status: u16, target: &str, headers: &[(&str, &str)]) {
        until("the answer has that status", async || {
            let answer = self.get(target, headers).await;
            if answer.status == status {
                Ok(())
            } else {
                Err(answer)
            }
        })
        .await;
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn site(site: &str) -> String {
    format!("/api/sites/{site}/hits")
}

/// How many headers arrived that some upstream could take for one of the check's.
fn count(answer: &Answer) -> usize {
    let arrived = answer.body.to_lowercase().replace(['_', '.'], "-");
    arrived.matches("x-hitkeep-").count()
}

/// What may pass passes, and says as whom; nothing that the client says of itself does.
pub async fn passes(front: &Front, service: &Service) {
    let made = service.client().await;
    let good = bearer(&made.token);
    let owner = format!("user:{VERA}");
    let expected = [
        ("x-hitkeep-client-id", &*made.id),
        ("x-hitkeep-instance-role", "user"),
        ("x-hitkeep-owner", &owner),
        ("x-hitkeep-site-id", SITE),
        ("x-hitkeep-site-role", "editor"),
    ];
    let spoofed = [
        ("X-HitKeep-Client-Id", "1"),
        ("x-hitkeep-client-id", "2"),
        ("x-hitkeep-owner", "user:root"),
        ("x-hitkeep-instance-role", "owner"),
        ("x-hitkeep-site-id", OTHER_SITE),
        ("x-hitkeep-site-role", "owner"),
        ("x-hitkeep-caller", "hks_x"),
        ("x_hitkeep_owner", "user:root"),
        ("x.hitkeep.owner", "user:root"),
        // Headers that are for one hop alone are not passed on: the client must not be
        // the one to say which.
        (
            "connection",
            "X-HitKeep-Owner,x-hitkeep-site-role, x-hitkeep-caller",
        ),
    ];
    let path = format!("{}?from=1&permission=site.fly", site(SITE));
    for more in [&[][..], &spoofed] {
        let headers = [&[("Authorization", &*good)], more].concat();
        let answer = front.get(&path, &headers).await;
        for (name, value) in expected {
            assert_eq!(answer.arrived(name), [value], "{name}");
        }
        // The very request: no more, and no less.
        assert!(answer.body.starts_with(&format!("GET {path} ")));
        assert_eq!(count(&answer), 5, "{answer:?}");
        assert_eq!(answer.arrived("authorization"), [&*good]);

        // Without a site, nothing is said of one.
        let answer = front.get("/?permission=site.fly", &headers).await;
        for (name, value) in &expected[..3] {
            assert_eq!(answer.arrived(name), [*value], "{name}");
        }
        assert_eq!(count(&answer), 3, "{answer:?}");

        // Where nothing is checked, nothing is said.
        let answer = front.get("/healthz", &headers).await;
        assert_eq!(count(&answer), 0, "{answer:?}");
    }
    let basic = ("authorization", "Basic dXNlcjpwYXNz");
    let answer = front.get("/", &[basic, ("x-api-key", &made.token)]).await;
    assert_eq!(answer.arrived("x-hitkeep-client-id"), [&*made.id]);
}

/// What may not pass is refused as it should be.
pub async fn refuses(front: &Front, service: &Service) {
    let made = service.client().await;
    let revoked = service.client().await;
    service.revoke(&revoked.id).await;
    let (good, gone) = (bearer(&made.token), bearer(&revoked.token));
    let (nobodys, caller) = (bearer(NOBODYS), bearer(&service.caller));
    let none = "Bearer realm=\"hitkeep\"";
    let inactive = "Bearer realm=\"hitkeep\", error=\"invalid_token\"";
    let scope = |scope: &str| {
        format!("Bearer realm=\"hitkeep\", error=\"insufficient_scope\", scope=\"{scope}\"")
    };
    let (views, system) = (scope("site.view"), scope("instance.view_system"));
    for (target, authorization, status, error, challenge) in [
        ("/", None, 401, "unauthorized", none),
        (&*site(SITE), None, 401, "unauthorized", none),
        ("/", Some("Basic dXNlcjpwYXNz"), 401, "unauthorized", none),
        ("/", Some(&*nobodys), 401, "invalid_token", inactive),
        ("/", Some("Bearer x"), 401, "invalid_token", inactive),
        ("/", Some(&*gone), 401, "invalid_token", inactive),
        ("/", Some(&*caller), 401, "invalid_token", inactive),
        (
            &site(OTHER_SITE),
            Some(&*good),
            403,
            "insufficient_scope",
            &views,
        ),
        (
            "/api/system/status",
            Some(&*good),
            403,
            "insufficient_scope",
            &system,
        ),
    ] {
        let header = authorization.map(|value| ("authorization", value));
        let answer = front.get(target, header.as_slice()).await;
        assert_eq!(answer.status, status, "{target} {header:?}: {answer:?}");
        assert_eq!(answer.error(), error);
        assert_eq!(answer.header("www-authenticate"), [challenge]);
        assert_eq!(answer.header("content-type"), ["application/json"]);
        assert_eq!(answer.header("cache-control"), ["no-store"]);
    }
    let good = [("authorization", &*good)];
    for (target, status, error) in [
        ("/api/sites/", 500, "server_error"),
        ("/api/sites/new", 400, "invalid_request"),
    ] {
        let answer = front.get(target, &good).await;
        assert_eq!((answer.status, &*answer.error()), (status, error));
        assert_eq!(answer.header("www-authenticate"), [""; 0]);
    }
}

/// Whether a request passed. What arrives of it is about the site that was checked.
pub fn is_about_what_was_checked(answer: &Answer, pattern: &str) -> bool {
    if answer.status != 200 {
        assert!([400, 403].contains(&answer.status), "{pattern}: {answer:?}");
        return false;
    }
    let path = answer.body.split(' ').nth(1).unwrap();
    let path = path.split('?').next().unwrap();
    let segments: Vec<_> = path.split('/').collect();
    assert_eq!(segments[..4], ["", "api", "sites", SITE], "{pattern}");
    assert!(!path.contains("..") && !path.contains('%'), "{pattern}");
    assert_eq!(answer.arrived("x-hitkeep-site-id"), [SITE]);
    true
}

/// Whichever way a client tries to get another site past the check, what arrives is
/// about the site that was checked.
pub async fn sees_the_path_of_the_upstream(front: &Front, service: &Service) {
    let made = service.client().await;
    let bearer = bearer(&made.token);
    let mut passed = 0;
    for pattern in PATHS.into_iter().chain([
        "/api/sites/SITE/hits?x=/../OTHER",
        "/api//sites/SITE",
        "/healthz/../api/sites/SITE/../OTHER",
        "/healthz%2f..%2fapi/sites/OTHER",
        "/%61pi/sites/SITE",
    ]) {
        let target = pattern.replace("SITE", SITE).replace("OTHER", OTHER_SITE);
        // Said by the client, it is not believed.
        let told = site(SITE);
        for header in ["x-forwarded-uri", "x-original-uri"] {
            let headers = [("authorization", &*bearer), (header, &*told)];
            let answer = front.get(&target, &headers).await;
            passed += u32::from(is_about_what_was_checked(&answer, pattern));
        }
    }
    assert!(passed >= 8, "{passed}");
}

/// A browser's preflight has no token. It reaches the upstream where the route says so, in
/// no client's name, and nothing else does.
pub async fn passes_preflights(address: &str) {
    let path = site(SITE);
    let (origin, method) = (
        ("Origin", "https://x"),
        ("Access-Control-Request-Method", "GET"),
    );
    let spoofed = [
        origin,
        method,
        ("x-hitkeep-owner", "user:root"),
        ("x-http-method-override", "DELETE"),
    ];
    for headers in [&spoofed[..2], &spoofed] {
        let answer = ask(address, "OPTIONS", &path, headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.starts_with(&format!("OPTIONS {path} ")));
        assert_eq!(answer.arrived("origin"), ["https://x"]);
        assert_eq!(answer.arrived("x-http-method-override"), [""; 0]);
        assert_eq!(count(&answer), 0, "{answer:?}");
    }
    let said = [origin, method, ("x-forwarded-method", "OPTIONS")];
    let overridden = [origin, method, ("x-http-method-override", "OPTIONS")];
    for (asked, target, headers) in [
        ("OPTIONS", &*path, &[origin][..]),
        ("OPTIONS", &path, &[method]),
        ("OPTIONS", &path, &[]),
        ("OPTIONS", "/", &said),
        ("OPTIONS", "/api/system/status", &said),
        ("GET", &path, &said),
        ("POST", &path, &overridden),
        ("DELETE", &path, &[origin, method]),
    ] {
        let answer = ask(address, asked, target, headers).await;
        assert_eq!(
            answer.status, 401,
            "{asked} {target} {headers:?}: {answer:?}"
        );
    }
}

/// What holds of every proxy, as tests of what the module's `start` starts.
macro_rules! suite {
    () => {
        #[tokio::test]
        async fn what_may_pass_passes_and_says_as_whom() {
            let service = Service::start(&[]).await;
            if let Some(front) = start(&service, &service.caller).await {
                forward_auth::passes(&front, &service).await;
            }
        }

        #[tokio::test]
        async fn the_check_and_the_upstream_see_the_same_path() {
            let service = Service::start(&[]).await;
            if let Some(front) = start(&service, &service.caller).await {
                forward_auth::sees_the_path_of_the_upstream(&front, &service).await;
            }
        }

        #[tokio::test]
        async fn a_preflight_passes_where_its_route_says_so() {
            let service = Service::start(&[]).await;
            if let Some(front) = start(&service, &service.caller).await {
                forward_auth::passes_preflights(&front.address).await;
            }
        }
    };
}
pub(crate) use suite;
