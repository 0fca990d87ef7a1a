//! A database with as many API clients as one likes, in believable proportions,
//! and the tokens of some of them. `population.sql` says what the proportions
//! are, and generates all of it in sets.

use std::sync::atomic::{AtomicU64, Ordering};

use hitkeep_auth::{
    domain::{
        clock::Entropy,
        token::{Token, TokenKind},
    },
    pb::{Actor, Owner, introspection_service_client::IntrospectionServiceClient, owner},
};

use super::{
    calls,
    postgres::connect,
    service::{Caller, Service},
};

/// An API client whose token is known.
#[derive(Clone, Debug)]
pub struct Known {
    /// The token's text.
    pub token: String,
    /// The client's id.
    pub id: String,
    /// Whom it belongs to.
    pub owner: Owner,
    /// Somebody who may manage it.
    pub actor: Actor,
    /// The three sites that it has grants on: as viewer, editor and admin. Its
    /// owner holds those roles there.
    pub sites: Vec<String>,
}

/// The same sequence of bytes in every run: the same tokens, then.
#[derive(Default)]
pub struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn fill(&self, buffer: &mut [u8]) {
        let draw = self.0.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&draw.to_le_bytes());
        hasher.finalize_xof().fill(buffer);
    }
}

/// An actor who is that user.
pub fn actor(user_id: &str) -> Actor {
    Actor {
        user_id: user_id.to_owned(),
        ..Actor::default()
    }
}

/// Fills a migrated database with that many clients, and gives those whose
/// tokens are known.
pub async fn fill(database_url: &str, clients: usize, known: usize) -> Vec<Known> {
    assert!(
        clients >= known.max(50),
        "known clients are some of the clients"
    );
    let mut database = connect(database_url).await;
    let transaction = database.transaction().await.expect("it begins");
    let entropy = Seeded::default();
    // The kind is the client's, which follows from its number.
    let first = clients - known + 1;
    let tokens: Vec<_> = (first..=clients)
        .map(|number| match number % 10 {
            0..3 => Token::mint(TokenKind::Team, &entropy),
            _ => Token::mint(TokenKind::Personal, &entropy),
        })
        .collect();
    let hashes: Vec<Vec<u8>> = tokens.iter().map(|token| token.hash().0.into()).collect();
    let set_up = format!(
        "SET LOCAL bench.clients = {clients}; SET LOCAL bench.known = {known};
         CREATE TEMPORARY TABLE bench_known (place bigint, hash bytea)"
    );
    let sql = include_str!("population.sql");
    let insert = "INSERT INTO bench_known \
                  SELECT place, hash FROM unnest($1::bytea[]) WITH ORDINALITY AS given (hash, place)";
    let made = async {
        transaction.batch_execute(&set_up).await?;
        transaction.execute(insert, &[&hashes]).await?;
        transaction.batch_execute(sql).await?;
        transaction.query(KNOWN, &[]).await
    };
    let rows = made.await.expect("the population is made");
    transaction.commit().await.expect("it is kept");
    // As it would be in a database that has run for a while.
    database
        .batch_execute("VACUUM (ANALYZE)")
        .await
        .expect("it can be tidied up");
    assert_eq!(rows.len(), known);
    let known = |(row, token): (tokio_postgres::Row, &Token)| {
        let team: Option<String> = row.get("team");
        let user: String = row.get("actor");
        let owner = match team {
            Some(team) => owner::Owner::TeamId(team),
            None => owner::Owner::UserId(user.clone()),
        };
        Known {
            token: token.reveal(),
            id: row.get("id"),
            owner: Owner { owner: Some(owner) },
            actor: actor(&user),
            sites: row.get("sites"),
        }
    };
    rows.into_iter().zip(&tokens).map(known).collect()
}

/// Sees that each of those tokens gets the answer that it should.
pub async fn check(service: &Service, caller: &Caller, known: &[Known]) {
    let mut introspection = IntrospectionServiceClient::new(service.connect().await);
    for client in known {
        let request = caller.says(calls::introspect(&client.token));
        let answer = introspection.introspect(request).await;
        let answer = answer.expect("it is answered").into_inner();
        let is_right = answer.active
            && answer.client_id == client.id
            && answer.owner.as_ref() == Some(&client.owner)
            && answer.site_grants.len() == client.sites.len();
        assert!(is_right, "{answer:?}");
    }
}

/// The clients whose tokens are known, in the tokens' order. A team's client is
/// managed by the team's owner, who is the user of the same number.
const KNOWN: &str = "
    SELECT client.id::text AS id, manager.id::text AS actor,
        CASE WHEN is_teams THEN team.id::text END AS team,
        granted.sites
    FROM client JOIN team ON team.n = client.team
    JOIN member AS manager ON manager.n = CASE WHEN is_teams THEN client.team ELSE client.member END
    JOIN (SELECT team, array_agg(site::text ORDER BY place) AS sites FROM granted GROUP BY team)
        AS granted ON granted.team = client.team
    WHERE is_known ORDER BY client.n";
