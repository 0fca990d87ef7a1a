//! Rows as they come, put together without the replica's own code.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hitkeep_auth::{
    domain::{
        access::{CurrentOwner, EffectiveAccess, SiteStanding},
        id::{ClientId, SiteId, TeamId, UserId},
        introspection::{BaseState, ResolvedClient, TokenStanding},
        role::{SiteRole, TeamRole},
        token::StoredHash,
    },
    store::feed::{ClientRow, FullLoadSink, GrantRow, Sink, TokenRow},
};

/// The rows of some clients, and of the directory that they came with.
#[derive(Default)]
pub struct Rows {
    pub clients: HashMap<ClientId, Client>,
    pub unreadable: BTreeSet<ClientId>,
    /// Rows of which no client came before them.
    pub strays: usize,
    sites: HashMap<SiteId, (TeamId, bool)>,
    team_members: HashMap<(TeamId, UserId), Option<TeamRole>>,
    site_members: HashMap<(SiteId, UserId), Option<SiteRole>>,
    at_first_client: Option<Box<dyn FnOnce() + Send>>,
}

#[derive(Debug)]
pub struct Client {
    row: ClientRow,
    grants: Vec<(SiteId, SiteRole)>,
    tokens: Vec<TokenRow>,
}

impl Sink for Rows {
    fn client(&mut self, row: ClientRow) {
        if let Some(happens) = self.at_first_client.take() {
            happens();
        }
        let made = Client {
            row,
            grants: Vec::new(),
            tokens: Vec::new(),
        };
        let twice = self.clients.insert(made.row.client, made);
        assert!(twice.is_none(), "{twice:?} came twice");
    }

    fn grant(&mut self, row: GrantRow) {
        match self.clients.get_mut(&row.client) {
            Some(client) => {
                let role = client
                    .row
                    .owner
                    .effective_site_role(&row.standing, row.granted);
                client.grants.extend(role.map(|role| (row.site, role)));
            }
            None => self.strays += 1,
        }
    }

    fn token(&mut self, row: TokenRow) {
        match self.clients.get_mut(&row.client) {
            Some(client) => client.tokens.push(row),
            None => self.strays += 1,
        }
    }

    fn unreadable(&mut self, client: ClientId) {
        self.unreadable.insert(client);
    }
}

impl FullLoadSink for Rows {
    fn site(&mut self, site: SiteId, team: TeamId, archived: bool) {
        assert!(self.clients.is_empty(), "sites come first");
        self.sites.insert(site, (team, archived));
    }

    fn team_member(&mut self, team: TeamId, user: UserId, role: Option<TeamRole>) {
        self.team_members.insert((team, user), role);
    }

    fn site_member(&mut self, site: SiteId, user: UserId, role: Option<SiteRole>) {
        self.site_members.insert((site, user), role);
    }

    fn bare_grant(&mut self, client: ClientId, site: SiteId, role: Option<SiteRole>) {
        let Some(owner) = self.clients.get(&client).map(|client| client.row.owner) else {
            self.strays += 1;
            return;
        };
        let (team, team_archived) = self.sites[&site];
        let (in_team, on_site) = match owner {
            CurrentOwner::User(user, _) => (
                self.team_members.get(&(team, user)).copied(),
                self.site_members.get(&(site, user)).copied(),
            ),
            CurrentOwner::Team { .. } => (None, None),
        };
        let (Some(granted), true) = (role, in_team != Some(None) && on_site != Some(None)) else {
            self.unreadable.insert(client);
            return;
        };
        let standing = SiteStanding {
            team,
            team_archived,
            team_role: in_team.flatten(),
            site_role: on_site.flatten(),
        };
        self.grant(GrantRow {
            client,
            site,
            granted,
            standing,
        });
    }
}

/// What is known of each token, by its hash.
pub type Known = BTreeMap<StoredHash, (TokenStanding, ResolvedClient)>;

impl Rows {
    /// Lets something happen when the first client comes.
    pub fn at_first_client(&mut self, happens: impl FnOnce() + Send + 'static) {
        self.at_first_client = Some(Box::new(happens));
    }

    /// What is known of each token of these clients.
    pub fn known(self) -> Known {
        assert_eq!(self.strays, 0, "rows came before their clients");
        let mut known = Known::new();
        for (
            id,
            Client {
                row,
                grants,
                tokens,
            },
        ) in self.clients
        {
            let client = ResolvedClient {
                client: id,
                owner: row.owner.owner(),
                base_state: BaseState::of(row.revoked, row.owner.can_act()),
                access: EffectiveAccess {
                    instance_role: row.owner.effective_instance_role(row.instance_role),
                    grants: grants.into_iter().collect(),
                },
                expiry: row.expiry,
                name: row.name,
                restrictions: row.restrictions,
            };
            for token in tokens {
                let entry = (token.standing, client.clone());
                known.insert(token.hash, entry);
            }
        }
        known
    }
}
