//! The published pattern of `docs/secret-scanning.md`: a real scanner finds every token, and
//! nothing that is none.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use hitkeep_auth::domain::token::{Token, TokenKind};

use crate::support::{doubles::SeededEntropy, folder::Folder, programs};

const CONFIGURATION: &str = "deploy/secret-scanning/gitleaks.toml";
const PAGE: &str = include_str!("../../docs/secret-scanning.md");
/// Tokens of each kind.
const TOKENS: usize = 1000;
/// Before a token.
const BEFORE: [&str; 10] = [
    "", " ", "\"", "token=", "Bearer ", "_", "x", "é", "-", "\u{feff}",
];
/// After it.
const AFTER: [&str; 10] = ["", " ", "\"", ",", "_", "-", "\r", "\\n", "é", "&a=1"];

/// Many tokens of all kinds.
fn tokens() -> Vec<String> {
    let entropy = SeededEntropy::default();
    let kinds = TokenKind::ALL.iter().cycle().take(TOKENS * 3);
    kinds
        .map(|kind| Token::mint(*kind, &entropy).reveal())
        .collect()
}

/// Texts that nearly are one.
fn near_misses(token: &str) -> Vec<String> {
    vec![
        token[..52].to_owned(),
        format!("{token}0"),
        format!("{token}z{token}x").replace('_', "-"),
        token.replacen("hk", "Hk", 1),
        token.replacen("hk", "hq", 1),
        token.replacen('_', "-", 1),
        token.replacen('_', "__", 1),
        format!("{}-{}", &token[..30], &token[31..]),
        format!("{}é{}", &token[..30], &token[31..]),
        format!("{} {}", &token[..30], &token[30..]),
        format!("hkx_{}", &token[4..]),
    ]
}

/// What gitleaks finds in a text by our rule.
fn found(gitleaks: &Path, text: &str) -> BTreeSet<String> {
    let folder = Folder::new();
    let scanned = folder.write("text", text);
    let report = folder.path("report.json");
    let configuration = Path::new(env!("CARGO_MANIFEST_DIR")).join(CONFIGURATION);
    let ended = Command::new(gitleaks)
        .args([
            "dir",
            "--no-banner",
            "--exit-code",
            "0",
            "--report-format",
            "json",
        ])
        .arg("--config")
        .arg(configuration)
        .arg("--report-path")
        .arg(&report)
        .arg(scanned)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let findings = report.as_array().unwrap().iter();
    findings
        .filter(|finding| finding["RuleID"] == "hitkeep-auth-token")
        .map(|finding| finding["Secret"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn gitleaks_finds_every_token_and_nothing_else() {
    let Some(gitleaks) = programs::find("gitleaks", "target/ci-tools/gitleaks/gitleaks") else {
        return;
    };
    let tokens = tokens();
    let all: BTreeSet<String> = tokens.iter().cloned().collect();
    let lines = tokens.iter().enumerate().map(|(at, token)| {
        let (before, after) = (BEFORE[at % 10], AFTER[at / 10 % 10]);
        // It reads a long file in pieces, and looks for an empty line to end one at.
        format!("{before}{token}{after}\n\n")
    });
    let missed: Vec<_> = {
        let found = found(&gitleaks, &lines.collect::<String>());
        all.difference(&found).cloned().collect()
    };
    assert_eq!(missed, [""; 0], "not found");
    // All in one line.
    let found_there = found(&gitleaks, &tokens[..100].join(","));
    assert_eq!(found_there.len(), 100);
    // A longer text may contain a whole token; what is found of these is none.
    let misses: Vec<_> = tokens[..300]
        .iter()
        .flat_map(|token| near_misses(token))
        .collect();
    let found_there = found(&gitleaks, &misses.join("\n"));
    assert_eq!(found_there, BTreeSet::new());
}

/// The part of the page that is a block of that language.
fn block(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_page_shows_the_rule_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(CONFIGURATION);
    assert!(fs::read_to_string(path).unwrap().ends_with(block("toml")));
    assert!(block("toml").contains(block("text").trim()));
}

/// The check of the page agrees with the service about tokens, and about those with one
/// character that is another.
#[test]
fn the_check_of_the_page_is_the_services() {
    let Some(python) = programs::find("python3", "target/ci-tools/python3") else {
        return;
    };
    let mut texts = tokens();
    texts.truncate(300);
    let edited = texts.clone().into_iter().enumerate().map(|(at, token)| {
        let at = 4 + at % 49;
        let other = if &token[at..=at] == "a" { "b" } else { "a" };
        format!("{}{other}{}", &token[..at], &token[at + 1..])
    });
    texts.extend(edited.collect::<Vec<_>>());
    texts.extend(["hkp_".to_owned(), "hkp_0".to_owned()]);
    let program = format!(
        "{}\nimport sys\nprint(*(int(is_token(text)) for text in sys.argv[1:]), sep='')",
        block("python")
    );
    let ended = Command::new(python)
        .args(["-c", &program])
        .args(&texts)
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let said = String::from_utf8(ended.stdout).unwrap();
    let expected = texts
        .iter()
        .map(|text| u8::from(Token::parse(text).is_ok()).to_string());
    assert_eq!(said.trim(), expected.collect::<String>());
    assert_eq!(said.matches('1').count(), 300);
}
