//! What is read by hand is read as others read it. Each property stands in a module of
//! its own, which `fuzz/` drives with whatever it comes up with; here it is random
//! input, the same in each run, that is more to the point.

#![expect(unreachable_pub, reason = "a test binary has no outside")]

mod messages;
mod paths;
mod tables;
mod tokens;

use hitkeep_auth::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Request},
    },
};
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngSeed},
};
use prost::Message;

/// Two sites.
const SITE: &str = "01930000-0000-7000-8000-0000000000ab";
const OTHER: &str = "01930000-0000-7000-8000-0000000000cd";
/// So many cases of each property; `PROPTEST_CASES` makes them more, never fewer.
const CASES: u32 = 5_000;

/// What DuckDB wrote, as HitKeep has it do, with all that it may choose: dictionaries, no
/// compression, no rows.
const SNAPSHOTS: [&[u8]; 5] = [
    include_bytes!("../../fuzz/seeds/tables/clients"),
    include_bytes!("../../fuzz/seeds/tables/dictionary"),
    include_bytes!("../../fuzz/seeds/tables/empty"),
    include_bytes!("../../fuzz/seeds/tables/plain"),
    include_bytes!("../../fuzz/seeds/tables/teams"),
];

#[test]
fn what_duckdb_wrote_is_read() {
    let rows = SNAPSHOTS.map(tables::hold);
    assert_eq!(rows, [5, 4000, 0, 5, 3].map(Some));
}

fn config() -> Config {
    let asked = Config::default();
    Config {
        cases: asked.cases.max(CASES),
        rng_seed: RngSeed::Fixed(2026),
        failure_persistence: None,
        ..asked
    }
}

/// A template, most of the time: the parts that there are, in any order.
fn template() -> impl Strategy<Value = String> {
    let segment = select(vec![
        "{site_id}",
        "*",
        "s",
        "a@b",
        "caf%C3%A9",
        "**",
        "",
        "..",
        "x*",
        "%61",
    ]);
    vec(segment, 0..5).prop_map(|all| format!("/{}", all.join("/")))
}

/// A segment of a path: mostly a plain one, and else one of those that are read in more
/// than one way.
fn segment() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        2 => select(vec![SITE, OTHER, "s", "a@b", "x", "caf%C3%A9", "%20", "..."]),
        1 => select(vec![
            "", ".", "..", "%2e%2e", ".%2E", "..;", "..;x", ";x", "x;y", "..%2f", "%2F..%2F",
            "..%2fs", "%2e%2e%2fs", "..\\s", "\\..\\", "%5c..%5cs", "%252e%252e", "%252fs",
            "%C0%AE%C0%AE", "%C0%AF", "%00", "#", "%23", "?", "%3F", "%3fx", "%73", "é", "%C3",
            "http://h", "urn:uuid:", "%25", "%", "%2", " ", "\t", "\0", "+", "*", "{site_id}",
        ]),
    ]
}

/// A template, and a path that it might match.
fn pair() -> impl Strategy<Value = (String, String)> {
    let step = select(vec!["*", "s", "a@b", "caf%C3%A9"]);
    let steps = |most| vec((step.clone(), segment()), 0..most);
    let site = prop_oneof![
        8 => Just(SITE.to_owned()),
        1 => Just(SITE.to_uppercase()),
        1 => segment().prop_map(str::to_owned),
    ];
    let rest = proptest::option::weighted(0.8, vec(segment(), 0..5));
    let mess = vec((segment(), any::<Index>()), 0..2);
    (steps(3), site, steps(2), rest, mess).prop_map(|(before, site, after, rest, mess)| {
        let (mut template, mut target) = (String::new(), String::new());
        let mut add = |step: &str, segment: &str| {
            template.extend(["/", step]);
            target.extend(["/", segment]);
        };
        let fitting = |(step, segment): (&'static str, &'static str)| match step {
            "*" => (step, segment),
            text => (text, text),
        };
        for (step, segment) in before.into_iter().map(fitting) {
            add(step, segment);
        }
        add("{site_id}", &site);
        for (step, segment) in after.into_iter().map(fitting) {
            add(step, segment);
        }
        if let Some(rest) = rest {
            add("**", &rest.join("/"));
        }
        for (thing, at) in mess {
            let ends: Vec<_> = target.char_indices().map(|(at, _)| at).collect();
            target.insert_str(*at.get(&ends), thing);
        }
        (template, target)
    })
}

/// A path of whatever there is.
fn target() -> impl Strategy<Value = String> {
    (any::<bool>(), vec(segment(), 0..7)).prop_map(|(is_rooted, all)| {
        let path = all.join("/");
        if is_rooted { format!("/{path}") } else { path }
    })
}

