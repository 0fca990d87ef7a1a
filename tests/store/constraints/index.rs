//! The tables of revisions and the change log.

use super::Case;

pub(super) const INDEX: &[Case] = &[
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
];
