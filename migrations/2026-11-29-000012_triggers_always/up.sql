-- A changed row arrives in the index, however it was changed, and whatever others do.
--
-- Triggers do not fire where session_replication_role is replica: in many restores, and
-- in the worker that applies what a subscription brings. A revocation that came that way
-- was never heard of. So they always fire now. That worker fires none for a statement,
-- though, only those for a row: there are some of these as well, which are for it alone.
--
-- A subscription may bring the change log too. It has the publisher's revisions, which
-- are not to be given out a second time here: the next one to arrive would be refused as a
-- duplicate, and with it everything that comes after it. So what arrives with its revision
-- is left alone. What arrives without one (a table that is copied, while the others are
-- further, or a row that somebody changes under that setting) makes what is known of the
-- log worthless instead: then each server reads everything anew.
--
-- And a notification may not make a change fail. The queue for them is one for all
-- databases of a server, and where somebody else's listener is stuck, it fills up.

-- Wakes those who listen, at the commit, unless the queue is half full. They poll as well.
CREATE FUNCTION index_wake() RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('hitkeep_auth_changes', '');
    END IF;
END $$;

-- Whether a subscription brings the change log. pg_subscription_rel is of this database
-- alone, and everybody may read it.
CREATE FUNCTION index_is_subscribed() RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = 'index_state'::regclass);
END $$;

-- Makes what is known of the log worthless, and uses no revision. The publisher's next
-- revision overwrites the nonce; so the log must lead there from nowhere. In this order,
-- since only under the lock on index_state are all revisions seen that there are.
CREATE FUNCTION index_forget() RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE index_state SET nonce = gen_random_uuid();
    DELETE FROM index_revisions;
    PERFORM index_wake();
END $$;

-- As before, but that it gives no revision where the publisher does.
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
        RETURN nullif(split_part(stamp, ' ', 2), '')::bigint;
    END IF;
    IF current_setting('session_replication_role') = 'replica' AND index_is_subscribed() THEN
        PERFORM index_forget();
        PERFORM set_config('hitkeep_auth.stamp', transaction_id || ' ', true);
        RETURN NULL;
    END IF;
    UPDATE index_state SET revision = revision + 1, nonce = gen_random_uuid()
        RETURNING * INTO STRICT stamped;
    INSERT INTO index_revisions VALUES (stamped.revision, stamped.nonce);
    IF stamped.revision % 10 = 0 AND stamped.revision > kept THEN
        PERFORM index_trim(stamped.revision - kept);
    END IF;
    PERFORM set_config('hitkeep_auth.stamp', transaction_id || ' ' || stamped.revision, true);
    PERFORM index_wake();
    RETURN stamped.revision;
END $$;

CREATE OR REPLACE FUNCTION index_log(clients uuid[]) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at bigint := index_stamp();
BEGIN
    IF at IS NOT NULL THEN
        INSERT INTO index_changes SELECT at, client FROM unnest(clients) AS client
            WHERE client IS NOT NULL
            ON CONFLICT DO NOTHING;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION index_accounts_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('session_replication_role') = 'replica' AND index_is_subscribed() THEN
        PERFORM index_stamp();
    ELSE
        UPDATE index_state SET accounts_nonce = gen_random_uuid();
        PERFORM index_wake();
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION index_truncated() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF index_stamp() IS NOT NULL THEN
        UPDATE index_state SET trimmed_revision = revision;
    END IF;
    RETURN NULL;
END $$;

-- For people: every server reads everything anew. Needed after rows were changed while
-- triggers were disabled.
CREATE FUNCTION index_reload() RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF index_is_subscribed() THEN
        PERFORM index_forget();
    ELSE
        PERFORM index_stamp();
        UPDATE index_state SET trimmed_revision = revision;
    END IF;
END $$;

-- Whether the row that a trigger is fired for arrives with its revision: the log is
-- subscribed to, and the row's table is as far as the log is.
CREATE FUNCTION index_arrives_stamped(of_table oid) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN index_is_subscribed() AND NOT EXISTS (
        SELECT FROM pg_subscription_rel WHERE srrelid = of_table AND srsubstate <> 'r');
END $$;

-- What the functions for a statement do, for one row: which clients it touches. The
-- old row is null where it is new, and the new one where it is gone.
CREATE FUNCTION index_row_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET join_collapse_limit = 1 SET jit = off AS $$
DECLARE
    bookkeeping CONSTANT text[] := ARRAY['description', 'created_by_user_id', 'create_time',
                                         'update_time'];
