//! `BatchIntrospect`: many tokens, judged by one version of the index. Each is judged as
//! `Introspect` judges it, and fails alone. So are requests of a stream that wait together.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::{PresentedToken, checks, convert, require_revision, to_response, wait_limit};
use crate::{
    domain::{access::PermissionCheck, source::Source},
    grpc::{Services, error::ApiError},
    live_index::{Unanswerable, View},
    pb,
    telemetry::metrics::VerdictReason,
};

/// A request of a batch whose fields are valid.
struct Item {
    presented: PresentedToken,
    check: Option<PermissionCheck>,
    source: Source<'static>,
}

/// The version of the index that a batch is judged by.
struct Basis {
    view: View,
    /// Whether the version has every token that there is; if not, one that it lacks may have
    /// been created a moment ago.
    is_complete: Result<(), Unanswerable>,
}

impl Services {
    /// Answers a batch within that time.
    ///
    /// # Errors
    /// If the batch itself is invalid, or none of its requests can be answered.
    pub(super) async fn answer_batch(
        &self,
        request: &pb::BatchIntrospectRequest,
        remaining: Duration,
    ) -> Result<pb::BatchIntrospectResponse, ApiError> {
        let at_least = convert::batch(request)?;
        let wait_until = wait_limit(remaining);
        if let Some(wanted) = at_least {
            self.wait_for_revision(wanted, wait_until).await?;
        }
        let items = request.requests.iter().enumerate().map(|(index, item)| {
            let (check, source) = convert::batch_item(index, item)?;
            let presented = PresentedToken::read(&item.token);
            Ok(Item {
                presented,
                check,
                source,
            })
        });
        let items: Vec<Result<Item, ApiError>> = items.collect();
        let basis = self.basis(&items, wait_until).await.inspect_err(|_| {
            // As many answers are lacking.
            for _ in items.iter().flatten() {
                self.metrics.verdict(VerdictReason::Unanswerable);
            }
        })?;
        let revision = basis.view.index().revision();
        require_revision(at_least, revision)?;
        let judged = items
            .into_iter()
            .map(|item| self.judge_item(&basis, &item?));
        Ok(pb::BatchIntrospectResponse {
            responses: to_responses(judged),
            revision: revision.0,
        })
    }

    /// Answers requests of a stream, one for one and in order.
    pub(super) async fn answer_together(
        &self,
        requests: &[pb::IntrospectRequest],
    ) -> Vec<pb::IntrospectResponse> {
        let items = requests.iter().map(|request| {
            let command = convert::introspect(request)?;
            Ok(Item {
                presented: PresentedToken::read(&request.token),
                check: command.check,
                source: command.source,
            })
        });
        let items: Vec<Result<Item, ApiError>> = items.collect();
        let basis = self.basis(&items, wait_limit(self.request_timeout)).await;
        to_responses(items.into_iter().map(|item| match &basis {
            Ok(basis) => self.judge_item(basis, &item?),
            Err(error) => {
                self.metrics.verdict(VerdictReason::Unanswerable);
                item.and(Err((*error).into()))
            }
        }))
    }

    /// The version of the index to judge a batch by. If it lacks any of the tokens, all of
    /// these wait together for one refresh.
    async fn basis(
        &self,
        items: &[Result<Item, ApiError>],
        wait_until: Instant,
    ) -> Result<Basis, Unanswerable> {
        let view = self.index.caught_up_view(wait_until).await?;
        let is_known = |item: &Item| match &item.presented {
            PresentedToken::Hash(hash) => view.index().find(hash).is_some(),
            // Nor is the database asked for a legacy token.
            PresentedToken::Legacy(_) | PresentedToken::Unknown => true,
        };
        if items.iter().flatten().all(is_known) {
            return Ok(Basis {
                view,
                is_complete: Ok(()),
            });
        }
        drop(view);
        let is_complete = self.index.refresh(wait_until).await;
        Ok(Basis {
            view: self.index.view()?,
            is_complete,
        })
    }

    fn judge_item(&self, basis: &Basis, item: &Item) -> Result<pb::IntrospectResponse, ApiError> {
        let Basis { view, is_complete } = basis;
        let judged = self.judge(view, &item.presented, item.source, checks(item.check));
        let unknown = || {
            (*is_complete)?;
            // As for a single token: the server that answered the refresh may not be the one
            // that takes the writes.
            view.require_fresh()?;
            Ok(self.unknown())
        };
        let judged = judged.and_then(|judged| judged.map_or_else(unknown, Ok));
        let judged = judged.inspect_err(|_| self.metrics.verdict(VerdictReason::Unanswerable))?;
        Ok(to_response(&judged, view.index().revision(), item.check))
    }
}

/// The responses, in order. Logs that some are errors, once for all of them.
fn to_responses(
    judged: impl Iterator<Item = Result<pb::IntrospectResponse, ApiError>>,
) -> Vec<pb::IntrospectResponse> {
    let mut failed = 0;
    let mut worst: Option<ApiError> = None;
    let mut responses = Vec::new();
    for judged in judged {
        responses.push(judged.unwrap_or_else(|error| {
            failed += 1;
            let response = pb::IntrospectResponse {
                error: Some(error.to_introspect_error()),
                ..pb::IntrospectResponse::default()
            };
            if worst
                .as_ref()
                .is_none_or(|worst| severity(&error) > severity(worst))
            {
                worst = Some(error);
            }
            response
        }));
    }
    if let Some(worst) = worst {
        worst.log_batch(failed);
    }
    responses
}

/// Which of several errors an operator should see: ours before the database's, and both
/// before the caller's.
fn severity(error: &ApiError) -> u8 {
    match error.code_and_reason().0 {
        Code::Internal => 2,
        Code::Unavailable | Code::DeadlineExceeded => 1,
        _ => 0,
    }
}
