-- Writes that are sent again are made again from here on.
DROP TRIGGER api_client_requests_account_revoked ON service_accounts;
DROP FUNCTION api_client_requests_account_revoked;
DROP TRIGGER api_client_replies_client_revoked ON api_clients;
DROP FUNCTION api_client_replies_client_revoked;
DROP TRIGGER api_client_replies_token_replaced ON api_client_tokens;
DROP FUNCTION api_client_replies_token_replaced;
DROP TABLE api_client_replies;
DROP TABLE api_client_requests;
