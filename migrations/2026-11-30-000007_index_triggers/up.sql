-- The triggers that keep the change log, from which every replica learns what became stale.
--
-- They stamp the revision and name the API clients that a change touches, in the transaction
-- of the change and set-based, so that a row changed by hand with psql reaches the replicas
-- like any other. The first change of a transaction takes the write lock (the row of
-- index_state), which is held until the commit: so revisions come in the order of the
-- commits, without gaps.
--
-- They always fire, also with session_replication_role = replica, as in many restores and in
-- the worker that applies a subscription: otherwise a revocation that came that way would
-- not be noticed. That worker fires no trigger of a statement, only those of a row: there
-- are some of these as well, which are for it alone.
--
-- A subscription may bring the change log too. It has the publisher's revisions, which must
-- not be given out a second time here: the next one to arrive would be refused as a
-- duplicate, and everything that comes after it. So rows that arrive with their revision are
-- left alone. Rows that arrive without one (a table that is copied while the others are
-- further, or a row that is changed by hand under that setting) invalidate the log instead:
-- then each server reloads everything.
--
-- A notification must not make a change fail. The queue for them is one for all databases of
-- a server, and if a listener of some other program is stuck, it fills up.

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

-- Stamps the next revision, once in a transaction, and returns it; none if the publisher
-- gives it. The log keeps at least the last 10,000 revisions.
CREATE FUNCTION index_stamp() RETURNS bigint
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

CREATE FUNCTION index_log(clients uuid[]) RETURNS void
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

-- The functions below run after a statement, with its rows as they were and as
-- they are. A row that was written over with the same content is no change. They
-- find clients by index scans alone, in the order in which their joins are written,
-- whatever else the planner would choose: what one change costs must not depend on how
-- many clients there are. (To the planner, what is switched off costs so much that it
-- would compile the plan, which takes longer than all the rest: so that is switched
-- off too.) And they stamp
-- first: only under the write lock does a client that somebody else is just making
-- either wait for this change or is seen by it.

-- What Introspect answers of a client is all but its description and times of
-- bookkeeping. (The function for a row takes every column but those.)
CREATE FUNCTION index_api_clients_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    changed uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(id) INTO changed FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(id) INTO changed FROM old_rows;
    ELSE
        WITH old AS (SELECT id, owner_user_id, owner_team_id, name, instance_role, expire_time,
                            revoke_time, allowed_cidrs, not_before_time FROM old_rows),
             new AS (SELECT id, owner_user_id, owner_team_id, name, instance_role, expire_time,
                            revoke_time, allowed_cidrs, not_before_time FROM new_rows)
        SELECT array_agg(DISTINCT id) INTO changed FROM
            ((TABLE old EXCEPT TABLE new) UNION ALL (TABLE new EXCEPT TABLE old)) AS differing;
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM index_log(changed);
    END IF;
    RETURN NULL;
END $$;

-- For grants and tokens: whose they are.
CREATE FUNCTION index_client_parts_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    changed uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(DISTINCT client_id) INTO changed FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(DISTINCT client_id) INTO changed FROM old_rows;
    ELSE
        SELECT array_agg(DISTINCT client_id) INTO changed FROM
            ((TABLE old_rows EXCEPT TABLE new_rows)
             UNION ALL (TABLE new_rows EXCEPT TABLE old_rows)) AS differing;
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM index_log(changed);
    END IF;
    RETURN NULL;
END $$;

-- A user who is new or gone owns nothing.
CREATE FUNCTION index_users_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET join_collapse_limit = 1 SET jit = off AS $$
DECLARE
    changed uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(id) INTO changed FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(id) INTO changed FROM old_rows;
    ELSE
        SELECT array_agg(DISTINCT id) INTO changed FROM
            ((TABLE old_rows EXCEPT TABLE new_rows)
             UNION ALL (TABLE new_rows EXCEPT TABLE old_rows)) AS differing;
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM index_stamp();
        PERFORM index_log(ARRAY(
            SELECT id FROM api_clients WHERE owner_user_id = ANY (changed)));
    END IF;
    RETURN NULL;
END $$;

-- An archived team takes its own clients out of work, and makes the grants that
-- others have on its sites dormant.
CREATE FUNCTION index_teams_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET join_collapse_limit = 1 SET jit = off AS $$
DECLARE
    changed uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(id) INTO changed FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(id) INTO changed FROM old_rows;
    ELSE
        SELECT array_agg(DISTINCT id) INTO changed FROM
            ((TABLE old_rows EXCEPT TABLE new_rows)
             UNION ALL (TABLE new_rows EXCEPT TABLE old_rows)) AS differing;
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM index_stamp();
        PERFORM index_log(ARRAY(
            SELECT id FROM api_clients WHERE owner_team_id = ANY (changed)
            UNION
            SELECT client_id FROM sites JOIN api_client_grants ON site_id = sites.id
            WHERE team_id = ANY (changed)));
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION index_sites_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET join_collapse_limit = 1 SET jit = off AS $$
DECLARE
    changed uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(id) INTO changed FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(id) INTO changed FROM old_rows;
    ELSE
        SELECT array_agg(DISTINCT id) INTO changed FROM
            ((TABLE old_rows EXCEPT TABLE new_rows)
             UNION ALL (TABLE new_rows EXCEPT TABLE old_rows)) AS differing;
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM index_stamp();
        PERFORM index_log(ARRAY(
            SELECT DISTINCT client_id FROM api_client_grants WHERE site_id = ANY (changed)));
    END IF;
    RETURN NULL;
