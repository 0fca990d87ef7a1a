-- A client with a restriction must not become one without: it is revoked, and whoever manages
-- it decides.
UPDATE api_clients SET revoke_time = clock_timestamp()
    WHERE revoke_time IS NULL AND (allowed_cidrs <> '{}' OR not_before_time IS NOT NULL);
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
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION index_api_clients_changed() SET search_path = %I', current_schema());
END $$;
ALTER TABLE api_clients
    DROP CONSTRAINT api_clients_allowed_cidrs_check,
    DROP COLUMN allowed_cidrs,
    DROP COLUMN not_before_time;
DELETE FROM api_client_usage_days WHERE outcome IN ('NOT_YET_ACTIVE', 'SOURCE_NOT_ALLOWED');
ALTER TABLE api_client_usage_days
    DROP CONSTRAINT api_client_usage_days_outcome_check,
    ADD CONSTRAINT api_client_usage_days_outcome_check CHECK (outcome IN (
        'USED', 'TOKEN_ROTATED', 'REVOKED', 'EXPIRED', 'OWNER_INACTIVE', 'NO_SITE_GRANT', 'ROLE_TOO_LOW',
        'LEGACY_TOKEN'));
