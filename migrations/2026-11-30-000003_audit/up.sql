-- The audit trail. No foreign keys: events outlive what they tell of.
--
-- Lists are newest first, and each filter that narrows a list to one thing has
-- an index in that order.
CREATE TABLE audit_events (
    id uuid PRIMARY KEY,
    event_time timestamptz NOT NULL,
    action text NOT NULL,
    client_id uuid NOT NULL,
    client_name text NOT NULL,
    owner_user_id uuid,
    owner_team_id uuid,
    actor_user_id uuid,
    actor_ip_address text NOT NULL DEFAULT '',
    actor_user_agent text NOT NULL DEFAULT '',
    caller text NOT NULL,
    request_id text NOT NULL,
    changes jsonb NOT NULL,
    CONSTRAINT audit_events_action_check CHECK (action IN (
        'api_client.created', 'api_client.updated', 'api_client.rotated', 'api_client.revoked',
        'api_client.reactivated', 'api_client.deleted', 'api_client.imported', 'api_client.leaked',
        'service_account.created', 'service_account.rotated', 'service_account.revoked')),
    CONSTRAINT audit_events_one_owner_check CHECK (num_nonnulls(owner_user_id, owner_team_id) <= 1)
);
CREATE INDEX audit_events_time_idx ON audit_events (event_time DESC, id DESC);
CREATE INDEX audit_events_client_id_idx ON audit_events (client_id, event_time DESC, id DESC);
CREATE INDEX audit_events_owner_user_id_idx ON audit_events (owner_user_id, event_time DESC, id DESC)
    WHERE owner_user_id IS NOT NULL;
CREATE INDEX audit_events_owner_team_id_idx ON audit_events (owner_team_id, event_time DESC, id DESC)
    WHERE owner_team_id IS NOT NULL;
CREATE INDEX audit_events_actor_user_id_idx ON audit_events (actor_user_id, event_time DESC, id DESC)
    WHERE actor_user_id IS NOT NULL;
CREATE INDEX audit_events_action_idx ON audit_events (action, event_time DESC, id DESC);
