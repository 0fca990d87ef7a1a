DROP TABLE index_changes;
DROP TABLE index_revisions;
DROP TABLE index_state;
