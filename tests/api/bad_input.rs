//! Bad input: each field of each request empty, too long, malformed, unknown or
//! there twice. The answer names every field that is wrong, and nothing is
//! written.

use hitkeep_auth::pb;
use tonic::Status;

use crate::{
    fixtures::*,
    harness::{TestApp, violations},
};

mod clients;
mod directory;
mod queries;
mod update;

/// How much of a request a failed assertion shows.
const SHOWN: usize = 400;

/// Texts that are no id. The empty text is none either, but where an id is
/// optional it means that there is none.
fn no_ids() -> Vec<String> {
    let canonical = "0192f0c1-7a3b-7c4d-8e5f-0123456789ab";
    let texts = [
        "x",
        " ",
        "\0",
        "0192F0C1-7A3B-7C4D-8E5F-0123456789AB",
        "0192f0c1-7a3b-7c4d-8e5f-0123456789aB",
        "0192f0c17a3b7c4d8e5f0123456789ab",
        "{0192f0c1-7a3b-7c4d-8e5f-0123456789ab}",
        "urn:uuid:0192f0c1-7a3b-7c4d-8e5f-0123456789ab",
        "0192f0c1-7a3b-7c4d-8e5f-0123456789a",
        "0192f0c1-7a3b-7c4d-8e5f-0123456789abc",
        "0192f0c1-7a3b-7c4d-8e5f-0123456789ag",
        "0192f0c1_7a3b_7c4d_8e5f_0123456789ab",
        "0192f0c1-7a3b-7c4d-8e5f-0123456789é",
        "٠٠٠٠٠٠٠٠-٠٠٠٠",
        "*",
        "'; DROP TABLE users; --",
    ];
    let mut all: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    all.push(format!(" {canonical}"));
    all.push(format!("{canonical}\n"));
    all.push(canonical.repeat(1000));
    all
}

/// Texts that are no id where there must be one.
fn missing_ids() -> Vec<String> {
    let mut all = no_ids();
    all.push(String::new());
    all
}

/// Texts that contain a token, or what may be one, and would get into the audit trail.
const MISPLACED_TOKENS: [&str; 3] = [
    "hkp_00000000000000000000000000000000000000000004Rx6xu",
    "it was hks_12345678",
    "(00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff)",
];

/// Numbers that are no value of any of the enums, and the unspecified one.
const NO_VALUES: [i32; 6] = [0, -1, 5, 99, i32::MIN, i32::MAX];

/// Times that no `google.protobuf.Timestamp` may be.
const NO_TIMES: [(i64, i32); 8] = [
    (-62_135_596_801, 0),
    (253_402_300_800, 0),
    (i64::MIN, 0),
    (i64::MAX, 0),
    (1_800_000_000, -1),
    (1_800_000_000, 1_000_000_000),
    (1_800_000_000, i32::MIN),
    (1_800_000_000, i32::MAX),
];

fn time((seconds, nanos): (i64, i32)) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos }
}

/// Owners that are none, with what is wrong with each, below `field`.
fn no_owners(field: &str) -> Vec<(Option<pb::Owner>, Vec<String>)> {
    let mut all = vec![
        (None, vec![field.to_owned()]),
        (Some(pb::Owner { owner: None }), vec![field.to_owned()]),
    ];
    for id in missing_ids() {
        all.push((of_user(&id), vec![format!("{field}.user_id")]));
        all.push((of_team(&id), vec![format!("{field}.team_id")]));
    }
    all
}

/// Insists that each of the requests is refused for exactly those fields, in
/// that order, and that none of them leaves a trace.
async fn refuses_each<R, T, E>(
    app: &TestApp,
    call: impl AsyncFn(R) -> Result<T, Status>,
    cases: impl IntoIterator<Item = (R, E)>,
) where
    R: std::fmt::Debug,
    T: std::fmt::Debug,
    E: IntoIterator<Item: Into<String>>,
{
    let before = app.everything().await;
    for (request, expected) in cases {
        let shown: String = format!("{request:?}").chars().take(SHOWN).collect();
        let expected: Vec<String> = expected.into_iter().map(Into::into).collect();
        let refused = call(request).await;
        assert!(refused.is_err(), "accepted: {shown}");
        assert_eq!(violations(&refused), expected, "{shown}");
    }
    assert_eq!(app.everything().await, before);
}
