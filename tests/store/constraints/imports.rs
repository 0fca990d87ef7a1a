//! The tables of what imports remember.

use super::Case;

pub(super) const IMPORTS: &[Case] = &[
    Case {
        constraint: "api_client_imports_pkey",
        breaks: "INSERT INTO api_client_imports VALUES (id(31), hash(1), hash(2), now(), now())",
        keeps: "INSERT INTO api_client_imports VALUES (id(99), hash(1), hash(2), now(), now())",
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
];
