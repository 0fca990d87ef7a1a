//! The order of directory changes. A replacement may not undo a change that is newer than
//! itself, unless its source starts over.

/// A position in the total order of directory changes. A replacement has the position at
/// which it began, a batch the one at which it was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangePosition(pub u64);

/// Which changes the directory contains, and an older change must therefore not undo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryProgress {
    /// The highest applied sequence; `None` before the first.
    pub applied_sequence: Option<u64>,
    /// The newest change.
    pub changed: ChangePosition,
    /// The newest change that sequences do not cover: one without a sequence, or the last start
    /// over, since earlier sequences belong to another history.
    pub unnumbered: ChangePosition,
    /// The newest replacement that started over.
    pub started_over: ChangePosition,
}

/// What the order of changes depends on in a replacement of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplacementOrder {
    /// The position at which it began.
    pub began: ChangePosition,
    /// The last change that its source contains; `None` if the source does not count changes.
    pub sequence: Option<u64>,
    /// Which changes it may undo.
    pub mode: ReplacementMode,
}

/// Which changes a replacement may undo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplacementMode {
    /// Only older ones.
    #[default]
    Forward,
    /// All: its source was restored from a backup.
    StartOver,
}

/// The directory contains a change that is newer than the replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the directory has a change that is newer than the replacement")]
pub struct DirectoryChanged {
    /// The highest applied sequence; `None` before the first.
    pub applied_sequence: Option<u64>,
}

/// A change that may be applied, because it undoes nothing newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedChange {
    before: DirectoryProgress,
    change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Batch { sequence: Option<u64> },
    Replacement(ReplacementOrder),
}

impl DirectoryProgress {
    /// Accepts a batch; `None` if it is to be skipped, because its sequence is not above the
    /// applied one.
    pub fn accept_batch(self, sequence: Option<u64>) -> Option<AcceptedChange> {
        let is_new = sequence.is_none() || sequence > self.applied_sequence;
        is_new.then_some(AcceptedChange {
            before: self,
            change: Change::Batch { sequence },
        })
    }

    /// Accepts a replacement. If both sides have a sequence, the sequences decide, since they
    /// say what the source contained; otherwise the positions do.
    ///
    /// # Errors
    /// If the replacement would undo something newer.
    pub fn accept_replacement(
        self,
        replacement: ReplacementOrder,
    ) -> Result<AcceptedChange, DirectoryChanged> {
        let ReplacementOrder {
            began,
            sequence,
            mode,
        } = replacement;
        let is_outdated = match mode {
            ReplacementMode::StartOver => began < self.started_over,
            ReplacementMode::Forward if sequence.is_some() => {
                sequence < self.applied_sequence || began < self.unnumbered
            }
            ReplacementMode::Forward => began < self.changed,
        };
        if is_outdated {
            return Err(DirectoryChanged {
                applied_sequence: self.applied_sequence,
            });
        }
        Ok(AcceptedChange {
            before: self,
            change: Change::Replacement(replacement),
        })
    }
}

