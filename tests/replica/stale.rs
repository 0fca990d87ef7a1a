//! A replica without news: after its bound it says of nothing any more that it
//! works, and of nothing ever that it does not because something failed.

use std::time::Instant;

use hitkeep_auth::pb::InactiveReason::{Revoked, UnknownToken};

use crate::{
    cluster::{Cluster, IMPATIENCE, Replica, Said},
    fixtures::*,
    index::BOUND,
    support::proxy::Proxy,
    waiting::until,
};

/// Well-formed, and nobody's: worked out apart from this code.
const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

/// What the replica says of a token that works, and that it knows: the truth, or
/// that it cannot tell.
async fn active_or_nothing(replica: &Replica, token: &str) -> Said {
    let said = replica.says_within(token, IMPATIENCE).await;
    assert!([Said::Active, Said::Nothing].contains(&said), "{said:?}");
    said
}

async fn goes_without_news(fault: fn(&Proxy)) {
    let cluster = Cluster::start(2).await;
    let has_index = cluster.has_index().await;
    let [replica, other] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    let dashboard = &other.dashboard;
    let active = dashboard.created(personal(VERA)).await;
    let doomed = dashboard.created(personal(VERA)).await;
    let dead = dashboard.created(personal(VERA)).await;
    let revoked = dashboard.revoke(revoke(VERA, &dead.id)).await.unwrap();
    let said = replica.says_at(&dead.token, revoked.revision).await;
    assert_eq!(said, Said::Inactive(Revoked));
    for client in [&active, &doomed] {
        replica.accepts(&client.token).await;
    }

    fault(&replica.proxy);
    dashboard.revoke(revoke(VERA, &doomed.id)).await.unwrap();
    let acknowledged = Instant::now();
    let young = dashboard.created(personal(VERA)).await;
    until("the replica says that it cannot tell", async || {
        // Not inactive: nobody knows that.
        let known = active_or_nothing(replica, &active.token).await;
        active_or_nothing(replica, &young.token).await;
        if known == Said::Nothing {
            Ok(())
        } else {
            Err(known)
        }
    })
    .await;
    until("the bound is over", async || {
        // When it is asked, and not when its answer comes, which may be at any time.
        let early = acknowledged.elapsed() < BOUND;
        let said = replica.says_within(&doomed.token, IMPATIENCE).await;
        assert!(early || said != Said::Active, "accepted after its bound");
        if early { Err(said) } else { Ok(()) }
    })
    .await;

    for token in [&active.token, &young.token, NOBODYS] {
        let said = replica.says_within(token, IMPATIENCE).await;
        assert_eq!(said, Said::Nothing);
    }
    // Neither waits for the database.
    for (token, known) in [
        (dead.token.as_str(), Said::Inactive(Revoked)),
        ("x", Said::Inactive(UnknownToken)),
    ] {
        let said = replica.says(token).await;
        // Without an index nothing is known.
        assert!(
            said == known || (!has_index && said == Said::Nothing),
            "{said:?}"
        );
    }
    if has_index {
        let said = cluster.refusal_in_time(replica, &active.token).await;
        assert_eq!(said, "Unavailable STALE_INDEX");
    }

    replica.proxy.mend();
    replica.until_says(&active.token, Said::Active).await;
    let tokens = [
        &active.token,
        &doomed.token,
        &dead.token,
        &young.token,
        NOBODYS,
    ];
    cluster.agree(&tokens.map(AsRef::as_ref)).await;
}

#[tokio::test]
async fn a_replica_whose_connections_are_half_open() {
    goes_without_news(Proxy::stall).await;
}

#[tokio::test]
async fn a_replica_whose_connections_are_gone() {
    goes_without_news(Proxy::cut).await;
}
