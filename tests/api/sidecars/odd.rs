//! Odd input: paths that two programs could read differently, tokens in odd places,
//! large headers, callers who do not wait.

use std::time::Duration;

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{InstanceRole, SiteRole},
};
use prost::Message;
use tonic::Code;

use super::envoy::{CANNOT_TELL, MISCONFIGURED, Sending, UNCLEAR, asking, passed, refusal};
use crate::{fixtures::*, harness::TestApp, layers::raw_as, support::waiting::until};

/// The template of the route that is asked for here.
const TEMPLATE: [(&str, &str); 2] = [
    ("permission", "site.view"),
    ("site_path", "/api/sites/{site_id}/**"),
];

/// A path with `SITE` in it where the site is, or `OTHER`.
fn path(pattern: &str) -> String {
    pattern.replace("SITE", SITE).replace("OTHER", OTHER_SITE)
}

#[tokio::test]
async fn a_path_that_is_not_clear_never_passes() {
    let app = TestApp::with_world().await;
    let made = app
        .dashboard()
        .await
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let sidecar = app.sidecar().await;
    let asked = async |pattern: &str| {
        let request = asking(&TEMPLATE, &path(pattern)).bearing(&made.token);
        sidecar.check(request).await.unwrap()
    };
    for good in [
        "/api/sites/SITE",
        "/api/sites/SITE/",
        "/api/sites/SITE/hits",
        "/api/sites/SITE/hits/?a=/../OTHER&b=%2e%2e",
        "/api/sites/SITE?",
        "/api/sites/SITE/caf%C3%A9/a%40b",
    ] {
        let (headers, _) = passed(&asked(good).await);
        assert_eq!(headers[3].1, SITE, "{good}");
    }
    let upper = path("/api/sites/SITE/hits").to_uppercase();
    let upper = upper.replace("/API/SITES/", "/api/sites/");
    assert_eq!(passed(&asked(&upper).await).0[3].1, SITE);
    for unclear in [
        "",
        "*",
        "api/sites/SITE",
        "https://hitkeep.example/api/sites/SITE",
        "//api/sites/SITE",
        "/api//sites/SITE",
        "/api/sites//SITE",
        "/api/sites/SITE//",
        "/api/sites/SITE/../OTHER",
        "/api/sites/SITE/..",
        "/api/sites/SITE/./hits",
        "/api/sites/SITE/%2e%2e/OTHER",
        "/api/sites/SITE/.%2E/OTHER",
        "/api/sites/SITE/..%2fOTHER",
        "/api/sites/SITE%2f..%2fOTHER",
        "/api/sites/SITE/%252e%252e/OTHER",
        "/api/sites/SITE/..;/OTHER",
        "/api/sites/SITE;OTHER/hits",
        "/api/sites/SITE\\..\\OTHER",
        "/api/sites/SITE/%5c..%5cOTHER",
        "/api/sites/SITE%00/hits",
        "/api/sites/SITE\0/hits",
        "/api/sites/SITE/a%0d%0ab",
        "/api/sites/SITE/a\tb",
        "/api/sites/SITE/#/../OTHER",
        "/api/sites/SITE#",
        "/api/sites/SITE/%C0%AE%C0%AE/OTHER",
        "/%61pi/sites/SITE",
        "/api/sites/SITE/%",
        // Clear, but no site for sure.
        "/api/sites/new/hits",
        "/api/sites/urn:uuid:SITE/hits",
        "/api/sites/SITE0/hits",
    ] {
        assert_eq!(refusal(&asked(unclear).await), UNCLEAR, "{unclear:?}");
    }
    let bare = SITE.replace('-', "");
    let bare = format!("/api/sites/{bare}/hits");
    assert_eq!(refusal(&asked(&bare).await), UNCLEAR);
    for elsewhere in [
        "/",
        "/api/sites",
        "/api/sites/",
        "/API/sites/SITE",
        "/api/site/SITE",
    ] {
        assert_eq!(
            refusal(&asked(elsewhere).await),
            MISCONFIGURED,
            "{elsewhere}"
        );
    }
}

#[tokio::test]
async fn where_the_route_names_no_path_the_path_is_of_no_account() {
    let app = TestApp::with_world().await;
    let made = app
        .dashboard()
        .await
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let sidecar = app.sidecar().await;
    let settings = [("permission", "site.view"), ("site_id", SITE)];
    for path in ["", "*", "/..//%00", "https://x/"] {
        let request = asking(&settings, path).bearing(&made.token);
        passed(&sidecar.check(request).await.unwrap());
    }
}

