//! Legacy tokens, what is no token, and questions that make no sense.

use super::*;

#[tokio::test]
async fn a_legacy_token_is_explained_with_the_end_of_its_time() {
    let url = migrated_database().await;
    execute(&url, DIRECTORY).await;
    let state = ["owner_user_id", "a1", "user", "NULL", "NULL", "NULL"];
    let imported = client(&url, 1, state).await;
    let legacy = "0123456789abcdef".repeat(4);
    execute(
        &url,
        &format!(
            "UPDATE api_client_tokens SET scheme = 'hitkeep_sha256', hash = sha256('{legacy}'),
                 hint = 'sha256_' || left(encode(sha256('{legacy}'), 'hex'), 6)"
        ),
    )
    .await;
    let said = explain(&url, &legacy, &[]).await.given();
    assert!(said.contains("The token works."), "{said}");
    assert!(
        said.contains("HitKeep itself; accepted until it is rotated"),
        "{said}"
    );
    let told = explain(&url, &legacy, &["--json"]).await.given_json();
    assert_eq!(told["active"], Value::Bool(true));
    assert_eq!(told["token_scheme"], "hitkeep_sha256");

    let until = |time| ["--accept-legacy-until", time];
    let said = explain(&url, &legacy, &until("2100-01-31")).await.given();
    assert!(
        said.contains("The token works, until 2100-01-31 00:00:00Z."),
        "{said}"
    );
    for past in ["2020-01-31", "2020-01-31T12:00:00+02:00"] {
        let [option, time] = until(past);
        let arguments = ["explain", &imported.id, option, time];
        let by_id = run_on(&url, &arguments).await.given();
        for said in [explain(&url, &legacy, &until(past)).await.given(), by_id] {
            assert!(said.contains("does NOT work (EXPIRED)"), "{said}");
            let why = "such tokens were accepted until 2020-01-31 ";
            assert!(said.contains(why), "{said}");
        }
    }
    // The text that it was before is none any more.
    let said = explain(&url, &imported.token, &[]).await.given();
    assert!(said.contains("no API client has this token"), "{said}");
    for odd in ["tomorrow", "2020-13-01", "2020-01-31T12:00:00"] {
        let command = [
            "explain",
            "--database-url",
            &url,
            &format!("--accept-legacy-until={odd}"),
        ];
        let said = Process::start(binary(command)).ended().await.refused(2);
        assert!(said.contains("must be a time such as"), "{odd:?}: {said}");
    }
}

#[tokio::test]
async fn what_is_no_token_is_told_apart() {
    let url = migrated_database().await;
    let token = Token::mint(TokenKind::Personal, &SystemEntropy).reveal();
    let caller = Token::mint(TokenKind::ServiceAccount, &SystemEntropy).reveal();
    let legacy = "0123456789abcdef".repeat(4);
    for (presented, expected) in [
        (token.as_str(), "no API client has this token"),
        (&format!("  {token}\r"), "no API client has this token"),
        (&caller, "belongs to a service account"),
        (&legacy, "no API client has this token"),
        (&legacy.to_uppercase(), "character 11 is neither"),
        ("", "it has 0 characters, and a token has 53, or 64 if"),
        (&token.replace("hkp_", "key_"), "does not begin with"),
        (&token.replace("hkp_", "hkt_"), "its checksum is wrong"),
        (&format!("{}!{}", &token[..9], &token[10..]), "character 10"),
    ] {
        let said = explain(&url, presented, &[]).await.given();
        assert!(said.contains("does NOT work (UNKNOWN_TOKEN)"), "{said}");
        assert!(said.contains(expected), "{presented}: {said}");
        let told = explain(&url, presented, &["--json"]).await.given_json();
        assert_eq!(told["active"], Value::Bool(false));
        assert_eq!(told["inactive_reason"], "UNKNOWN_TOKEN");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let url = migrated_database().await;
    let site = id("c1");
    for (more, expected) in [
        (vec!["--permission", "site.view"], "needs a site"),
        (
            vec!["--permission", "instance.view_system", "--site", &site],
            "not about a site",
        ),
        (vec!["--permission", "site.fly"], "there is no permission"),
        (vec!["--site", &site], "--permission"),
        (vec!["not-an-id"], "invalid value"),
    ] {
        let said = explain(&url, "", &more).await.refused(2);
        assert!(said.contains(expected), "{said}");
    }
}
