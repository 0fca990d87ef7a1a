//! Postgres is killed under load, and started again: nothing that was
//! acknowledged is lost, no token that works is said not to, and everything goes
//! on by itself.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use hitkeep_auth::{grpc, pb::InactiveReason::Revoked, server, store::migrations};
use tonic::Status;

use crate::{
    cluster::{Cluster, IMPATIENCE, Said},
    dice::Dice,
    fixtures::*,
    harness::Caller,
    index::{self, BOUND},
    nodes::Node,
    support::folder::Folder,
    waiting::{until, wanted, within},
};

/// How many changes must get through before it is killed, and after it.
const CHANGES: usize = 10;

/// What was acknowledged of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Working,
    /// It is being revoked: it works, or it does not.
    Ending,
    /// It was revoked then.
    Ended(Instant),
}

#[derive(Default)]
struct Load {
    clients: Mutex<Vec<(String, Life)>>,
    /// Calls that failed because the database was away.
    failures: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn acknowledged(&self) -> usize {
        self.clients.lock().unwrap().len()
    }

    fn get(&self, number: usize) -> (String, Life) {
        self.clients.lock().unwrap()[number].clone()
    }

    fn set(&self, number: usize, life: Life) {
        self.clients.lock().unwrap()[number].1 = life;
    }

    /// The call's result; `None` where the database was away.
    fn got<T: std::fmt::Debug>(&self, result: Result<T, Status>) -> Option<T> {
        match result {
            Ok(given) => Some(given),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
                self.failures.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

/// Creates clients, and revokes every other one.
async fn write(dashboard: Caller, load: Arc<Load>) {
    while load.goes_on() {
        let Some(made) = load.got(dashboard.create(personal(VERA)).await) else {
            continue;
        };
        let number = {
            let mut clients = load.clients.lock().unwrap();
            clients.push((made.token, Life::Working));
            clients.len() - 1
        };
        if number.is_multiple_of(2) {
            continue;
        }
        load.set(number, Life::Ending);
        let id = made.api_client.unwrap().id;
        if load
            .got(dashboard.revoke(revoke(VERA, &id)).await)
            .is_some()
        {
            load.set(number, Life::Ended(Instant::now()));
        }
    }
}

/// Asks about what was acknowledged. Gives how often it was told that a token
/// works.
async fn ask(cluster: Arc<Cluster>, replica: usize, load: Arc<Load>) -> usize {
    let mut dice = Dice::new(replica as u64);
    let mut active = 0;
    while load.goes_on() {
        let number = dice.below(load.acknowledged());
        let (token, before) = load.get(number);
        let asked = Instant::now();
        let said = cluster.replicas[replica]
            .says_within(&token, IMPATIENCE)
            .await;
        let (_, after) = load.get(number);
        active += usize::from(said == Said::Active);
        let right = match (before, said) {
            (_, Said::Nothing) | (Life::Ending, _) | (Life::Working, Said::Active) => true,
            (Life::Working, said) => after != Life::Working && said == Said::Inactive(Revoked),
            // Of an answer that comes late, that it does so is all that is known.
            (Life::Ended(at), Said::Active) => asked.duration_since(at) < BOUND,
            (Life::Ended(_), said) => said == Said::Inactive(Revoked),
        };
        assert!(right, "{before:?}, now {after:?}: {said:?}");
    }
    active
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_postgres_costs_time_and_nothing_else() {
    let own = Node::start(Folder::new()).await;
    let url = own.url("hitkeep");
    own.admin("CREATE DATABASE hitkeep").await;
    migrations::apply(&url).await.unwrap();
    let options = server::Options {
        grpc: grpc::ServiceOptions {
            max_clients_per_owner: 100_000,
            ..grpc::ServiceOptions::default()
        },
        ..index::options()
    };
    let cluster = Arc::new(Cluster::on(url, 2, options).await);
    let load = Arc::new(Load::default());
    let writing = tokio::spawn(write(
        cluster.replicas[0].dashboard.clone(),
        Arc::clone(&load),
    ));
    let until_changed = async |before: usize| {
        let enough = || load.acknowledged() >= before + CHANGES;
        until("changes get through", async || wanted(enough())).await;
    };
    until_changed(0).await;
    let asking: Vec<_> = (0..cluster.replicas.len())
        .map(|replica| tokio::spawn(ask(Arc::clone(&cluster), replica, Arc::clone(&load))))
        .collect();
    for _ in 0..2 {
        until_changed(load.acknowledged()).await;
        within("it is killed", own.kill()).await;
        // However fast it starts.
        let before = load.failures.load(Ordering::Relaxed);
        until("a call fails", async || {
            wanted(load.failures.load(Ordering::Relaxed) > before)
        })
        .await;
        within("Postgres is there again", own.start_again()).await;
        until_changed(load.acknowledged()).await;
        let (token, _) = load.get(0);
        for replica in &cluster.replicas {
            replica.until_says(&token, Said::Active).await;
        }
    }
    load.stop.store(true, Ordering::Relaxed);
    within("the last change", writing).await.unwrap();
    for asker in asking {
        let active = within("the last answer", asker).await.unwrap();
        assert!(active > 0, "nothing was asked");
    }
    // What was acknowledged is still so, everywhere.
    let clients = load.clients.lock().unwrap().clone();
    for (token, life) in &clients {
        let truth = cluster.truth(token).await.subject.expect("it was created");
        match life {
            Life::Working => assert!(!truth.revoked),
            Life::Ending => {}
            Life::Ended(_) => assert!(truth.revoked),
        }
    }
    let tokens: Vec<_> = clients.iter().map(|(token, _)| token.as_str()).collect();
    cluster.agree(&tokens).await;
}
