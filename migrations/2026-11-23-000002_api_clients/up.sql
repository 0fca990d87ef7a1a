-- API clients, what was delegated to them, and the hashes of their tokens.
--
-- The owners' foreign keys do not cascade: a client that dies with its owner
-- must leave an audit event behind, which only the service writes, so a user or
-- team that still owns clients cannot be deleted past it. created_by_user_id
-- has no foreign key, since it outlives the user that it names.
CREATE TABLE api_clients (
    id uuid PRIMARY KEY,
    owner_user_id uuid,
    owner_team_id uuid,
    name text NOT NULL,
    description text NOT NULL,
    instance_role text NOT NULL,
    expire_time timestamptz,
    revoke_time timestamptz,
    created_by_user_id uuid NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT api_clients_owner_user_id_fkey FOREIGN KEY (owner_user_id) REFERENCES users (id),
    CONSTRAINT api_clients_owner_team_id_fkey FOREIGN KEY (owner_team_id) REFERENCES teams (id),
    CONSTRAINT api_clients_one_owner_check CHECK (num_nonnulls(owner_user_id, owner_team_id) = 1),
    CONSTRAINT api_clients_name_check CHECK (char_length(name) BETWEEN 1 AND 120),
    CONSTRAINT api_clients_description_check CHECK (char_length(description) <= 500),
    CONSTRAINT api_clients_instance_role_check CHECK (instance_role IN ('user', 'admin', 'owner')),
    CONSTRAINT api_clients_team_instance_role_check CHECK (owner_team_id IS NULL OR instance_role = 'user')
);
-- They serve the foreign keys, and lists of one owner's clients, newest first.
CREATE INDEX api_clients_owner_user_id_idx ON api_clients (owner_user_id, create_time DESC, id)
    WHERE owner_user_id IS NOT NULL;
CREATE INDEX api_clients_owner_team_id_idx ON api_clients (owner_team_id, create_time DESC, id)
    WHERE owner_team_id IS NOT NULL;

CREATE TABLE api_client_grants (
    client_id uuid NOT NULL,
    site_id uuid NOT NULL,
    role text NOT NULL,
    PRIMARY KEY (client_id, site_id),
    CONSTRAINT api_client_grants_client_id_fkey FOREIGN KEY (client_id) REFERENCES api_clients (id) ON DELETE CASCADE,
    CONSTRAINT api_client_grants_site_id_fkey FOREIGN KEY (site_id) REFERENCES sites (id) ON DELETE CASCADE,
    CONSTRAINT api_client_grants_role_check CHECK (role IN ('viewer', 'editor', 'admin', 'owner'))
);
CREATE INDEX api_client_grants_site_id_idx ON api_client_grants (site_id);

-- A replaced token stays, so that it is answered as rotated and not as unknown;
-- it works until its end_time. The newest has none. hint is what is shown of
-- the token: prefix and last four characters.
CREATE TABLE api_client_tokens (
    hash bytea PRIMARY KEY,
    client_id uuid NOT NULL,
    hint text NOT NULL,
    create_time timestamptz NOT NULL,
    end_time timestamptz,
    CONSTRAINT api_client_tokens_client_id_fkey FOREIGN KEY (client_id) REFERENCES api_clients (id) ON DELETE CASCADE,
    CONSTRAINT api_client_tokens_hash_check CHECK (octet_length(hash) = 32),
    CONSTRAINT api_client_tokens_hint_check CHECK (char_length(hint) <= 16)
);
CREATE INDEX api_client_tokens_client_id_idx ON api_client_tokens (client_id);
-- At most one newest token a client: rotations cannot fork a second chain.
CREATE UNIQUE INDEX api_client_tokens_newest_key ON api_client_tokens (client_id)
    WHERE end_time IS NULL;
