-- Finding what should not be there any more: clients of all owners, by their age, their last
-- use, their creator, their state or a site, and leaked tokens, also those of callers.
--
-- Lists of everybody's clients are newest first too. By the last use there is no index: it is
-- written every few seconds, and each of these writes would have to write the index as well. A
-- list of unused clients looks at the clients in the order of their creation instead, and begins
-- with those that are old enough.
CREATE INDEX api_clients_create_time_idx ON api_clients (create_time DESC, id);
CREATE INDEX api_clients_created_by_user_id_idx
    ON api_clients (created_by_user_id, create_time DESC, id)
    WHERE created_by_user_id IS NOT NULL;
CREATE INDEX api_clients_expire_time_idx ON api_clients (expire_time)
    WHERE expire_time IS NOT NULL;
CREATE INDEX api_clients_revoked_idx ON api_clients (create_time DESC, id)
    WHERE revoke_time IS NOT NULL;
-- Few owners are inactive.
CREATE INDEX users_disabled_idx ON users (id) WHERE disabled;
CREATE INDEX teams_archived_idx ON teams (id) WHERE archived;

-- A caller's token can be replaced as well: the one before works until its end. There is one
-- at most, so it is a part of its account.
ALTER TABLE service_accounts
    ADD COLUMN replaced_token_hash bytea,
    ADD COLUMN replaced_token_end_time timestamptz,
    ADD CONSTRAINT service_accounts_replaced_token_hash_check CHECK (
        octet_length(replaced_token_hash) = 32),
    ADD CONSTRAINT service_accounts_replaced_token_check CHECK (
        num_nonnulls(replaced_token_hash, replaced_token_end_time) <> 1);
CREATE UNIQUE INDEX service_accounts_replaced_token_hash_key
    ON service_accounts (replaced_token_hash) WHERE replaced_token_hash IS NOT NULL;

ALTER TABLE audit_events DROP CONSTRAINT audit_events_action_check;
ALTER TABLE audit_events ADD CONSTRAINT audit_events_action_check CHECK (action IN (
    'api_client.created', 'api_client.updated', 'api_client.rotated', 'api_client.revoked',
    'api_client.reactivated', 'api_client.deleted', 'api_client.imported', 'api_client.leaked',
    'service_account.created', 'service_account.rotated', 'service_account.revoked'));
