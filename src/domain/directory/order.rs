//! In which order the directory's changes came, and which of them a replacement may
//! undo: none that is newer than it is, unless its source starts over.

/// A place in the one order of the directory's changes. A replacement has the place at
/// which it began, a batch the one at which it was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub u64);

/// Which changes are in the directory, and so must not be undone by an older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The highest sequence applied; none before the first.
    pub applied_sequence: Option<u64>,
    /// The newest change.
    pub changed: Place,
    /// The newest change that no sequence speaks for: one without a sequence, or the
    /// last start over, before which sequences meant something else.
    pub unnumbered: Place,
    /// The newest replacement that started over.
    pub started_over: Place,
}

/// A replacement of the directory, as far as its order among other changes goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Succession {
    /// Where it began.
    pub began: Place,
    /// The last change that its source had seen; none where the source does not count.
    pub sequence: Option<u64>,
    /// What it may undo.
    pub course: Course,
}

/// What a replacement may undo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Course {
    /// Nothing that is newer than it is.
    #[default]
    Forward,
    /// Everything: its source was restored from a backup.
    StartOver,
}

/// The directory has a change that is newer than a replacement of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the directory has a change that is newer than the replacement")]
pub struct DirectoryChanged {
    /// The highest sequence applied; none before the first.
    pub applied_sequence: Option<u64>,
}

/// A change that undoes nothing newer, and may be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    before: Progress,
    change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Batch { sequence: Option<u64> },
    Replacement(Succession),
}

impl Progress {
    /// Lets a batch in; none where it is to be skipped, because its sequence is not above
    /// the applied one.
    pub fn batch(self, sequence: Option<u64>) -> Option<Entry> {
        let is_new = sequence.is_none() || sequence > self.applied_sequence;
        is_new.then_some(Entry {
            before: self,
            change: Change::Batch { sequence },
        })
    }

    /// Lets a replacement in. Sequences decide where both sides have one, since they say
    /// what the source had seen. What has none is judged by when it came.
    ///
    /// # Errors
    /// Where the replacement would undo something newer.
    pub fn replacement(self, replacement: Succession) -> Result<Entry, DirectoryChanged> {
        let Succession {
            began,
            sequence,
            course,
        } = replacement;
        let is_outdated = match course {
            Course::StartOver => began < self.started_over,
            Course::Forward if sequence.is_some() => {
                sequence < self.applied_sequence || began < self.unnumbered
            }
            Course::Forward => began < self.changed,
        };
        if is_outdated {
            return Err(DirectoryChanged {
                applied_sequence: self.applied_sequence,
            });
        }
        Ok(Entry {
            before: self,
            change: Change::Replacement(replacement),
        })
    }
}

impl Entry {
    /// How far the directory is once the change is applied. `now` is a place of its own,
    /// behind everything that began before.
    pub fn applied(self, now: Place) -> Progress {
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
            Change::Replacement(Succession {
                began,
                sequence,
                course,
            }) => match course {
                // Whatever began before may be of the history that was given up.
                Course::StartOver => (sequence, now, now, began),
                Course::Forward => {
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
        Progress {
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

    /// What happens in a history, in this order.
    #[derive(Clone, Copy)]
    enum Step {
        /// A batch is applied.
        Batch(Option<u64>),
        /// A replacement of that number begins.
        Begin(usize),
        /// It is complete, with that sequence.
        Finish(usize, Option<u64>, Course),
    }

    /// What a history is called, what happens in it, which of its batches and replacements
    /// are applied, and the sequence in the end.
    type Case<'a> = (&'a str, &'a [Step], &'a [bool], Option<u64>);

    /// What became of each batch and each replacement, and the sequence in the end.
    fn history(steps: &[Step]) -> (Vec<bool>, Option<u64>) {
        let mut progress = Progress::default();
        let mut began = [Place::default(); 4];
        let mut applied = Vec::new();
        for (now, step) in (1..).map(Place).zip(steps) {
            let entry = match *step {
                Step::Begin(number) => {
                    began[number] = now;
                    continue;
                }
                Step::Batch(sequence) => progress.batch(sequence),
                Step::Finish(number, sequence, course) => {
                    let began = began[number];
                    let replacement = Succession {
                        began,
                        sequence,
                        course,
                    };
                    progress.replacement(replacement).ok()
                }
            };
            applied.push(entry.is_some());
            progress = entry.map_or(progress, |entry| entry.applied(now));
        }
        (applied, progress.applied_sequence)
    }

    #[test]
    fn every_interleaving_keeps_what_is_newer() {
        use Course::{Forward, StartOver};
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
        /// Whatever happens, only a start over brings the sequence down.
        #[test]
        fn the_sequence_goes_forward_only(
            steps in proptest::collection::vec((0..3_u8, proptest::option::of(0..6_u64), 0..4_usize), 0..40),
        ) {
            let mut progress = Progress::default();
            let mut began = [Place::default(); 4];
            for (now, (kind, sequence, number)) in (1..).map(Place).zip(steps) {
                let entry = match kind {
                    0 => {
                        began[number] = now;
                        None
                    }
                    1 => progress.batch(sequence),
                    _ => progress.replacement(Succession {
                        began: began[number],
                        sequence,
                        course: Course::Forward,
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
