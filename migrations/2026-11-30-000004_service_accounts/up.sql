-- The callers: programs that may use the service, each with a token of its own.
--
-- A revoked account stays for the record, and its name may be used again: the
-- name is unique among those that are not revoked.
--
-- A token that was replaced works until its end. There is one at most, so it is a
-- part of its account.
CREATE TABLE service_accounts (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    permissions text[] NOT NULL,
    token_hash bytea NOT NULL,
    token_hint text NOT NULL,
    create_time timestamptz NOT NULL,
    revoke_time timestamptz,
    replaced_token_hash bytea,
    replaced_token_end_time timestamptz,
    CONSTRAINT service_accounts_name_check CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    CONSTRAINT service_accounts_permissions_check CHECK (
        cardinality(permissions) > 0
        AND permissions <@ ARRAY['introspect', 'manage', 'directory', 'audit', 'replicate']),
    CONSTRAINT service_accounts_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT service_accounts_token_hash_key UNIQUE (token_hash),
    CONSTRAINT service_accounts_replaced_token_hash_check CHECK (
        octet_length(replaced_token_hash) = 32),
    CONSTRAINT service_accounts_replaced_token_check CHECK (
        num_nonnulls(replaced_token_hash, replaced_token_end_time) <> 1)
);
CREATE UNIQUE INDEX service_accounts_name_key ON service_accounts (name) WHERE revoke_time IS NULL;
CREATE UNIQUE INDEX service_accounts_replaced_token_hash_key
    ON service_accounts (replaced_token_hash) WHERE replaced_token_hash IS NOT NULL;

-- The names in certificates that callers are known by: an account may have some,
-- beside its token.
--
-- A name is one account's. Who is revoked has none: the names go at once, also
-- where somebody revokes by hand, and may be given to another account. They are
-- kept in the one spelling in which they are compared: DNS names in lower case.
CREATE TABLE service_account_certificates (
    name text PRIMARY KEY,
    service_account_id uuid NOT NULL,
    CONSTRAINT service_account_certificates_service_account_id_fkey FOREIGN KEY (service_account_id) REFERENCES service_accounts (id) ON DELETE CASCADE,
    CONSTRAINT service_account_certificates_name_check CHECK (
        name ~ '^(dns:[a-z0-9._-]{1,253}|spiffe://[a-z0-9._-]{1,255}/[A-Za-z0-9._/-]+)$'
        AND octet_length(name) <= 2048)
);
CREATE INDEX service_account_certificates_service_account_id_idx
    ON service_account_certificates (service_account_id);

CREATE FUNCTION service_accounts_revoked() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM service_account_certificates WHERE service_account_id IN (
        SELECT id FROM new_rows WHERE revoke_time IS NOT NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER service_accounts_revoked AFTER UPDATE ON service_accounts
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION service_accounts_revoked();
