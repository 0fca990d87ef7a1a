//! Making and revoking clients all the time, whenever it can be done.

use std::{sync::Arc, time::Duration};

use hitkeep_auth::pb::api_client_service_client::ApiClientServiceClient;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::{
    support::{calls, dice::Dice, population::Known, service::Caller},
    tokens::{Tokens, Wanted},
    witness::Witness,
};

/// How long an acknowledgement is waited for.
const DEADLINE: Duration = Duration::from_secs(2);
/// The pause between two changes.
const PAUSE: Duration = Duration::from_millis(40);

/// Changes things through one replica.
pub struct Writer {
    service: ApiClientServiceClient<Channel>,
    caller: Caller,
    tokens: Arc<Tokens>,
    witness: Option<Witness>,
}

impl Writer {
    /// One that writes over that connection.
    pub fn new(channel: Channel, caller: Caller, tokens: Arc<Tokens>) -> Self {
        Self {
            service: ApiClientServiceClient::new(channel),
            caller,
            tokens,
            witness: None,
        }
    }

    /// The same, with somebody who asks the replica about each change at once.
    pub fn watched_by(mut self, witness: Witness) -> Self {
        self.witness = Some(witness);
        self
    }

    /// Creates and revokes in turn until it is over.
    pub async fn run(mut self, number: usize) {
        let seed = 1000 + u64::try_from(number).expect("a few");
        let mut chance = Dice::new(seed);
        while !self.tokens.is_over() {
            self.create(&mut chance).await;
            sleep(PAUSE).await;
            self.revoke(&mut chance).await;
            sleep(PAUSE).await;
        }
    }

    async fn create(&mut self, chance: &mut Dice) {
        let like = self.tokens.working(Wanted::Any, chance);
        let mut request = self.caller.says(calls::create_like(&like.client));
        request.set_timeout(DEADLINE);
        let made = timeout(DEADLINE, self.service.create_api_client(request)).await;
        let Ok(Ok(made)) = made else {
            self.tokens.unknown();
            return;
        };
        let made = made.into_inner();
        let made = self.tokens.created(Known {
            token: made.token,
            id: made.api_client.map(|client| client.id).unwrap_or_default(),
            ..like.client.clone()
        });
        if let Some(witness) = &mut self.witness {
            witness.created(&made, &self.tokens).await;
        }
    }

    async fn revoke(&mut self, chance: &mut Dice) {
        let token = self.tokens.begin_revocation(chance);
        let mut request = self.caller.says(calls::revoke(&token.client));
        request.set_timeout(DEADLINE);
        let revoked = timeout(DEADLINE, self.service.revoke_api_client(request)).await;
        match revoked {
            Ok(Ok(_)) => {
                self.tokens.acknowledged(&token);
                if let Some(witness) = &mut self.witness {
                    witness.revoked(&token, &self.tokens).await;
                }
            }
            _ => self.tokens.unknown(),
        }
    }
}
