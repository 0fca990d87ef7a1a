//! The backup that is imported: its directory, and each of its API clients with what is to
//! become of it.

use std::fmt::Write;

/// Users 101 to 107, teams 201 to 203, sites 301 to 306.
const WORLD: &str = "
    INSERT INTO users SELECT u(n), 'user' || n || '@example.org', 'a hash', now()
        FROM range(101, 108) AS numbers (n) WHERE n <> 106;
    INSERT INTO users VALUES (u(106), '__shadow_1234@hitkeep.invalid', 'a hash', now());
    INSERT INTO instance_roles VALUES (u(101), 'owner', NULL), (u(102), 'admin', NULL),
        (u(107), 'root', NULL), (u(199), 'admin', NULL);
    INSERT INTO tenants VALUES (u(201), 'Default', true), (u(202), 'Marketing', false),
        (u(203), 'Archived', false);
    INSERT INTO tenant_archives VALUES (u(203), now());
    INSERT INTO tenant_members VALUES
        (u(1), u(201), u(101), 'owner', now()), (u(2), u(201), u(102), ' Admin ', now()),
        (u(3), u(201), u(103), 'member', now()), (u(4), u(202), u(103), 'OWNER', now()),
        (u(5), u(202), u(104), 'admin', now()), (u(6), u(203), u(104), 'owner', now()),
        (u(7), u(201), u(107), 'guest', now()), (u(8), u(201), u(106), 'owner', now()),
        (u(9), u(201), u(198), 'owner', now());
    INSERT INTO sites VALUES (u(301), u(101), 'a.example'), (u(302), u(101), 'b.example'),
        (u(303), u(104), 'c.example'), (u(304), u(104), 'd.example'),
        (u(305), u(107), 'e.example'), (u(306), u(103), 'f.example');
    INSERT INTO site_tenants VALUES (u(301), u(201)), (u(303), u(202)), (u(304), u(203)),
        (u(305), u(201)), (u(306), u(202));
    INSERT INTO site_members VALUES (u(1), u(301), u(103), 'editor'),
        (u(2), u(302), u(103), 'viewer'), (u(3), u(303), u(104), 'owner'),
        (u(4), u(303), u(105), 'viewer'), (u(5), u(301), u(102), 'superuser'),
        (u(6), u(302), u(101), 'owner');
    INSERT INTO user_preferences VALUES (u(103), 'en', u(202)), (u(104), 'en', u(202));
    INSERT INTO instance_audit_log VALUES
        (u(1), now(), u(104), 'api_client.created', 'api_client', CAST(u(431) AS VARCHAR)),
        (u(2), now(), u(101), 'api_client.updated', 'api_client', CAST(u(432) AS VARCHAR));";

/// A row of `api_clients`, as expressions of SQL, with its grants and its fate.
#[derive(Clone, Copy)]
pub struct Row {
    pub number: u32,
    pub user: &'static str,
    pub team: &'static str,
    pub name: &'static str,
    pub description: &'static str,
    /// The row's own if empty.
    pub hash: &'static str,
    pub instance_role: &'static str,
    pub expires: &'static str,
    pub revoked: &'static str,
    pub created: &'static str,
    pub grants: &'static [(u32, &'static str)],
    pub fate: &'static str,
}

/// A personal client of user 103 without grants, which is created.
const PLAIN: Row = Row {
    number: 0,
    user: "u(103)",
    team: "NULL",
    name: "'A name'",
    description: "NULL",
    hash: "",
    instance_role: "'user'",
    expires: "NULL",
    revoked: "NULL",
    created: "TIMESTAMPTZ '2026-01-02 03:04:05Z'",
    grants: &[],
    fate: "created",
};

/// A client of team 202.
const TEAM: Row = Row {
    user: "NULL",
    team: "u(202)",
    ..PLAIN
};

