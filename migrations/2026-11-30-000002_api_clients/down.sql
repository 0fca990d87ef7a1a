DROP TABLE api_client_tokens;
DROP TABLE api_client_grants;
DROP TABLE api_clients;
DROP FUNCTION are_cidrs(text[]);
