-- Tokens that HitKeep issued before this service did: legacy tokens.
--
-- scheme says how hash was made of a token: with BLAKE3 for the tokens of this service, and
-- with SHA-256 for HitKeep's. A token is found by both columns, so that the hash of one
-- scheme is of no use with the other.
--
-- HitKeep kept no part of its tokens to show, so the hint of one is made of its hash:
-- sha256_ and the first six hex digits, which its holder can compare with sha256sum. No
-- other hint is possible, so that no row shows a part of such a token.
ALTER TABLE api_client_tokens ADD COLUMN scheme text NOT NULL DEFAULT 'blake3';
-- There are none yet, unless this migration was reverted after an import.
UPDATE api_client_tokens SET scheme = 'hitkeep_sha256'
    WHERE hint = 'sha256_' || left(encode(hash, 'hex'), 6);
ALTER TABLE api_client_tokens
    ADD CONSTRAINT api_client_tokens_scheme_check CHECK (scheme IN ('blake3', 'hitkeep_sha256')),
    ADD CONSTRAINT api_client_tokens_legacy_hint_check CHECK (
        (scheme = 'hitkeep_sha256') = (hint = 'sha256_' || left(encode(hash, 'hex'), 6)));

-- A presentation of a legacy token is counted twice: by its outcome, and as LEGACY_TOKEN.
ALTER TABLE api_client_usage_days
    DROP CONSTRAINT api_client_usage_days_outcome_check,
    ADD CONSTRAINT api_client_usage_days_outcome_check CHECK (outcome IN (
        'USED', 'TOKEN_ROTATED', 'REVOKED', 'EXPIRED', 'OWNER_INACTIVE', 'NO_SITE_GRANT', 'ROLE_TOO_LOW',
        'LEGACY_TOKEN'));
