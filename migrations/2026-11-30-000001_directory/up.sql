-- The directory as HitKeep pushes it: ids and roles only, no names.
--
-- Memberships go with the user, team or site that they belong to. A role
-- outside of the closed set is refused here as well as in the service, because
-- a row may be written by hand. Each foreign key has an index, so that deleting
-- what it points to does not scan the table. Few users and teams are inactive: the
-- indexes on those find their clients.
CREATE TABLE users (
    id uuid PRIMARY KEY,
    instance_role text NOT NULL,
    disabled boolean NOT NULL DEFAULT false,
    CONSTRAINT users_instance_role_check CHECK (instance_role IN ('user', 'admin', 'owner'))
);
CREATE INDEX users_disabled_idx ON users (id) WHERE disabled;

CREATE TABLE teams (
    id uuid PRIMARY KEY,
    archived boolean NOT NULL DEFAULT false
);
CREATE INDEX teams_archived_idx ON teams (id) WHERE archived;

CREATE TABLE team_members (
    team_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    PRIMARY KEY (team_id, user_id),
    CONSTRAINT team_members_team_id_fkey FOREIGN KEY (team_id) REFERENCES teams (id) ON DELETE CASCADE,
    CONSTRAINT team_members_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT team_members_role_check CHECK (role IN ('member', 'admin', 'owner'))
);
CREATE INDEX team_members_user_id_idx ON team_members (user_id);

CREATE TABLE sites (
    id uuid PRIMARY KEY,
    team_id uuid NOT NULL,
    CONSTRAINT sites_team_id_fkey FOREIGN KEY (team_id) REFERENCES teams (id) ON DELETE CASCADE
);
CREATE INDEX sites_team_id_idx ON sites (team_id);

CREATE TABLE site_members (
    site_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    PRIMARY KEY (site_id, user_id),
    CONSTRAINT site_members_site_id_fkey FOREIGN KEY (site_id) REFERENCES sites (id) ON DELETE CASCADE,
    CONSTRAINT site_members_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT site_members_role_check CHECK (role IN ('viewer', 'editor', 'admin', 'owner'))
);
CREATE INDEX site_members_user_id_idx ON site_members (user_id);

-- How far HitKeep's own sequence of changes was applied; NULL before the first.
CREATE TABLE directory_state (
    singleton boolean PRIMARY KEY DEFAULT true,
    applied_sequence bigint,
    CONSTRAINT directory_state_singleton_check CHECK (singleton),
    CONSTRAINT directory_state_applied_sequence_check CHECK (applied_sequence >= 0)
);

INSERT INTO directory_state DEFAULT VALUES;

-- The order of changes to the directory, so that none undoes a later one.
--
-- A replacement of the whole directory shows its source as it was when the first chunk
-- was sent. What came after that must not be undone by it, whichever server took the
-- one and the other. Every change has a place in one order: a replacement takes its
-- place when it begins, a batch when it is applied.
--
-- Apart from directory_state, because a replacement that begins must not wait for the
-- write lock: its row is written last in each transaction, and so held for a moment.
CREATE TABLE directory_order (
    singleton boolean PRIMARY KEY DEFAULT true,
    -- The place that was given out last.
    last_place bigint NOT NULL DEFAULT 0,
    -- The newest change that was applied.
    changed bigint NOT NULL DEFAULT 0,
    -- The newest one that no sequence speaks for.
    unnumbered bigint NOT NULL DEFAULT 0,
    -- The newest replacement that started over.
    started_over bigint NOT NULL DEFAULT 0,
    CONSTRAINT directory_order_singleton_check CHECK (singleton),
    CONSTRAINT directory_order_places_check CHECK (
        changed BETWEEN 0 AND last_place
        AND unnumbered BETWEEN 0 AND changed
        AND started_over BETWEEN 0 AND changed)
);

INSERT INTO directory_order DEFAULT VALUES;
