-- API clients that come from HitKeep's own database.
--
-- What is kept of each is the state that HitKeep had when it was last taken over, so that the
-- next import can tell on which side a client changed: a digest of its fields, the hash of
-- its token, and when it was revoked, if that came from an import. There is no foreign key: the
-- row outlives its client, since a client that was deleted here must not come back with the next
-- import. Nothing here is part of what Introspect answers from, so it makes no revision.
CREATE TABLE api_client_imports (
    client_id uuid PRIMARY KEY,
    row_digest bytea NOT NULL,
    token_hash bytea NOT NULL,
    revoke_time timestamptz,
    snapshot_time timestamptz NOT NULL,
    CONSTRAINT api_client_imports_row_digest_check CHECK (octet_length(row_digest) = 32),
    CONSTRAINT api_client_imports_token_hash_check CHECK (octet_length(token_hash) = 32)
);

-- How far imports have come: the time of the newest snapshot, which no older one may undo, and
-- the place of the directory that came with it. If the directory has gone on since, it was
-- pushed, and is newer than what a snapshot shows.
CREATE TABLE import_state (
    singleton boolean PRIMARY KEY DEFAULT true,
    snapshot_time timestamptz,
    directory_changed bigint NOT NULL DEFAULT 0,
    CONSTRAINT import_state_singleton_check CHECK (singleton),
    CONSTRAINT import_state_directory_changed_check CHECK (directory_changed >= 0)
);

INSERT INTO import_state DEFAULT VALUES;
