//! The steps of the random test: one change after the other, spread over the
//! servers, and after each what the database says of every token.

use std::sync::{Arc, atomic::Ordering};

mod outages;

use futures_util::{StreamExt, TryStreamExt, stream};
use hitkeep_auth::pb::{self, InactiveReason};
use tonic::{Code, Status};

use crate::{
    asker::Told,
    changes::{self, INSTANCE_ROLES, SITE_ROLES, SITES, USERS},
    checker::{Answered, History, State},
    cluster::{at_least, hash},
    dice::Dice,
    everything::{Everything, WITNESS},
    fixtures::*,
    harness::Caller,
    random::{Shared, any_check, bound, now},
    restored::Backup,
    support::proxy::{Direction, Limit, Listeners, Then},
    waiting::until,
};

/// Look-ups of the oracle at once.
const LOOK_UPS: usize = 4;

/// A client that was created.
#[derive(Clone)]
struct Known {
    id: String,
    actor: &'static str,
    /// The number of its newest token.
    token: usize,
}

/// What a step did.
struct Made {
    what: String,
    /// The revision that was acknowledged, where one was.
    revision: Option<u64>,
    /// The number of the token that it is about.
    token: Option<usize>,
    /// Whether that token is new.
    issued: bool,
    /// How many changes it committed at most.
    changes: u64,
}

/// Whoever changes things.
pub struct Driver<'e> {
    all: &'e mut Everything,
    shared: Arc<Shared>,
    dice: Dice,
    clients: Vec<Known>,
    /// One that no step but an outage changes: it is revoked there.
    victim: Option<Known>,
    /// The numbers of the askers that are cut off.
    silent: Vec<usize>,
    /// A copy of the database, and the clients that are in it.
    backup: Option<(Backup, Vec<Known>)>,
    history: History,
    answers: Vec<Answered>,
}

impl<'e> Driver<'e> {
    pub fn new(all: &'e mut Everything, shared: Arc<Shared>, dice: Dice) -> Self {
        let time = all.cluster.time.clone();
        let bound = bound(all.cluster.options.index.max_staleness);
        Self {
            all,
            shared,
            dice,
            clients: Vec::new(),
            victim: None,
            silent: Vec::new(),
            backup: None,
            history: History::new(bound, time),
            answers: Vec::new(),
        }
    }

    /// Makes the first clients. The first of all always works.
    pub async fn begin(&mut self) {
        self.note("the beginning".to_owned()).await;
        for _ in 0..2 {
            let made = self.created_for(WITNESS, personal(WITNESS)).await;
            self.check(made).await;
        }
        self.victim = self.clients.pop();
        self.clients.clear();
        while self.clients.len() < 4 {
            let made = self.create().await;
            self.check(made).await;
        }
    }

    /// All that happened, and the answers to the driver's own questions.
    pub fn end(self) -> (History, Vec<Answered>) {
        (self.history, self.answers)
    }

    /// Asks all but these from here on: they are cut off.
    pub fn spare(&mut self, askers: &[usize]) {
        self.silent = askers.to_vec();
    }

    /// Does one thing, and notes what the database says then.
    pub async fn step(&mut self) {
        let made = match self.dice.below(100) {
            0..8 => self.create().await,
            8..14 => self.rotate().await,
            14..19 => self.revoke().await,
            19..29 => self.reactivate().await,
            29..31 => self.delete().await,
            31..45 => self.update().await,
            45..67 => self.push().await,
            67..84 => self.by_hand().await,
            84..88 => self.two_at_once().await,
            88..90 => return self.break_something(),
            // Where there are links; there, time jumps.
            90..98 if !self.all.links.is_empty() => return self.break_a_link().await,
            _ => self.mend_the_world().await,
        };
        self.check(made).await;
    }

