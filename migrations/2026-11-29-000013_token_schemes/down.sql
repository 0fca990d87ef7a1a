-- The hints still tell which tokens are HitKeep's: until the migration is applied again, these
-- are unknown.
ALTER TABLE api_client_tokens
    DROP CONSTRAINT api_client_tokens_legacy_hint_check,
    DROP CONSTRAINT api_client_tokens_scheme_check,
    DROP COLUMN scheme;
DELETE FROM api_client_usage_days WHERE outcome = 'LEGACY_TOKEN';
ALTER TABLE api_client_usage_days
    DROP CONSTRAINT api_client_usage_days_outcome_check,
    ADD CONSTRAINT api_client_usage_days_outcome_check CHECK (outcome IN (
        'USED', 'TOKEN_ROTATED', 'REVOKED', 'EXPIRED', 'OWNER_INACTIVE', 'NO_SITE_GRANT', 'ROLE_TOO_LOW'));
