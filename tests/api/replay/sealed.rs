//! What is kept of a reply is worth nothing without the caller's own token: a dump of the
//! whole database is searched, and all that is in it is tried as a key.

use std::collections::BTreeSet;

use diesel_async::{AsyncPgConnection, RunQueryDsl};
use hitkeep_auth::{
    domain::{
        caller::CallerPermission,
        replay::{CallerSecret, MAX_SEALED_REPLY, ReplayKey, RequestDigest, SealedReply},
        token::Token,
    },
    pb::{self, SiteRole},
};
use prost::Message;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use uuid::Uuid;

use super::{ID, Identified, OTHER_ID};
use crate::{
    fixtures::*,
    harness::{TestApp, dump},
};

/// How the key is derived, written down once more: so that what is tried is what the
/// service does.
const SECRET_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 caller secret for replays v1";
const KEY_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 sealed reply key v1";

/// The replies that are kept, each with its request's digest.
async fn replies(connection: &mut AsyncPgConnection) -> Vec<(RequestDigest, SealedReply)> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Bytea)]
        digest: Vec<u8>,
        #[diesel(sql_type = diesel::sql_types::Bytea)]
        salt: Vec<u8>,
        #[diesel(sql_type = diesel::sql_types::Bytea)]
        sealed: Vec<u8>,
    }
    let sql = "SELECT digest, salt, sealed FROM api_client_replies \
               JOIN api_client_requests USING (lookup) ORDER BY create_time";
    let rows: Vec<Row> = diesel::sql_query(sql).load(connection).await.unwrap();
    let reply = |row: Row| {
        let digest = RequestDigest(row.digest.try_into().unwrap());
        let salt = row.salt.try_into().unwrap();
        let bytes = row.sealed;
        (digest, SealedReply { salt, bytes })
    };
    rows.into_iter().map(reply).collect()
}

fn open(key: &[u8; 32], digest: &RequestDigest, reply: &SealedReply) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let mut bytes = reply.bytes.clone();
    let opened = key.open_in_place(nonce, Aad::from(digest.0), &mut bytes);
    opened.ok().map(|opened| opened.to_vec())
}

fn derived(salt: &[u8], id: &str, secret: &[u8]) -> [u8; 32] {
    let id = Uuid::parse_str(id).unwrap();
    let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
    hasher.update(salt).update(id.as_bytes()).update(secret);
    hasher.finalize().into()
}

/// Every value of 32 bytes in a dump, where Postgres writes bytes as `\x` and hex.
fn values(dump: &str) -> BTreeSet<[u8; 32]> {
    let hex = |text: &str| -> Option<[u8; 32]> {
        let digits = text.get(..64)?;
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
        let bytes: Option<Vec<u8>> = (0..64).step_by(2).map(byte).collect();
        bytes?.try_into().ok()
    };
    dump.split("\\x").filter_map(hex).collect()
}

#[tokio::test]
async fn nothing_in_the_database_opens_a_reply() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let created = dashboard.create(personal(VERA).with_id(ID)).await.unwrap();
    let team = dashboard.created(team_client(ALICE)).await;
    let rotation = rotate(ALICE, &team.id).with_id(OTHER_ID);
    let rotated = dashboard.rotate(rotation).await.unwrap();
    let mut connection = app.database().await;
    let (dump, replies) = (dump(&mut connection).await, replies(&mut connection).await);

    // Neither a token nor an id is in it, however it is spelt.
    let callers = app.token(CallerPermission::Manage);
    for text in [&created.token, &rotated.token, callers, ID, OTHER_ID] {
        let hex: Vec<_> = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let hex = hex.concat();
        for needle in [text.to_owned(), text.replace('-', ""), hex] {
            assert!(!dump.contains(&needle), "{needle}");
        }
    }

    let secret = blake3::derive_key(SECRET_CONTEXT, callers.as_bytes());
    let known = values(&dump);
    assert!(known.contains(&Token::parse(callers).unwrap().hash().0));
    assert!(known.len() > 8, "{}", known.len());
    assert_eq!(replies.len(), 2);
    for ((digest, reply), (id, token)) in replies
        .iter()
        .zip([(ID, &created.token), (OTHER_ID, &rotated.token)])
    {
        // With the caller's token and the id it opens, so the rest was tried in earnest.
        let key = derived(&reply.salt, id, &secret);
        let opened = open(&key, digest, reply).expect("the key");
        let found = pb::CreateApiClientResponse::decode(&*opened).unwrap();
        assert_eq!(&found.token, token);
        // Even to a caller that guesses the id, and to one that has the token alone.
        for value in &known {
            for key in [
                *value,
                derived(&reply.salt, id, value),
                derived(&reply.salt, id, &blake3::derive_key(SECRET_CONTEXT, value)),
                derived(&reply.salt, id, &blake3::derive_key(KEY_CONTEXT, value)),
                blake3::derive_key(KEY_CONTEXT, value),
            ] {
                assert_eq!(open(&key, digest, reply), None);
            }
        }
        let other = if id == ID { OTHER_ID } else { ID };
        let key = derived(&reply.salt, other, &secret);
        assert_eq!(open(&key, digest, reply), None);
    }
}