    /// Whatever was acknowledged is known everywhere to whoever asks for it.
    async fn check(&mut self, made: Option<Made>) {
        let Some(made) = made else { return };
        let acknowledged = now();
        if made.issued {
            // Whoever was given a token may use it at once.
            let token = made.token.expect("it was issued");
            let told = self.ask(token, None).await;
            assert_ne!(
                told.answer.inactive_reason(),
                InactiveReason::UnknownToken,
                "{}",
                made.what
            );
        }
        if let Some(revision) = made.revision {
            self.shared.newest.fetch_max(revision, Ordering::Relaxed);
            let tokens = self.shared.tokens.lock().unwrap().len();
            if tokens > 0 {
                let token = made.token.unwrap_or_else(|| self.dice.below(tokens));
                let told = self.ask(token, Some(revision)).await;
                let reached = told.revision.is_none_or(|reached| reached >= revision);
                assert!(reached, "{}: {told:?}", made.what);
            }
        }
        self.observe(made.what, made.changes).await;
        self.history.states.last_mut().unwrap().acknowledged = acknowledged;
    }

    /// Asks anybody, and notes the answer for the checker.
    async fn ask(&mut self, token: usize, wanted: Option<u64>) -> Told {
        let askers = 0..self.all.askers.len();
        let heard: Vec<_> = askers
            .filter(|asker| !self.silent.contains(asker))
            .collect();
        let asker = *self.dice.one_of(&heard);
        self.ask_one(asker, token, wanted).await
    }

    /// Asks that one.
    async fn ask_one(&mut self, asker: usize, token: usize, wanted: Option<u64>) -> Told {
        let text = self.shared.tokens.lock().unwrap()[token].clone();
        let mut request =
            wanted.map_or_else(|| introspect(&text), |wanted| at_least(&text, wanted));
        request.check = any_check(&mut self.dice);
        let by = &self.all.askers[asker];
        // Its connections may have been severed a moment ago.
        let (sent, told) = until(&format!("{} answers", by.name), async || {
            let sent = now();
            by.ask(&request).await.map(|told| (sent, told))
        })
        .await;
        self.answers.push(Answered {
            asker,
            token,
            request,
            sent,
            received: now(),
            told: told.clone(),
        });
        told
    }

    /// Notes what the database says of every token. Nobody else changes anything,
    /// so all of it is of one revision.
    async fn observe(&mut self, step: String, changes: u64) {
        let before = self.history.states.last().map_or(0, |state| state.revision);
        self.note(step.clone()).await;
        let revision = self.history.states.last().unwrap().revision;
        assert!(
            (before..=before + changes).contains(&revision),
            "{before}, {step}, {revision}"
        );
    }

    /// The same, after whatever number of changes.
    async fn note(&mut self, step: String) {
        let tokens = self.shared.tokens.lock().unwrap().clone();
        let store = &self.all.cluster.store;
        // Connections break where the database is copied or replaced.
        let found = until("the database tells", async || {
            let looked_up = stream::iter(&tokens)
                .map(async |token| store.look_up(Some(hash(token).into())).await)
                .buffered(LOOK_UPS);
            looked_up.try_collect::<Vec<_>>().await
        })
        .await;
        let revision = self.all.cluster.revision().await;
        assert!(
            found.iter().all(|found| found.revision.0 == revision),
            "{step}"
        );
        let state = self.history.states.len();
        self.history.born.resize(found.len(), state);
        self.history.states.push(State {
            revision,
            step,
            acknowledged: now(),
            subjects: found.into_iter().map(|found| found.subject).collect(),
        });
    }

    /// A server that no fault waits for.
    fn any_replica(&mut self) -> usize {
        let replicas = self.all.cluster.replicas.iter().enumerate();
        let sound: Vec<_> = replicas
            .filter(|(_, replica)| !replica.proxy.is_limited())
            .map(|(number, _)| number)
            .collect();
        *self.dice.one_of(&sound)
    }

    fn any_dashboard(&mut self) -> Caller {
        let replica = self.any_replica();
        self.all.cluster.replicas[replica].dashboard.clone()
    }

    fn any_client(&mut self) -> Known {
        let client = self.dice.one_of(&self.clients).clone();
        self.shared.hot.store(client.token, Ordering::Relaxed);
        client
    }

