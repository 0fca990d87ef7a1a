//! The answers that are kept, of which those make room that were not used for long.

use std::{collections::HashMap, hash::Hash, mem::take};

use crate::source::Answer;

/// Two halves. When the younger one is full, it becomes the older one, and what is in that is
/// forgotten; what is used moves to the younger one.
pub(super) struct Kept<K> {
    younger: HashMap<K, Answer>,
    older: HashMap<K, Answer>,
    half: usize,
}

impl<K: Copy + Eq + Hash> Kept<K> {
    /// Keeps that many at most, rounded up to an even number.
    pub(super) fn new(entries: usize) -> Self {
        Self {
            younger: HashMap::new(),
            older: HashMap::new(),
            half: entries.div_ceil(2).max(1),
        }
    }

    pub(super) fn get(&mut self, key: K) -> Option<&Answer> {
        if !self.younger.contains_key(&key) {
            let used = self.older.remove(&key)?;
            self.put(key, used);
        }
        self.younger.get(&key)
    }

    pub(super) fn put(&mut self, key: K, answer: Answer) {
        self.older.remove(&key);
        if self.younger.len() >= self.half && !self.younger.contains_key(&key) {
            self.older = take(&mut self.younger);
        }
        self.younger.insert(key, answer);
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.younger.remove(key);
        self.older.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hitkeep_auth_domain::Revision;

    use super::*;
    use crate::error::InactiveReason;

    fn answer(revision: u64) -> Answer {
        Answer {
            verdict: Err(InactiveReason::Revoked),
            is_allowed: false,
            revision: Revision(revision),
            sent_at: Duration::ZERO,
            max_age: Duration::ZERO,
        }
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut kept = Kept::new(10);
        for number in 0..100 {
            kept.put(number, answer(number));
            assert_eq!(kept.get(0).unwrap().revision, Revision(0));
            assert!(kept.younger.len() + kept.older.len() <= 10);
        }
        assert!(kept.get(99).is_some() && kept.get(50).is_none());
        kept.put(0, answer(7));
        assert_eq!(kept.get(0).unwrap().revision, Revision(7));
        kept.remove(&0);
        assert!(kept.get(0).is_none());
        assert!(Kept::new(0).get(1).is_none());
    }
}
