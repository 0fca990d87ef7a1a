DROP TRIGGER service_accounts_revoked ON service_accounts;
DROP FUNCTION service_accounts_revoked();
DROP TABLE service_account_certificates;
DROP TABLE service_accounts;
