//! The tables of users, teams, sites and their members, and the directory's order.

use super::Case;

pub(super) const DIRECTORY: &[Case] = &[
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
];
