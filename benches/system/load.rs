//! How a server comes up on a large database: how long until it serves, how much
//! memory an API client takes, and how soon it sees a change from then on.
//!
//! Memory is the difference between a server on the full database and the same
//! server on an empty one. The tokens that are known are introspected, and every
//! answer is checked, so that what was loaded is also what is there.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use hitkeep_auth::pb::{
    InactiveReason, IntrospectRequest, PermissionCheck,
    api_client_service_client::ApiClientServiceClient,
    introspection_service_client::IntrospectionServiceClient,
};
use tonic::transport::Channel;

#[path = "../support.rs"]
mod support;

use support::{
    arguments::Arguments,
    calls,
    figures::{Samples, Table, ended, met, milliseconds},
    population::{self, Known},
    postgres::{Durability, Postgres},
    service::{Caller, Service},
};

/// Clients whose tokens are known.
const KNOWN: usize = 2000;
/// Clients that are revoked, one after the other.
const REVOKED: usize = 50;
/// How long a revoked token may go on working before the result is a wrong one.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the figures are to be, for a million clients.
const TIME_BOUND: Duration = Duration::from_secs(10);
const BYTES_BOUND: f64 = 500.0;

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let clients: usize = arguments.value("--clients", 1_000_000);
    let starts: usize = arguments.value("--starts", 3);
    arguments.done();
    let postgres = Postgres::start(Durability::ThrownAway);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let measured = runtime.block_on(measure(&postgres, clients.max(KNOWN), starts.max(1)));
    ended(measured)
}

async fn measure(postgres: &Postgres, clients: usize, starts: usize) -> Result<(), String> {
    let empty = postgres.migrated("empty").await;
    let full = postgres.migrated("bench").await;
    let begun = Instant::now();
    let known = population::fill(&full, clients, KNOWN).await;
    let filled = begun.elapsed().as_secs_f64();
    println!("{clients} clients, made in {filled:.1} s; {starts} starts of a server");
    let caller = Caller::create(&full);

    let (mut times, mut sizes, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..starts {
        // One at a time.
        drop(last.take());
        let service = Service::start(&full, &[]);
        times.push(service.serving().await);
        sizes.push(service.memory().resident);
        peaks.push(service.memory().peak);
        last = Some(service);
    }
    let service = last.expect("there was one");
    let small = Service::start(&empty, &[]);
    small.serving().await;
    let base = small.memory().resident;
    drop(small);

    check(&service, &caller, &known).await?;
    let seen = changes(&service, &caller, &known[..REVOKED]).await?;
    let times = Samples::of(times);
    sizes.sort_unstable();
    peaks.sort_unstable();
    let size = sizes[sizes.len() / 2];
    let each = count(size.saturating_sub(base)) / count(u64::try_from(clients).expect("a count"));
    let mebibytes = |bytes: u64| format!("{:.1} MiB", count(bytes) / 1024.0 / 1024.0);
    let mut table = Table::new(&["what", "median", "worst"]);
    table.row([
        "from the start of the process until it serves".to_owned(),
        milliseconds(times.median()),
        milliseconds(times.max()),
    ]);
    table.row([
        "resident, once it serves".to_owned(),
        mebibytes(size),
        mebibytes(sizes[sizes.len() - 1]),
    ]);
    table.row([
        "resident at its peak until then".to_owned(),
        mebibytes(peaks[peaks.len() / 2]),
        mebibytes(peaks[peaks.len() - 1]),
    ]);
    table.row([
        "resident on an empty database".to_owned(),
        mebibytes(base),
        String::new(),
    ]);
    table.row([
        "a client".to_owned(),
        format!("{each:.0} bytes"),
        String::new(),
    ]);
    table.row([
        "from an acknowledged revocation until it is seen".to_owned(),
        milliseconds(seen.median()),
        milliseconds(seen.max()),
    ]);
    table.print();
    println!(
        "bounds: serves within {TIME_BOUND:?}: {}; at most {BYTES_BOUND} bytes a client: {}",
        met(times.median() <= TIME_BOUND),
        met(each <= BYTES_BOUND)
    );
    Ok(())
}

fn count(number: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a figure for people; no memory is so large that it matters"
    )]
    let number = number as f64;
    number
}

/// Introspects every known token, each with a check on one of its sites, and one
/// on a site that it has no grant on.
async fn check(service: &Service, caller: &Caller, known: &[Known]) -> Result<(), String> {
    let mut introspection = IntrospectionServiceClient::new(service.connect().await);
    for (number, client) in known.iter().enumerate() {
        // The first site is a viewer's, the last one an admin's. Clients that
        // follow each other are of different teams where there are enough.
        let other = known
            .iter()
            .find(|other| !client.sites.contains(&other.sites[0]));
        let (site, permission, allowed) = match number % 4 {
            0 => (&client.sites[0], "site.view", true),
            1 => (&client.sites[2], "site.manage_team", true),
            2 => (&client.sites[0], "site.manage_goals", false),
            _ => match other {
                Some(other) => (&other.sites[0], "site.view", false),
                None => continue,
            },
        };
        let request = IntrospectRequest {
            check: Some(PermissionCheck {
                site_id: site.clone(),
                permission: permission.to_owned(),
            }),
            ..calls::introspect(&client.token)
        };
        let answer = introspection.introspect(caller.says(request)).await;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        let decided = answer.decision.as_ref().map(|decision| decision.allowed);
        let is_right = answer.active
            && answer.client_id == client.id
            && answer.owner.as_ref() == Some(&client.owner)
            && answer.site_grants.len() == 3
            && decided == Some(allowed);
        if !is_right {
            return Err(format!("{permission} should be {allowed}: {answer:?}"));
        }
    }
    Ok(())
}

/// Revokes clients, and measures how long each goes on working.
async fn changes(service: &Service, caller: &Caller, victims: &[Known]) -> Result<Samples, String> {
    let channel = service.connect().await;
    let mut manager = ApiClientServiceClient::new(channel);
    let mut introspection = IntrospectionServiceClient::new(service.connect().await);
    let mut times = Vec::new();
    for victim in victims {
        let revoked = manager
            .revoke_api_client(caller.says(calls::revoke(victim)))
            .await;
        revoked.map_err(|status| status.to_string())?;
        let acknowledged = Instant::now();
        times.push(refused(&mut introspection, caller, victim, acknowledged).await?);
    }
    Ok(Samples::of(times))
}

async fn refused(
    introspection: &mut IntrospectionServiceClient<Channel>,
    caller: &Caller,
    victim: &Known,
    acknowledged: Instant,
) -> Result<Duration, String> {
    while acknowledged.elapsed() < PATIENCE {
        let request = caller.says(calls::introspect(&victim.token));
        let answer = introspection.introspect(request).await;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        if !answer.active {
            return match answer.inactive_reason() {
                InactiveReason::Revoked => Ok(acknowledged.elapsed()),
                other => Err(format!("refused with {other:?}")),
            };
        }
    }
    Err(format!("still accepted after {PATIENCE:?}"))
}
