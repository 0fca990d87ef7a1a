//! The questions of a session: when each was asked, and which of them are open.

use std::time::Duration;

use hitkeep_auth_proto as pb;
use tokio::time::Instant;

use super::intake::RefreshNumber;

/// The questions. One of each kind is open at a time.
#[derive(Debug)]
pub(super) struct Questions {
    last: u64,
    /// When the newest question was asked that the server is known to have received: nothing
    /// that it sends now was sent before that.
    received_at: Duration,
    plain: Option<Open>,
    refresh: Option<(Open, RefreshNumber)>,
}

/// An open question.
#[derive(Clone, Copy, Debug)]
struct Open {
    number: u64,
    /// By the clock of the index.
    asked_at: Duration,
    /// The same moment, by the clock of timeouts.
    since: Instant,
}

/// The question that an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) asked_at: Duration,
    /// The refresh that it was asked for, if it was for one.
    pub(super) refresh: Option<RefreshNumber>,
}

impl Questions {
    /// The questions of a session that was begun then.
    pub(super) const fn since(started_at: Duration) -> Self {
        Self {
            last: 0,
            received_at: started_at,
            plain: None,
            refresh: None,
        }
    }

    pub(super) const fn received_at(&self) -> Duration {
        self.received_at
    }

    pub(super) const fn is_plain_open(&self) -> bool {
        self.plain.is_some()
    }

    pub(super) const fn is_refresh_open(&self) -> bool {
        self.refresh.is_some()
    }

    /// Since when a question has been open; `None` if none is.
    pub(super) fn open_since(&self) -> Option<Instant> {
        let refresh = self.refresh.map(|(open, _)| open);
        let open = self.plain.into_iter().chain(refresh);
        open.map(|open| open.since).min()
    }

    /// Asks how fresh the copy is; for a refresh, after the server has asked its own source.
    pub(super) fn ask(
        &mut self,
        asked_at: Duration,
        refresh: Option<RefreshNumber>,
    ) -> pb::ReplicationQuestion {
        self.last += 1;
        let number = self.last;
        let open = Open {
            number,
            asked_at,
            since: Instant::now(),
        };
        match refresh {
            Some(refresh) => self.refresh = Some((open, refresh)),
            None => self.plain = Some(open),
        }
        pb::ReplicationQuestion {
            number,
            ask_database: refresh.is_some(),
        }
    }

    /// The question with that number, which is open no longer. `None` if none is.
    pub(super) fn answer(&mut self, number: u64) -> Option<Answered> {
        let plain = self.plain.take_if(|open| open.number == number);
        let plain = plain.map(|open| (open, None));
        let refresh = self.refresh.take_if(|(open, _)| open.number == number);
        let refresh = refresh.map(|(open, refresh)| (open, Some(refresh)));
        let (open, refresh) = plain.or(refresh)?;
        self.received_at = self.received_at.max(open.asked_at);
        Some(Answered {
            asked_at: open.asked_at,
            refresh,
        })
    }
}
