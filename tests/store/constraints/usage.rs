//! The tables of uses of API clients, and from which replicas they came.

use super::Case;

pub(super) const USAGE: &[Case] = &[
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
