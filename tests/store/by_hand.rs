//! A world that has everything in it that effective access depends on, and
//! statements that change it by hand in any way that there is.

use std::collections::BTreeMap;

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::future::join_all;
use hitkeep_auth::{
    domain::{
        clock::Entropy,
        id::ClientId,
        introspection::InactiveReason,
        source::Source,
        token::{StoredHash, TokenScheme},
    },
    store::Store,
    system::SystemEntropy,
};
use uuid::Uuid;

use crate::{
    database::{WORLD, texts},
    dice::Dice,
    postgres,
    verdict::{Active, judge},
};

/// More of the world of the other tests: users 2 and 3 are members of teams 11
/// and 12 and of their sites, and own clients, of which one has a legacy token; team 12
/// owns some too, one of them with a grant that is outside of the team.
const MORE: &str = "
    INSERT INTO team_members VALUES
        (id(11), id(2), 'admin'), (id(12), id(2), 'member'), (id(11), id(3), 'member');
    INSERT INTO sites VALUES (id(23), id(12)), (id(24), id(13));
    INSERT INTO site_members VALUES
        (id(21), id(2), 'viewer'), (id(23), id(2), 'editor'), (id(22), id(3), 'admin');
    INSERT INTO api_clients
        (id, owner_user_id, owner_team_id, name, description, instance_role,
         created_by_user_id, create_time, update_time)
        SELECT id(n), id(owner_user), id(owner_team), 'client', '', 'user', id(1), now(), now()
        FROM (VALUES (33, 2, NULL), (34, 2, NULL), (35, NULL, 12), (36, 3, NULL), (37, NULL, 12))
            AS made (n, owner_user, owner_team);
    INSERT INTO api_client_grants VALUES
        (id(33), id(21), 'editor'), (id(33), id(23), 'owner'), (id(35), id(23), 'viewer'),
        (id(36), id(22), 'owner'), (id(37), id(21), 'viewer');
    INSERT INTO api_client_tokens (hash, client_id, hint, create_time, end_time)
        SELECT hash(n - 29), id(n), 'hkp_...xxxx', now(), NULL FROM generate_series(33, 37) AS n;
    UPDATE api_client_tokens SET scheme = 'hitkeep_sha256',
        hint = 'sha256_' || left(encode(hash, 'hex'), 6) WHERE client_id = id(36);
    -- A client that has neither grants nor tokens, and so is nothing that a key hangs on.
    INSERT INTO api_clients
        (id, owner_user_id, name, description, instance_role, created_by_user_id,
         create_time, update_time)
        VALUES (id(38), id(2), 'bare', '', 'user', id(1), now(), now());
    INSERT INTO api_client_usage SELECT id(n), now() FROM generate_series(33, 38) AS n;
";
/// The tokens that there are, or may be.
const HASHES: &str = "SELECT encode(hash(n), 'hex') AS text FROM generate_series(1, 14) AS n";

/// A migrated database with all of it.
pub async fn full_world() -> String {
    let url = postgres::migrated_database().await;
    postgres::execute(&url, WORLD).await;
    postgres::execute(&url, MORE).await;
    url
}

/// The world's client of that number.
pub fn client(number: u32) -> ClientId {
    let digits = format!("{number:032}");
    ClientId::from_uuid(Uuid::parse_str(&digits).unwrap())
}

/// That seed, or one of its own, to be printed by the test that uses it.
pub fn seed(given: Option<u64>) -> u64 {
    given.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        SystemEntropy.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    })
}

/// Whose a token is, and the verdict on it.
pub type Answer = (ClientId, Result<Active, InactiveReason>);

/// Every token there may be: of each hash, the token of each scheme.
pub async fn hashes(connection: &mut AsyncPgConnection) -> Vec<StoredHash> {
    let read = |hex: String| {
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        let bytes = std::array::from_fn(byte);
        let schemes = TokenScheme::ALL.iter();
        schemes.map(move |scheme| StoredHash::new(*scheme, bytes))
    };
    let hashes = texts(connection, HASHES).await;
    hashes.into_iter().flat_map(read).collect()
}

/// What the database says of these tokens, asked about one by one.
pub async fn answers(store: &Store, hashes: &[StoredHash]) -> BTreeMap<StoredHash, Answer> {
    let asked = hashes.iter().map(|hash| store.look_up(Some(*hash)));
    let answers = hashes.iter().zip(join_all(asked).await);
    let answers = answers.filter_map(|(hash, found)| {
        let found = found.unwrap();
        let subject = found.subject?;
        Some((
            *hash,
            (subject.client, judge(subject, Source::Unknown, found.now)),
        ))
    });
    answers.collect()
}

/// Runs statements as one transaction. False: the database refused.
pub async fn accepts(connection: &mut AsyncPgConnection, sql: &str) -> bool {
    connection.batch_execute(sql).await.is_ok()
}

/// One text out of the database.
pub async fn text(connection: &mut AsyncPgConnection, sql: &str) -> String {
    texts(connection, sql).await.remove(0)
}

