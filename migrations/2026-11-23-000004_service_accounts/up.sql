-- The callers: programs that may use the service, each with a token of its own.
--
-- A revoked account stays for the record, and its name may be used again: the
-- name is unique among those that are not revoked.
CREATE TABLE service_accounts (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    permissions text[] NOT NULL,
    token_hash bytea NOT NULL,
    token_hint text NOT NULL,
    create_time timestamptz NOT NULL,
    revoke_time timestamptz,
    CONSTRAINT service_accounts_name_check CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    CONSTRAINT service_accounts_permissions_check CHECK (
        cardinality(permissions) > 0
        AND permissions <@ ARRAY['introspect', 'manage', 'directory', 'audit', 'replicate']),
    CONSTRAINT service_accounts_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT service_accounts_token_hash_key UNIQUE (token_hash)
);
CREATE UNIQUE INDEX service_accounts_name_key ON service_accounts (name) WHERE revoke_time IS NULL;
