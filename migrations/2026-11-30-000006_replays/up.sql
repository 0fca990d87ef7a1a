-- Writes that may be sent twice (AIP-155), and their sealed replies.
--
-- A caller whose connection broke cannot tell whether its write was made. With a
-- request_id it may send the same again and gets the first reply, token included. That
-- reply is the only place where a token is kept at all, so it is encrypted: the key is
-- derived from the request_id and from the caller's own token, and neither of the two is
-- in the database. What finds a request again is a hash of its id, never the id.
--
-- The request outlives its reply: once a token was replaced or its client revoked or
-- deleted, there is nothing left to reply, and the write must still not be made twice. A
-- request that is older than 24 hours counts as absent, whether or not it was removed yet.
CREATE TABLE api_client_requests (
    lookup bytea PRIMARY KEY,
    service_account_id uuid NOT NULL,
    digest bytea NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT api_client_requests_service_account_id_fkey FOREIGN KEY (service_account_id) REFERENCES service_accounts (id) ON DELETE CASCADE,
    CONSTRAINT api_client_requests_lookup_check CHECK (octet_length(lookup) = 32),
    CONSTRAINT api_client_requests_digest_check CHECK (octet_length(digest) = 32)
);
CREATE INDEX api_client_requests_service_account_id_idx ON api_client_requests (service_account_id);
CREATE INDEX api_client_requests_create_time_idx ON api_client_requests (create_time);

-- A reply is about the token that is in it and cannot outlive that. An API client has one
-- newest token, so it has one reply at most. The revision is no secret, and is known only
-- when the rest has been sealed.
CREATE TABLE api_client_replies (
    token_hash bytea PRIMARY KEY,
    lookup bytea NOT NULL,
    salt bytea NOT NULL,
    sealed bytea NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT api_client_replies_token_hash_fkey FOREIGN KEY (token_hash) REFERENCES api_client_tokens (hash) ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT api_client_replies_lookup_fkey FOREIGN KEY (lookup) REFERENCES api_client_requests (lookup) ON DELETE CASCADE,
    CONSTRAINT api_client_replies_lookup_key UNIQUE (lookup),
    CONSTRAINT api_client_replies_salt_check CHECK (octet_length(salt) = 32),
    CONSTRAINT api_client_replies_sealed_check CHECK (octet_length(sealed) <= 1048576),
    CONSTRAINT api_client_replies_revision_check CHECK (revision >= 0)
);

-- The triggers hold for whoever changes the rows, by hand too. They fire for each row, since
-- the worker that applies what a subscription brings fires no others, and only for rows that
-- end something. None of the tables above is part of what Introspect answers from: they make
-- no revision.
CREATE FUNCTION api_client_replies_token_replaced() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM api_client_replies WHERE token_hash = NEW.hash;
    RETURN NULL;
END $$;
CREATE TRIGGER api_client_replies_token_replaced AFTER UPDATE ON api_client_tokens
    FOR EACH ROW WHEN (NEW.end_time IS NOT NULL)
    EXECUTE FUNCTION api_client_replies_token_replaced();
ALTER TABLE api_client_tokens ENABLE ALWAYS TRIGGER api_client_replies_token_replaced;

CREATE FUNCTION api_client_replies_client_revoked() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM api_client_replies WHERE token_hash = ANY (ARRAY(
        SELECT hash FROM api_client_tokens WHERE client_id = NEW.id));
    RETURN NULL;
END $$;
CREATE TRIGGER api_client_replies_client_revoked AFTER UPDATE ON api_clients
    FOR EACH ROW WHEN (NEW.revoke_time IS NOT NULL)
    EXECUTE FUNCTION api_client_replies_client_revoked();
ALTER TABLE api_clients ENABLE ALWAYS TRIGGER api_client_replies_client_revoked;

-- Whoever holds the token of a caller that was revoked gets nothing with it, not even
-- together with this database.
CREATE FUNCTION api_client_requests_account_revoked() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM api_client_requests WHERE service_account_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER api_client_requests_account_revoked AFTER UPDATE ON service_accounts
    FOR EACH ROW WHEN (NEW.revoke_time IS NOT NULL)
    EXECUTE FUNCTION api_client_requests_account_revoked();
ALTER TABLE service_accounts ENABLE ALWAYS TRIGGER api_client_requests_account_revoked;
