-- How API clients are used: when last, and how often on each day.
--
-- Apart from api_clients and narrow, because every client in use is written
-- every few seconds: no row of the client itself is touched by that, and none of
-- the columns that change is in an index, so that an update stays on its page
-- (which is what the room left by the fill factor is for).
--
-- The days hang on api_client_usage, and not on api_clients: whoever writes a
-- client's days locks its row there first, and so does the end of the client,
-- which comes down from above. Neither can hold what the other waits for.
CREATE TABLE api_client_usage (
    client_id uuid PRIMARY KEY,
    last_used_time timestamptz,
    CONSTRAINT api_client_usage_client_id_fkey FOREIGN KEY (client_id) REFERENCES api_clients (id) ON DELETE CASCADE
) WITH (fillfactor = 50);

-- outcome is USED, or why it was no use. A presentation of a legacy token is counted twice: by
-- its outcome, and as LEGACY_TOKEN. Days of long ago are removed.
CREATE TABLE api_client_usage_days (
    client_id uuid NOT NULL,
    day date NOT NULL,
    outcome text NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (client_id, day, outcome),
    CONSTRAINT api_client_usage_days_client_id_fkey FOREIGN KEY (client_id) REFERENCES api_client_usage (client_id) ON DELETE CASCADE,
    CONSTRAINT api_client_usage_days_outcome_check CHECK (outcome IN (
        'USED', 'TOKEN_ROTATED', 'REVOKED', 'EXPIRED', 'OWNER_INACTIVE', 'NO_SITE_GRANT', 'ROLE_TOO_LOW',
        'NOT_YET_ACTIVE', 'SOURCE_NOT_ALLOWED', 'LEGACY_TOKEN')),
    CONSTRAINT api_client_usage_days_count_check CHECK (count > 0)
) WITH (fillfactor = 80);
-- Finds the days of long ago.
CREATE INDEX api_client_usage_days_day_idx ON api_client_usage_days (day);

-- What replicas that have no way here reported of uses.
--
-- They count uses, and send them in numbered batches through a server that writes here. A
-- report whose reply is lost is sent again, maybe through another server, and must not be
-- counted twice: the last number of each replica is raised in the statement that writes the
-- counts. A replica's id is made anew at each start, so rows are removed once nothing was
-- reported for long.
CREATE TABLE replica_usage (
    replica_id uuid PRIMARY KEY,
    batch bigint NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT replica_usage_batch_check CHECK (batch > 0)
);
-- Finds those that reported nothing for long.
CREATE INDEX replica_usage_update_time_idx ON replica_usage (update_time);