/// A reply is of one request and one caller: rows that were swapped or altered open for
/// no caller.
#[tokio::test]
async fn a_reply_that_was_altered_is_gone() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let creation = |id: &str, name: &str| personal(VERA).named(name).with_id(id);
    dashboard.create(creation(ID, "one")).await.unwrap();
    dashboard.create(creation(OTHER_ID, "other")).await.unwrap();
    for alter in [
        "UPDATE api_client_replies SET sealed = set_byte(sealed, 0, get_byte(sealed, 0) # 1)",
        "UPDATE api_client_replies AS reply SET salt = other.salt, sealed = other.sealed \
         FROM api_client_replies AS other WHERE other.lookup <> reply.lookup",
        "UPDATE api_client_replies SET sealed = ''",
    ] {
        app.psql(alter).await;
        for (id, name) in [(ID, "one"), (OTHER_ID, "other")] {
            let refused = dashboard.create(creation(id, name)).await;
            assert_eq!(crate::harness::told(&refused), super::GONE, "{alter}");
        }
    }
}

#[tokio::test]
async fn the_largest_reply_can_be_kept() {
    let app = TestApp::with_world().await;
    let sites: Vec<String> = (0..100)
        .map(|n| format!("00000000-0000-7000-8000-0000000c{n:04}"))
        .collect();
    let put = |site: &String| put_site(site, TEAM);
    app.change(sites.iter().map(put)).await;
    let dashboard = app.dashboard().await;
    let mut creation = team_client(ALICE).with_id(ID);
    let client = creation.api_client.as_mut().unwrap();
    client.name = "\u{10348}".repeat(120);
    client.description = "\u{10348}".repeat(500);
    client.expire_time = Some(in_seconds(&app, 60));
    for site in &sites {
        client.site_grants.push(grant(site, SiteRole::Owner));
    }
    let first = dashboard.create(creation.clone()).await.unwrap();
    assert_eq!(dashboard.create(creation).await.unwrap(), first);
    let length = "SELECT max(octet_length(sealed)) FROM api_client_replies";
    let length_of_largest = app.number(length).await;
    assert!(
        (4096..9216).contains(&length_of_largest),
        "{length_of_largest}"
    );
    // An import may have brought as many grants as HitKeep has sites.
    let id = first.api_client.unwrap().id;
    app.psql(&format!(
        "WITH more AS (INSERT INTO sites SELECT gen_random_uuid(), '{TEAM}' \
             FROM generate_series(1, 19000) RETURNING id) \
         SELECT count(*) FROM more"
    ))
    .await;
    app.psql(&format!(
        "INSERT INTO api_client_grants SELECT '{id}', id, 'viewer' FROM sites \
         WHERE team_id = '{TEAM}' ON CONFLICT DO NOTHING"
    ))
    .await;
    let rotation = rotate(ALICE, &id).with_id(OTHER_ID);
    let rotated = dashboard.rotate(rotation.clone()).await.unwrap();
    assert_eq!(dashboard.rotate(rotation).await.unwrap(), rotated);
    let length = usize::try_from(app.number(length).await).unwrap();
    assert!(
        (MAX_SEALED_REPLY / 2..MAX_SEALED_REPLY).contains(&length),
        "{length}"
    );
}

#[test]
fn debug_shows_neither_ids_nor_secrets() {
    let token = "hks_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf48My2h";
    let secret = CallerSecret::of(&Token::parse(token).unwrap());
    let key = ReplayKey::new(ID.parse().unwrap(), secret.clone());
    assert_eq!(
        format!("{secret:?} {key:?}"),
        "CallerSecret ReplayKey { id: WriteId, secret: CallerSecret }"
    );
    for shown in [
        format!("{:?}", personal(VERA).with_id(ID)),
        format!("{:?}", rotate(VERA, ID).with_id(OTHER_ID)).replace(ID, ""),
    ] {
        assert!(!shown.contains(ID) && !shown.contains(OTHER_ID), "{shown}");
        assert!(!shown.contains("request_id"), "{shown}");
        assert!(shown.contains(VERA), "{shown}");
    }
}
