DROP FUNCTION index_row_changed, index_account_row_changed CASCADE;
DROP FUNCTION index_arrives_stamped, index_reload, index_enable;

-- As 000005_index_changes made them.
CREATE OR REPLACE FUNCTION index_truncated() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM index_stamp();
    UPDATE index_state SET trimmed_revision = revision;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION index_accounts_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE index_state SET accounts_nonce = gen_random_uuid();
    PERFORM pg_notify('hitkeep_auth_changes', '');
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION index_log(clients uuid[]) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at bigint := index_stamp();
BEGIN
    INSERT INTO index_changes SELECT at, client FROM unnest(clients) AS client
        ON CONFLICT DO NOTHING;
END $$;

-- As 000008_index_trim made it.
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

DROP FUNCTION index_forget, index_is_subscribed, index_wake;

DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT tgrelid::regclass AS changed, tgname
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE NOT tgisinternal AND relnamespace = quote_ident(current_schema())::regnamespace
            AND (tgname LIKE 'index\_%' OR tgname = 'service_accounts_revoked')
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE TRIGGER %I', found.changed, found.tgname);
    END LOOP;
    FOR found IN
        SELECT oid::regprocedure AS name FROM pg_proc
        WHERE pronamespace = quote_ident(current_schema())::regnamespace
            AND (proname LIKE ANY (ARRAY['index\_%', 'api\_client\_re%'])
                 OR proname = 'service_accounts_revoked')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path FROM CURRENT', found.name);
    END LOOP;
END $$;
