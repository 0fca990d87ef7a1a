//! What is changed by hand, and which clients are logged for it.

/// What the log says of a change.
#[derive(Clone, Copy, Debug)]
pub enum Logged {
    /// No revision: nothing that an answer depends on has changed.
    Nothing,
    /// One revision, and exactly these clients.
    Clients(&'static [u32]),
    /// One revision, and the log does not say what was before it.
    Everything,
}

use Logged::{Clients, Everything, Nothing};

/// Each is one transaction, on the world of `by_hand`:
/// user 1 owns client 31, user 2 the clients 33, 34 and 38, user 3 client 36; team 11
/// owns 32, team 12 owns 35 and 37. On site 21 (team 11) there are grants of 31, 32, 33
/// and 37, on site 22 (team 11) one of 36, on site 23 (team 12) those of 33 and 35.
pub const CASES: &[(&str, Logged)] = &[
    // Users.
    ("INSERT INTO users VALUES (id(4), 'user')", Clients(&[])),
    (
        "UPDATE users SET disabled = true WHERE id = id(2)",
        Clients(&[33, 34, 38]),
    ),
    (
        "UPDATE users SET instance_role = 'admin' WHERE id = id(3)",
        Clients(&[36]),
    ),
    (
        "UPDATE users SET disabled = true",
        Clients(&[31, 33, 34, 36, 38]),
    ),
    // Only those of the rows that are others than before.
    (
        "UPDATE users SET instance_role = 'owner' WHERE id IN (id(1), id(3))",
        Clients(&[36]),
    ),
    ("UPDATE users SET disabled = false", Nothing),
    (
        "UPDATE users SET disabled = true WHERE id = id(99)",
        Nothing,
    ),
    (
        "DELETE FROM api_clients WHERE owner_user_id = id(2); DELETE FROM users WHERE id = id(2)",
        Clients(&[33, 34, 38]),
    ),
    (
        "INSERT INTO users VALUES (id(4), 'user'); UPDATE users SET id = id(5) WHERE id = id(4); \
         DELETE FROM users WHERE id = id(5)",
        Clients(&[]),
    ),
    ("DELETE FROM users WHERE id = id(99)", Nothing),
    ("TRUNCATE users CASCADE", Everything),
    // Teams: their own clients, and those of owners with a grant on their sites.
    ("INSERT INTO teams VALUES (id(14))", Clients(&[])),
    (
        "UPDATE teams SET archived = true WHERE id = id(11)",
        Clients(&[31, 32, 33, 36, 37]),
    ),
    (
        "UPDATE teams SET archived = true WHERE id = id(12)",
        Clients(&[33, 35, 37]),
    ),
    (
        "UPDATE teams SET archived = true WHERE id = id(13)",
        Clients(&[]),
    ),
    ("UPDATE teams SET archived = false", Nothing),
    ("DELETE FROM teams WHERE id = id(13)", Clients(&[])),
    (
        "DELETE FROM api_clients WHERE owner_team_id = id(11); DELETE FROM teams WHERE id = id(11)",
        Clients(&[31, 32, 33, 36, 37]),
    ),
    ("TRUNCATE teams CASCADE", Everything),
    // Sites: clients with a grant there.
    ("INSERT INTO sites VALUES (id(25), id(11))", Clients(&[])),
    (
        "UPDATE sites SET team_id = id(12) WHERE id = id(21)",
        Clients(&[31, 32, 33, 37]),
    ),
    (
        "UPDATE sites SET team_id = id(13)",
        Clients(&[31, 32, 33, 35, 36, 37]),
    ),
    (
        "UPDATE sites SET team_id = id(11) WHERE id = id(21)",
        Nothing,
    ),
    (
        "UPDATE sites SET id = id(26) WHERE id = id(24)",
        Clients(&[]),
    ),
    ("DELETE FROM sites WHERE id = id(23)", Clients(&[33, 35])),
    ("DELETE FROM sites WHERE id = id(24)", Clients(&[])),
    ("TRUNCATE sites CASCADE", Everything),
    // Members of teams: their clients that have a grant on a site of the team.
    (
        "INSERT INTO team_members VALUES (id(12), id(1), 'member')",
        Clients(&[]),
    ),
    (
        "INSERT INTO team_members VALUES (id(13), id(3), 'owner')",
        Clients(&[]),
    ),
    (
        "DELETE FROM team_members WHERE user_id = id(3); \
         INSERT INTO team_members VALUES (id(11), id(3), 'member')",
        Clients(&[36]),
    ),
    (
        "UPDATE team_members SET role = 'owner' WHERE user_id = id(2)",
        Clients(&[33]),
    ),
    ("UPDATE team_members SET role = 'owner'", Clients(&[33, 36])),
    ("UPDATE team_members SET role = role", Nothing),
    // From one key to another: both are touched.
    (
        "UPDATE team_members SET team_id = id(13) WHERE user_id = id(3)",
        Clients(&[36]),
    ),
    (
        "DELETE FROM team_members WHERE user_id = id(1); \
         UPDATE team_members SET user_id = id(1) WHERE user_id = id(2) AND team_id = id(11)",
        Clients(&[31, 33]),
    ),
    (
        "DELETE FROM team_members WHERE team_id = id(11)",
        Clients(&[31, 33, 36]),
    ),
    ("TRUNCATE team_members", Everything),
    // Members of sites: their clients that have a grant there.
    (
        "INSERT INTO site_members VALUES (id(22), id(2), 'owner')",
        Clients(&[]),
    ),
    (
        "INSERT INTO site_members VALUES (id(21), id(3), 'owner')",
        Clients(&[]),
    ),
    (
        "DELETE FROM site_members WHERE user_id = id(2); \
         INSERT INTO site_members VALUES (id(23), id(2), 'owner')",
        Clients(&[33]),
    ),
    (
        "UPDATE site_members SET role = 'owner' WHERE site_id = id(21)",
        Clients(&[31, 33]),
    ),
    (
        "UPDATE site_members SET role = 'admin' WHERE user_id = id(3)",
        Nothing,
    ),
    (
        "UPDATE site_members SET site_id = id(24) WHERE user_id = id(1)",
        Clients(&[31]),
    ),
    (
        "UPDATE site_members SET site_id = id(22) WHERE user_id = id(1)",
        Clients(&[31]),
    ),
    (
        "DELETE FROM site_members WHERE user_id = id(2) AND site_id = id(21); \
         UPDATE site_members SET user_id = id(2) WHERE user_id = id(1)",
        Clients(&[31, 33]),
    ),
    (
        "DELETE FROM site_members WHERE user_id = id(3)",
        Clients(&[36]),
    ),
    ("TRUNCATE site_members", Everything),
    // Clients.
    (
        "INSERT INTO api_clients SELECT id(39), owner_user_id, owner_team_id, name, description, \
         instance_role, NULL, NULL, created_by_user_id, now(), now() FROM api_clients \
         WHERE id = id(38)",
        Clients(&[39]),
    ),
    (
        "UPDATE api_clients SET name = 'new' WHERE id = id(38)",
        Clients(&[38]),
    ),
    (
        "UPDATE api_clients SET expire_time = '2100-01-01' WHERE id = id(33)",
        Clients(&[33]),
    ),
    (
        "UPDATE api_clients SET allowed_cidrs = ARRAY['10.0.0.0/8'] WHERE id = id(33)",
        Clients(&[33]),
    ),
    (
        "UPDATE api_clients SET not_before_time = '2100-01-01' WHERE id IN (id(33), id(34))",
        Clients(&[33, 34]),
    ),
    (
        "UPDATE api_clients SET allowed_cidrs = '{}', not_before_time = NULL",
        Nothing,
    ),
    (
        "UPDATE api_clients SET revoke_time = now() WHERE owner_team_id = id(12)",
        Clients(&[35, 37]),
    ),
    (
        "UPDATE api_clients SET instance_role = 'user' WHERE id = id(31)",
        Clients(&[31]),
    ),
    (
        "UPDATE api_clients SET owner_user_id = NULL, owner_team_id = id(11) WHERE id = id(33)",
        Clients(&[33]),
    ),
    (
        "UPDATE api_clients SET owner_team_id = id(11) WHERE id = id(35)",
        Clients(&[35]),
    ),
    (
        "UPDATE api_clients SET id = id(39) WHERE id = id(34) AND false",
        Nothing,
    ),
    (
        "DELETE FROM api_client_usage WHERE client_id = id(38); \
         UPDATE api_clients SET id = id(39) WHERE id = id(38)",
        Clients(&[38, 39]),
    ),
    (
        "UPDATE api_clients SET description = 'new', update_time = now()",
        Nothing,
    ),
    (
        "UPDATE api_clients SET create_time = now(), created_by_user_id = id(2)",
        Nothing,
    ),
    (
        "UPDATE api_clients SET name = name, revoke_time = NULL, expire_time = NULL",
        Nothing,
    ),
    ("DELETE FROM api_clients WHERE id = id(33)", Clients(&[33])),
    (
        "DELETE FROM api_clients",
        Clients(&[31, 32, 33, 34, 35, 36, 37, 38]),
    ),
    ("TRUNCATE api_clients CASCADE", Everything),
    // What clients have: whose it is.
    (
        "INSERT INTO api_client_grants VALUES (id(34), id(24), 'viewer')",
        Clients(&[34]),
    ),
    (
        "UPDATE api_client_grants SET role = 'admin' WHERE site_id = id(23)",
        Clients(&[33, 35]),
    ),
    ("UPDATE api_client_grants SET role = role", Nothing),
    (
        "UPDATE api_client_grants SET site_id = id(24) WHERE client_id = id(36)",
        Clients(&[36]),
    ),
    (
        "UPDATE api_client_grants SET client_id = id(34) WHERE client_id = id(33)",
        Clients(&[33, 34]),
    ),
    (
        "DELETE FROM api_client_grants WHERE site_id = id(21)",
        Clients(&[31, 32, 33, 37]),
    ),
    ("TRUNCATE api_client_grants", Everything),
    (
        "INSERT INTO api_client_tokens VALUES (hash(9), id(38), '', now(), NULL)",
        Clients(&[38]),
    ),
    (
        "UPDATE api_client_tokens SET end_time = now() + interval '1 hour' \
         WHERE client_id IN (id(34), id(35))",
        Clients(&[34, 35]),
    ),
    ("UPDATE api_client_tokens SET end_time = end_time", Nothing),
    (
        "UPDATE api_client_tokens SET client_id = id(38) WHERE hash = hash(3)",
        Clients(&[32, 38]),
    ),
    (
        "UPDATE api_client_tokens SET hash = hash(9) WHERE hash = hash(3)",
        Clients(&[32]),
    ),
    // The same hash of another scheme is another token.
    (
        "UPDATE api_client_tokens SET scheme = 'hitkeep_sha256', \
         hint = 'sha256_' || left(encode(hash, 'hex'), 6) WHERE client_id IN (id(35), id(36))",
        Clients(&[35]),
    ),
    (
        "DELETE FROM api_client_tokens WHERE hash = hash(1)",
        Clients(&[31]),
    ),
    ("TRUNCATE api_client_tokens CASCADE", Everything),
    // Two tables whose rows change places with each other.
    (
        "UPDATE api_client_tokens AS token SET hash = CASE client_id WHEN id(34) THEN hash(90) \
         ELSE hash(91) END WHERE client_id IN (id(34), id(35))",
        Clients(&[34, 35]),
    ),
    // Statements that do several things at once.
    (
        "INSERT INTO users VALUES (id(2), 'user'), (id(3), 'admin'), (id(4), 'user') \
         ON CONFLICT (id) DO UPDATE SET instance_role = excluded.instance_role",
        Clients(&[36]),
    ),
    (
        "INSERT INTO users VALUES (id(1), 'owner'), (id(2), 'user') \
         ON CONFLICT (id) DO UPDATE SET instance_role = excluded.instance_role",
        Nothing,
    ),
    (
        "INSERT INTO users VALUES (id(2), 'admin') ON CONFLICT DO NOTHING",
        Nothing,
    ),
    (
        "INSERT INTO site_members VALUES (id(21), id(2), 'owner'), (id(22), id(3), 'admin') \
         ON CONFLICT (site_id, user_id) DO UPDATE SET role = excluded.role",
        Clients(&[33]),
    ),
    (
        "MERGE INTO site_members AS old USING (VALUES (id(21), id(1)), (id(23), id(2)), \
         (id(22), id(1))) AS new (site, member) ON site_id = site AND user_id = member \
         WHEN MATCHED AND role = 'editor' THEN DELETE \
         WHEN MATCHED THEN UPDATE SET role = 'owner' \
         WHEN NOT MATCHED THEN INSERT VALUES (site, member, 'viewer')",
        Clients(&[31, 33]),
    ),
    (
        "WITH moved AS (DELETE FROM api_client_grants WHERE client_id = id(36) RETURNING *) \
         INSERT INTO api_client_grants SELECT id(34), site_id, role FROM moved",
        Clients(&[34, 36]),
    ),
    // Parts of a transaction that are taken back.
    (
        "SAVEPOINT s; UPDATE users SET disabled = true WHERE id = id(3); ROLLBACK TO s",
        Nothing,
    ),
    (
        "SAVEPOINT s; UPDATE users SET disabled = true WHERE id = id(3); ROLLBACK TO s; \
         UPDATE users SET disabled = true WHERE id = id(1)",
        Clients(&[31]),
    ),
    (
        "UPDATE users SET disabled = true WHERE id = id(1); SAVEPOINT s; \
         UPDATE users SET disabled = true WHERE id = id(3); ROLLBACK TO s; \
         UPDATE users SET disabled = true WHERE id = id(2)",
        Clients(&[31, 33, 34, 38]),
    ),
    (
        "SAVEPOINT s; UPDATE users SET disabled = true WHERE id = id(1); RELEASE s; \
         UPDATE users SET disabled = true WHERE id = id(3)",
        Clients(&[31, 36]),
    ),
    (
        "DO $$ BEGIN BEGIN UPDATE users SET disabled = true WHERE id = id(3); RAISE 'no'; \
         EXCEPTION WHEN raise_exception THEN UPDATE users SET disabled = true WHERE id = id(1); \
         END; END $$",
        Clients(&[31]),
    ),
    // The log itself, by hand.
    ("SELECT index_stamp(), index_stamp()", Clients(&[])),
    (
        "SELECT index_stamp(); UPDATE users SET disabled = true WHERE id = id(1)",
        Clients(&[31]),
    ),
    // A made-up stamp is none.
    (
        "SET LOCAL hitkeep_auth.stamp = '1 7'; UPDATE users SET disabled = true WHERE id = id(1)",
        Clients(&[31]),
    ),
    ("TRUNCATE index_changes", Everything),
    // What no answer depends on.
    (
        "UPDATE api_client_usage SET last_used_time = now()",
        Nothing,
    ),
    ("DELETE FROM api_client_usage_days", Nothing),
    ("DELETE FROM audit_events", Nothing),
    ("UPDATE directory_state SET applied_sequence = 7", Nothing),
];
