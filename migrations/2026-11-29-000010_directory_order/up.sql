-- In which order the directory's changes came, so that none undoes a later one.
--
-- A replacement of the whole directory shows its source as it was when the first chunk
-- was sent. What came after that must not be undone by it, whichever server took the
-- one and the other. Every change has a place in one order: a replacement takes its
-- place when it begins, a batch when it is applied.
--
-- Apart from directory_state, because a replacement that begins must not wait for the
-- write lock: its row is written last in each transaction, and so held for a moment.
CREATE TABLE directory_order (
    singleton boolean PRIMARY KEY DEFAULT true,
    -- The place that was given out last.
    last_place bigint NOT NULL DEFAULT 0,
    -- The newest change that was applied.
    changed bigint NOT NULL DEFAULT 0,
    -- The newest one that no sequence speaks for.
    unnumbered bigint NOT NULL DEFAULT 0,
    -- The newest replacement that started over.
    started_over bigint NOT NULL DEFAULT 0,
    CONSTRAINT directory_order_singleton_check CHECK (singleton),
    CONSTRAINT directory_order_places_check CHECK (
        changed BETWEEN 0 AND last_place
        AND unnumbered BETWEEN 0 AND changed
        AND started_over BETWEEN 0 AND changed)
);

INSERT INTO directory_order DEFAULT VALUES;
