-- Events about API clients on their way to a webhook: an outbox, which is written in the
-- transaction of the change that an event is about, so that neither is there without the
-- other.
--
-- No foreign key: an event outlives its client. Rows are in the order of the commits, since
-- all are written under the write lock. They are removed once they are delivered; those
-- that are dead (tried for too long) stay for a while, to be looked at. Only those that are
-- not dead are in the indexes that the deliverer reads, so that the dead are never in its way.
--
-- Until when an event is tried is apart from its create_time, which the receiver is told: an
-- event that is sent again after its death is the same one.
CREATE TABLE event_outbox (
    sequence bigint PRIMARY KEY,
    id uuid NOT NULL,
    client_id uuid NOT NULL,
    event_type text NOT NULL,
    data jsonb NOT NULL,
    create_time timestamptz NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    next_attempt_time timestamptz NOT NULL,
    last_error text NOT NULL DEFAULT '',
    dead_time timestamptz,
    try_until timestamptz NOT NULL,
    CONSTRAINT event_outbox_id_key UNIQUE (id),
    CONSTRAINT event_outbox_attempts_check CHECK (attempts >= 0),
    CONSTRAINT event_outbox_last_error_check CHECK (char_length(last_error) <= 200)
);
CREATE INDEX event_outbox_due_idx ON event_outbox (next_attempt_time, sequence)
    WHERE dead_time IS NULL;
CREATE INDEX event_outbox_client_id_idx ON event_outbox (client_id, sequence)
    WHERE dead_time IS NULL;
CREATE INDEX event_outbox_create_time_idx ON event_outbox (create_time) WHERE dead_time IS NULL;
CREATE INDEX event_outbox_try_until_idx ON event_outbox (try_until) WHERE dead_time IS NULL;
CREATE INDEX event_outbox_dead_idx ON event_outbox (create_time) WHERE dead_time IS NOT NULL;

-- The numbers of events come from a row and not from a sequence: it is in every dump of the
-- data, and logical replication brings it, which it does not do with sequences. It is changed
-- under the write lock only, so that the numbers are in the order of the commits. In a table of
-- its own, since another process writes event_delivery all the time.
CREATE TABLE event_numbers (
    singleton boolean PRIMARY KEY DEFAULT true,
    last_sequence bigint NOT NULL,
    CONSTRAINT event_numbers_singleton_check CHECK (singleton),
    CONSTRAINT event_numbers_last_sequence_check CHECK (last_sequence >= 0)
);
INSERT INTO event_numbers (last_sequence) VALUES (0);

-- Whether anyone delivers, and which process does at present. Events are written only until
-- active_until, which the deliverer moves on: without one, the outbox stays empty.
CREATE TABLE event_delivery (
    singleton boolean PRIMARY KEY DEFAULT true,
    active_since timestamptz,
    active_until timestamptz,
    holder uuid,
    held_until timestamptz,
    stop_time timestamptz,
    CONSTRAINT event_delivery_singleton_check CHECK (singleton),
    CONSTRAINT event_delivery_active_check CHECK ((active_since IS NULL) = (active_until IS NULL)),
    CONSTRAINT event_delivery_holder_check CHECK ((holder IS NULL) = (held_until IS NULL))
);
INSERT INTO event_delivery DEFAULT VALUES;

-- Events that no call causes, and that are written once for each moment that they are about:
-- an expiry, or the rotation whose replaced token was used.
CREATE TABLE event_notices (
    client_id uuid NOT NULL,
    event_type text NOT NULL,
    about_time timestamptz NOT NULL,
    PRIMARY KEY (client_id, event_type, about_time),
    CONSTRAINT event_notices_client_id_fkey FOREIGN KEY (client_id) REFERENCES api_clients (id) ON DELETE CASCADE
);
CREATE INDEX event_notices_about_time_idx ON event_notices (event_type, about_time);
