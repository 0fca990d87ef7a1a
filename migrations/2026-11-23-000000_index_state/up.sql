-- The revision, and the lock that orders all writes.
--
-- Every writing transaction locks this one row first and holds it until it
-- commits. Writes are therefore serial: a rule that was checked still holds
-- when the change commits, and revisions appear in the order of their numbers,
-- without gaps. database_id tells two databases apart whose revisions are alike.
CREATE TABLE index_state (
    singleton boolean PRIMARY KEY DEFAULT true,
    revision bigint NOT NULL DEFAULT 0,
    database_id uuid NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT index_state_singleton_check CHECK (singleton),
    CONSTRAINT index_state_revision_check CHECK (revision >= 0)
);

INSERT INTO index_state DEFAULT VALUES;
