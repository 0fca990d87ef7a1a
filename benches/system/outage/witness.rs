//! What the replica that made a change says of it at once, at each of its doors: what
//! it has acknowledged it knows, or it says that it cannot tell.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;

use crate::{
    checker::Findings,
    doors::{Answer, Asker, Door},
    support::service::{Caller, Service},
    tokens::{Tokens, Watched},
};

/// When a replica acknowledged something, in order.
pub type Acknowledged = Arc<Mutex<Vec<u64>>>;

/// Somebody beside a writer.
pub struct Witness {
    askers: Vec<Asker>,
    findings: Arc<Findings>,
    acknowledged: Acknowledged,
}

impl Witness {
    /// One at all doors of that replica.
    pub async fn at(
        replica: &Service,
        caller: &Caller,
        findings: Arc<Findings>,
        acknowledged: Acknowledged,
    ) -> Self {
        let askers = Door::ALL.map(|door| Asker::at(door, replica, caller));
        Self {
            askers: join_all(askers).await,
            findings,
            acknowledged,
        }
    }

    /// A client was made just now: its token works, unless somebody revokes it already.
    pub async fn created(&mut self, token: &Watched, tokens: &Tokens) {
        self.acknowledge(tokens);
        for (door, answer) in self.ask(token).await {
            self.findings.count(&answer, false);
            if let Answer::Inactive(why) = answer
                && Tokens::must_work(token)
            {
                let what = format!("{door:?}: a token that was just made is inactive, {why}");
                self.findings.wrong(&what);
            }
        }
    }

    /// A client was revoked just now: its token does not work.
    pub async fn revoked(&mut self, token: &Watched, tokens: &Tokens) {
        self.acknowledge(tokens);
        for (door, answer) in self.ask(token).await {
            self.findings.count(&answer, true);
            if let Answer::Active = answer {
                let what = format!("{door:?}: accepted by the replica that just revoked it");
                self.findings.wrong(&what);
            }
        }
    }

    fn acknowledge(&self, tokens: &Tokens) {
        let mut acknowledged = self.acknowledged.lock().expect("nobody panics with it");
        acknowledged.push(tokens.now());
    }

    async fn ask(&mut self, token: &Watched) -> Vec<(Door, Answer)> {
        let asked = self.askers.iter_mut().map(|asker| asker.ask(&token.client));
        let answers: Vec<_> = Door::ALL.into_iter().zip(join_all(asked).await).collect();
        for (door, answer) in &answers {
            if let Answer::Failure(what) = answer {
                self.findings.wrong(&format!("{door:?}: {what}"));
            }
        }
        answers
    }
}