impl AcceptedChange {
    /// The state after the change. `now` is a new position, after those of all changes that
    /// began earlier.
    pub fn applied(self, now: ChangePosition) -> DirectoryProgress {
        let before = self.before;
        let (sequence, changed, unnumbered, started_over) = match self.change {
            Change::Batch { sequence } => {
                let unnumbered = if sequence.is_none() {
                    now
                } else {
                    before.unnumbered
                };
                (sequence, now, unnumbered, before.started_over)
            }
            Change::Replacement(ReplacementOrder {
                began,
                sequence,
                mode,
            }) => match mode {
                // Changes that began earlier may belong to the abandoned history.
                ReplacementMode::StartOver => (sequence, now, now, began),
                ReplacementMode::Forward => {
                    let changed = before.changed.max(began);
                    let unnumbered = if sequence.is_none() {
                        before.unnumbered.max(began)
                    } else {
                        before.unnumbered
                    };
                    (sequence, changed, unnumbered, before.started_over)
                }
            },
        };
        DirectoryProgress {
            applied_sequence: sequence.or(before.applied_sequence),
            changed,
            unnumbered,
            started_over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One step of a history.
    #[derive(Clone, Copy)]
    enum Step {
        /// A batch is applied.
        Batch(Option<u64>),
        /// The replacement of that number begins.
        Begin(usize),
        /// The replacement completes, with that sequence.
        Finish(usize, Option<u64>, ReplacementMode),
    }

    /// The case's name, its steps, whether each batch and replacement is applied, and the
    /// final sequence.
    type Case<'a> = (&'a str, &'a [Step], &'a [bool], Option<u64>);

    /// Whether each batch and each replacement was applied, and the final sequence.
    fn history(steps: &[Step]) -> (Vec<bool>, Option<u64>) {
        let mut progress = DirectoryProgress::default();
        let mut began = [ChangePosition::default(); 4];
        let mut applied = Vec::new();
        for (now, step) in (1..).map(ChangePosition).zip(steps) {
            let entry = match *step {
                Step::Begin(number) => {
                    began[number] = now;
                    continue;
                }
                Step::Batch(sequence) => progress.accept_batch(sequence),
                Step::Finish(number, sequence, mode) => {
                    let began = began[number];
                    let replacement = ReplacementOrder {
                        began,
                        sequence,
                        mode,
                    };
                    progress.accept_replacement(replacement).ok()
                }
            };
            applied.push(entry.is_some());
            progress = entry.map_or(progress, |entry| entry.applied(now));
        }
        (applied, progress.applied_sequence)
    }

    #[test]
    fn every_interleaving_keeps_newer_changes() {
        use ReplacementMode::{Forward, StartOver};
        use Step::{Batch, Begin, Finish};

        let whole = |number, sequence| Finish(number, sequence, Forward);
        let over = |number, sequence| Finish(number, sequence, StartOver);
        let cases: &[Case<'_>] = &[
            (
                "a batch with a higher sequence comes in between",
                &[Begin(0), Batch(Some(101)), whole(0, Some(100))],
                &[true, false],
                Some(101),
            ),
            (
                "one that the source had seen comes late",
                &[
                    Begin(0),
                    Batch(Some(99)),
                    whole(0, Some(100)),
                    Batch(Some(100)),
                ],
                &[true, true, false],
                Some(100),
            ),
            (
                "the same sequence",
                &[Batch(Some(100)), Begin(0), whole(0, Some(100))],
                &[true, true],
                Some(100),
            ),
            (
                "a lower sequence than was applied before it began",
                &[Batch(Some(101)), Begin(0), whole(0, Some(100))],
                &[true, false],
                Some(101),
            ),
            (
                "a batch without a sequence comes in between",
                &[Begin(0), Batch(None), whole(0, Some(100)), whole(0, None)],
                &[true, false, false],
                None,
            ),
            (
                "it came before",
                &[Batch(None), Begin(0), whole(0, Some(100)), whole(0, None)],
                &[true, true, true],
                Some(100),
            ),
            (
                "a replacement without a sequence does not know of a batch with one",
                &[Begin(0), Batch(Some(1)), whole(0, None)],
                &[true, false],
                Some(1),
            ),
            (
                "sent twice, one after the other",
                &[Begin(0), whole(0, Some(7)), Begin(1), whole(1, Some(7))],
                &[true, true],
                Some(7),
            ),
            (
                "sent twice at once, with a sequence",
                &[Begin(0), Begin(1), whole(1, Some(7)), whole(0, Some(7))],
                &[true, true],
                Some(7),
            ),
            (
                "sent twice at once, without one",
                &[Begin(0), Begin(1), whole(0, None), whole(1, None)],
                &[true, true],
                None,
            ),
            (
                "the older one of two without a sequence comes to its end later",
                &[Begin(0), Begin(1), whole(1, None), whole(0, None)],
                &[true, false],
                None,
            ),
            (
                "the older one of two by their sequences comes to its end later",
                &[Begin(0), Begin(1), whole(0, Some(105)), whole(1, Some(100))],
                &[true, false],
                Some(105),
            ),
            (
                "the newer one by its sequence began earlier",
                &[Begin(0), Begin(1), whole(1, Some(100)), whole(0, Some(105))],
                &[true, true],
                Some(105),
            ),
            (
                "one with a sequence and a newer one without",
                &[Begin(0), Begin(1), whole(1, None), whole(0, Some(100))],
                &[true, false],
                None,
            ),
            (
                "one without a sequence and a newer one with",
                &[Begin(0), Begin(1), whole(1, Some(100)), whole(0, None)],
                &[true, false],
                Some(100),
            ),
            (
                "starting over undoes what came in between",
                &[
                    Begin(0),
                    Batch(Some(101)),
                    over(0, Some(50)),
                    Batch(Some(50)),
                    Batch(Some(51)),
                ],
                &[true, true, false, true],
                Some(51),
            ),
            (
                "starting over without a sequence leaves the sequence",
                &[Batch(Some(101)), Begin(0), over(0, None)],
                &[true, true],
                Some(101),
            ),
            (
                "what began before a start over is of the other history",
                &[Begin(0), Begin(1), over(1, Some(50)), whole(0, Some(100))],
                &[true, false],
                Some(50),
            ),
            (
                "also where it began after the start over did",
                &[Begin(1), Begin(0), over(1, Some(50)), whole(0, Some(100))],
                &[true, false],
                Some(50),
            ),
            (
                "starting over twice",
                &[Begin(0), Begin(1), over(0, Some(50)), over(1, Some(50))],
                &[true, true],
                Some(50),
            ),
            (
                "a start over does not undo a newer one, nor what came after it",
                &[
                    Begin(0),
                    Begin(1),
                    over(1, Some(50)),
                    Batch(Some(51)),
                    over(0, Some(50)),
                ],
                &[true, true, false],
                Some(51),
            ),
        ];
        for (name, steps, applied, sequence) in cases {
            let expected = (applied.to_vec(), *sequence);
            assert_eq!(history(steps), expected, "{name}");
        }
    }

    proptest::proptest! {
        /// Only a start over lowers the sequence.
        #[test]
        fn the_sequence_never_decreases(
            steps in proptest::collection::vec((0..3_u8, proptest::option::of(0..6_u64), 0..4_usize), 0..40),
        ) {
            let mut progress = DirectoryProgress::default();
            let mut began = [ChangePosition::default(); 4];
            for (now, (kind, sequence, number)) in (1..).map(ChangePosition).zip(steps) {
                let entry = match kind {
                    0 => {
                        began[number] = now;
                        None
                    }
                    1 => progress.accept_batch(sequence),
                    _ => progress.accept_replacement(ReplacementOrder {
                        began: began[number],
                        sequence,
                        mode: ReplacementMode::Forward,
                    }).ok(),
                };
                let Some(next) = entry.map(|entry| entry.applied(now)) else { continue };
                proptest::prop_assert!(next.applied_sequence >= progress.applied_sequence);
                proptest::prop_assert!(next.changed >= progress.changed);
                proptest::prop_assert!(next.unnumbered >= progress.unnumbered);
                proptest::prop_assert!(next.changed <= now && next.unnumbered <= next.changed);
                progress = next;
            }
        }
    }
}
