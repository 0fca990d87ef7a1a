-- What was not delivered by now is lost.
DROP INDEX api_clients_expire_time_idx;
DROP TABLE event_notices;
DROP TABLE event_delivery;
DROP TABLE event_outbox;
