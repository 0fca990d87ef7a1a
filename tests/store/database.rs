//! A database to look into, and a store on it.

use std::sync::Arc;

use hitkeep_auth::{
    domain::audit::Provenance,
    store::{Store, StoreOptions},
    system::{SystemClock, SystemEntropy},
};

pub use crate::postgres::texts;

use crate::postgres;

/// A small world by hand. `id(1)` and so on are ids, `hash(1)` and so on 32
/// bytes that stand for the hash of a token.
pub const WORLD: &str = "
    CREATE FUNCTION id(integer) RETURNS uuid IMMUTABLE LANGUAGE sql
        AS $$ SELECT lpad($1::text, 32, '0')::uuid $$;
    CREATE FUNCTION hash(integer) RETURNS bytea IMMUTABLE LANGUAGE sql
        AS $$ SELECT sha256($1::text::bytea) $$;
    INSERT INTO users VALUES (id(1), 'owner'), (id(2), 'user'), (id(3), 'user');
    INSERT INTO teams VALUES (id(11)), (id(12)), (id(13));
    INSERT INTO team_members VALUES (id(11), id(1), 'owner');
    INSERT INTO sites VALUES (id(21), id(11)), (id(22), id(11));
    INSERT INTO site_members VALUES (id(21), id(1), 'viewer');
    INSERT INTO api_clients
        (id, owner_user_id, owner_team_id, name, description, instance_role,
         created_by_user_id, create_time, update_time)
        VALUES (id(31), id(1), NULL, 'personal', '', 'owner', id(1), now(), now()),
               (id(32), NULL, id(11), 'team', '', 'user', id(1), now(), now());
    INSERT INTO api_client_grants VALUES (id(31), id(21), 'viewer'), (id(32), id(21), 'viewer');
    INSERT INTO api_client_tokens (hash, client_id, hint, create_time, end_time)
        VALUES (hash(1), id(31), 'hkp_...0001', now(), now()),
               (hash(2), id(31), 'hkp_...0002', now(), NULL),
               (hash(3), id(32), 'hkt_...0003', now(), NULL);
    INSERT INTO api_client_usage VALUES (id(31), now()), (id(32), NULL);
    INSERT INTO api_client_usage_days
        VALUES (id(31), '2026-03-01', 'USED', 7), (id(32), '2026-03-01', 'REVOKED', 1);
    INSERT INTO audit_events
        (id, event_time, action, client_id, client_name, owner_user_id, caller, request_id, changes)
        VALUES (id(41), now(), 'api_client.created', id(31), 'personal', id(1), '', '', '[]');
    INSERT INTO service_accounts
        (id, name, permissions, token_hash, token_hint, create_time, revoke_time)
        VALUES (id(51), 'live', '{introspect}', hash(51), 'hks_...0051', now(), NULL),
               (id(52), 'gone', '{introspect}', hash(52), 'hks_...0052', now(), now());
    INSERT INTO service_account_certificates VALUES ('dns:live.example', id(51));
    INSERT INTO api_client_requests VALUES (hash(61), id(51), hash(62), now());
    INSERT INTO api_client_replies VALUES (hash(3), hash(61), hash(63), 'sealed', 1);
    INSERT INTO api_client_imports VALUES (id(31), hash(71), hash(72), NULL, now());
    INSERT INTO event_outbox
        (sequence, id, client_id, event_type, data, create_time, next_attempt_time, try_until)
        VALUES (1, id(81), id(31), 'created', '{}', now(), now(), now());
    UPDATE event_numbers SET last_sequence = 1;
    INSERT INTO event_notices VALUES (id(31), 'expiring', now());
";

/// A migrated database with the world in it.
pub async fn world() -> String {
    let url = postgres::migrated_database().await;
    postgres::execute(&url, WORLD).await;
    url
}

/// A store on that database.
pub fn store(url: &str) -> Store {
    let clock = Arc::new(SystemClock::default());
    Store::new(&StoreOptions::new(url), clock, Arc::new(SystemEntropy))
}

/// Nobody in particular.
pub fn nobody() -> Arc<Provenance> {
    Arc::new(Provenance::default())
}
