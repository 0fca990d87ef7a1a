//! `IntrospectionService`: is this token good, and for what?

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status};

use super::{Services, context::Deadline, convert::introspection as convert, error::ApiError};
use crate::{
    domain::{
        Revision,
        introspection::{InactiveReason, decide},
        token::{Token, TokenHash, TokenKind},
    },
    pb::{self, introspection_service_server::IntrospectionService},
    store::introspection::LookUp,
};

/// How long to wait before the database is asked again whether it has reached a
/// revision: at first, and at last.
const FIRST_POLL: Duration = Duration::from_millis(10);
const LAST_POLL: Duration = Duration::from_millis(500);
/// The part of the remaining time that is spent on waiting for a revision. The
/// rest is for the reply, so that the caller sees the reason and not its own
/// deadline.
const WAITING_SHARE: f64 = 0.9;

#[tonic::async_trait]
impl IntrospectionService for Services {
    async fn introspect(
        &self,
        request: Request<pb::IntrospectRequest>,
    ) -> Result<Response<pb::IntrospectResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let command = convert::introspect(&request)?;
        let deadline = extensions.get::<Deadline>().copied();
        let found = self
            .look_up(known_token(&request.token), command.at_least, deadline)
            .await?;
        let verdict = match found.subject {
            Some(subject) => subject.judge(found.now),
            None => Err(InactiveReason::UnknownToken),
        };
        let decision = command.check.map(|check| decide(&verdict, &check));
        let mut response = match &verdict {
            Ok(active) => convert::to_active(active, self.max_cache_age(), found.now),
            Err(reason) => convert::to_inactive(*reason),
        };
        response.revision = found.revision.0;
        response.decision = decision.map(convert::to_decision);
        Ok(Response::new(response))
    }
}

/// The hash of what could be an API client's token. A caller's token is none.
fn known_token(text: &str) -> Option<TokenHash> {
    let token = Token::parse(text).ok()?;
    match token.kind() {
        TokenKind::Personal | TokenKind::Team => Some(token.hash()),
        TokenKind::ServiceAccount => None,
    }
}

impl Services {
    fn max_cache_age(&self) -> TimeDelta {
        TimeDelta::from_std(self.options.max_cache_age).unwrap_or(TimeDelta::MAX)
    }

    /// Looks a token up at a revision that is high enough, or waits for it.
    async fn look_up(
        &self,
        token: Option<TokenHash>,
        at_least: Option<Revision>,
        deadline: Option<Deadline>,
    ) -> Result<LookUp, ApiError> {
        let wanted = at_least.unwrap_or_default();
        let begun = Instant::now();
        let remaining = deadline.map_or(Duration::ZERO, |at| at.0.saturating_duration_since(begun));
        let give_up = begun + remaining.mul_f64(WAITING_SHARE);
        let mut found = self.store.look_up(token).await?;
        if found.revision >= wanted {
            return Ok(found);
        }
        let mut poll = FIRST_POLL;
        while found.revision < wanted {
            if Instant::now() + poll > give_up {
                return Err(ApiError::RevisionNotReached {
                    wanted,
                    reached: found.revision,
                });
            }
            sleep(poll).await;
            poll = LAST_POLL.min(poll * 2);
            found = self.store.look_up(None).await?;
        }
        Ok(self.store.look_up(token).await?)
    }
}
