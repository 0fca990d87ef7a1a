//! What changed in the index of late, for copies of it elsewhere: from a position that is
//! known here, which clients may have changed since.
//!
//! Only ids are kept. The contents are read from the latest version when they can be sent,
//! so that a slow follower gets the latest state, and nothing queues for it. What is
//! forgotten here costs a follower a whole snapshot.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::domain::{Position, id::ClientId};

/// How many ids and positions are kept: a few megabytes.
const MAX_KEPT: usize = 100_000;

/// The steps from version to version.
#[derive(Debug, Default)]
pub(super) struct RecentChanges(Mutex<Steps>);

#[derive(Debug, Default)]
struct Steps {
    /// Oldest first.
    steps: VecDeque<Step>,
    /// Where the last step led; `None` before the first load.
    latest: Option<Position>,
    /// Ids and positions in the steps.
    kept: usize,
}

#[derive(Debug)]
struct Step {
    from: Position,
    /// Positions that were passed: another server may have stopped there.
    passed: Box<[Position]>,
    clients: Box<[ClientId]>,
}

impl Step {
    fn size(&self) -> usize {
        1 + self.passed.len() + self.clients.len()
    }

    fn leads_on_from(&self, position: &Position) -> bool {
        self.from == *position || self.passed.contains(position)
    }
}

impl RecentChanges {
    fn lock(&self) -> MutexGuard<'_, Steps> {
        // No holder panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a step. Must precede the publication of the version at `to`.
    pub(super) fn record(
        &self,
        from: Position,
        passed: Vec<Position>,
        to: Position,
        clients: &[ClientId],
    ) {
        let mut steps = self.lock();
        if steps.latest != Some(from) {
            steps.restart(from);
        }
        let step = Step {
            from,
            passed: passed.into_iter().filter(|passed| *passed != to).collect(),
            clients: clients.into(),
        };
        steps.push(step, to);
    }

    /// Replaces all steps by a way: positions, each with the clients that changed since the one
    /// before it. Nothing happens if it has no position.
    pub(super) fn recall(&self, way: Vec<(Position, Vec<ClientId>)>) {
        let mut way = way.into_iter();
        let Some((mut from, _)) = way.next() else {
            return;
        };
        let mut steps = self.lock();
        steps.restart(from);
        for (to, clients) in way {
            let step = Step {
                from,
                passed: Box::default(),
                clients: clients.into(),
            };
            steps.push(step, to);
            from = to;
        }
    }

    /// Forgets all steps: the next version is not known to follow from the last one.
    pub(super) fn restart(&self, position: Position) {
        self.lock().restart(position);
    }

    /// The clients that may have changed since a position, each once; `None` if that is not
    /// known.
    pub(super) fn since(&self, position: Position) -> Option<Vec<ClientId>> {
        let steps = self.lock();
        if steps.latest == Some(position) {
            return Some(Vec::new());
        }
        // The newest first, since nearly everybody is near the end.
        let mut newer = steps.steps.iter().enumerate().rev();
        let (first, _) = newer.find(|(_, step)| step.leads_on_from(&position))?;
        let mut seen = HashSet::new();
        let clients = steps.steps.range(first..).flat_map(|step| &step.clients);
        Some(clients.copied().filter(|id| seen.insert(*id)).collect())
    }
}

impl Steps {
    fn push(&mut self, step: Step, to: Position) {
        self.kept += step.size();
        self.steps.push_back(step);
        self.latest = Some(to);
        while self.kept > MAX_KEPT
            && let Some(oldest) = self.steps.pop_front()
        {
            self.kept -= oldest.size();
        }
    }

    fn restart(&mut self, position: Position) {
        self.steps.clear();
        self.kept = 0;
        self.latest = Some(position);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::Revision;

    fn at(revision: u64) -> Position {
        of_history(1, revision)
    }

    fn of_history(history: u128, revision: u64) -> Position {
        Position {
            database: Uuid::from_u128(1),
            revision: Revision(revision),
            nonce: Uuid::from_u128((history << 64) + u128::from(revision)),
        }
    }

    fn ids(numbers: impl IntoIterator<Item = u128>) -> Vec<ClientId> {
        let id = |number| ClientId::from_uuid(Uuid::from_u128(number));
        numbers.into_iter().map(id).collect()
    }

    #[test]
    fn from_each_known_position_all_later_changes_are_found() {
        let recent = RecentChanges::default();
        assert_eq!(recent.since(at(0)), None);
        recent.restart(at(1));
        assert_eq!(recent.since(at(1)), Some(Vec::new()));
        recent.record(at(1), vec![at(2)], at(2), &ids([1, 2]));
        // Revisions that were passed in one step.
        recent.record(at(2), vec![at(5), at(4), at(3)], at(5), &ids([2, 3]));
        for (position, changed) in [
            (at(1), Some(ids([1, 2, 3]))),
            (at(2), Some(ids([2, 3]))),
            (at(3), Some(ids([2, 3]))),
            (at(4), Some(ids([2, 3]))),
            (at(5), Some(ids([]))),
            (at(0), None),
            (at(6), None),
            // The same numbers after a backup was restored.
            (of_history(2, 2), None),
            (of_history(2, 5), None),
        ] {
            assert_eq!(recent.since(position), changed, "{position:?}");
        }
        recent.restart(of_history(2, 5));
        assert_eq!(recent.since(at(5)), None);
        assert_eq!(recent.since(of_history(2, 5)), Some(Vec::new()));
    }

    #[test]
    fn a_step_that_does_not_continue_the_last_one_starts_anew() {
        let recent = RecentChanges::default();
        recent.record(at(1), Vec::new(), at(2), &ids([1]));
        recent.record(at(3), Vec::new(), at(4), &ids([2]));
        assert_eq!(recent.since(at(1)), None);
        assert_eq!(recent.since(at(2)), None);
        assert_eq!(recent.since(at(3)), Some(ids([2])));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let recent = RecentChanges::default();
        let many = ids(0..10_000);
        for revision in 0..20 {
            recent.record(at(revision), Vec::new(), at(revision + 1), &many);
        }
        assert_eq!(recent.since(at(10)), None);
        assert_eq!(recent.since(at(11)), Some(many.clone()));
        assert!(recent.lock().kept <= MAX_KEPT);
        // More than can be kept at all.
        recent.record(at(20), Vec::new(), at(21), &ids(0..200_000));
        assert_eq!(recent.since(at(20)), None);
        assert_eq!(recent.since(at(21)), Some(Vec::new()));
        for revision in 21..200_000 {
            recent.record(at(revision), Vec::new(), at(revision + 1), &[]);
        }
        assert!(recent.lock().kept <= MAX_KEPT);
    }
}
