-- Overlaps of callers' tokens end. The audit trail calls a report of a leak an update, and a
-- rotation of a caller's token a creation.
UPDATE audit_events SET action = 'api_client.updated' WHERE action = 'api_client.leaked';
UPDATE audit_events SET action = 'service_account.created'
    WHERE action = 'service_account.rotated';
ALTER TABLE audit_events DROP CONSTRAINT audit_events_action_check;
ALTER TABLE audit_events ADD CONSTRAINT audit_events_action_check CHECK (action IN (
    'api_client.created', 'api_client.updated', 'api_client.rotated', 'api_client.revoked',
    'api_client.reactivated', 'api_client.deleted', 'api_client.imported',
    'service_account.created', 'service_account.revoked'));
DROP INDEX service_accounts_replaced_token_hash_key;
ALTER TABLE service_accounts
    DROP CONSTRAINT service_accounts_replaced_token_check,
    DROP CONSTRAINT service_accounts_replaced_token_hash_check,
    DROP COLUMN replaced_token_end_time,
    DROP COLUMN replaced_token_hash;
DROP INDEX teams_archived_idx;
DROP INDEX users_disabled_idx;
DROP INDEX api_clients_revoked_idx;
DROP INDEX api_clients_expire_time_idx;
DROP INDEX api_clients_created_by_user_id_idx;
DROP INDEX api_clients_create_time_idx;
