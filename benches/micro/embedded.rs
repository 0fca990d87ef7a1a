//! What a check costs a program that holds the index itself: from the text of a token to the
//! decision on a permission. Beside it, in turns, the same question as a call of its own over a
//! Unix socket, which is the fastest way to ask.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use hitkeep_auth_client::{
    Authenticator, CallerToken, Client, EmbeddedOptions, PermissionCheck, SitePermission,
};

#[path = "../support.rs"]
mod support;

use support::{
    arguments::Arguments,
    figures::{Samples, Table, met},
    population::{self, Known},
    postgres::{Durability, Postgres},
    service::{LISTEN, Service},
};

/// Tokens that are presented in turn: as many as a busy program sees again and again, and so
/// many that what belongs to each is in no cache of the processor when its turn comes.
const BUSY: usize = 1000;
const COLD: usize = 100_000;
/// Checks that are timed together, after a few calls, which leave the caches to others: so many
/// that the first ones do not count.
const TOGETHER: usize = 20_000;
/// What is wanted of a check, up to so many clients and with more.
const FEW: usize = 1000;
const BOUND_FEW: Duration = Duration::from_nanos(500);
const BOUND_MANY: Duration = Duration::from_micros(1);
/// How many times a call must take that.
const BOUND_TIMES: f64 = 20.0;

struct Options {
    few: usize,
    many: usize,
    rounds: usize,
    calls: usize,
    together: usize,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let options = Options {
        few: arguments.value("--few", FEW),
        many: arguments.value("--clients", 1_000_000),
        rounds: arguments.value("--rounds", 100),
        calls: arguments.value("--calls", 50),
        together: arguments.value("--together", TOGETHER),
    };
    arguments.done();
    let postgres = Postgres::start(Durability::ThrownAway);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let heads = [
        "clients", "tokens", "check", "p99", "call", "times", "verdict",
    ];
    let mut table = Table::new(&heads);
    for (clients, tokens) in [
        (options.few, &[BUSY][..]),
        (options.many, &[BUSY, COLD][..]),
    ] {
        let rows = runtime.block_on(measure(&postgres, clients, tokens, &options));
        for row in rows {
            table.row(row);
        }
    }
    table.print();
    ExitCode::SUCCESS
}

/// A row for each number of tokens, which ascend.
async fn measure(
    postgres: &Postgres,
    clients: usize,
    tokens: &[usize],
    options: &Options,
) -> Vec<[String; 7]> {
    let database = postgres.migrated(&format!("embedded_{clients}")).await;
    let most = tokens.last().expect("there are some");
    let known = population::fill(&database, clients, *most).await;
    let socket = std::env::temp_dir().join(format!("hka-bench-{}", std::process::id()));
    let address = format!("unix:{}", socket.display());
    // It says where it listens only over TCP.
    let service = Service::start(&database, &[LISTEN, "127.0.0.1:0", LISTEN, &address]);
    service.serving().await;
    let client = |token: &str| {
        let token = CallerToken::new(token).expect("a token");
        let client = Client::builder(&address).caller_token(token);
        client.build().expect("a client")
    };
    let asking = Authenticator::asking(&client(&account(&database, "asks", "introspect")));
    let replicating = client(&account(&database, "holds", "replicate"));
    let patient = EmbeddedOptions {
        max_staleness: Duration::from_mins(10),
        ..EmbeddedOptions::default()
    };
    let embedded = Authenticator::embedded(&replicating, patient);
    embedded.ready().await;

    let mut rows = Vec::new();
    for tokens in tokens {
        let mut presented = known[..*tokens].iter().cycle();
        let (mut checks, mut calls) = (Vec::new(), Vec::new());
        // Once unmeasured, so that everything is where it will be.
        for round in 0..=options.rounds {
            let checked = time(&embedded, &mut presented, options.together).await;
            let called = time(&asking, &mut known.iter(), options.calls).await;
            if round > 0 {
                checks.push(checked);
                calls.push(called);
            }
        }
        let (checks, calls) = (Samples::of(checks), Samples::of(calls));
        let times = calls.median().as_secs_f64() / checks.median().as_secs_f64();
        let bound = if clients <= FEW {
            BOUND_FEW
        } else {
            BOUND_MANY
        };
        let is_met = checks.median() <= bound && times >= BOUND_TIMES;
        rows.push([
            clients.to_string(),
            tokens.to_string(),
            format!("{} ns", checks.median().as_nanos()),
            format!("{} ns", checks.p99().as_nanos()),
            format!("{:.1} µs", calls.median().as_secs_f64() * 1e6),
            format!("{times:.0}"),
            met(is_met),
        ]);
    }
    embedded.finish().await;
    drop(service);
    rows
}

/// The mean time of so many questions, about one token after the other.
async fn time<'k>(
    by: &Authenticator,
    presented: &mut impl Iterator<Item = &'k Known>,
    count: usize,
) -> Duration {
    let asked: Vec<_> = presented.take(count).map(question).collect();
    let begun = Instant::now();
    for (token, check) in asked {
        let principal = by.check(token, check).await;
        drop(std::hint::black_box(
            principal.expect("the token carries that"),
        ));
    }
    begun.elapsed() / u32::try_from(count).expect("a few")
}

fn question(known: &Known) -> (&str, PermissionCheck) {
    let site = known.sites[0].parse().expect("a site");
    let permission = SitePermission::View;
    (&known.token, PermissionCheck::Site { site, permission })
}

/// Makes a service account, and gives its token.
fn account(database: &str, name: &str, allow: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hitkeep-auth"))
        .args(["service-account", "create", name, "--json"])
        .args(["--allow", allow, "--database-url", database])
        .output()
        .expect("the binary runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    made["token"].as_str().expect("a token").to_owned()
}
