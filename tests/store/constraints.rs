//! Every constraint: one statement that breaks it, and one that looks much the
//! same and is legitimate. A constraint that is not in the table fails the test.

use std::collections::BTreeSet;

use diesel::result::Error as DieselError;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};

use crate::{
    database::{texts, world},
    postgres,
};

/// A constraint, a statement that breaks it, and one that does not.
struct Case {
    constraint: &'static str,
    breaks: &'static str,
    keeps: &'static str,
}

/// The constraint that a statement runs into. Changes nothing.
pub async fn violated(connection: &mut AsyncPgConnection, sql: &str) -> Option<String> {
    connection.batch_execute("BEGIN").await.unwrap();
    let done = connection.batch_execute(sql).await;
    connection.batch_execute("ROLLBACK").await.unwrap();
    match done {
        Ok(()) => None,
        Err(DieselError::DatabaseError(_, information))
            if information.constraint_name().is_some() =>
        {
            information.constraint_name().map(str::to_owned)
        }
        Err(error) => panic!("{sql}: {error}"),
    }
}

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
macro_rules! outgoing {
    ($columns:literal, $values:literal) => {
        concat!(
            "INSERT INTO event_outbox (client_id, event_type, data, create_time, ",
            "next_attempt_time, try_until, ",
            $columns,
            ") VALUES (id(31), 'created', '{}', now(), now(), now(), ",
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
macro_rules! event {
    ($columns:literal, $values:literal) => {
        concat!(
            "INSERT INTO audit_events ",
            "(event_time, client_id, client_name, caller, request_id, changes, ",
            $columns,
            ") VALUES (now(), id(31), '', '', '', '[]', ",
            $values,
            ")"
        )
    };
}
macro_rules! account {
    ($values:literal) => {
        concat!(
            "INSERT INTO service_accounts ",
            "(token_hint, create_time, id, name, permissions, token_hash, revoke_time) ",
            "VALUES ('', now(), ",
            $values,
            ")"
        )
    };
}

const CASES: &[Case] = &[
    Case {
        constraint: "index_state_pkey",
        breaks: "INSERT INTO index_state DEFAULT VALUES",
        keeps: "DELETE FROM index_state; INSERT INTO index_state DEFAULT VALUES",
    },
    Case {
        constraint: "index_state_singleton_check",
        breaks: "INSERT INTO index_state (singleton) VALUES (false)",
        keeps: "UPDATE index_state SET singleton = true",
    },
    Case {
        constraint: "index_state_revision_check",
        breaks: "UPDATE index_state SET revision = -1",
        keeps: "UPDATE index_state SET revision = 0",
    },
    Case {
        constraint: "index_state_trimmed_revision_check",
        breaks: "UPDATE index_state SET trimmed_revision = -1",
        keeps: "UPDATE index_state SET trimmed_revision = 1",
    },
    Case {
        constraint: "index_revisions_pkey",
        breaks: "INSERT INTO index_revisions VALUES (0, id(1))",
        keeps: "INSERT INTO index_revisions VALUES (1000, id(1))",
    },
    Case {
        constraint: "index_changes_pkey",
        breaks: "INSERT INTO index_changes SELECT * FROM index_changes LIMIT 1",
        keeps: "INSERT INTO index_changes SELECT revision, id(1000) FROM index_state",
    },
    Case {
        constraint: "users_pkey",
        breaks: "INSERT INTO users VALUES (id(1), 'user')",
        keeps: "INSERT INTO users VALUES (id(11), 'user')",
    },
    Case {
        constraint: "users_instance_role_check",
        breaks: "UPDATE users SET instance_role = 'viewer'",
        keeps: "UPDATE users SET instance_role = 'admin'",
    },
    Case {
        constraint: "teams_pkey",
        breaks: "INSERT INTO teams VALUES (id(11))",
        keeps: "INSERT INTO teams VALUES (id(1))",
    },
    Case {
        constraint: "team_members_pkey",
        breaks: "INSERT INTO team_members VALUES (id(11), id(1), 'admin')",
        keeps: "INSERT INTO team_members VALUES (id(11), id(2), 'owner'), (id(12), id(1), 'owner')",
    },
    Case {
        constraint: "team_members_team_id_fkey",
        breaks: "INSERT INTO team_members VALUES (id(99), id(1), 'admin')",
        keeps: "DELETE FROM teams WHERE id = id(12)",
    },
    Case {
        constraint: "team_members_user_id_fkey",
        breaks: "INSERT INTO team_members VALUES (id(11), id(99), 'admin')",
        keeps: "INSERT INTO team_members VALUES (id(12), id(2), 'admin'); \
                DELETE FROM users WHERE id = id(2)",
    },
    Case {
        constraint: "team_members_role_check",
        breaks: "UPDATE team_members SET role = 'viewer'",
        keeps: "UPDATE team_members SET role = 'member'",
    },
    Case {
        constraint: "sites_pkey",
        breaks: "INSERT INTO sites VALUES (id(21), id(12))",
        keeps: "INSERT INTO sites VALUES (id(11), id(11))",
    },
    Case {
        constraint: "sites_team_id_fkey",
        breaks: "UPDATE sites SET team_id = id(99)",
        keeps: "UPDATE sites SET team_id = id(12)",
    },
    Case {
        constraint: "site_members_pkey",
        breaks: "INSERT INTO site_members VALUES (id(21), id(1), 'owner')",
        keeps: "INSERT INTO site_members VALUES (id(21), id(2), 'viewer'), (id(22), id(1), 'viewer')",
    },
    Case {
        constraint: "site_members_site_id_fkey",
        breaks: "INSERT INTO site_members VALUES (id(99), id(1), 'viewer')",
        keeps: "DELETE FROM sites WHERE id = id(21)",
    },
    Case {
        constraint: "site_members_user_id_fkey",
        breaks: "INSERT INTO site_members VALUES (id(21), id(99), 'viewer')",
        keeps: "INSERT INTO site_members VALUES (id(22), id(2), 'viewer'); \
                DELETE FROM users WHERE id = id(2)",
    },
    Case {
        constraint: "site_members_role_check",
        breaks: "UPDATE site_members SET role = 'member'",
        keeps: "UPDATE site_members SET role = 'editor'",
    },
    Case {
        constraint: "directory_state_pkey",
        breaks: "INSERT INTO directory_state DEFAULT VALUES",
        keeps: "DELETE FROM directory_state; INSERT INTO directory_state DEFAULT VALUES",
    },
    Case {
        constraint: "directory_state_singleton_check",
        breaks: "INSERT INTO directory_state (singleton) VALUES (false)",
        keeps: "UPDATE directory_state SET singleton = true",
    },
    Case {
        constraint: "directory_state_applied_sequence_check",
        breaks: "UPDATE directory_state SET applied_sequence = -1",
        keeps: "UPDATE directory_state SET applied_sequence = 0; \
                UPDATE directory_state SET applied_sequence = NULL",
    },
    Case {
        constraint: "directory_order_pkey",
        breaks: "INSERT INTO directory_order DEFAULT VALUES",
        keeps: "DELETE FROM directory_order; INSERT INTO directory_order DEFAULT VALUES",
    },
    Case {
        constraint: "directory_order_singleton_check",
        breaks: "INSERT INTO directory_order (singleton) VALUES (false)",
        keeps: "UPDATE directory_order SET singleton = true",
    },
    Case {
        constraint: "directory_order_places_check",
        breaks: "UPDATE directory_order SET changed = last_place + 1",
        keeps: "UPDATE directory_order SET last_place = 3, changed = 3, unnumbered = 2, \
                started_over = 1",
    },
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
        breaks: "UPDATE api_clients SET allowed_cidrs = array_fill('10.0.0.0/8'::text, ARRAY[33])",
        keeps: "UPDATE api_clients SET allowed_cidrs = array_fill('10.0.0.0/8'::text, ARRAY[32])",
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
    Case {
        constraint: "api_client_usage_pkey",
        breaks: "INSERT INTO api_client_usage VALUES (id(31), NULL)",
        keeps: "DELETE FROM api_client_usage; INSERT INTO api_client_usage VALUES (id(31), NULL)",
    },
    Case {
        constraint: "api_client_usage_client_id_fkey",
        breaks: "INSERT INTO api_client_usage VALUES (id(99), now())",
        keeps: "DELETE FROM api_clients WHERE id = id(31)",
    },
    Case {
        constraint: "api_client_usage_days_pkey",
        breaks: "INSERT INTO api_client_usage_days VALUES (id(31), '2026-03-01', 'USED', 1)",
        keeps: "INSERT INTO api_client_usage_days VALUES (id(31), '2026-03-01', 'EXPIRED', 1), \
                (id(31), '2026-03-02', 'USED', 1), (id(32), '2026-03-01', 'USED', 1)",
    },
    Case {
        constraint: "api_client_usage_days_client_id_fkey",
        breaks: "INSERT INTO api_client_usage_days VALUES (id(99), '2026-03-01', 'USED', 1)",
        keeps: "DELETE FROM api_client_usage WHERE client_id = id(31)",
    },
    Case {
        constraint: "api_client_usage_days_outcome_check",
        breaks: "UPDATE api_client_usage_days SET outcome = 'UNKNOWN_TOKEN'",
        keeps: "UPDATE api_client_usage_days SET outcome = 'TOKEN_ROTATED'; \
                UPDATE api_client_usage_days SET outcome = 'REVOKED'; \
                UPDATE api_client_usage_days SET outcome = 'EXPIRED'; \
                UPDATE api_client_usage_days SET outcome = 'OWNER_INACTIVE'; \
                UPDATE api_client_usage_days SET outcome = 'NO_SITE_GRANT'; \
                UPDATE api_client_usage_days SET outcome = 'ROLE_TOO_LOW'; \
                UPDATE api_client_usage_days SET outcome = 'LEGACY_TOKEN'; \
                UPDATE api_client_usage_days SET outcome = 'USED'",
    },
    Case {
        constraint: "api_client_usage_days_count_check",
        breaks: "UPDATE api_client_usage_days SET count = 0",
        keeps: "UPDATE api_client_usage_days SET count = 1",
    },
    Case {
        constraint: "audit_events_pkey",
        breaks: event!("id, action", "id(41), 'api_client.deleted'"),
        keeps: event!("id, action", "id(42), 'api_client.created'"),
    },
    Case {
        constraint: "audit_events_action_check",
        breaks: "UPDATE audit_events SET action = 'api_client.used'",
        keeps: "UPDATE audit_events SET action = 'service_account.revoked'",
    },
    Case {
        constraint: "audit_events_one_owner_check",
        breaks: "UPDATE audit_events SET owner_team_id = id(11)",
        keeps: "UPDATE audit_events SET owner_user_id = NULL, owner_team_id = id(99)",
    },
    Case {
        constraint: "audit_events_one_owner_check",
        breaks: "UPDATE audit_events SET owner_user_id = id(1), owner_team_id = id(1)",
        keeps: "UPDATE audit_events SET owner_user_id = NULL",
    },
    Case {
        constraint: "service_accounts_pkey",
        breaks: account!("id(51), 'x', '{audit}', hash(99), NULL"),
        keeps: account!("id(1), 'x', '{introspect}', hash(99), NULL"),
    },
    Case {
        constraint: "service_accounts_name_check",
        breaks: "UPDATE service_accounts SET name = '.live' WHERE id = id(51)",
        keeps: "UPDATE service_accounts SET name = '0live._-' WHERE id = id(51)",
    },
    Case {
        constraint: "service_accounts_name_check",
        breaks: "UPDATE service_accounts SET name = repeat('x', 64) WHERE id = id(51)",
        keeps: "UPDATE service_accounts SET name = repeat('x', 63) WHERE id = id(51)",
    },
    Case {
        constraint: "service_accounts_permissions_check",
        breaks: "UPDATE service_accounts SET permissions = '{}'",
        keeps: "UPDATE service_accounts SET permissions = '{audit}'",
    },
    Case {
        constraint: "service_accounts_permissions_check",
        breaks: "UPDATE service_accounts SET permissions = '{introspect,everything}'",
        keeps: "UPDATE service_accounts \
                SET permissions = '{introspect,manage,directory,audit,replicate}'",
    },
    Case {
        constraint: "service_accounts_token_hash_check",
        breaks: "UPDATE service_accounts SET token_hash = '\\x00' WHERE id = id(51)",
        keeps: "UPDATE service_accounts SET token_hash = hash(99) WHERE id = id(51)",
    },
    Case {
        constraint: "service_accounts_token_hash_key",
        breaks: account!("id(53), 'x', '{audit}', hash(52), NULL"),
        keeps: account!("id(53), 'x', '{audit}', hash(53), NULL"),
    },
    Case {
        constraint: "service_accounts_replaced_token_hash_check",
        breaks: "UPDATE service_accounts \
                 SET replaced_token_hash = '\\x00', replaced_token_end_time = now()",
        keeps: "UPDATE service_accounts \
                SET replaced_token_hash = hash(99), replaced_token_end_time = now() \
                WHERE id = id(51)",
    },
    Case {
        constraint: "service_accounts_replaced_token_check",
        breaks: "UPDATE service_accounts SET replaced_token_hash = hash(99) WHERE id = id(51)",
        keeps: "UPDATE service_accounts \
                SET replaced_token_hash = NULL, replaced_token_end_time = NULL",
    },
    Case {
        constraint: "service_accounts_replaced_token_check",
        breaks: "UPDATE service_accounts SET replaced_token_end_time = now()",
        keeps: "UPDATE service_accounts SET revoke_time = now()",
    },
    Case {
        constraint: "service_accounts_replaced_token_hash_key",
        breaks: "UPDATE service_accounts \
                 SET replaced_token_hash = hash(99), replaced_token_end_time = now()",
        keeps: "UPDATE service_accounts \
                SET replaced_token_hash = sha256(token_hash), replaced_token_end_time = now()",
    },
    Case {
        constraint: "service_accounts_name_key",
        breaks: account!("id(53), 'live', '{audit}', hash(53), NULL"),
        keeps: account!("id(53), 'gone', '{audit}', hash(53), NULL"),
    },
    Case {
        constraint: "service_accounts_name_key",
        breaks: "UPDATE service_accounts SET name = 'live', revoke_time = NULL",
        keeps: "UPDATE service_accounts SET name = 'gone', revoke_time = now()",
    },
    Case {
        constraint: "service_account_certificates_pkey",
        breaks: "INSERT INTO service_account_certificates VALUES ('dns:live.example', id(52))",
        keeps: "INSERT INTO service_account_certificates VALUES ('dns:other.example', id(51))",
    },
    Case {
        constraint: "service_account_certificates_service_account_id_fkey",
        breaks: "UPDATE service_account_certificates SET service_account_id = id(99)",
        keeps: "UPDATE service_account_certificates SET service_account_id = id(52)",
    },
    Case {
        constraint: "service_account_certificates_name_check",
        breaks: "UPDATE service_account_certificates SET name = 'dns:Live.example'",
        keeps: "UPDATE service_account_certificates SET name = 'spiffe://example.org/Live'",
    },
    Case {
        constraint: "api_client_imports_pkey",
        breaks: "INSERT INTO api_client_imports VALUES (id(31), hash(1), hash(2), true, now())",
        keeps: "INSERT INTO api_client_imports VALUES (id(99), hash(1), hash(2), true, now())",
    },
    Case {
        constraint: "api_client_imports_row_digest_check",
        breaks: "UPDATE api_client_imports SET row_digest = 'short'",
        keeps: "UPDATE api_client_imports SET row_digest = hash(99)",
    },
    Case {
        constraint: "api_client_imports_token_hash_check",
        breaks: "UPDATE api_client_imports SET token_hash = 'short'",
        keeps: "UPDATE api_client_imports SET token_hash = hash(99)",
    },
    Case {
        constraint: "import_state_pkey",
        breaks: "INSERT INTO import_state DEFAULT VALUES",
        keeps: "DELETE FROM import_state; INSERT INTO import_state DEFAULT VALUES",
    },
    Case {
        constraint: "import_state_singleton_check",
        breaks: "INSERT INTO import_state (singleton) VALUES (false)",
        keeps: "UPDATE import_state SET singleton = true",
    },
    Case {
        constraint: "import_state_directory_changed_check",
        breaks: "UPDATE import_state SET directory_changed = -1",
        keeps: "UPDATE import_state SET directory_changed = 7",
    },
    Case {
        constraint: "event_outbox_pkey",
        breaks: outgoing!("sequence, id", "1, id(82)"),
        keeps: outgoing!("sequence, id", "7, id(82)"),
    },
    Case {
        constraint: "event_outbox_id_key",
        breaks: outgoing!("sequence, id", "7, id(81)"),
        keeps: outgoing!("sequence, id", "7, id(82)"),
    },
    Case {
        constraint: "event_outbox_attempts_check",
        breaks: "UPDATE event_outbox SET attempts = -1",
        keeps: "UPDATE event_outbox SET attempts = 9",
    },
    Case {
        constraint: "event_outbox_last_error_check",
        breaks: "UPDATE event_outbox SET last_error = repeat('x', 201)",
        keeps: "UPDATE event_outbox SET last_error = repeat('x', 200)",
    },
    Case {
        constraint: "event_delivery_pkey",
        breaks: "INSERT INTO event_delivery DEFAULT VALUES",
        keeps: "DELETE FROM event_delivery; INSERT INTO event_delivery DEFAULT VALUES",
    },
    Case {
        constraint: "event_delivery_singleton_check",
        breaks: "INSERT INTO event_delivery (singleton) VALUES (false)",
        keeps: "UPDATE event_delivery SET singleton = true",
    },
    Case {
        constraint: "event_delivery_active_check",
        breaks: "UPDATE event_delivery SET active_until = now()",
        keeps: "UPDATE event_delivery SET active_since = now(), active_until = now()",
    },
    Case {
        constraint: "event_delivery_holder_check",
        breaks: "UPDATE event_delivery SET holder = id(91)",
        keeps: "UPDATE event_delivery SET holder = id(91), held_until = now()",
    },
    Case {
        constraint: "event_numbers_pkey",
        breaks: "INSERT INTO event_numbers VALUES (true, 5)",
        keeps: "DELETE FROM event_numbers; INSERT INTO event_numbers VALUES (true, 5)",
    },
    Case {
        constraint: "event_numbers_singleton_check",
        breaks: "INSERT INTO event_numbers VALUES (false, 5)",
        keeps: "UPDATE event_numbers SET singleton = true",
    },
    Case {
        constraint: "event_numbers_last_sequence_check",
        breaks: "UPDATE event_numbers SET last_sequence = -1",
        keeps: "UPDATE event_numbers SET last_sequence = 9",
    },
    Case {
        constraint: "event_notices_pkey",
        breaks: "INSERT INTO event_notices SELECT * FROM event_notices",
        keeps: "INSERT INTO event_notices SELECT client_id, 'expired', about_time FROM event_notices",
    },
    Case {
        constraint: "event_notices_client_id_fkey",
        breaks: "INSERT INTO event_notices VALUES (id(99), 'expired', now())",
        keeps: "INSERT INTO event_notices VALUES (id(32), 'expired', now())",
    },
    Case {
        constraint: "api_client_requests_pkey",
        breaks: "INSERT INTO api_client_requests VALUES (hash(61), id(51), hash(62), now())",
        keeps: "INSERT INTO api_client_requests VALUES (hash(99), id(51), hash(62), now())",
    },
    Case {
        constraint: "api_client_requests_service_account_id_fkey",
        breaks: "UPDATE api_client_requests SET service_account_id = id(99)",
        keeps: "UPDATE api_client_requests SET service_account_id = id(52)",
    },
    Case {
        constraint: "api_client_requests_lookup_check",
        breaks: "INSERT INTO api_client_requests VALUES ('short', id(51), hash(62), now())",
        keeps: "INSERT INTO api_client_requests VALUES (hash(98), id(51), hash(62), now())",
    },
    Case {
        constraint: "api_client_requests_digest_check",
        breaks: "UPDATE api_client_requests SET digest = 'short'",
        keeps: "UPDATE api_client_requests SET digest = hash(99)",
    },
    Case {
        constraint: "api_client_replies_pkey",
        breaks: "INSERT INTO api_client_replies VALUES (hash(3), hash(99), hash(63), '', 0)",
        keeps: REPLY,
    },
    Case {
        constraint: "api_client_replies_lookup_key",
        breaks: "INSERT INTO api_client_replies VALUES (hash(2), hash(61), hash(63), '', 0)",
        keeps: REPLY,
    },
    Case {
        constraint: "api_client_replies_token_hash_fkey",
        breaks: "UPDATE api_client_replies SET token_hash = hash(99)",
        keeps: "DELETE FROM api_client_tokens WHERE hash = hash(3)",
    },
    Case {
        constraint: "api_client_replies_lookup_fkey",
        breaks: "UPDATE api_client_replies SET lookup = hash(99)",
        keeps: "DELETE FROM api_client_requests",
    },
    Case {
        constraint: "api_client_replies_salt_check",
        breaks: "UPDATE api_client_replies SET salt = 'short'",
        keeps: "UPDATE api_client_replies SET salt = hash(99)",
    },
    Case {
        constraint: "api_client_replies_sealed_check",
        breaks: "UPDATE api_client_replies SET sealed = repeat('x', 16385)::bytea",
        keeps: "UPDATE api_client_replies SET sealed = repeat('x', 16384)::bytea",
    },
    Case {
        constraint: "api_client_replies_revision_check",
        breaks: "UPDATE api_client_replies SET revision = -1",
        keeps: "UPDATE api_client_replies SET revision = 0",
    },
    Case {
        constraint: "replica_usage_pkey",
        breaks: "INSERT INTO replica_usage VALUES (id(1), 1, now()), (id(1), 2, now())",
        keeps: "INSERT INTO replica_usage VALUES (id(1), 1, now()), (id(2), 1, now())",
    },
    Case {
        constraint: "replica_usage_batch_check",
        breaks: "INSERT INTO replica_usage VALUES (id(1), 0, now())",
        keeps: "INSERT INTO replica_usage VALUES (id(1), 1, now())",
    },
];
/// One more reply, to another request.
const REPLY: &str = "
    INSERT INTO api_client_requests VALUES (hash(99), id(51), hash(62), now());
    INSERT INTO api_client_replies VALUES (hash(2), hash(99), hash(63), '', 0)";

#[tokio::test]
async fn each_refuses_what_breaks_it_and_nothing_else() {
    let url = world().await;
    let mut connection = postgres::connect(&url).await;
    for Case {
        constraint,
        breaks,
        keeps,
    } in CASES
    {
        let refused = violated(&mut connection, breaks).await;
        assert_eq!(refused.as_deref(), Some(*constraint), "{breaks}");
        let refused = violated(&mut connection, keeps).await;
        assert_eq!(refused, None, "{constraint}: {keeps}");
    }
}

/// Rows that must have a value have one; Postgres names the column, not a
/// constraint.
#[tokio::test]
async fn the_table_covers_every_constraint() {
    let url = postgres::migrated_database().await;
    let mut connection = postgres::connect(&url).await;
    let named = "SELECT conname::text AS text FROM pg_constraint \
                 WHERE connamespace = 'public'::regnamespace AND contype <> 'n' \
                   AND conrelid <> '__diesel_schema_migrations'::regclass \
                 UNION SELECT pg_class.relname::text FROM pg_index \
                 JOIN pg_class ON pg_class.oid = indexrelid \
                 WHERE indisunique AND relnamespace = 'public'::regnamespace \
                   AND indrelid <> '__diesel_schema_migrations'::regclass";
    let named: BTreeSet<_> = texts(&mut connection, named).await.into_iter().collect();
    let covered: BTreeSet<_> = CASES
        .iter()
        .map(|case| case.constraint.to_owned())
        .collect();
    let untested: Vec<_> = named.difference(&covered).collect();
    assert_eq!(
        untested,
        Vec::<&String>::new(),
        "constraints without a test"
    );
    let gone: Vec<_> = covered.difference(&named).collect();
    assert_eq!(gone, Vec::<&String>::new(), "tests without a constraint");
}

/// A name that Postgres made up changes with the statement that it was made
/// for, and an error is recognised by name.
#[tokio::test]
async fn no_check_has_a_name_that_postgres_made_up() {
    let url = postgres::migrated_database().await;
    let mut connection = postgres::connect(&url).await;
    let made_up = "SELECT conname::text AS text FROM pg_constraint \
                   WHERE connamespace = 'public'::regnamespace AND contype = 'c' \
                     AND conname ~ '_check[0-9]+$'";
    assert_eq!(texts(&mut connection, made_up).await, Vec::<String>::new());
}
