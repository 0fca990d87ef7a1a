//! The connections to the database break, or stall, after every number of bytes:
//! whatever a replica had heard until then, it never says what is wrong, and it
//! comes to know the rest.

use hitkeep_auth::pb::{InactiveReason::Revoked, SiteRole};

use crate::{
    cluster::{Cluster, IMPATIENCE, Replica, Said, at_least, said},
    fixtures::*,
    harness::Caller,
    support::proxy::{Direction, Limit, Then},
    waiting::until,
};

const DIRECTIONS: [Direction; 2] = [Direction::ToClient, Direction::ToServer];
/// Into how many parts a change's bytes are cut, each way.
const PARTS: u64 = 24;
/// Likewise those of a replica's start.
const PARTS_OF_START: u64 = 8;

/// A client that is revoked and reactivated in turn.
struct Toggled {
    dashboard: Caller,
    client: Created,
    active: bool,
}

impl Toggled {
    /// Changes it. Gives the revision, and what is to be said of it from there on.
    async fn change(&mut self) -> (u64, Said) {
        let id = &self.client.id;
        self.active = !self.active;
        if self.active {
            let done = self
                .dashboard
                .reactivate(reactivate(VERA, id))
                .await
                .unwrap();
            (done.revision, Said::Active)
        } else {
            let done = self.dashboard.revoke(revoke(VERA, id)).await.unwrap();
            (done.revision, Said::Inactive(Revoked))
        }
    }
}

/// Waits until the replica has come to that revision, as somebody who asks again
/// and again. Before it, the replica says what was true until then.
async fn until_told(replica: &Replica, token: &str, revision: u64, expected: Said) {
    let sidecar = replica.sidecar.clone().within(IMPATIENCE);
    let before = match expected {
        Said::Active => Said::Inactive(Revoked),
        _ => Said::Active,
    };
    until("the replica knows of the change", async || {
        let any = sidecar.introspect(introspect(token)).await;
        if let Ok(given) = &any {
            let new = given.revision >= revision;
            let right = if new { expected } else { before };
            assert_eq!(said(&any), right, "{given:?}");
        }
        // Where everything stalled, it goes on.
        replica.proxy.mend_at_limit();
        let answer = sidecar.introspect(at_least(token, revision)).await;
        match said(&answer) {
            Said::Nothing => Err(answer),
            told => {
                assert_eq!(told, expected);
                Ok(())
            }
        }
    })
    .await;
}

/// The numbers from 0 to that one, in so many steps of the same size.
fn steps(end: u64, parts: u64) -> impl Iterator<Item = u64> {
    (0..=parts).map(move |part| end * part / parts)
}

#[tokio::test]
async fn the_way_to_the_database_breaks_after_any_number_of_bytes() {
    after_any_number_of_bytes(Then::Sever).await;
}

#[tokio::test]
async fn the_way_to_the_database_stalls_after_any_number_of_bytes() {
    after_any_number_of_bytes(Then::Stall).await;
}

async fn after_any_number_of_bytes(then: Then) {
    let cluster = Cluster::start(2).await;
    let [replica, other] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    let dashboard = other.dashboard.clone();
    let client = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let token = client.token.clone();
    let mut toggled = Toggled {
        dashboard,
        client,
        active: true,
    };
    for direction in DIRECTIONS {
        let before = replica.proxy.passed(direction);
        let (revision, expected) = toggled.change().await;
        until_told(replica, &token, revision, expected).await;
        // All that has to do with the change, and something more.
        let bytes = (replica.proxy.passed(direction) - before) * 5 / 4;
        assert!(bytes > 0, "nothing went {direction:?}");
        for bytes in steps(bytes, PARTS) {
            replica.proxy.limit(Limit {
                direction,
                bytes,
                then,
            });
            let (revision, expected) = toggled.change().await;
            until_told(replica, &token, revision, expected).await;
            replica.proxy.mend();
        }
    }
    cluster.agree(&[&token]).await;
}

#[tokio::test]
async fn a_replica_starts_over_a_way_that_breaks_after_any_number_of_bytes() {
    let mut cluster = Cluster::start(1).await;
    let dashboard = cluster.replicas[0].dashboard.clone();
    let mut tokens = Vec::new();
    for site in [SITE, SECOND_SITE] {
        let personal = personal(VERA).granted(site, SiteRole::Viewer);
        tokens.push(dashboard.created(personal).await);
        let ours = team_client(ALICE).granted(site, SiteRole::Admin);
        tokens.push(dashboard.created(ours).await);
    }
    dashboard.revoke(revoke(VERA, &tokens[0].id)).await.unwrap();
    let tokens: Vec<_> = tokens.iter().map(|made| made.token.as_str()).collect();
    cluster.add(None).await;
    for direction in DIRECTIONS {
        let all = cluster.replicas[1].proxy.passed(direction);
        for then in [Then::Sever, Then::Stall] {
            for bytes in steps(all, PARTS_OF_START) {
                cluster
                    .add(Some(Limit {
                        direction,
                        bytes,
                        then,
                    }))
                    .await;
                let started = cluster.replicas.pop().unwrap();
                started.proxy.mend();
                cluster.replicas.truncate(2);
                cluster.replicas.push(started);
                cluster.agree(&tokens).await;
            }
        }
    }
}
