//! Catching up: reads the clients that changed since a position.

use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    ANSWER_TIMEOUT, COMMIT, CatchUp, Changes, Feed, Position, Sink, in_span, revision,
    rows::{ClientRow, GrantRow, TokenRow},
    stored, within,
};
use crate::{
    domain::{Revision, id::ClientId},
    store::error::StoreError,
};

/// Clients that one query reads by their ids.
const CLIENTS_PER_QUERY: usize = 2000;
/// Restricts the planner to index scans, so that the cost of a change does not depend on
/// the number of clients. JIT is off, since the planner assigns disabled nodes so high a
/// cost that it would compile the plan, which takes much longer than running it.
const BEGIN_CHANGES: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                             SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; \
                             SET LOCAL enable_mergejoin = off; \
                             SET LOCAL join_collapse_limit = 1; SET LOCAL jit = off";

/// The positions of the change log before $1, newest first, from which it leads on.
const BEFORE: &str = "SELECT known.revision, known.nonce \
                      FROM index_revisions AS known \
                      JOIN index_state ON known.revision >= trimmed_revision \
                      WHERE known.revision < $1 ORDER BY known.revision DESC LIMIT 1000";
const CHANGES_BEFORE: &str = "SELECT client_id, revision FROM index_changes \
                              WHERE revision <= $1 ORDER BY revision DESC LIMIT $2";

/// Parses a row of a revision and its nonce.
fn position(database: Uuid, row: &Row) -> Result<Position, StoreError> {
    Ok(Position {
        database,
        revision: revision(row.try_get(0)?)?,
        nonce: row.try_get(1)?,
    })
}

impl Feed {
    /// The way to a position by the change log, if it leads there: the positions on the way, each
    /// with the clients that changed since the one before it, at most `max_changes` in all. The
    /// first position is where the way begins.
    pub async fn history(
        &mut self,
        to: Position,
        max_changes: usize,
    ) -> Result<Vec<(Position, Vec<ClientId>)>, StoreError> {
        let until = stored(to.revision)?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&to.database, &until, &to.nonce];
        let known: [&(dyn ToSql + Sync); 1] = [&until];
        let enough = i64::try_from(max_changes).map_or(i64::MAX, |most| most.saturating_add(1));
        let changes: [&(dyn ToSql + Sync); 2] = [&until, &enough];
        let queries = async {
            let ((), state_row, before, changed) = tokio::try_join!(
                self.client.batch_execute(BEGIN_CHANGES),
                self.client.query_opt(&self.statements.state, &parameters),
                self.client.query(BEFORE, &known),
                self.client.query(CHANGES_BEFORE, &changes),
            )?;
            self.client.batch_execute(COMMIT).await?;
            Ok((self.state_of(state_row.as_ref())?, before, changed))
        };
        let (state, before, changed) = within(ANSWER_TIMEOUT, queries).await?;
        if !state.contains {
            return Ok(Vec::new());
        }
        // Of the earliest revision among too many changes, some may be missing.
        let complete_since = match changed.get(max_changes) {
            Some(row) => revision(row.try_get(1)?)?,
            None => Revision(0),
        };
        let before = before.iter().map(|row| position(to.database, row));
        let mut way = before.collect::<Result<Vec<_>, StoreError>>()?;
        way.retain(|passed| passed.revision >= complete_since);
        way.reverse();
        way.push(to);
        let mut way: Vec<_> = way.into_iter().map(|at| (at, Vec::new())).collect();
        for row in &changed {
            let changed_at = revision(row.try_get(1)?)?;
            let next = way.partition_point(|(at, _)| at.revision < changed_at);
            // What changed at the first position, or before it, is not on the way.
            if next > 0
                && let Some((_, clients)) = way.get_mut(next)
            {
                clients.push(ClientId::from_uuid(row.try_get(0)?));
            }
        }
        Ok(way)
    }

    /// Reads all changes since a position in one snapshot, unless more than `max_clients`
    /// clients changed.
    pub async fn catch_up(
        &mut self,
        known: Position,
        max_clients: usize,
        sink: &mut dyn Sink,
    ) -> Result<CatchUp, StoreError> {
        in_span("catch_up", self.try_catch_up(known, max_clients, sink)).await
    }

    async fn try_catch_up(
        &mut self,
        known: Position,
        max_clients: usize,
        sink: &mut dyn Sink,
    ) -> Result<CatchUp, StoreError> {
        let since = stored(known.revision)?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&known.database, &since, &known.nonce];
        let enough = i64::try_from(max_clients).map_or(i64::MAX, |most| most.saturating_add(1));
        let changes: [&(dyn ToSql + Sync); 2] = [&since, &enough];
        let passed: [&(dyn ToSql + Sync); 1] = [&since];
        let queries = async {
            // Pipelined, in this order.
            let ((), state_row, changed, passed) = tokio::try_join!(
                self.client.batch_execute(BEGIN_CHANGES),
                self.client.query_opt(&self.statements.state, &parameters),
                self.client.query(&self.statements.changed, &changes),
                self.client.query(&self.statements.passed, &passed),
            )?;
            Ok((self.state_of(state_row.as_ref())?, changed, passed))
        };
        let (state, changed, passed) = within(ANSWER_TIMEOUT, queries).await?;
        let changed = changed
            .iter()
            .map(|row| Ok(ClientId::from_uuid(row.try_get(0)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let is_too_many = changed.len() > max_clients;
        if state.continues && !is_too_many {
            for some in changed.chunks(CLIENTS_PER_QUERY) {
                self.read_clients(some, sink).await?;
            }
        }
        within(ANSWER_TIMEOUT, async {
            Ok(self.client.batch_execute(COMMIT).await?)
        })
        .await?;
        Ok(if !state.continues {
            CatchUp::Lost
        } else if is_too_many {
            CatchUp::TooMuch
        } else if changed.is_empty() && state.position == known {
            CatchUp::Nothing(state)
        } else {
            let database = state.position.database;
            let passed = passed.iter().map(|row| position(database, row));
            let passed = passed.collect::<Result<_, StoreError>>()?;
            CatchUp::Changed(
                state,
                Changes {
                    clients: changed,
                    passed,
                },
            )
        })
    }

    async fn read_clients(
        &self,
        clients: &[ClientId],
        sink: &mut dyn Sink,
    ) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = clients.iter().map(|client| client.uuid()).collect();
        let parameters: [&(dyn ToSql + Sync); 1] = [&ids];
        let queries = async {
            Ok(tokio::try_join!(
                self.client.query(&self.statements.clients, &parameters),
                self.client.query(&self.statements.grants, &parameters),
                self.client.query(&self.statements.tokens, &parameters),
            )?)
        };
        let (clients, grants, tokens) = within(ANSWER_TIMEOUT, queries).await?;
        for row in &clients {
            ClientRow::deliver(row, sink)?;
        }
        for row in &grants {
            GrantRow::deliver(row, sink)?;
        }
        for row in &tokens {
            TokenRow::deliver(row, sink)?;
        }
        Ok(())
    }
}
