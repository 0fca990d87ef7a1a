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
