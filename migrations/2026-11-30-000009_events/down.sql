-- What was not delivered by now is lost.
DROP TABLE event_notices;
DROP TABLE event_delivery;
DROP TABLE event_numbers;
DROP TABLE event_outbox;