fn header() -> impl Strategy<Value = (String, String)> {
    let name = select(vec![
        "authorization",
        "Authorization",
        "x-api-key",
        "X-API-KEY",
        "accept",
        "x-hitkeep-owner",
        "X_HitKeep-x",
        "",
        "é",
    ]);
    let value = select(vec![
        "Bearer t",
        "bearer  t ",
        "BEARER\tt",
        "Bearer",
        "Bearer ",
        "Basic eA==",
        "t",
        "",
        " ",
        "\tt",
        "Bearer t,Bearer u",
        "é",
        "hkp_00000000000000000000000000000000000000000004Rx6xu",
        "hkp_00000000000000000000000000000000000000000004Rx6xv",
        "Bearer 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeefg",
    ]);
    (name, value).prop_map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn request() -> impl Strategy<Value = CheckRequest> {
    let setting = (
        select(vec!["permission", "site_id", "site_path", "other"]),
        select(vec!["", "site.view", "x"]),
    );
    let settings = btree_map(setting.0, setting.1, 0..5);
    let joined = btree_map(".{0,9}", ".{0,9}", 0..3);
    (
        settings,
        joined,
        vec(header(), 0..4),
        vec(header(), 0..3),
        ".{0,9}",
        any::<i64>(),
    )
        .prop_map(|(settings, mut joined, map, raw, path, size)| {
            joined.extend(map);
            let single = |(key, value): (String, String)| HeaderValue {
                key,
                raw_value: value.clone().into_bytes(),
                value,
            };
            let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            CheckRequest {
                attributes: Some(AttributeContext {
                    context_extensions: settings.into_iter().map(text).collect(),
                    request: Some(Request {
                        http: Some(HttpRequest {
                            headers: joined,
                            header_map: (!raw.is_empty()).then(|| HeaderMap {
                                headers: raw.into_iter().map(single).collect(),
                            }),
                            path,
                            size,
                            ..HttpRequest::default()
                        }),
                        time: Some(prost_types::Timestamp {
                            seconds: size,
                            nanos: -1,
                        }),
                    }),
                    ..AttributeContext::default()
                }),
            }
        })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn all_programs_see_the_site_that_was_checked(pair in pair()) {
        paths::hold(&pair.0, &pair.1);
    }

    #[test]
    fn also_where_nothing_fits(template in template(), target in target()) {
        paths::hold(&template, &target);
    }

    #[test]
    fn any_text_will_do(template in "(/|\\PC|[a-z{}*%./]){0,20}", target in "(/|\\PC|[a-z%./;]){0,20}") {
        paths::hold(&template, &target);
    }

    #[test]
    fn a_text_is_one_kind_of_token_or_none(text in "[0-9a-fA-FgZ_é]{62,66}") {
        tokens::hold(&[("x-api-key".to_owned(), text)]);
    }

    #[test]
    fn every_legacy_token_is_one(text in "[0-9a-f]{64}") {
        tokens::hold(&[("authorization".to_owned(), format!("Bearer {text}"))]);
    }

    #[test]
    fn a_token_is_found_where_hitkeep_finds_it(headers in vec(header(), 0..5)) {
        tokens::hold(&headers);
    }

    #[test]
    fn a_broken_snapshot_is_read_or_refused(
        file in select(SNAPSHOTS.to_vec()),
        edits in vec((any::<Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let mut file = file.to_vec();
        for (at, byte, edit) in edits {
            let at = at.index(file.len() + 1);
            match edit {
                0 => file.insert(at, byte),
                1 if at < file.len() => drop(file.remove(at)),
                2 if at < file.len() => file[at] ^= 1 << (byte % 8),
                _ => file.truncate(at.max(file.len() / 2)),
            }
        }
        tables::hold(&file);
    }

    #[test]
    fn what_is_usual_is_read_by_hand(request in request()) {
        let message = request.encode_to_vec();
        prop_assert!(messages::hold(&message));
    }

    #[test]
    fn what_is_read_by_hand_is_what_prost_reads(
        request in request(),
        edits in vec((any::<Index>(), any::<u8>(), 0..4_u8), 1..4),
    ) {
        let mut message = request.encode_to_vec();
        for (at, byte, edit) in edits {
            let at = at.index(message.len() + 1);
            match edit {
                0 => message.insert(at, byte),
                1 if at < message.len() => drop(message.remove(at)),
                2 if at < message.len() => message[at] = byte,
                // Something that it has already, once more.
                _ => {
                    let copy = message[at..].to_vec();
                    message.extend(copy);
                }
            }
        }
        messages::hold(&message);
    }
}
