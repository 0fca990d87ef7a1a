-- The change log, from which every replica learns what became stale.
--
-- Triggers stamp the revision and name the API clients that a change touches, in
-- the transaction of the change and set-based, so that a row changed by hand with
-- psql reaches the replicas like any other. The first change of a transaction
-- takes the write lock (the row of index_state), which is held until the commit:
-- so revisions come in the order of the commits, without gaps, whoever writes.
--
-- A revision has a nonce, since a number alone does not say which history it is
-- of: after a restored backup the same numbers are given out again. Callers are
-- few, so for them a nonce that changes is enough.
ALTER TABLE index_state
    ADD COLUMN nonce uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN accounts_nonce uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN trimmed_revision bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT index_state_trimmed_revision_check
        CHECK (trimmed_revision >= 0);
-- What was changed before there was a log is not in it.
UPDATE index_state SET trimmed_revision = revision;

CREATE TABLE index_revisions (
    revision bigint PRIMARY KEY,
    nonce uuid NOT NULL
);
INSERT INTO index_revisions SELECT revision, nonce FROM index_state;

-- No foreign keys: the rows tell of clients that are gone, and are trimmed with
-- their revisions.
CREATE TABLE index_changes (
    revision bigint NOT NULL,
    client_id uuid NOT NULL,
    PRIMARY KEY (revision, client_id)
);

-- Stamps the next revision, once in a transaction, and gives it. Wakes those who
-- listen, at the commit. The log keeps at least the last 10,000 revisions; it is
-- trimmed a thousand at a time, because trimming at each would wade through the
-- dead rows of the last trims.
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

CREATE FUNCTION index_log(clients uuid[]) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at bigint := index_stamp();
BEGIN
    INSERT INTO index_changes SELECT at, client FROM unnest(clients) AS client
        ON CONFLICT DO NOTHING;
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
-- bookkeeping.
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
                            revoke_time FROM old_rows),
             new AS (SELECT id, owner_user_id, owner_team_id, name, instance_role, expire_time,
                            revoke_time FROM new_rows)
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
    UPDATE index_state SET accounts_nonce = gen_random_uuid();
    PERFORM pg_notify('hitkeep_auth_changes', '');
    RETURN NULL;
END $$;

-- What was in a truncated table is not known any more: everything is read anew.
CREATE FUNCTION index_truncated() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM index_stamp();
    UPDATE index_state SET trimmed_revision = revision;
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