    fn issued(&mut self, text: String) -> usize {
        let mut tokens = self.shared.tokens.lock().unwrap();
        tokens.push(text);
        let token = tokens.len() - 1;
        self.shared.hot.store(token, Ordering::Relaxed);
        token
    }

    fn any_grants(&mut self) -> Vec<pb::SiteGrant> {
        let mut grants = Vec::new();
        for site in SITES {
            if self.dice.percent(45) {
                let role = *self.dice.one_of(&SITE_ROLES);
                grants.push(grant(site, role));
            }
        }
        grants
    }

    /// Never for the most part; sometimes so soon that it comes in this test.
    fn any_expiry(&mut self) -> Option<prost_types::Timestamp> {
        let milliseconds = match self.dice.below(10) {
            0 => 500,
            1 => 2_000,
            2 => 3_600_000,
            _ => return None,
        };
        let time = now() + chrono::TimeDelta::milliseconds(milliseconds);
        Some(prost_types::Timestamp {
            seconds: time.timestamp(),
            nanos: i32::try_from(time.timestamp_subsec_micros() * 1000).unwrap(),
        })
    }

    async fn create(&mut self) -> Option<Made> {
        let (actor, mut request) = if self.dice.percent(40) {
            let actor = *self.dice.one_of(&[ALICE, ADAM]);
            (actor, team_client(actor))
        } else {
            let actor = *self.dice.one_of(&USERS);
            (actor, personal(actor))
        };
        let grants = self.any_grants();
        let client = request.api_client.as_mut().unwrap();
        client.site_grants = grants;
        client.expire_time = self.any_expiry();
        if client.owner == of_user(actor) && self.dice.percent(30) {
            client.instance_role = Some((*self.dice.one_of(&INSTANCE_ROLES)).into());
        }
        self.created_for(actor, request).await
    }

    async fn created_for(
        &mut self,
        actor: &'static str,
        request: pb::CreateApiClientRequest,
    ) -> Option<Made> {
        let made = accepted(self.any_dashboard().create(request).await)?;
        let token = self.issued(made.token);
        let id = made.api_client.unwrap().id;
        self.clients.push(Known { id, actor, token });
        Some(Made {
            issued: true,
            ..about("create", made.revision, token)
        })
    }

    async fn rotate(&mut self) -> Option<Made> {
        let client = self.any_client();
        let seconds = *self.dice.one_of(&[0, 1, 3600]);
        let request = rotate_with_overlap(client.actor, &client.id, seconds);
        let made = accepted(self.any_dashboard().rotate(request).await)?;
        let token = self.issued(made.token);
        let known = self.clients.iter_mut().find(|known| known.id == client.id);
        known.unwrap().token = token;
        Some(Made {
            issued: true,
            ..about("rotate", made.revision, token)
        })
    }

    async fn revoke(&mut self) -> Option<Made> {
        let client = self.any_client();
        let call = self.any_dashboard();
        let made = accepted(call.revoke(revoke(ROOT, &client.id)).await)?;
        let told = self.ask(client.token, Some(made.revision)).await;
        assert!(!told.answer.active, "{}: {told:?}", made.revision);
        Some(about("revoke", made.revision, client.token))
    }

    async fn reactivate(&mut self) -> Option<Made> {
        let client = self.any_client();
        let request = reactivate(client.actor, &client.id);
        let made = accepted(self.any_dashboard().reactivate(request).await)?;
        Some(about("reactivate", made.revision, client.token))
    }

    async fn delete(&mut self) -> Option<Made> {
        if self.clients.len() < 4 {
            return None;
        }
        let client = self.any_client();
        let made = accepted(self.any_dashboard().delete(delete(ROOT, &client.id)).await)?;
        self.clients.retain(|known| known.id != client.id);
        Some(about("delete", made.revision, client.token))
    }

    fn any_update(&mut self, client: &Known) -> pb::UpdateApiClientRequest {
        let field = *self
            .dice
            .one_of(&["name", "site_grants", "site_grants", "expire_time"]);
        let message = pb::ApiClient {
            id: client.id.clone(),
            name: format!("name {}", self.dice.below(1000)),
            site_grants: self.any_grants(),
            expire_time: self.any_expiry(),
            ..pb::ApiClient::default()
        };
        update(client.actor, message, &[field])
    }

