DROP TABLE directory_order;
DROP TABLE directory_state;
DROP TABLE site_members;
DROP TABLE sites;
DROP TABLE team_members;
DROP TABLE teams;
DROP TABLE users;
