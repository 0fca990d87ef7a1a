-- Where and from when on the tokens of an API client work.
--
-- allowed_cidrs are ranges of addresses, in the canonical form; none means from everywhere.
-- They are stored as text, as the service reads them: types of Postgres would print some
-- addresses of IPv6 in another form. The check lets Postgres parse them all the same, so that
-- a range written by hand is one.
--
-- not_before_time is not compared with expire_time: an import may bring the expiry forward,
-- and such a client just never works.
ALTER TABLE api_clients
    ADD COLUMN allowed_cidrs text[] NOT NULL DEFAULT '{}',
    ADD COLUMN not_before_time timestamptz,
    ADD CONSTRAINT api_clients_allowed_cidrs_check CHECK (
        cardinality(allowed_cidrs) <= 32
        AND coalesce(array_ndims(allowed_cidrs), 1) = 1
        AND array_position(allowed_cidrs::cidr[], NULL) IS NULL);

ALTER TABLE api_client_usage_days
    DROP CONSTRAINT api_client_usage_days_outcome_check,
    ADD CONSTRAINT api_client_usage_days_outcome_check CHECK (outcome IN (
        'USED', 'TOKEN_ROTATED', 'REVOKED', 'EXPIRED', 'OWNER_INACTIVE', 'NO_SITE_GRANT', 'ROLE_TOO_LOW',
        'NOT_YET_ACTIVE', 'SOURCE_NOT_ALLOWED', 'LEGACY_TOKEN'));

-- As before, with both columns: what Introspect answers of a client is all but its description
-- and times of bookkeeping. (The function for a row takes every column but those.)
CREATE OR REPLACE FUNCTION index_api_clients_changed() RETURNS trigger
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
-- It finds the tables where it is itself, as the other functions do.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION index_api_clients_changed() SET search_path = %I', current_schema());
END $$;
