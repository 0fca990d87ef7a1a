-- Imported clients stay.
DROP TABLE import_state;
DROP TABLE api_client_imports;
