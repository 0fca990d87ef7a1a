DROP TABLE directory_order;
