ALTER TABLE api_clients
    DROP CONSTRAINT api_clients_allowed_cidrs_check,
    ADD CONSTRAINT api_clients_allowed_cidrs_check CHECK (
        cardinality(allowed_cidrs) <= 32
        AND coalesce(array_ndims(allowed_cidrs), 1) = 1
        AND array_position(allowed_cidrs::cidr[], NULL) IS NULL);
DROP FUNCTION are_cidrs(text[]);

DROP INDEX event_outbox_dead_idx;
DROP INDEX event_outbox_try_until_idx;
DROP INDEX event_outbox_create_time_idx;
CREATE INDEX event_outbox_create_time_idx ON event_outbox (create_time);
ALTER TABLE event_outbox DROP COLUMN try_until;

ALTER TABLE event_outbox ALTER COLUMN sequence ADD GENERATED ALWAYS AS IDENTITY;
SELECT setval(pg_get_serial_sequence('event_outbox', 'sequence'), last_sequence + 1, false)
    FROM event_numbers;
DROP TABLE event_numbers;
