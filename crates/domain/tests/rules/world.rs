//! The service without its wire and its database: loads what a call or a token
//! is about, asks the domain, and keeps what it answers. Everything is in the
//! tables and in the domain; here is only the way from one to the other.

use std::sync::atomic::{AtomicU64, Ordering};

use hitkeep_auth_domain::{
    Timestamp,
    client::{ApiClient, ClientState, Quota},
    clock::Entropy,
    id::UserId,
    introspection::InactiveReason,
    refusal::Refusal,
    source::Source,
    token::{Token, TokenHash},
};

use crate::{
    call::{Answer, Call, QUOTA, Question},
    model::life::owner_of,
    tables::{Tables, TokenRow},
    verdict::{self, Active},
};

/// What there is.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) tables: Tables,
    entropy: Seeded,
}

/// Bytes that are the same in every run, and never twice the same in one.
#[derive(Debug)]
pub(crate) struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            // SplitMix64.
            let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

impl World {
    /// Nothing at all.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            now,
            tables: Tables::default(),
            entropy: Seeded(AtomicU64::new(1)),
        }
    }

    /// What the domain says to a call. Nothing is kept of it yet.
    pub(crate) fn ask(&self, actor: UserId, call: &Call) -> Result<Answer, Refusal> {
        let client = call
            .client()
            .map(|id| self.tables.clients.get(&id).ok_or(Refusal::NotFound));
        let client = client.transpose()?;
        let owner = match (call, client) {
            (Call::Create(draft), _) => draft.delegated.owner(),
            (Call::List(owner), _) => *owner,
            (_, Some(client)) => owner_of(client),
            (_, None) => return Err(Refusal::NotFound),
        };
        let carried = client
            .into_iter()
            .flat_map(|client| client.delegated.grants().keys());
        let sites: Vec<_> = carried.copied().chain(call.sites()).collect();
        let count = |number| u32::try_from(number).expect("there are few");
        let question = Question {
            call: call.clone(),
            client: client.cloned(),
            facts: self.tables.facts(actor, owner, &sites),
            quota: Quota {
                used: count(self.tables.count_clients(owner)),
                limit: count(QUOTA),
            },
            now: self.now,
        };
        question.decide(&self.entropy)
    }

    /// Keeps what the domain answered to a call.
    pub(crate) fn keep(&mut self, call: &Call, answer: &Answer) {
        let hash = answer.token.as_ref().map(Token::hash);
        match (call, answer.client.clone(), hash) {
            (Call::Create(_), Some(client), Some(hash)) => {
                let token = TokenRow::newest(hash, client.id);
                self.tables.tokens.push(token);
                self.tables.clients.insert(client.id, client);
            }
            (Call::Rotate(..), Some(client), Some(hash)) => {
                let ends = answer.old_token_ends.expect("a rotation says when");
                self.tables.rotate_client(client, hash, ends, self.now);
            }
            (Call::Update(..) | Call::Revoke(_) | Call::Reactivate(_), Some(client), _) => {
                if answer.event.is_some() {
                    self.tables.update_client(&client);
                }
            }
            (Call::Delete(id), ..) => {
                self.tables.clients.remove(id);
            }
            (Call::List(_) | Call::Get(_), ..) => {}
            (call, ..) => panic!("the answer to {call:?} is no answer: {answer:?}"),
        }
    }

    /// The verdict on a token that is presented from there.
    pub(crate) fn judge(
        &self,
        token: TokenHash,
        source: Source<'_>,
    ) -> Result<Active, InactiveReason> {
        let subject = self
            .tables
            .subject(token)
            .ok_or(InactiveReason::UnknownToken)?;
        verdict::judge(subject, source, self.now)
    }

    /// A client's state, as it is shown.
    pub(crate) fn state(&self, client: &ApiClient) -> ClientState {
        let facts = self.tables.facts(
            client.created_by.expect("the model names it"),
            owner_of(client),
            &[],
        );
        client.state(facts.owner_can_act(), self.now)
    }
}
