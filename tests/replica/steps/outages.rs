//! What breaks: the ways between those who follow and those whom they follow, processes, and
//! the database's history; and those who come in a crowd, or read slowly.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::{StreamExt, future::join_all, stream};
use hitkeep_auth::{domain::caller::CallerPermission, pb::InstanceRole};

use super::{Driver, Made, about, of_all};
use crate::{
    everything::{STALENESS, WITNESS},
    fixtures::*,
    gateway::Streams,
    harness,
    random::now,
    replication::{
        spoken::{Spoken, start},
        turns::narrow,
    },
    restored::Backup,
    waiting::until,
};

/// More than anybody may go by what was before.
const TOO_LONG: Duration = STALENESS.saturating_mul(2);
/// How many replicas come at once.
const CROWD: usize = 1000;
/// How many of them come at a time at first.
const AT_A_TIME: usize = 20;
/// Changes in a row, while somebody does not read.
const STORM: usize = 200;

/// How a link fails without being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silent {
    /// Nothing goes either way.
    Stalled,
    /// No answer comes.
    Deaf,
    /// Of the replication alone nothing comes: the connection lives.
    Held,
    /// It is closed, and not opened again.
    Cut,
}

impl Driver<'_> {
    /// Breaks something between those who follow and those whom they follow, and mends it.
    pub(super) async fn break_a_link(&mut self) {
        let link = self.dice.below(self.all.links.len());
        match self.dice.below(8) {
            0 => self.all.links[link].sever(),
            1 => self.fall_silent(link, Silent::Stalled).await,
            2 => self.fall_silent(link, Silent::Deaf).await,
            3 | 4 => self.fall_silent(link, Silent::Held).await,
            5 => self.fall_silent(link, Silent::Cut).await,
            6 => self.hold_reports(link).await,
            _ => self.kill().await,
        }
    }

    /// Takes from those behind a link what they could hear, and lets time pass: they must not
    /// accept what was revoked meanwhile, nor call anything inactive that is not.
    async fn fall_silent(&mut self, link: usize, how: Silent) {
        self.revive_victim().await;
        let behind = self.all.links[link].behind.clone();
        let silenced = &self.all.links[link];
        match how {
            Silent::Stalled => silenced.stall(),
            Silent::Deaf => silenced.deafen(),
            Silent::Held => silenced.hold(Streams::Replication),
            Silent::Cut => silenced.cut(),
        }
        self.silent.clone_from(&behind);
        let (works, victim) = self.fixed_tokens();
        let made = self.revoke_victim(&format!("{how:?}: revoke")).await;
        self.check(Some(made)).await;
        let held = if how == Silent::Held {
            // The change, and an answer.
            self.all.links[link].until_held(2).await
        } else {
            Vec::new()
        };
        self.all.cluster.time.jump(TOO_LONG);
        self.all.are_stale(&behind, &[&works, &victim]).await;
        if how == Silent::Held {
            // Late answers prove what was true when their questions were asked, and no more.
            self.all.links[link].release(&held).await;
            for asker in &behind {
                let refuses = self.accepts_not(*asker, &victim).await;
                assert!(refuses, "{how:?}: {}", self.all.askers[*asker].name);
            }
        }
        self.all.links[link].mend();
        self.silent.clear();
        self.all.until_all_accept(&works).await;
        self.all.until_revoked(&behind, &victim).await;
    }

    /// Whether somebody does not accept a token.
    async fn accepts_not(&self, asker: usize, token: &str) -> bool {
        let told = self.all.askers[asker].ask(&introspect(token)).await;
        !told.is_ok_and(|told| told.answer.active)
    }

    /// Holds back everything but the replication on a link: the replies to reports of uses.
    /// They are overtaken, and nothing else happens.
    async fn hold_reports(&mut self, link: usize) {
        self.revive_victim().await;
        let behind = self.all.links[link].behind.clone();
        self.all.links[link].hold(Streams::Others);
        // Whoever accepts a token has something to report.
        let (works, victim) = self.fixed_tokens();
        self.all.until_all_accept(&works).await;
        self.all.links[link].until_held(1).await;
        let made = self.revoke_victim("reports are held back: revoke").await;
        self.check(Some(made)).await;
        self.all.until_revoked(&behind, &victim).await;
        self.all.links[link].mend();
    }

    /// Kills a process.
    async fn kill(&mut self) {
        let servers = self.all.cluster.replicas.len();
        let killed = self.dice.below(servers + 1);
        self.revive_victim().await;
        let (works, victim) = self.fixed_tokens();
        if killed < servers {
            self.all.restart_server(killed).await;
        } else {
            self.all.restart_first().await;
        }
        let made = self
            .revoke_victim("after a process was killed: revoke")
            .await;
        self.check(Some(made)).await;
        self.all.until_all_accept(&works).await;
        let everybody: Vec<_> = (0..self.all.askers.len()).collect();
        self.all.until_revoked(&everybody, &victim).await;
    }

    /// The token that always works, and the victim's.
    fn fixed_tokens(&self) -> (String, String) {
        let tokens = self.shared.tokens.lock().unwrap();
        let victim = self.victim.as_ref().unwrap().token;
        (tokens[0].clone(), tokens[victim].clone())
    }

    /// Lets the victim's token work, for everybody.
    async fn revive_victim(&mut self) {
        let victim = self.victim.clone().unwrap();
        let dashboard = self.any_dashboard();
        let made = dashboard.reactivate(reactivate(WITNESS, &victim.id)).await;
        if let Some(made) = super::accepted(made) {
            let made = about("reactivate the victim", made.revision, victim.token);
            self.check(Some(made)).await;
        }
        let (works, victim) = self.fixed_tokens();
        self.all.until_all_accept(&victim).await;
        self.all.until_all_accept(&works).await;
    }

    async fn revoke_victim(&mut self, what: &str) -> Made {
        let victim = self.victim.clone().unwrap();
        self.shared.hot.store(victim.token, Ordering::Relaxed);
        let dashboard = self.any_dashboard();
        let made = dashboard.revoke(revoke(WITNESS, &victim.id)).await.unwrap();
        about(what, made.revision, victim.token)
    }

    /// Copies the database, for which everybody has to leave for a moment.
    pub async fn back_up(&mut self) {
        let backup = Backup::make(&self.all.cluster).await;
        self.backup = Some((backup, self.clients.clone()));
        self.until_all_write().await;
        self.note("after a backup".to_owned()).await;
    }

    /// Puts the copy in the place of the database, under everybody who goes by it. From there
    /// on, the same revisions are others.
    pub async fn restore(&mut self) {
        let (backup, clients) = self.backup.take().expect("a backup was made");
        backup.restore().await;
        self.shared.newest.store(0, Ordering::Relaxed);
        self.clients = clients;
        self.until_all_write().await;
        self.note("the backup is restored".to_owned()).await;
        // Who knows of what is made now, knows of the restoration.
        self.shared.hot.store(0, Ordering::Relaxed);
        let made = self.created_for(WITNESS, personal(WITNESS)).await;
        let client = self.clients.pop().unwrap();
        self.check(made).await;
        let token = self.shared.tokens.lock().unwrap()[client.token].clone();
        self.all.until_all_accept(&token).await;
        self.revive_victim().await;
    }

    /// Waits until each server has connections to the database again.
    async fn until_all_write(&mut self) {
        for server in &self.all.cluster.replicas {
            until("the server writes", async || {
                let nothing = put_user(WITNESS, InstanceRole::User, false);
                server.pusher.apply(batch([nothing])).await
            })
            .await;
        }
        until("the database is there again", async || {
            self.all.cluster.store.look_up(None).await
        })
        .await;
    }

    /// Many replicas follow a server, lose their connections, and come back at once.
    pub async fn a_crowd_comes_back(&mut self) {
        self.revive_victim().await;
        let (works, victim) = self.fixed_tokens();
        let connections = self.all.cluster.replicas[0].connections.clone();
        let token = self.all.cluster.token(CallerPermission::Replicate);
        let channel = harness::channel(&connections).await;
        let begun = Spoken::begin(&channel, token, start(None)).await;
        let mut first = begun.unwrap();
        first.refresh().await.unwrap();
        let copy = &first.copy;
        let come = async |_| {
            let channel = harness::channel(&connections).await;
            let resumed = Spoken::resume(&channel, token, copy.clone()).await;
            let mut spoken = resumed.unwrap();
            let question = spoken.ask(false);
            spoken.until_answered(question).await.unwrap();
            spoken
        };
        let crowd = stream::iter(0..CROWD).map(come).buffer_unordered(AT_A_TIME);
        let crowd: Vec<_> = crowd.collect().await;
        let copies: Vec<_> = crowd.into_iter().map(|spoken| spoken.copy).collect();
        // All of them are gone now.
        let made = self.revoke_victim("a crowd comes back: revoke").await;
        let token = self.all.cluster.token(CallerPermission::Replicate);
        let back = copies.into_iter().map(async |copy| {
            let channel = harness::channel(&connections).await;
            // There is a limit, and those that are gone may still count.
            until("it is back", async || {
                let mut spoken = Spoken::resume(&channel, token, copy.clone()).await?;
                let answer = spoken.refresh().await?;
                if let Some(error) = answer.error {
                    return Err(tonic::Status::unavailable(error.message));
                }
                assert_eq!(spoken.snapshots, 0, "it had a position");
                Ok::<_, tonic::Status>(spoken.copy)
            })
            .await
        });
        let back = join_all(back).await;
        let reached = |copy: &crate::replication::spoken::Copy| {
            let position = copy.position.as_ref();
            position.is_some_and(|position| position.revision >= made.revision.unwrap())
        };
        assert_eq!(back.iter().filter(|copy| reached(copy)).count(), CROWD);
        assert!(back.iter().all(|copy| copy.clients == back[0].clients));
        self.check(Some(made)).await;
        let everybody: Vec<_> = (0..self.all.askers.len()).collect();
        self.all.until_revoked(&everybody, &victim).await;
        self.all.until_all_accept(&works).await;
    }

    /// One change follows the other, while somebody who follows a server does not read.
    pub async fn somebody_reads_slowly(&mut self) {
        self.revive_victim().await;
        let victim = self.victim.clone().unwrap();
        let channel = narrow(&self.all.cluster.replicas[0].connections).await;
        let token = self.all.cluster.token(CallerPermission::Replicate);
        let begun = Spoken::begin(&channel, token, start(None)).await;
        let mut slow = begun.unwrap();
        slow.refresh().await.unwrap();
        let before = slow.parts;
        let long = "x".repeat(100);
        self.shared.hot.store(victim.token, Ordering::Relaxed);
        for number in 0..STORM {
            let sql = format!(
                "UPDATE api_clients SET name = '{number} {long}' WHERE id = '{}'",
                victim.id
            );
            self.all.cluster.psql(&sql).await;
            self.note_one(format!("storm {number}"), victim.token).await;
        }
        let answer = slow.refresh().await.unwrap();
        let newest = self.history.states.last().unwrap().revision;
        assert!(answer.position.unwrap().revision >= newest);
        let name = &slow.copy.client(&victim.id).unwrap().name;
        assert_eq!(*name, format!("{} {long}", STORM - 1));
        // What fits into the windows and buffers in between, and no more.
        let parts = slow.parts - before;
        assert!(parts < STORM / 2, "{parts} parts");
        self.check(Some(of_all("after the storm".to_owned(), Some(newest))))
            .await;
    }

    /// Notes what the database says of one token, where nothing else changed.
    async fn note_one(&mut self, step: String, token: usize) {
        let acknowledged = now();
        let text = self.shared.tokens.lock().unwrap()[token].clone();
        let store = &self.all.cluster.store;
        let hash = crate::cluster::hash(&text);
        let found = store.look_up(Some(hash.into())).await.unwrap();
        let mut subjects = self.history.states.last().unwrap().subjects.clone();
        subjects[token] = found.subject;
        self.history.states.push(super::State {
            revision: found.revision.0,
            step,
            acknowledged,
            subjects,
        });
    }

    /// Asks everybody about every token, at the newest revision.
    pub async fn ask_everybody(&mut self) {
        let newest = self.history.states.last().unwrap().revision;
        let tokens = self.shared.tokens.lock().unwrap().len();
        for asker in 0..self.all.askers.len() {
            for token in 0..tokens {
                self.ask_one(asker, token, Some(newest)).await;
            }
        }
    }
}
