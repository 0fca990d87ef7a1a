-- What is reported again from here on is counted again.
DROP TABLE replica_usage;
