//! Somebody else's changes: so many a second, spread over the replicas, each
//! begun at its time whether or not those before it are done.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use hitkeep_auth::pb::{
    ApiClient, ApplyDirectoryChangesRequest, DirectoryChange, ReactivateApiClientRequest,
    SiteMember, SiteRole, UpdateApiClientRequest,
    api_client_service_client::ApiClientServiceClient, directory_change::Change,
    directory_service_client::DirectoryServiceClient,
};
use prost_types::FieldMask;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tonic::{Status, transport::Channel};

use crate::support::{
    calls,
    population::Known,
    service::{Caller, Service},
};

/// The writer at work.
pub struct Writer {
    task: tokio::task::JoinHandle<()>,
    begun: Instant,
    counts: Arc<Counts>,
}

/// What it wrote.
pub struct Written {
    /// Changes made a second.
    pub rate: f64,
    /// Changes that were refused or failed.
    pub refused: u32,
}

#[derive(Default)]
struct Counts {
    made: AtomicU32,
    refused: AtomicU32,
}

/// Where changes go.
#[derive(Clone)]
struct Replica {
    clients: ApiClientServiceClient<Channel>,
    directory: DirectoryServiceClient<Channel>,
}

impl Writer {
    /// Starts to change those clients, so many times a second.
    pub async fn start(
        services: &[Service],
        caller: &Caller,
        clients: &[Known],
        changes: u32,
    ) -> Self {
        let mut replicas = Vec::new();
        for service in services {
            let channel = service.connect().await;
            replicas.push(Replica {
                clients: ApiClientServiceClient::new(channel.clone()),
                directory: DirectoryServiceClient::new(channel),
            });
        }
        let counts = Arc::new(Counts::default());
        let task = write(
            replicas,
            caller.clone(),
            clients.to_vec(),
            changes,
            Arc::clone(&counts),
        );
        Self {
            task: tokio::spawn(task),
            begun: Instant::now(),
            counts,
        }
    }

    /// Stops, and says what was written.
    pub async fn stop(self) -> Written {
        let took = self.begun.elapsed().as_secs_f64();
        self.task.abort();
        drop(self.task.await);
        Written {
            rate: f64::from(self.counts.made.load(Ordering::Relaxed)) / took,
            refused: self.counts.refused.load(Ordering::Relaxed),
        }
    }
}

async fn write(
    replicas: Vec<Replica>,
    caller: Caller,
    clients: Vec<Known>,
    changes: u32,
    counts: Arc<Counts>,
) {
    let mut ticks = interval(Duration::from_secs(1) / changes.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    for number in 0_usize.. {
        ticks.tick().await;
        while under_way.try_join_next().is_some() {}
        if changes == 0 {
            std::future::pending::<()>().await;
        }
        let replica = replicas[number % replicas.len()].clone();
        let client = clients[number / 10 % clients.len()].clone();
        let (caller, counts) = (caller.clone(), Arc::clone(&counts));
        under_way.spawn(async move {
            let count = match change(replica, &caller, &client, number).await {
                Ok(()) => &counts.made,
                Err(_) => &counts.refused,
            };
            count.fetch_add(1, Ordering::Relaxed);
        });
    }
}

/// Of ten changes four create, two rename, two change somebody's role on a site,
/// one revokes and one reactivates.
async fn change(
    mut replica: Replica,
    caller: &Caller,
    client: &Known,
    number: usize,
) -> Result<(), Status> {
    let actor = Some(client.actor.clone());
    let id = client.id.clone();
    match number % 10 {
        0 | 2 | 5 | 7 => {
            let request = caller.says(calls::create_like(client));
            replica.clients.create_api_client(request).await?;
        }
        1 | 6 => {
            let api_client = Some(ApiClient {
                id,
                name: format!("Renamed {number}"),
                ..ApiClient::default()
            });
            let update_mask = Some(FieldMask {
                paths: vec!["name".to_owned()],
            });
            let request = UpdateApiClientRequest {
                actor,
                api_client,
                update_mask,
            };
            let request = caller.says(request);
            replica.clients.update_api_client(request).await?;
        }
        3 => {
            let request = caller.says(calls::revoke(client));
            replica.clients.revoke_api_client(request).await?;
        }
        8 => {
            let request = caller.says(ReactivateApiClientRequest { actor, id });
            replica.clients.reactivate_api_client(request).await?;
        }
        _ => {
            // Never below the viewer that the client is on its first site.
            let role = match number % 2 {
                0 => SiteRole::Viewer,
                _ => SiteRole::Editor,
            };
            let member = SiteMember {
                site_id: client.sites[0].clone(),
                user_id: client.actor.user_id.clone(),
                role: role.into(),
            };
            let change = DirectoryChange {
                change: Some(Change::PutSiteMember(member)),
            };
            let request = ApplyDirectoryChangesRequest {
                changes: vec![change],
                sequence: None,
            };
            let request = caller.says(request);
            replica.directory.apply_directory_changes(request).await?;
        }
    }
    Ok(())
}
