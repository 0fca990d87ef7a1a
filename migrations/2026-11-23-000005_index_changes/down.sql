-- The tables lose their triggers with the functions that those run.
DROP FUNCTION index_api_clients_changed, index_client_parts_changed, index_users_changed,
    index_teams_changed, index_sites_changed, index_team_members_changed,
    index_site_members_changed, index_accounts_changed, index_truncated,
    index_trimmed CASCADE;
DROP FUNCTION index_log, index_stamp;
DROP TABLE index_changes;
DROP TABLE index_revisions;
ALTER TABLE index_state
    DROP COLUMN nonce, DROP COLUMN accounts_nonce, DROP COLUMN trimmed_revision;
