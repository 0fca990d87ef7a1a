-- As 000005_index_changes made it.
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
    IF stamped.revision % 1000 = 0 AND stamped.revision > kept THEN
        DELETE FROM index_changes WHERE revision <= stamped.revision - kept;
        DELETE FROM index_revisions WHERE revision < stamped.revision - kept;
    END IF;
    PERFORM set_config('hitkeep_auth.stamp', transaction_id || ' ' || stamped.revision, true);
    PERFORM pg_notify('hitkeep_auth_changes', '');
    RETURN stamped.revision;
END $$;
DROP FUNCTION index_trim;
