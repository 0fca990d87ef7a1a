-- The tables lose their triggers with the functions that those run.
DROP FUNCTION index_api_clients_changed, index_client_parts_changed, index_users_changed,
    index_teams_changed, index_sites_changed, index_team_members_changed,
    index_site_members_changed, index_accounts_changed, index_truncated, index_trimmed,
    index_row_changed, index_account_row_changed CASCADE;
DROP FUNCTION index_arrives_stamped, index_reload, index_enable, index_log, index_stamp,
    index_trim, index_forget, index_is_subscribed, index_wake;
-- As they were made, before the triggers that fire always.
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT oid::regprocedure AS name FROM pg_proc
        WHERE pronamespace = quote_ident(current_schema())::regnamespace
            AND (proname LIKE 'api\_client\_re%' OR proname = 'service_accounts_revoked')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path FROM CURRENT', found.name);
    END LOOP;
    ALTER TABLE service_accounts ENABLE TRIGGER service_accounts_revoked;
END $$;
