//! The tables of requests with an id, and the replies that are kept.

use super::Case;

pub(super) const REQUESTS: &[Case] = &[
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
        breaks: "UPDATE api_client_replies SET sealed = repeat('x', 1048577)::bytea",
        keeps: "UPDATE api_client_replies SET sealed = repeat('x', 1048576)::bytea",
    },
    Case {
        constraint: "api_client_replies_revision_check",
        breaks: "UPDATE api_client_replies SET revision = -1",
        keeps: "UPDATE api_client_replies SET revision = 0",
    },
];

/// One more reply, to another request.
const REPLY: &str = "
    INSERT INTO api_client_requests VALUES (hash(99), id(51), hash(62), now());
    INSERT INTO api_client_replies VALUES (hash(2), hash(99), hash(63), '', 0)";