/// A change of some row, or of several: many change something that a verdict
/// depends on, some nothing, and some are refused by a constraint.
pub fn any_statement(dice: &mut Dice) -> String {
    let user = format!("id({})", 1 + dice.below(4));
    let other = format!("id({})", 1 + dice.below(4));
    let team = format!("id({})", 11 + dice.below(4));
    let site = format!("id({})", 21 + dice.below(5));
    let client = format!("id({})", 31 + dice.below(8));
    let to = format!("id({})", 31 + dice.below(10));
    let hash = format!("hash({})", 1 + dice.below(14));
    let instance_role = *dice.one_of(&["user", "user", "admin", "owner"]);
    let team_role = *dice.one_of(&["member", "admin", "owner"]);
    let site_role = *dice.one_of(&["viewer", "editor", "admin", "owner"]);
    let time = *dice.one_of(&["NULL", "NULL", "'2000-01-01'", "'2100-01-01'"]);
    match dice.below(40) {
        0 => format!("UPDATE users SET disabled = NOT disabled WHERE id = {user}"),
        1 => format!("UPDATE users SET instance_role = '{instance_role}' WHERE id = {user}"),
        2 => "UPDATE users SET disabled = false".to_owned(),
        3 => format!(
            "INSERT INTO users VALUES ({user}, '{instance_role}') \
             ON CONFLICT (id) DO UPDATE SET instance_role = excluded.instance_role"
        ),
        4 => format!("DELETE FROM users WHERE id = {user}"),
        5 => format!(
            "DELETE FROM api_clients WHERE owner_user_id = {user}; \
             DELETE FROM users WHERE id = {user}"
        ),
        6 => format!("UPDATE teams SET archived = NOT archived WHERE id = {team}"),
        7 => "UPDATE teams SET archived = false".to_owned(),
        8 => format!("INSERT INTO teams VALUES ({team}) ON CONFLICT DO NOTHING"),
        9 => format!(
            "DELETE FROM api_clients WHERE owner_team_id = {team}; \
             DELETE FROM teams WHERE id = {team}"
        ),
        10..13 => format!(
            "INSERT INTO team_members VALUES ({team}, {user}, '{team_role}') \
             ON CONFLICT (team_id, user_id) DO UPDATE SET role = excluded.role"
        ),
        13 => format!("DELETE FROM team_members WHERE user_id = {user} AND team_id = {team}"),
        14 => format!(
            "UPDATE team_members SET team_id = {team} WHERE user_id = {user} AND role <> 'owner'"
        ),
        15 => format!("UPDATE team_members SET user_id = {other} WHERE user_id = {user}"),
        16 => format!("UPDATE sites SET team_id = {team} WHERE id = {site}"),
        17 => format!(
            "INSERT INTO sites VALUES ({site}, {team}) \
             ON CONFLICT (id) DO UPDATE SET team_id = excluded.team_id"
        ),
        18 => format!("DELETE FROM sites WHERE id = {site}"),
        19..22 => format!(
            "INSERT INTO site_members VALUES ({site}, {user}, '{site_role}') \
             ON CONFLICT (site_id, user_id) DO UPDATE SET role = excluded.role"
        ),
        22 => format!("DELETE FROM site_members WHERE user_id = {user} AND site_id = {site}"),
        23 => format!(
            "UPDATE site_members SET site_id = {site}, user_id = {other} WHERE user_id = {user}"
        ),
        24 => format!(
            "UPDATE api_clients SET name = name || '!', update_time = now() WHERE id = {client}"
        ),
        25 => format!("UPDATE api_clients SET revoke_time = {time} WHERE id = {client}"),
        26 => format!("UPDATE api_clients SET expire_time = {time} WHERE id = {client}"),
        27 => format!(
            "UPDATE api_clients SET owner_user_id = {user}, owner_team_id = NULL, \
             instance_role = '{instance_role}' WHERE id = {client}"
        ),
        28 => format!(
            "UPDATE api_clients SET owner_user_id = NULL, owner_team_id = {team}, \
             instance_role = 'user' WHERE id = {client}"
        ),
        29 => format!(
            "INSERT INTO api_clients (id, owner_user_id, name, description, instance_role, \
             created_by_user_id, create_time, update_time) \
             VALUES ({client}, {user}, 'new', '', '{instance_role}', id(1), now(), now()); \
             INSERT INTO api_client_tokens VALUES ({hash}, {client}, '', now(), NULL)"
        ),
        30 => format!("DELETE FROM api_clients WHERE id = {client}"),
        31..33 => format!(
            "INSERT INTO api_client_grants VALUES ({client}, {site}, '{site_role}') \
             ON CONFLICT (client_id, site_id) DO UPDATE SET role = excluded.role"
        ),
        33 => format!(
            "UPDATE api_client_grants SET client_id = {to}, site_id = {site} \
             WHERE client_id = {client}"
        ),
        34 => format!("DELETE FROM api_client_grants WHERE client_id = {client}"),
        // A rotation, and a token that becomes another client's.
        35 => format!(
            "UPDATE api_client_tokens SET end_time = coalesce(end_time, '2100-01-01') \
             WHERE client_id = {client}; \
             INSERT INTO api_client_tokens VALUES ({hash}, {client}, '', now(), NULL)"
        ),
        36 => format!("UPDATE api_client_tokens SET client_id = {to} WHERE hash = {hash}"),
        37 => format!(
            "UPDATE api_client_tokens SET scheme = 'hitkeep_sha256', \
             hint = 'sha256_' || left(encode(hash, 'hex'), 6) WHERE hash = {hash}"
        ),
        38 => {
            format!("UPDATE api_client_tokens SET scheme = 'blake3', hint = '' WHERE hash = {hash}")
        }
        _ => format!("UPDATE api_client_tokens SET end_time = '2000-01-01' WHERE hash = {hash}"),
    }
}
