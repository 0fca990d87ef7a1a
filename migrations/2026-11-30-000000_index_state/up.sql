-- The index: its revision, its change log, and the lock that orders all writes.
--
-- Every writing transaction locks the one row of index_state first and holds it until it
-- commits. Writes are therefore serial: a rule that was checked still holds when the change
-- commits, and revisions appear in the order of their numbers, without gaps.
--
-- database_id distinguishes two databases whose revisions are equal. A revision has a nonce,
-- since its number alone does not say to which history it belongs: after a backup was
-- restored, the same numbers are given out again. Service accounts are few, so for them a
-- nonce that changes is enough.
CREATE TABLE index_state (
    singleton boolean PRIMARY KEY DEFAULT true,
    revision bigint NOT NULL DEFAULT 0,
    database_id uuid NOT NULL DEFAULT gen_random_uuid(),
    nonce uuid NOT NULL DEFAULT gen_random_uuid(),
    accounts_nonce uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Up to this revision, the change log is no longer complete.
    trimmed_revision bigint NOT NULL DEFAULT 0,
    CONSTRAINT index_state_singleton_check CHECK (singleton),
    CONSTRAINT index_state_revision_check CHECK (revision >= 0),
    CONSTRAINT index_state_trimmed_revision_check CHECK (trimmed_revision >= 0)
);

INSERT INTO index_state DEFAULT VALUES;

-- The revisions that the change log leads on from.
CREATE TABLE index_revisions (
    revision bigint PRIMARY KEY,
    nonce uuid NOT NULL
);
INSERT INTO index_revisions SELECT revision, nonce FROM index_state;

-- The API clients that each revision touched. There are no foreign keys: the log also names
-- clients that are deleted, and is trimmed by revision.
CREATE TABLE index_changes (
    revision bigint NOT NULL,
    client_id uuid NOT NULL,
    PRIMARY KEY (revision, client_id)
);