END $$;

-- A membership is of one user, in one team or on one site: the user's clients
-- that have a grant there.
CREATE FUNCTION index_team_members_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET join_collapse_limit = 1 SET jit = off AS $$
DECLARE
    changed_teams uuid[];
    changed_users uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(team_id), array_agg(user_id) INTO changed_teams, changed_users
            FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(team_id), array_agg(user_id) INTO changed_teams, changed_users
            FROM old_rows;
    ELSE
        SELECT array_agg(team_id), array_agg(user_id) INTO changed_teams, changed_users FROM
            ((TABLE old_rows EXCEPT TABLE new_rows)
             UNION ALL (TABLE new_rows EXCEPT TABLE old_rows)) AS differing;
    END IF;
    IF changed_teams IS NOT NULL THEN
        PERFORM index_stamp();
        PERFORM index_log(ARRAY(
            SELECT DISTINCT api_clients.id
            FROM unnest(changed_teams, changed_users) AS changed (team_id, user_id)
            JOIN api_clients ON owner_user_id = changed.user_id
            JOIN api_client_grants ON client_id = api_clients.id
            JOIN sites ON sites.id = site_id AND sites.team_id = changed.team_id));
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION index_site_members_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET join_collapse_limit = 1 SET jit = off AS $$
DECLARE
    changed_sites uuid[];
    changed_users uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(site_id), array_agg(user_id) INTO changed_sites, changed_users
            FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(site_id), array_agg(user_id) INTO changed_sites, changed_users
            FROM old_rows;
    ELSE
        SELECT array_agg(site_id), array_agg(user_id) INTO changed_sites, changed_users FROM
            ((TABLE old_rows EXCEPT TABLE new_rows)
             UNION ALL (TABLE new_rows EXCEPT TABLE old_rows)) AS differing;
    END IF;
    IF changed_sites IS NOT NULL THEN
        PERFORM index_stamp();
        PERFORM index_log(ARRAY(
            SELECT DISTINCT api_clients.id
            FROM unnest(changed_sites, changed_users) AS changed (site_id, user_id)
            JOIN api_clients ON owner_user_id = changed.user_id
            JOIN api_client_grants ON client_id = api_clients.id
                AND api_client_grants.site_id = changed.site_id));
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION index_accounts_changed() RETURNS trigger
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

-- The content of a truncated table is lost: everything is reloaded.
CREATE FUNCTION index_truncated() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF index_stamp() IS NOT NULL THEN
        UPDATE index_state SET trimmed_revision = revision;
    END IF;
    RETURN NULL;
END $$;

-- What is taken out of the log, by the trim above or by hand, is noted: no replica
-- may go by what is left of it.
CREATE FUNCTION index_trimmed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE index_state SET trimmed_revision =
        greatest(trimmed_revision, (SELECT max(revision) FROM old_rows));
    RETURN NULL;
END $$;

CREATE TRIGGER index_trimmed AFTER DELETE ON index_changes
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION index_trimmed();
CREATE TRIGGER index_truncated AFTER TRUNCATE ON index_changes
    FOR EACH STATEMENT EXECUTE FUNCTION index_truncated();

-- One trigger for each kind of statement: only then are the rows handed over.
DO $$
DECLARE
    tables CONSTANT text[] := ARRAY['api_clients', 'users', 'teams', 'sites', 'team_members',
                                    'site_members', 'api_client_grants', 'api_client_tokens'];
    changed text;
    handler text;
BEGIN
    FOREACH changed IN ARRAY tables LOOP
        handler := CASE WHEN changed IN ('api_client_grants', 'api_client_tokens')
                        THEN 'index_client_parts_changed' ELSE format('index_%s_changed', changed)
                   END;
        EXECUTE format('CREATE TRIGGER index_inserted AFTER INSERT ON %I '
            'REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION %I()',
            changed, handler);
        EXECUTE format('CREATE TRIGGER index_updated AFTER UPDATE ON %I '
            'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows '
            'FOR EACH STATEMENT EXECUTE FUNCTION %I()', changed, handler);
        EXECUTE format('CREATE TRIGGER index_deleted AFTER DELETE ON %I '
            'REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION %I()',
            changed, handler);
        EXECUTE format('CREATE TRIGGER index_truncated AFTER TRUNCATE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION index_truncated()', changed);
    END LOOP;
END $$;

CREATE TRIGGER index_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON service_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION index_accounts_changed();
CREATE TRIGGER index_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON service_account_certificates
    FOR EACH STATEMENT EXECUTE FUNCTION index_accounts_changed();

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
