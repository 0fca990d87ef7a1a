//! A program in Go that holds the index (`clients/go/internal/judge`): each of its answers is what
//! the database said at the answer's revision, and none is older than the bound, while its
//! connections are cut and stalled. Its clock is its own, so the time of this test does not jump.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering},
};

use hitkeep_auth::{
    domain::{caller::CallerPermission, clock::Entropy},
    pb,
    system::SystemEntropy,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};

use crate::{
    asker::{Asker, Silence},
    cluster::Cluster,
    dice::Dice,
    everything::Everything,
    fixtures::introspect,
    gateway::Gateway,
    random::{Shared, ask},
    steps::Driver,
    support::programs,
    waiting::within,
};

const SERVERS: usize = 2;
/// Its number, as an asker.
const JUDGE: usize = SERVERS;
const STEPS: usize = 200;
/// How it says that its index is too old.
const TOO_OLD: &str = "the index may have missed changes";

/// The program, until it is dropped.
pub struct Judge {
    _process: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Builds the program. `None` where there is no Go, which is said loudly.
fn build() -> Option<PathBuf> {
    let go = programs::find("go", "target/ci-tools/go/bin/go")?;
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/go");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("judge");
    let mut build = Command::new(go);
    build.args(["build", "-o"]).arg(&program);
    build.arg("./internal/judge").current_dir(module);
    let built = build.output().unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    Some(program)
}

impl Judge {
    fn start(program: &Path, cluster: &Cluster, gateways: &[Gateway]) -> Self {
        let staleness = cluster.options.index.max_staleness;
        let upstreams = gateways.iter().map(|gateway| gateway.target().to_string());
        let mut process = tokio::process::Command::new(program)
            .args(["-upstreams", &upstreams.collect::<Vec<_>>().join(",")])
            .args(["-max-staleness", &format!("{}ms", staleness.as_millis())])
            .env(
                "HITKEEP_AUTH_TOKEN",
                cluster.token(CallerPermission::Replicate),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            questions: process.stdin.take().unwrap(),
            answers,
            _process: process,
        }
    }