/// The clients. Those that are refused have the reason for their fate.
#[rustfmt::skip]
pub const CLIENTS: &[Row] = &[
    Row { number: 401, grants: &[(301, "editor")], ..PLAIN },
    Row { number: 402, grants: &[(301, "owner"), (302, "owner")], ..PLAIN },
    Row { number: 403, user: "u(101)", instance_role: "'owner'", grants: &[(303, "admin")], ..PLAIN },
    Row { number: 404, user: "u(102)", instance_role: "'admin'", grants: &[(302, "editor")], ..PLAIN },
    Row { number: 405, instance_role: "'owner'", ..PLAIN },
    Row { number: 406, user: "u(104)", grants: &[(303, "owner")], ..PLAIN },
    Row { number: 407, user: "u(104)", grants: &[(304, "owner")], ..PLAIN },
    Row { number: 408, user: "u(105)", grants: &[(303, "viewer")], ..PLAIN },
    Row { number: 409, user: "u(107)", grants: &[(305, "owner")], ..PLAIN },
    Row { number: 410, user: "u(102)", grants: &[(301, "viewer")], ..PLAIN },
    Row { number: 411, name: "'  trimmed  '", description: "'two' || chr(10) || 'lines'", ..PLAIN },
    Row { number: 412, name: "repeat('é', 60)", description: "repeat('x', 500)", ..PLAIN },
    Row { number: 413, expires: "TIMESTAMPTZ '2020-01-01 00:00:00Z'", ..PLAIN },
    Row { number: 414, expires: "TIMESTAMPTZ '2036-01-01 00:00:00.000001Z'", ..PLAIN },
    Row { number: 415, revoked: "TIMESTAMPTZ '2026-01-03 00:00:00Z'", grants: &[(301, "viewer")], ..PLAIN },
    Row { number: 416, grants: &[(399, "viewer"), (301, "viewer")], ..PLAIN },
    Row { number: 417, grants: &[(301, "auditor")], ..PLAIN },
    Row { number: 418, name: "'same name'", ..PLAIN },
    Row { number: 419, name: "'same name'", ..PLAIN },
    Row { number: 420, user: "u(107)", ..PLAIN },
    Row { number: 421, team: "CAST('00000000-0000-0000-0000-000000000000' AS UUID)", ..PLAIN },
    Row { number: 422, name: "'日本語 🎉'", ..PLAIN },
    Row { number: 423, user: "u(101)", grants: &[(303, "admin")], ..PLAIN },
    Row { number: 430, grants: &[(303, "owner"), (306, "editor")], ..TEAM },
    Row { number: 431, ..TEAM },
    Row { number: 432, grants: &[(301, "viewer")], ..TEAM },
    Row { number: 433, team: "u(203)", grants: &[(304, "viewer")], ..TEAM },
    Row { number: 434, team: "u(201)", grants: &[(302, "editor")], ..TEAM },
    Row { number: 440, user: "NULL", fate: "no_owner", ..PLAIN },
    Row { number: 441, team: "u(202)", fate: "two_owners", ..PLAIN },
    Row { number: 442, user: "u(198)", fate: "unknown_owner", ..PLAIN },
    Row { number: 443, team: "u(299)", fate: "unknown_owner", ..TEAM },
    Row { number: 444, user: "u(106)", fate: "shadow_owner", ..PLAIN },
    Row { number: 445, instance_role: "'root'", fate: "unknown_instance_role", ..PLAIN },
    Row { number: 446, instance_role: "' user '", fate: "unknown_instance_role", ..PLAIN },
    Row { number: 447, instance_role: "NULL", fate: "unknown_instance_role", ..PLAIN },
    Row { number: 448, instance_role: "'admin'", fate: "team_instance_role", ..TEAM },
    Row { number: 449, hash: "left(h(449), 63)", fate: "bad_hash", ..PLAIN },
    Row { number: 450, hash: "upper(h(450))", fate: "bad_hash", ..PLAIN },
    Row { number: 451, hash: "NULL", fate: "bad_hash", ..PLAIN },
    Row { number: 452, hash: "repeat('g', 64)", fate: "bad_hash", ..PLAIN },
    Row { number: 453, hash: "h(999)", fate: "duplicate_hash", ..PLAIN },
    Row { number: 454, hash: "h(999)", fate: "duplicate_hash", ..PLAIN },
    Row { number: 455, fate: "duplicate_id", ..PLAIN },
    Row { number: 455, hash: "h(1455)", fate: "duplicate_id", ..PLAIN },
    Row { number: 456, name: "'bell' || chr(7)", fate: "bad_name", ..PLAIN },
    Row { number: 457, name: "'   '", fate: "bad_name", ..PLAIN },
    Row { number: 458, name: "repeat('x', 121)", fate: "bad_name", ..PLAIN },
    Row { number: 459, description: "chr(27) || '[31m'", fate: "bad_description", ..PLAIN },
    Row { number: 460, description: "repeat('x', 501)", fate: "bad_description", ..PLAIN },
    Row { number: 461, expires: "'infinity'", fate: "bad_time", ..PLAIN },
    Row { number: 462, created: "NULL", fate: "bad_time", ..PLAIN },
    // Its id and hash are those of clients that this service made itself.
    Row { number: 463, fate: "id_taken", ..PLAIN },
    Row { number: 464, hash: "h(4640)", fate: "hash_taken", ..PLAIN },
    Row { number: 465, name: "token(465)", ..PLAIN },
];

/// The rows as statements.
pub fn rows() -> String {
    let mut sql = WORLD.to_owned();
    for row in CLIENTS {
        let hash = match row.hash {
            "" => format!("h({})", row.number),
            given => given.to_owned(),
        };
        writeln!(
            sql,
            "INSERT INTO api_clients VALUES (u({}), {}, {}, {}, {}, {hash}, {}, {}, \
             TIMESTAMPTZ '2026-02-01 00:00:00Z', {}, {}, TIMESTAMPTZ '2026-02-01 00:00:00Z');",
            row.number,
            row.user,
            row.team,
            row.name,
            row.description,
            row.instance_role,
            row.expires,
            row.revoked,
            row.created,
        )
        .unwrap();
        for (site, role) in row.grants {
            writeln!(
                sql,
                "INSERT INTO api_client_site_roles VALUES (uuid(), u({}), u({site}), '{role}', \
                 now());",
                row.number
            )
            .unwrap();
        }
    }
    // A grant that a deleted client left behind.
    sql + "INSERT INTO api_client_site_roles VALUES (uuid(), u(498), u(301), 'owner', now());"
}
