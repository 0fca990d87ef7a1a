-- A database full of API clients, generated in sets. Of a hundred clients:
--
--   2 teams, 10 sites (5 a team), 20 users, each in one team and every second
--   one in another as well; in the first, one user in ten is the owner, two are
--   admins, the rest members with a role on three of the team's sites;
--   30 clients belong to teams and 70 to users, each with grants on three sites
--   of one team; half of them expire in a year, two in a hundred are revoked, and
--   five have a token that was replaced.
--
-- The last bench.known clients are none of those: they work, and the hashes of
-- their tokens are in bench_known. Foreign keys and other triggers are not
-- asked: what is made here is sound.
SET session_replication_role = replica;
SET synchronous_commit = off;
SET timezone = 'UTC';

-- UUIDs of version 7: the time that many milliseconds after another, then bits
-- that look random.
CREATE FUNCTION pg_temp.id(kind text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(1750000000000 + n), 12, '0')
        || overlay(overlay(substr(md5(kind || n::text), 1, 20) PLACING '7' FROM 1) PLACING '8' FROM 5))::uuid
$$;
CREATE TEMPORARY TABLE size AS SELECT clients,
    greatest(clients / 50, 1) AS teams, greatest(clients / 10, 5) AS sites,
    greatest(clients / 5, 10) AS users, clients - known AS others
FROM (SELECT current_setting('bench.clients')::bigint AS clients,
             current_setting('bench.known')::bigint AS known) AS asked;
CREATE TEMPORARY TABLE team AS SELECT n, pg_temp.id('team', n) AS id
FROM size, generate_series(0, teams - 1) AS n;
CREATE TEMPORARY TABLE site AS SELECT n, pg_temp.id('site', n) AS id, n % teams AS team
FROM size, generate_series(0, sites - 1) AS n;
CREATE TEMPORARY TABLE member AS
SELECT n, pg_temp.id('user', n) AS id, n % teams AS team,
    CASE WHEN n / teams = 0 THEN 'owner' WHEN n / teams <= 2 THEN 'admin' ELSE 'member' END AS role
FROM size, generate_series(0, users - 1) AS n;
-- The three sites of each team on which grants are.
CREATE TEMPORARY TABLE granted AS
SELECT team, id AS site, place, (ARRAY['viewer', 'editor', 'admin'])[place] AS role
FROM (SELECT team, id, row_number() OVER (PARTITION BY team ORDER BY n) AS place FROM site) AS placed
WHERE place <= 3;
CREATE TEMPORARY TABLE client AS
SELECT n, pg_temp.id('client', n) AS id, n % 10 < 3 AS is_teams, n > others AS is_known,
    CASE WHEN n % 10 < 3 THEN n % teams ELSE (n % users) % teams END AS team, n % users AS member
FROM size, generate_series(1, clients) AS n;
ANALYZE team, site, member, granted, client;

INSERT INTO users (id, instance_role)
SELECT id, CASE WHEN n % 100 = 99 THEN 'admin' ELSE 'user' END FROM member;
INSERT INTO teams (id) SELECT id FROM team;
INSERT INTO team_members (team_id, user_id, role)
SELECT team.id, member.id, member.role FROM member JOIN team ON team.n = member.team;
INSERT INTO team_members (team_id, user_id, role)
SELECT team.id, member.id, 'member' FROM size, member JOIN team ON team.n = (member.team + 1) % (SELECT teams FROM size)
WHERE member.n % 2 = 0 ON CONFLICT DO NOTHING;
INSERT INTO sites (id, team_id)
SELECT site.id, team.id FROM site JOIN team ON team.n = site.team;
INSERT INTO site_members (site_id, user_id, role)
SELECT granted.site, member.id, granted.role FROM member JOIN granted USING (team) WHERE member.role = 'member';

INSERT INTO api_clients (id, owner_user_id, owner_team_id, name, description, instance_role,
    expire_time, revoke_time, created_by_user_id, create_time, update_time)
SELECT client.id, CASE WHEN NOT is_teams THEN member.id END, CASE WHEN is_teams THEN team.id END,
    'Nightly export ' || client.n, '', 'user',
    CASE WHEN client.n % 2 = 0 THEN now() + interval '1 year' END,
    CASE WHEN NOT is_known AND client.n % 50 = 7 THEN now() - interval '1 day' END,
    member.id, now() - interval '30 days', now() - interval '30 days'
FROM client JOIN member ON member.n = client.member JOIN team ON team.n = client.team
ORDER BY client.n;
INSERT INTO api_client_grants (client_id, site_id, role)
SELECT client.id, granted.site, granted.role FROM client JOIN granted USING (team);
INSERT INTO api_client_tokens (hash, client_id, hint, create_time)
SELECT coalesce(bench_known.hash, sha256(convert_to('token ' || n, 'UTF8'))), client.id,
    CASE WHEN is_teams THEN 'hkt_...0000' ELSE 'hkp_...0000' END, now() - interval '30 days'
FROM size, client LEFT JOIN bench_known ON client.is_known AND bench_known.place = client.n - (SELECT others FROM size);
INSERT INTO api_client_tokens (hash, client_id, hint, create_time, end_time)
SELECT sha256(convert_to('replaced ' || n, 'UTF8')), client.id, 'hkp_...0000',
    now() - interval '60 days', now() - interval '30 days'
FROM client WHERE NOT is_known AND n % 20 = 3;
