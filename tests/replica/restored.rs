//! Another history: a backup is restored, or another database is put in the
//! first one's place. Revisions then tell of other things than before, and each
//! replica must say what is there now.

use hitkeep_auth::pb::{
    InactiveReason::{Revoked, UnknownToken},
    SiteRole,
};

use crate::{
    cluster::{Cluster, Said},
    fixtures::*,
    harness::Caller,
    support::postgres::{execute, url},
    waiting::until,
};

/// A copy of the cluster's database.
pub struct Backup {
    live: String,
    copy: String,
}

impl Backup {
    /// Makes one, for which everybody has to leave for a moment.
    pub async fn make(cluster: &Cluster) -> Self {
        let live = cluster.direct.rsplit('/').next().unwrap().to_owned();
        let copy = format!("{live}_copy");
        for sql in [
            format!("ALTER DATABASE {live} ALLOW_CONNECTIONS false"),
            end_all(&live),
            format!("CREATE DATABASE {copy} TEMPLATE {live} STRATEGY FILE_COPY"),
            format!("ALTER DATABASE {live} ALLOW_CONNECTIONS true"),
        ] {
            execute(&url("postgres"), &sql).await;
        }
        until("the database is there again", async || {
            cluster.store.look_up(None).await
        })
        .await;
        Self { live, copy }
    }

    /// Changes the copy.
    async fn psql(&self, sql: &str) {
        execute(&url(&self.copy), sql).await;
    }

    /// Puts the copy in the place of what it was made of.
    pub async fn restore(self) {
        let Self { live, copy } = self;
        for sql in [
            format!("DROP DATABASE {live} WITH (FORCE)"),
            end_all(&copy),
            format!("ALTER DATABASE {copy} RENAME TO {live}"),
        ] {
            execute(&url("postgres"), &sql).await;
        }
    }
}

fn end_all(database: &str) -> String {
    format!(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}'"
    )
}

/// A client is created as soon as the server is able to.
async fn created(dashboard: &Caller) -> Created {
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    let made = until("a client is created", async || {
        dashboard.create(request.clone()).await
    })
    .await;
    Created::of(made)
}

/// How many changes there are after a restoration, beside those that it took
/// back.
#[derive(Clone, Copy, Debug)]
enum Afterwards {
    Nothing,
    AsMany,
    More,
}

async fn a_backup_is_restored(afterwards: Afterwards) {
    let cluster = Cluster::start(3).await;
    // One sees nothing of the restoration, one sees it happen, and one makes the
    // changes after it.
    let [away, watching, changing] = &cluster.replicas[..] else {
        panic!("three replicas");
    };
    let dashboard = &changing.dashboard;
    let kept = created(dashboard).await;
    let revoked_later = created(dashboard).await;
    let deleted_later = created(dashboard).await;
    let backup = Backup::make(&cluster).await;
    let at_backup = cluster.revision().await;

    let young = created(dashboard).await;
    dashboard
        .revoke(revoke(VERA, &revoked_later.id))
        .await
        .unwrap();
    dashboard
        .delete(delete(VERA, &deleted_later.id))
        .await
        .unwrap();
    let rotated = dashboard.rotate(rotate(VERA, &kept.id)).await.unwrap();
    cluster.psql("UPDATE users SET disabled = false").await;
    for replica in &cluster.replicas {
        let said = replica
            .says_at(&revoked_later.token, rotated.revision)
            .await;
        assert_eq!(said, Said::Inactive(Revoked));
    }
    let lost = cluster.revision().await - at_backup;
    away.proxy.cut();
    backup.restore().await;

    // What comes after it is something else than what there was.
    let mut tokens = Vec::new();
    let changes = match afterwards {
        Afterwards::Nothing => 0,
        Afterwards::AsMany => lost,
        Afterwards::More => lost + 3,
    };
    until("the database is there again", async || {
        cluster.store.look_up(None).await
    })
    .await;
    for change in 0..changes {
        if change == 1 {
            dashboard.revoke(revoke(VERA, &kept.id)).await.unwrap();
        } else {
            tokens.push(created(dashboard).await.token);
        }
    }
    assert_eq!(cluster.revision().await, at_backup + changes);
    away.proxy.mend();
    let kept_now = if changes > 1 {
        Said::Inactive(Revoked)
    } else {
        Said::Active
    };
    for (token, now) in [
        (&kept.token, kept_now),
        (&revoked_later.token, Said::Active),
        (&deleted_later.token, Said::Active),
        (&young.token, Said::Inactive(UnknownToken)),
        (&rotated.token, Said::Inactive(UnknownToken)),
    ] {
        for replica in [watching, changing, away] {
            replica.until_says(token, now).await;
        }
        tokens.push(token.clone());
    }
    let tokens: Vec<_> = tokens.iter().map(AsRef::as_ref).collect();
    cluster.agree(&tokens).await;
    // And it goes on from there.
    let last = created(dashboard).await;
    for replica in &cluster.replicas {
        replica.accepts_at(&last.token, last.revision).await;
    }
    cluster.agree(&tokens).await;
}

#[tokio::test]
async fn a_backup_is_restored_and_nothing_happens_after_it() {
    a_backup_is_restored(Afterwards::Nothing).await;
}

#[tokio::test]
async fn a_backup_is_restored_and_as_much_happens_as_was_lost() {
    a_backup_is_restored(Afterwards::AsMany).await;
}

#[tokio::test]
async fn a_backup_is_restored_and_more_happens_than_was_lost() {
    a_backup_is_restored(Afterwards::More).await;
}

/// At the same revision as the first, so that nothing but its identity tells.
#[tokio::test]
async fn another_database_takes_the_first_ones_place() {
    let cluster = Cluster::start(2).await;
    let [away, watching] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    let dashboard = &watching.dashboard;
    let [first, second] = [created(dashboard).await, created(dashboard).await];
    let other = Backup::make(&cluster).await;
    let revoke_one =
        |id: &str| format!("UPDATE api_clients SET revoke_time = now() WHERE id = '{id}'");
    cluster.psql(&revoke_one(&first.id)).await;
    other.psql(&revoke_one(&second.id)).await;
    other
        .psql("UPDATE index_state SET database_id = gen_random_uuid()")
        .await;
    for replica in &cluster.replicas {
        replica
            .until_says(&first.token, Said::Inactive(Revoked))
            .await;
        replica.until_says(&second.token, Said::Active).await;
    }
    let before = cluster.revision().await;
    away.proxy.cut();
    other.restore().await;
    until("the database is there again", async || {
        cluster.store.look_up(None).await
    })
    .await;
    assert_eq!(cluster.revision().await, before);
    away.proxy.mend();
    for replica in &cluster.replicas {
        replica.until_says(&first.token, Said::Active).await;
        replica
            .until_says(&second.token, Said::Inactive(Revoked))
            .await;
    }
    cluster.agree(&[&first.token, &second.token]).await;
}
