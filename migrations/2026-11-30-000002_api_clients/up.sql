-- API clients, what was delegated to them, and the hashes of their tokens.
--
-- The owners' foreign keys do not cascade: a client that dies with its owner
-- must leave an audit event behind, which only the service writes, so a user or
-- team that still owns clients cannot be deleted past it. created_by_user_id
-- has no foreign key, since it outlives the user that it names; it is NULL where
-- HitKeep, from which a client was imported, does not keep who created it.

-- Whether the service reads these ranges of addresses as they are. A client with others would
-- make every answer fail that it is a part of, so a change by hand is refused instead. Ranges
-- of IPv6 may be written in any way: some the service writes in another one than Postgres.
CREATE FUNCTION are_cidrs(ranges text[]) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$
    SELECT count(*) = count(DISTINCT range::cidr) AND coalesce(bool_and(CASE family(range::cidr)
        WHEN 4 THEN range = range::cidr::text
        ELSE range ~ '^[0-9A-Fa-f:.]+/(0|[1-9][0-9]*)$' AND NOT range::cidr <<= '::ffff:0:0/96'
    END), true)
    FROM unnest(ranges) AS range
$$;

-- allowed_cidrs and not_before_time say where and from when on the tokens of a client work.
-- No ranges mean everywhere. They are stored as text, as the service reads them: types of
-- Postgres would print some addresses of IPv6 in another form. not_before_time is not compared
-- with expire_time: an import may bring the expiry forward, and such a client just never works.
CREATE TABLE api_clients (
    id uuid PRIMARY KEY,
    owner_user_id uuid,
    owner_team_id uuid,
    name text NOT NULL,
    description text NOT NULL,
    instance_role text NOT NULL,
    expire_time timestamptz,
    revoke_time timestamptz,
    created_by_user_id uuid,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    allowed_cidrs text[] NOT NULL DEFAULT '{}',
    not_before_time timestamptz,
    CONSTRAINT api_clients_owner_user_id_fkey FOREIGN KEY (owner_user_id) REFERENCES users (id),
    CONSTRAINT api_clients_owner_team_id_fkey FOREIGN KEY (owner_team_id) REFERENCES teams (id),
    CONSTRAINT api_clients_one_owner_check CHECK (num_nonnulls(owner_user_id, owner_team_id) = 1),
    CONSTRAINT api_clients_name_check CHECK (char_length(name) BETWEEN 1 AND 120),
    CONSTRAINT api_clients_description_check CHECK (char_length(description) <= 500),
    CONSTRAINT api_clients_instance_role_check CHECK (instance_role IN ('user', 'admin', 'owner')),
    CONSTRAINT api_clients_team_instance_role_check CHECK (owner_team_id IS NULL OR instance_role = 'user'),
    CONSTRAINT api_clients_allowed_cidrs_check CHECK (
        cardinality(allowed_cidrs) <= 32
        AND coalesce(array_ndims(allowed_cidrs), 1) = 1
        AND array_position(allowed_cidrs::cidr[], NULL) IS NULL
        AND are_cidrs(allowed_cidrs))
);
-- They serve the foreign keys, and lists of one owner's clients, newest first.
CREATE INDEX api_clients_owner_user_id_idx ON api_clients (owner_user_id, create_time DESC, id)
    WHERE owner_user_id IS NOT NULL;
CREATE INDEX api_clients_owner_team_id_idx ON api_clients (owner_team_id, create_time DESC, id)
    WHERE owner_team_id IS NOT NULL;
-- They serve lists of the clients of all owners, by age, creator, expiry and state. By the last
-- use there is no index: it is written every few seconds, and each of these writes would have to
-- write the index as well. A list of unused clients looks at the clients in the order of their
-- creation instead, and begins with those that are old enough.
CREATE INDEX api_clients_create_time_idx ON api_clients (create_time DESC, id);
CREATE INDEX api_clients_created_by_user_id_idx
    ON api_clients (created_by_user_id, create_time DESC, id)
    WHERE created_by_user_id IS NOT NULL;
CREATE INDEX api_clients_expire_time_idx ON api_clients (expire_time)
    WHERE expire_time IS NOT NULL;
CREATE INDEX api_clients_revoked_idx ON api_clients (create_time DESC, id)
    WHERE revoke_time IS NOT NULL;

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
--
-- scheme says how hash was made of a token: with BLAKE3 for the tokens of this service, and
-- with SHA-256 for HitKeep's, which it issued before this service did (legacy tokens). A token
-- is found by both columns, so that the hash of one scheme is invalid with the other. HitKeep
-- kept no part of its tokens to show, so the hint of one is made of its hash: sha256_ and the
-- first six hex digits, which its holder can compare with sha256sum. No other hint is possible,
-- so that no row shows a part of such a token.
CREATE TABLE api_client_tokens (
    hash bytea PRIMARY KEY,
    client_id uuid NOT NULL,
    hint text NOT NULL,
    create_time timestamptz NOT NULL,
    end_time timestamptz,
    scheme text NOT NULL DEFAULT 'blake3',
    CONSTRAINT api_client_tokens_client_id_fkey FOREIGN KEY (client_id) REFERENCES api_clients (id) ON DELETE CASCADE,
    CONSTRAINT api_client_tokens_hash_check CHECK (octet_length(hash) = 32),
    CONSTRAINT api_client_tokens_hint_check CHECK (char_length(hint) <= 16),
    CONSTRAINT api_client_tokens_scheme_check CHECK (scheme IN ('blake3', 'hitkeep_sha256')),
    CONSTRAINT api_client_tokens_legacy_hint_check CHECK (
        (scheme = 'hitkeep_sha256') = (hint = 'sha256_' || left(encode(hash, 'hex'), 6)))
);
CREATE INDEX api_client_tokens_client_id_idx ON api_client_tokens (client_id);
-- At most one newest token a client: rotations cannot fork a second chain.
CREATE UNIQUE INDEX api_client_tokens_newest_key ON api_client_tokens (client_id)
    WHERE end_time IS NULL;