BEGIN
    IF index_arrives_stamped(TG_RELID)
        OR (TG_OP = 'UPDATE' AND OLD IS NOT DISTINCT FROM NEW)
    THEN
        RETURN NULL;
    END IF;
    IF TG_TABLE_NAME = 'api_clients' THEN
        IF to_jsonb(OLD) - bookkeeping IS DISTINCT FROM to_jsonb(NEW) - bookkeeping THEN
            PERFORM index_log(ARRAY[OLD.id, NEW.id]);
        END IF;
        RETURN NULL;
    ELSIF TG_TABLE_NAME IN ('api_client_grants', 'api_client_tokens') THEN
        PERFORM index_log(ARRAY[OLD.client_id, NEW.client_id]);
        RETURN NULL;
    END IF;
    PERFORM index_stamp();
    IF TG_TABLE_NAME = 'users' THEN
        PERFORM index_log(ARRAY(
            SELECT id FROM api_clients WHERE owner_user_id = ANY (ARRAY[OLD.id, NEW.id])));
    ELSIF TG_TABLE_NAME = 'teams' THEN
        PERFORM index_log(ARRAY(
            SELECT id FROM api_clients WHERE owner_team_id = ANY (ARRAY[OLD.id, NEW.id])
            UNION
            SELECT client_id FROM sites JOIN api_client_grants ON site_id = sites.id
            WHERE team_id = ANY (ARRAY[OLD.id, NEW.id])));
    ELSIF TG_TABLE_NAME = 'sites' THEN
        PERFORM index_log(ARRAY(
            SELECT client_id FROM api_client_grants
            WHERE site_id = ANY (ARRAY[OLD.id, NEW.id])));
    ELSIF TG_TABLE_NAME = 'team_members' THEN
        PERFORM index_log(ARRAY(
            SELECT api_clients.id
            FROM unnest(ARRAY[OLD.team_id, NEW.team_id], ARRAY[OLD.user_id, NEW.user_id])
                AS changed (team_id, user_id)
            JOIN api_clients ON owner_user_id = changed.user_id
            JOIN api_client_grants ON client_id = api_clients.id
            JOIN sites ON sites.id = site_id AND sites.team_id = changed.team_id));
    ELSIF TG_TABLE_NAME = 'site_members' THEN
        PERFORM index_log(ARRAY(
            SELECT api_clients.id
            FROM unnest(ARRAY[OLD.site_id, NEW.site_id], ARRAY[OLD.user_id, NEW.user_id])
                AS changed (site_id, user_id)
            JOIN api_clients ON owner_user_id = changed.user_id
            JOIN api_client_grants ON client_id = api_clients.id
                AND api_client_grants.site_id = changed.site_id));
    ELSE
        RAISE 'index_row_changed() does not know the table %', TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION index_account_row_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF index_arrives_stamped(TG_RELID) THEN
        RETURN NULL;
    ELSIF index_is_subscribed() THEN
        PERFORM index_stamp();
    ELSE
        UPDATE index_state SET accounts_nonce = gen_random_uuid();
        PERFORM index_wake();
    END IF;
    RETURN NULL;
END $$;

-- For people too: the triggers fire as they should, also after somebody disabled and
-- enabled all of a table's, which leaves them as most triggers are.
CREATE FUNCTION index_enable() RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT tgrelid::regclass AS of_table, tgname AS name,
            CASE tgname WHEN 'index_row' THEN 'REPLICA' ELSE 'ALWAYS' END AS fires
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE NOT tgisinternal AND relnamespace = quote_ident(current_schema())::regnamespace
            AND (tgname LIKE ANY (ARRAY['index\_%', 'api\_client\_re%'])
                 OR tgname = 'service_accounts_revoked')
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', found.of_table, found.fires, found.name);
    END LOOP;
END $$;

DO $$
DECLARE
    tables CONSTANT text[] := ARRAY['api_clients', 'users', 'teams', 'sites', 'team_members',
                                    'site_members', 'api_client_grants', 'api_client_tokens'];
    accounts CONSTANT text[] := ARRAY['service_accounts', 'service_account_certificates'];
    changed text;
    found record;
BEGIN
    FOREACH changed IN ARRAY tables || accounts LOOP
        EXECUTE format('CREATE TRIGGER index_row AFTER INSERT OR UPDATE OR DELETE ON %I '
            'FOR EACH ROW EXECUTE FUNCTION %I()', changed,
            CASE WHEN changed = ANY (accounts)
                 THEN 'index_account_row_changed' ELSE 'index_row_changed' END);
    END LOOP;
    PERFORM index_enable();
    -- The functions find the tables where they are themselves, whoever runs them: a
    -- schema that has a role's name would come first.
    FOR found IN
        SELECT oid::regprocedure AS name FROM pg_proc
        WHERE pronamespace = quote_ident(current_schema())::regnamespace
            AND (proname LIKE ANY (ARRAY['index\_%', 'api\_client\_re%'])
                 OR proname = 'service_accounts_revoked')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I', found.name, current_schema());
    END LOOP;
END $$;
