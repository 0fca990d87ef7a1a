-- Imported clients stay. Where it is not known who created one, the nil UUID says so, and the
-- audit trail calls an import an update.
UPDATE audit_events SET action = 'api_client.updated' WHERE action = 'api_client.imported';
ALTER TABLE audit_events DROP CONSTRAINT audit_events_action_check;
ALTER TABLE audit_events ADD CONSTRAINT audit_events_action_check CHECK (action IN (
    'api_client.created', 'api_client.updated', 'api_client.rotated', 'api_client.revoked',
    'api_client.reactivated', 'api_client.deleted',
    'service_account.created', 'service_account.revoked'));
UPDATE api_clients SET created_by_user_id = '00000000-0000-0000-0000-000000000000'
    WHERE created_by_user_id IS NULL;
ALTER TABLE api_clients ALTER COLUMN created_by_user_id SET NOT NULL;
DROP TABLE import_state;
DROP TABLE api_client_imports;
