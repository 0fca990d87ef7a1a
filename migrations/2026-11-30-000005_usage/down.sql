DROP TABLE api_client_usage_days;
DROP TABLE api_client_usage;
DROP TABLE replica_usage;