    /// What it says.
    pub async fn ask(
        &mut self,
        request: &pb::IntrospectRequest,
    ) -> Result<pb::IntrospectResponse, Silence> {
        let mut question = json!({ "token": request.token });
        if let Some(check) = &request.check {
            question["permission"] = check.permission.clone().into();
            question["site_id"] = check.site_id.clone().into();
        }
        if let Some(revision) = request.at_least_revision {
            question["at_least_revision"] = revision.into();
        }
        let line = format!("{question}\n");
        self.questions.write_all(line.as_bytes()).await.unwrap();
        let line = within("an answer", self.answers.next_line()).await.unwrap();
        let said: Value = serde_json::from_str(&line.expect("it goes on")).unwrap();
        match said["unavailable"].as_str() {
            None => Ok(to_response(&said)),
            Some(why) if why.contains(TOO_OLD) => Err(Silence::Stale),
            Some(why) => Err(Silence::Other(why.to_owned())),
        }
    }
}

/// The answer in the form that a server would give it.
fn to_response(said: &Value) -> pb::IntrospectResponse {
    let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    let number = |prefix: &str, word: &str| {
        let name = format!("{prefix}_{}", word.to_uppercase());
        match prefix {
            "INACTIVE_REASON" => pb::InactiveReason::from_str_name(&name).map(i32::from),
            "INSTANCE_ROLE" => pb::InstanceRole::from_str_name(&name).map(i32::from),
            "SITE_ROLE" => pb::SiteRole::from_str_name(&name).map(i32::from),
            _ => pb::DecisionReason::from_str_name(&name).map(i32::from),
        }
        .unwrap_or_default()
    };
    let owner = text("owner");
    let owner = owner.split_once(':').map(|(kind, id)| match kind {
        "user" => pb::owner::Owner::UserId(id.to_owned()),
        _ => pb::owner::Owner::TeamId(id.to_owned()),
    });
    let grants = said["site_grants"].as_array().into_iter().flatten();
    let grants = grants.map(|grant| pb::SiteGrant {
        site_id: grant["site_id"].as_str().unwrap().to_owned(),
        role: number("SITE_ROLE", grant["role"].as_str().unwrap()),
    });
    let decision = said["decision"].as_str().map(|reason| pb::Decision {
        allowed: reason == "ALLOWED",
        reason: number("DECISION_REASON", reason),
    });
    let expire_time = said["expire_time"]
        .as_i64()
        .map(|micros| prost_types::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap(),
        });
    let active = said["active"] == true;
    pb::IntrospectResponse {
        active,
        inactive_reason: number("INACTIVE_REASON", &text("inactive_reason")),
        client_id: text("client_id"),
        client_name: text("client_name"),
        owner: owner.map(|owner| pb::Owner { owner: Some(owner) }),
        instance_role: number("INSTANCE_ROLE", &text("instance_role")),
        site_grants: grants.collect(),
        expire_time,
        revision: said["revision"].as_u64().unwrap(),
        // It says for how long by not answering any more.
        max_cache_age: active.then(prost_types::Duration::default),
        decision,
        error: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_in_go_says_what_the_database_said() {
    let Some(program) = build() else {
        return;
    };
    let mut seed = [0; 8];
    SystemEntropy.fill(&mut seed);
    let seed = u64::from_le_bytes(seed);
    println!("seed {seed}");
    let mut all = Everything::only_servers(SERVERS).await;
    let ways = [0, 1].map(|server| Gateway::to(&all.cluster.replicas[server].connections));
    let judge = Judge::start(&program, &all.cluster, &ways);
    let judge = Arc::new(Asker::judge("a program in Go", judge));
    all.askers.push(Arc::clone(&judge));
    let shared = Arc::new(Shared::default());
    let mut driver = Driver::new(&mut all, Arc::clone(&shared), Dice::new(seed));
    driver.begin().await;
    let dice = Dice::new(seed.wrapping_add(1));
    let asking = ask(JUDGE, Arc::clone(&judge), Arc::clone(&shared), dice);
    let asking = tokio::spawn(asking);
    let mut turns = shared.turns.subscribe();
    let mut dice = Dice::new(seed.wrapping_add(2));
    for _ in 0..STEPS {
        let way = dice.one_of(&ways);
        match dice.below(12) {
            0 => way.sever(),
            1 | 2 => {
                way.cut();
                driver.spare(&[JUDGE]);
            }
            3 | 4 => {
                way.stall();
                driver.spare(&[JUDGE]);
            }
            5..9 => {
                ways.iter().for_each(Gateway::mend);
                driver.spare(&[]);
            }
            _ => {}
        }
        turns.mark_unchanged();
        within("a step", driver.step()).await;
        within("a turn", turns.changed()).await.unwrap();
    }
    // It is asked until it cannot tell any more, and changes go on.
    ways.iter().for_each(Gateway::stall);
    driver.spare(&[JUDGE]);
    let works = shared.tokens.lock().unwrap()[0].clone();
    within("it is stale", async {
        while !matches!(judge.ask(&introspect(&works)).await, Err(Silence::Stale)) {
            driver.step().await;
        }
    })
    .await;
    ways.iter().for_each(Gateway::mend);
    driver.spare(&[]);
    driver.ask_everybody().await;
    shared.stop.store(true, Ordering::Relaxed);
    let given = within("the last answer", asking).await.unwrap();
    let (history, mut answers) = driver.end();
    let faults = answers.iter().filter_map(|one| history.fault(one));
    let mut faults: Vec<_> = faults.collect();
    // The two servers may be at different revisions, but each sends no less than it was asked for.
    faults.extend(history.faults(&given));
    answers.extend(given);
    answers.retain(|answered| answered.asker == JUDGE);
    let active = answers.iter().filter(|one| one.told.answer.active);
    let (all, active) = (answers.len(), active.count());
    println!("{all} answers of the program, {active} of them active");
    let first = faults.iter().take(3).cloned().collect::<Vec<_>>();
    assert!(
        faults.is_empty(),
        "{} answers are wrong; the first:\n{}",
        faults.len(),
        first.join("\n\n")
    );
    assert!(active > 0 && all > active, "{active} of {all} were active");
}