    async fn update(&mut self) -> Option<Made> {
        let client = self.any_client();
        let request = self.any_update(&client);
        let made = accepted(self.any_dashboard().update(request).await)?;
        Some(about("update", made.revision, client.token))
    }

    /// Two calls about different clients, through different servers.
    async fn two_at_once(&mut self) -> Option<Made> {
        let (one, other) = (self.any_client(), self.any_client());
        if one.id == other.id {
            return None;
        }
        let (first, second) = (self.any_dashboard(), self.any_dashboard());
        let request = self.any_update(&one);
        let (updated, revoked) = tokio::join!(
            first.update(request),
            second.revoke(revoke(ROOT, &other.id)),
        );
        let updated = accepted(updated).map(|made| made.revision);
        let revoked = accepted(revoked).map(|made| made.revision);
        Some(Made {
            what: "two at once".to_owned(),
            revision: updated.max(revoked),
            token: Some(if self.dice.percent(50) {
                one.token
            } else {
                other.token
            }),
            issued: false,
            changes: 2,
        })
    }

    async fn push(&mut self) -> Option<Made> {
        let count = *self.dice.one_of(&[1, 1, 1, 3]);
        let changes: Vec<_> = (0..count)
            .map(|_| changes::any_change(&mut self.dice))
            .collect();
        let what = format!("{changes:?}");
        let replica = self.any_replica();
        let pusher = &self.all.cluster.replicas[replica].pusher;
        let made = accepted(pusher.apply(batch(changes)).await)?;
        Some(of_all(what, Some(made.revision)))
    }

    async fn mend_the_world(&mut self) -> Option<Made> {
        let replica = self.any_replica();
        let pusher = &self.all.cluster.replicas[replica].pusher;
        let made = accepted(pusher.apply(batch(world())).await)?;
        Some(of_all("the world again".to_owned(), Some(made.revision)))
    }

    /// A row that somebody changes with psql.
    async fn by_hand(&mut self) -> Option<Made> {
        let client = self.any_client();
        let sql = changes::any_statement(&mut self.dice, &client.id);
        self.all.cluster.psql(&sql).await;
        // The revision, where the change made one, is the database's newest.
        let revision = self.all.cluster.revision().await;
        Some(of_all(sql, Some(revision)))
    }

    /// Breaks connections of a server, or loses its notifications for a while.
    fn break_something(&mut self) {
        let replica = self.any_replica();
        let others = self.all.cluster.replicas.iter().enumerate();
        let other_limited = others
            .filter(|(number, _)| *number != replica)
            .any(|(_, other)| other.proxy.is_limited());
        let proxy = &self.all.cluster.replicas[replica].proxy;
        match self.dice.below(4) {
            0 => proxy.listeners(Listeners::Mute),
            1 => proxy.listeners(Listeners::Heard),
            2 if !other_limited => proxy.limit(Limit {
                direction: *self
                    .dice
                    .one_of(&[Direction::ToClient, Direction::ToServer]),
                bytes: self.dice.below(3000) as u64,
                then: Then::Sever,
            }),
            _ => proxy.sever(),
        }
    }
}

fn about(what: &str, revision: u64, token: usize) -> Made {
    Made {
        what: format!("{what}, token {token}"),
        revision: Some(revision),
        token: Some(token),
        issued: false,
        changes: 1,
    }
}

fn of_all(what: String, revision: Option<u64>) -> Made {
    Made {
        what,
        revision,
        token: None,
        issued: false,
        changes: 1,
    }
}

/// What a call gave; `None` where the rules refuse it, which changes nothing.
fn accepted<T>(result: Result<T, Status>) -> Option<T> {
    match result {
        Ok(given) => Some(given),
        Err(status) => {
            let refusals = [
                Code::InvalidArgument,
                Code::NotFound,
                Code::PermissionDenied,
                Code::FailedPrecondition,
                Code::ResourceExhausted,
            ];
            assert!(refusals.contains(&status.code()), "{status:?}");
            None
        }
    }
}
