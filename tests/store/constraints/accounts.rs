//! The tables of the audit trail and service accounts.

use super::Case;

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

pub(super) const ACCOUNTS: &[Case] = &[
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
];
