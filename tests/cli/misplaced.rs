//! Tokens in the place of a file, an address or an id: what is printed of the mistake goes into
//! terminals and logs, and must not have them.

use crate::{remote::NOWHERE, run::run, variables::with};

const TOKENS: [&str; 3] = [
    "hks_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf48My2h",
    "hkp_00000000000000000000000000000000000000000004Rx6xu",
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
];

/// Runs a command with these variables. It fails with that code, and says so without the token.
async fn refused(arguments: &[&str], variables: &[(&str, &str)], token: &str, code: i32) -> String {
    let said = with(variables, arguments).await.refused(code);
    // Neither the whole nor a part of it.
    let has_token = said.contains(&token[8..24]) || said.contains(&token[24..48]);
    assert!(!has_token, "{arguments:?} {variables:?}: {said}");
    assert!(
        said.contains("[token]"),
        "{arguments:?} {variables:?}: {said}"
    );
    said
}

#[tokio::test]
async fn a_token_on_the_command_line_is_not_repeated() {
    for token in TOKENS {
        let attached = format!("--actor={token}");
        let cases: &[(&[&str], &str)] = &[
            (&[token], "subcommand"),
            (&["introspect", token], "argument"),
            (&["client", "get", token], "<ID>"),
            (&["client", "get", NOWHERE, &attached], "--actor"),
            (&["serve", "--listen", token], "--listen"),
            (&["status", "--server", token], "--server"),
        ];
        for (arguments, named) in cases {
            let said = refused(arguments, &[], token, 2).await;
            assert!(said.starts_with("error: "), "{said}");
            assert!(said.contains(named), "{arguments:?}: {said}");
        }
    }
}

#[tokio::test]
async fn a_token_in_the_place_of_a_file_is_not_repeated() {
    for token in TOKENS {
        let said = refused(&["migrate", "--database-url-file", token], &[], token, 1).await;
        let expected = "hitkeep-auth: there is no database URL: [token] cannot be read";
        assert!(said.starts_with(expected), "{said}");
        let variable = ("HITKEEP_AUTH_TOKEN_FILE", token);
        let said = refused(&["status"], &[variable], token, 1).await;
        assert!(said.contains("[token] cannot be read"), "{said}");
    }
}

/// What is asked for is printed as it is, and nothing else changes.
#[tokio::test]
async fn help_and_other_errors_are_as_they_were() {
    let help = run(["client", "get", "--help"]).await.given();
    assert!(help.contains("Usage: hitkeep-auth client get"), "{help}");
    let said = run(["client", "get", "hkp_"]).await.refused(2);
    assert!(said.starts_with("error: invalid value 'hkp_'"), "{said}");
}