#[tokio::test]
async fn a_token_is_found_in_odd_headers() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    let token = &*made.token;
    let bearer = format!("Bearer {token}");
    let odd = format!("bEARER    {token}  ");
    for headers in [
        vec![("authorization", &*bearer)],
        vec![("Authorization", &*bearer)],
        vec![("authorization", &*odd)],
        vec![("x-api-key", token)],
        vec![("X-API-Key", token)],
        vec![
            ("authorization", "Basic dXNlcjpwYXNz"),
            ("x-api-key", token),
        ],
        vec![("authorization", "Bearer "), ("x-api-key", token)],
        vec![("authorization", &*bearer), ("x-api-key", "hkp_other")],
    ] {
        for request in [
            asking(&[], "/").with(headers.iter().copied()),
            asking(&[], "/").with_raw(headers.iter().copied()),
        ] {
            passed(&sidecar.check(request).await.unwrap());
        }
    }
    for headers in [
        vec![("authorization", &*bearer), ("authorization", &*bearer)],
        vec![("authorization", &*bearer), ("authorization", "Bearer x")],
        vec![("x-api-key", token), ("x-api-key", token)],
        vec![("authorization", "Bearer x"), ("x-api-key", token)],
    ] {
        for request in [
            asking(&[], "/").with(headers.iter().copied()),
            asking(&[], "/").with_raw(headers.iter().copied()),
        ] {
            let answer = sidecar.check(request).await.unwrap();
            let told = refusal(&answer);
            assert!(told.contains("401 invalid_token"), "{told}");
        }
    }
    // Headers may be of any bytes, where Envoy sends them as they are.
    let mut request = asking(&[], "/").with_raw([("x-api-key", ""), ("cookie", "a")]);
    for header in &mut request.http().header_map.as_mut().unwrap().headers {
        header.raw_value = b"\xff\xfe".to_vec();
    }
    let told = refusal(&sidecar.check(request).await.unwrap());
    assert!(told.contains("401 invalid_token"), "{told}");
}

#[tokio::test]
async fn large_headers_do_not_matter() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    let large = "x".repeat(64 * 1024);
    let names: Vec<_> = (0..2000).map(|n| format!("x-hitkeep-{n:04}")).collect();
    let many = names.iter().map(|name| (name.as_str(), "1"));
    let request = asking(&[], &format!("/?{large}")).with([("cookie", large.as_str())]);
    let request = request.with(many).bearing(&made.token);
    let (_, removed) = passed(&sidecar.check(request).await.unwrap());
    assert_eq!(removed, names);
    let request = asking(&[], "/").bearing(&large);
    let told = refusal(&sidecar.check(request).await.unwrap());
    assert!(told.contains("401 invalid_token"), "{told}");
}

/// With an error, Envoy would answer 403. What is too large is at the edge of the limit.
#[tokio::test]
async fn a_check_that_is_too_large_or_unreadable_has_no_verdict() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    let sized = |bytes: usize| {
        let asking = |cookie: &str| {
            let request = asking(&[], "/").bearing(&made.token);
            request.with([("cookie", cookie)])
        };
        // The length of the cookie takes as many bytes in both.
        let length = 200_000;
        let rest = bytes - asking(&"x".repeat(length)).encoded_len();
        let request = asking(&"x".repeat(length + rest));
        assert_eq!(request.encoded_len(), bytes);
        request
    };
    passed(&sidecar.check(sized(256 * 1024)).await.unwrap());
    let too_large = sidecar.check(sized(256 * 1024 + 1)).await.unwrap();
    assert_eq!(refusal(&too_large), CANNOT_TELL);

    let path = "/envoy.service.auth.v3.Authorization/Check";
    // A frame with a message of one byte.
    let unreadable = [0, 0, 0, 0, 1, 0xff];
    let answered = raw_as(&app, CallerPermission::Introspect, path, &[], &unreadable).await;
    assert_eq!(answered.code(), Code::Ok, "{answered:?}");
}

/// A row that no version can read makes its client's tokens unanswerable, and no
/// other's.
#[tokio::test]
async fn a_client_that_cannot_be_read_is_one_of_whom_nothing_can_be_told() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let spoilt = dashboard.created(personal(VERA)).await;
    let sound = dashboard.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    app.psql("ALTER TABLE api_clients DROP CONSTRAINT api_clients_instance_role_check")
        .await;
    app.psql(&format!(
        "UPDATE api_clients SET instance_role = 'emperor' WHERE id = '{}'",
        spoilt.id
    ))
    .await;
    app.settle().await;
    let request = asking(&[], "/").bearing(&spoilt.token);
    assert_eq!(refusal(&sidecar.check(request).await.unwrap()), CANNOT_TELL);
    let request = asking(&[], "/").bearing(&sound.token);
    passed(&sidecar.check(request).await.unwrap());
}

#[tokio::test]
async fn a_caller_who_does_not_wait_leaves_nothing_behind() {
    let (app, proxy) = TestApp::behind_proxy(hitkeep_auth::server::Options {
        max_introspections: 1,
        ..hitkeep_auth::server::Options::default()
    })
    .await;
    let sidecar = app.sidecar().await;
    let unknown =
        || asking(&[], "/").bearing("hkp_00000000000000000000000000000000000000000004Rx6xu");
    // The answer to this one waits for Postgres, which does not come.
    proxy.stall();
    for _ in 0..20 {
        let call = sidecar.check(unknown());
        drop(tokio::time::timeout(Duration::from_millis(2), call).await);
    }
    proxy.mend();
    // There is room for one at a time, so those before are gone.
    let told = until("those before are gone", async || {
        match sidecar.check(unknown()).await {
            Ok(answer) if refusal(&answer) == CANNOT_TELL => Err(CANNOT_TELL.to_owned()),
            Ok(answer) => Ok(refusal(&answer)),
            Err(status) => {
                assert!(status.message().contains("too many"), "{status:?}");
                Err(status.message().to_owned())
            }
        }
    })
    .await;
    assert!(told.contains("401 invalid_token"), "{told}");
    let admin = personal(ALICE).with_role(InstanceRole::Admin);
    let made = app.dashboard().await.created(admin).await;
    passed(
        &sidecar
            .check(asking(&[], "/").bearing(&made.token))
            .await
            .unwrap(),
    );
}
