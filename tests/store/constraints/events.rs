//! The tables of the outbox of events, and who delivers it.

use super::Case;

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

pub(super) const EVENTS: &[Case] = &[
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
];
