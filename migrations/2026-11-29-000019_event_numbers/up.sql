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
INSERT INTO event_numbers (last_sequence)
    SELECT greatest(
        coalesce(pg_sequence_last_value(pg_get_serial_sequence('event_outbox', 'sequence')::regclass), 0),
        coalesce(max(sequence), 0))
    FROM event_outbox;
ALTER TABLE event_outbox ALTER COLUMN sequence DROP IDENTITY;

-- Until when an event is tried. Apart from its create_time, which the receiver is told: an
-- event that is sent again after its death is the same one.
ALTER TABLE event_outbox ADD COLUMN try_until timestamptz;
UPDATE event_outbox SET try_until = create_time + interval '3 days';
ALTER TABLE event_outbox ALTER COLUMN try_until SET NOT NULL;
-- Those that are dead must not be in the way of what is asked about the others.
DROP INDEX event_outbox_create_time_idx;
CREATE INDEX event_outbox_create_time_idx ON event_outbox (create_time) WHERE dead_time IS NULL;
CREATE INDEX event_outbox_try_until_idx ON event_outbox (try_until) WHERE dead_time IS NULL;
CREATE INDEX event_outbox_dead_idx ON event_outbox (create_time) WHERE dead_time IS NOT NULL;

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
ALTER TABLE api_clients
    DROP CONSTRAINT api_clients_allowed_cidrs_check,
    ADD CONSTRAINT api_clients_allowed_cidrs_check CHECK (
        cardinality(allowed_cidrs) <= 32
        AND coalesce(array_ndims(allowed_cidrs), 1) = 1
        AND array_position(allowed_cidrs::cidr[], NULL) IS NULL
        AND are_cidrs(allowed_cidrs));
