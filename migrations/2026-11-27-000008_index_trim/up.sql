-- The change log is trimmed in slices.
--
-- A trim removed all that was due, inside whichever change got a revision that is
-- divisible by a thousand. One replacement of the directory can touch a million
-- clients; where removing what it wrote took longer than a statement may, that change
-- failed, the next one got the same revision and failed as well, and so did all that
-- came after it. Now each trim has a bound, and they come more often, so that the log
-- does not grow meanwhile.

-- Removes some of what was logged up to a revision. It begins at the oldest nonce,
-- which goes after the changes of its revision: looking for the oldest change instead
-- would wade through the dead rows of the last trims. In the order of an index, and by
-- places: to find a slice, not all that is due must be looked at.
CREATE FUNCTION index_trim(due bigint) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    -- Once in ten revisions: so the log can take a thousand clients with each of them,
    -- for as long as it likes, and does not grow.
    most_changes CONSTANT bigint := 10000;
    most_revisions CONSTANT bigint := 1000;
    first_due bigint := (SELECT min(revision) FROM index_revisions);
    last_due bigint := least(due, first_due + most_revisions);
    removed bigint;
    last_removed bigint;
BEGIN
    WITH gone AS (
        DELETE FROM index_changes WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM index_changes WHERE revision BETWEEN first_due AND last_due
            ORDER BY revision, client_id LIMIT most_changes))
        RETURNING revision
    )
    SELECT count(*), max(revision) INTO removed, last_removed FROM gone;
    -- Who knows a revision needs the changes after it, and proves with its nonce that it
    -- is of this history.
    DELETE FROM index_revisions WHERE revision <
        CASE WHEN removed < most_changes THEN last_due ELSE last_removed END;
END $$;

-- As before, but for the trim. The log keeps at least the last 10,000 revisions.
CREATE OR REPLACE FUNCTION index_stamp() RETURNS bigint
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    kept CONSTANT bigint := 10000;
    -- Ends with the transaction, and is undone with a savepoint.
    stamp text := current_setting('hitkeep_auth.stamp', true);
    transaction_id text := pg_current_xact_id()::text;
    stamped index_state%ROWTYPE;
BEGIN
    IF split_part(stamp, ' ', 1) = transaction_id THEN
        RETURN split_part(stamp, ' ', 2)::bigint;
    END IF;
    UPDATE index_state SET revision = revision + 1, nonce = gen_random_uuid()
        RETURNING * INTO STRICT stamped;
    INSERT INTO index_revisions VALUES (stamped.revision, stamped.nonce);
    IF stamped.revision % 10 = 0 AND stamped.revision > kept THEN
        PERFORM index_trim(stamped.revision - kept);
    END IF;
    PERFORM set_config('hitkeep_auth.stamp', transaction_id || ' ' || stamped.revision, true);
    PERFORM pg_notify('hitkeep_auth_changes', '');
    RETURN stamped.revision;
END $$;
