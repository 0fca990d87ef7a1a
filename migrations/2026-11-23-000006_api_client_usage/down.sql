DROP TABLE api_client_usage_days;
DROP TABLE api_client_usage;
