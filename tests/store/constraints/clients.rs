//! The tables of API clients, their grants and tokens.

use super::Case;

/// Inserts a row into a table of which most columns are of no interest.
macro_rules! client {
    ($columns:literal, $values:literal) => {
        concat!(
            "INSERT INTO api_clients (description, created_by_user_id, create_time, update_time, ",
            $columns,
            ") VALUES ('', id(1), now(), now(), ",
            $values,
            ")"
        )
    };
}

macro_rules! token {
    ($values:literal) => {
        concat!(
            "INSERT INTO api_client_tokens (create_time, hash, client_id, hint, end_time) ",
            "VALUES (now(), ",
            $values,
            ")"
        )
    };
}

macro_rules! legacy {
    ($values:literal) => {
        concat!(
            "INSERT INTO api_client_tokens (create_time, scheme, client_id, end_time, hint, hash) ",
            "VALUES (now(), 'hitkeep_sha256', id(31), now(), ",
            $values,
            ")"
        )
    };
}

pub(super) const CLIENTS: &[Case] = &[
    Case {
        constraint: "api_clients_pkey",
        breaks: client!(
            "id, owner_user_id, name, instance_role",
            "id(31), id(2), 'x', 'user'"
        ),
        keeps: client!(
            "id, owner_user_id, name, instance_role",
            "id(1), id(1), 'personal', 'owner'"
        ),
    },
    Case {
        constraint: "api_clients_owner_user_id_fkey",
        breaks: "UPDATE api_clients SET owner_user_id = id(99) WHERE id = id(31)",
        keeps: "UPDATE api_clients SET owner_user_id = id(2), created_by_user_id = id(99) \
                WHERE id = id(31)",
    },
    Case {
        constraint: "api_clients_owner_team_id_fkey",
        breaks: "UPDATE api_clients SET owner_team_id = id(99) WHERE id = id(32)",
        keeps: "UPDATE api_clients SET owner_team_id = id(12) WHERE id = id(32)",
    },
    Case {
        constraint: "api_clients_one_owner_check",
        breaks: "UPDATE api_clients SET owner_team_id = id(11), instance_role = 'user' \
                 WHERE id = id(31)",
        keeps: "UPDATE api_clients SET owner_user_id = NULL, owner_team_id = id(11), \
                instance_role = 'user' WHERE id = id(31)",
    },
    Case {
        constraint: "api_clients_one_owner_check",
        breaks: "UPDATE api_clients SET owner_user_id = NULL",
        keeps: "UPDATE api_clients SET owner_user_id = id(2) WHERE id = id(31)",
    },
    Case {
        constraint: "api_clients_name_check",
        breaks: "UPDATE api_clients SET name = ''",
        keeps: "UPDATE api_clients SET name = 'x'",
    },
    Case {
        constraint: "api_clients_name_check",
        breaks: "UPDATE api_clients SET name = repeat('é', 121)",
        keeps: "UPDATE api_clients SET name = repeat('é', 120)",
    },
    Case {
        constraint: "api_clients_allowed_cidrs_check",
        breaks: "UPDATE api_clients SET allowed_cidrs = \
                 (SELECT array_agg('10.' || n || '.0.0/16') FROM generate_series(1, 33) AS n)",
        keeps: "UPDATE api_clients SET allowed_cidrs = \
                (SELECT array_agg('10.' || n || '.0.0/16') FROM generate_series(1, 32) AS n)",
    },
    Case {
        constraint: "api_clients_allowed_cidrs_check",
        breaks: "UPDATE api_clients SET allowed_cidrs = ARRAY['10.0.0.0/8', NULL]",
        keeps: "UPDATE api_clients SET allowed_cidrs = ARRAY['10.0.0.0/8', '::/0']",
    },
    Case {
        constraint: "api_clients_allowed_cidrs_check",
        breaks: "UPDATE api_clients SET allowed_cidrs = ARRAY['10.0.0.1']",
        keeps: "UPDATE api_clients SET allowed_cidrs = ARRAY['10.0.0.1/32']",
    },
    Case {
        constraint: "api_clients_allowed_cidrs_check",
        breaks: "UPDATE api_clients SET allowed_cidrs = ARRAY['10/8']",
        keeps: "UPDATE api_clients SET allowed_cidrs = ARRAY['0.0.0.0/0']",
    },
    Case {
        constraint: "api_clients_allowed_cidrs_check",
        breaks: "UPDATE api_clients SET allowed_cidrs = ARRAY['::ffff:10.0.0.0/104']",
        keeps: "UPDATE api_clients SET allowed_cidrs = ARRAY['::1.2.3.4/128', '::102:304/127']",
    },
    Case {
        constraint: "api_clients_allowed_cidrs_check",
        breaks: "UPDATE api_clients SET allowed_cidrs = ARRAY['2001:db8::/32', '2001:DB8::/32']",
        keeps: "UPDATE api_clients SET allowed_cidrs = ARRAY['2001:DB8::/32', '2001:db8::/33']",
    },
    Case {
        constraint: "api_clients_allowed_cidrs_check",
        breaks: "UPDATE api_clients SET allowed_cidrs = ARRAY[ARRAY['10.0.0.0/8']]",
        keeps: "UPDATE api_clients SET allowed_cidrs = '{}'",
    },
    Case {
        constraint: "api_clients_description_check",
        breaks: "UPDATE api_clients SET description = repeat('é', 501)",
        keeps: "UPDATE api_clients SET description = repeat('é', 500)",
    },
    Case {
        constraint: "api_clients_instance_role_check",
        breaks: "UPDATE api_clients SET instance_role = 'editor' WHERE id = id(31)",
        keeps: "UPDATE api_clients SET instance_role = 'admin' WHERE id = id(31)",
    },
    Case {
        constraint: "api_clients_team_instance_role_check",
        breaks: "UPDATE api_clients SET instance_role = 'admin' WHERE id = id(32)",
        keeps: "UPDATE api_clients SET instance_role = 'user'",
    },
    Case {
        constraint: "api_client_grants_pkey",
        breaks: "INSERT INTO api_client_grants VALUES (id(31), id(21), 'owner')",
        keeps: "INSERT INTO api_client_grants VALUES (id(31), id(22), 'viewer')",
    },
    Case {
        constraint: "api_client_grants_client_id_fkey",
        breaks: "INSERT INTO api_client_grants VALUES (id(99), id(21), 'owner')",
        keeps: "DELETE FROM api_clients WHERE id = id(31)",
    },
    Case {
        constraint: "api_client_grants_site_id_fkey",
        breaks: "INSERT INTO api_client_grants VALUES (id(31), id(99), 'owner')",
        keeps: "DELETE FROM sites WHERE id = id(21)",
    },
    Case {
        constraint: "api_client_grants_role_check",
        breaks: "UPDATE api_client_grants SET role = 'member'",
        keeps: "UPDATE api_client_grants SET role = 'owner'",
    },
    Case {
        constraint: "api_client_tokens_pkey",
        breaks: token!("hash(1), id(32), '', now()"),
        keeps: token!("hash(4), id(32), 'hkt_...0003', now()"),
    },
    Case {
        constraint: "api_client_tokens_client_id_fkey",
        breaks: token!("hash(4), id(99), '', NULL"),
        keeps: "DELETE FROM api_clients WHERE id = id(31)",
    },
    Case {
        constraint: "api_client_tokens_hash_check",
        breaks: "UPDATE api_client_tokens SET hash = substring(hash FROM 2)",
        keeps: "UPDATE api_client_tokens SET hash = sha256(hash)",
    },
    Case {
        constraint: "api_client_tokens_hash_check",
        breaks: "UPDATE api_client_tokens SET hash = hash || '\\x00'",
        keeps: "UPDATE api_client_tokens SET hash = sha224(hash) || '\\x00000000'",
    },
    Case {
        constraint: "api_client_tokens_hint_check",
        breaks: "UPDATE api_client_tokens SET hint = repeat('x', 17)",
        keeps: "UPDATE api_client_tokens SET hint = repeat('x', 16)",
    },
    Case {
        constraint: "api_client_tokens_scheme_check",
        breaks: "UPDATE api_client_tokens SET scheme = 'sha256'",
        keeps: legacy!("'sha256_4b2277', hash(4)"),
    },
    // A hint that may be a part of a legacy token.
    Case {
        constraint: "api_client_tokens_legacy_hint_check",
        breaks: legacy!("'...77ab', hash(4)"),
        keeps: legacy!("'sha256_4b2277', hash(4)"),
    },
    // The hash of one scheme as the other's.
    Case {
        constraint: "api_client_tokens_legacy_hint_check",
        breaks: "UPDATE api_client_tokens SET scheme = 'hitkeep_sha256'",
        keeps: "UPDATE api_client_tokens SET scheme = 'hitkeep_sha256', \
                hint = 'sha256_' || left(encode(hash, 'hex'), 6)",
    },
    Case {
        constraint: "api_client_tokens_legacy_hint_check",
        breaks: "UPDATE api_client_tokens SET hint = 'sha256_' || left(encode(hash, 'hex'), 6)",
        keeps: "UPDATE api_client_tokens SET hint = 'sha256_' || left(encode(hash, 'hex'), 7)",
    },
    Case {
        constraint: "api_client_tokens_newest_key",
        breaks: token!("hash(4), id(31), '', NULL"),
        keeps: token!("hash(4), id(31), '', now()"),
    },
    Case {
        constraint: "api_client_tokens_newest_key",
        breaks: "UPDATE api_client_tokens SET end_time = NULL WHERE hash = hash(1)",
        keeps: "UPDATE api_client_tokens SET end_time = now() WHERE hash = hash(2); \
                UPDATE api_client_tokens SET end_time = NULL WHERE hash = hash(1)",
    },
];
