//! What clients were told of a key has an order that fits real time: exactly, by search.
//!
//! Each operation takes effect at one moment between its call and its return; what was never
//! answered may have taken effect at any moment after its call, or never. The search takes, again and again,
//! an operation that was called before every one that is left returned, if what it was told fits what is
//! there, and goes back where it finds no other. What was taken and what is there then is remembered, so that no
//! such state is searched twice.
//!
//! Sources: Herlihy and Wing, "Linearizability" (1990); Wing and Gong, "Testing and Verifying
//! Concurrent Objects" (1993); Lowe, "Testing for linearizability" (2017).

use std::collections::HashSet;

use bytes::Bytes;
use kith_proto::{kv::version::Version, time::Time};

use super::by_key;
use crate::lab::client::{Asked, Ended, Only, Operation, Told};

/// A search that takes more steps than this has no result, and that is an objection too.
const MOST_STEPS: u64 = 4_000_000;

/// Looks at the history of every key.
pub fn at_rest(history: &[Operation]) -> Vec<String> {
    let mut found = Vec::new();
    for (key, operations) in by_key(history) {
        let calls: Vec<Call> = operations.iter().filter_map(|o| Call::of(o)).collect();
        match linearize(&calls) {
            Ok(()) => {}
            Err(Failure::No { taken, stuck }) => found.push(format!(
                "{key:?}: no order of its {} operations fits; after {taken} of them none fits of\n{}",
                calls.len(),
                stuck.join("\n")
            )),
            Err(Failure::TooLong) => {
                found.push(format!("{key:?}: undecided after {MOST_STEPS} steps"));
            }
        }
    }
    found
}

/// An operation as the search sees it.
struct Call<'a> {
    began: Time,
    /// `None`: nobody knows whether it ever took effect.
    ended: Option<Time>,
    asked: &'a Asked,
    told: Option<&'a Told>,
}

impl<'a> Call<'a> {
    fn of(operation: &'a Operation) -> Option<Self> {
        let (told, ended) = match &operation.result {
            Ended::Done(told) => (Some(told), operation.ended),
            // What was refused has no effect.
            Ended::Refused(_) => return None,
            Ended::Open | Ended::Unknown(_) if operation.asked == Asked::Read => return None,
            Ended::Open | Ended::Unknown(_) => (None, None),
        };
        Some(Self {
            began: operation.began,
            ended,
            asked: &operation.asked,
            told,
        })
    }

    // What is there after it; `None` if what was told does not fit.
    fn apply(&self, before: &Option<Bytes>) -> Option<Option<Bytes>> {
        let (applied, after) = match self.asked {
            // What is there was written anew since, under another version.
            Asked::Write(_, Only::Version(version, _)) if self.saw_another(*version) => {
                (false, before.clone())
            }
            Asked::Read => (false, before.clone()),
            Asked::Delete => (before.is_some(), None),
            Asked::Write(value, only) => {
                let applies = match only {
                    Only::Always => true,
                    Only::Absent => before.is_none(),
                    Only::Version(_, expected) => before.as_ref() == Some(expected),
                };
                let after = if applies {
                    Some(value.clone())
                } else {
                    before.clone()
                };
                (applies, after)
            }
            Asked::Add => {
                let number = match before {
                    None => 0,
                    Some(value) => std::str::from_utf8(value).ok()?.parse::<i64>().ok()?,
                };
                (true, Some(Bytes::from((number + 1).to_string())))
            }
        };
        let Some(told) = self.told else {
            return Some(after);
        };
        let fits = told.applied == applied
            && told.before.as_ref().is_none_or(|told| told == before)
            && told
                .after
                .as_ref()
                .is_none_or(|told| Some(told) == after.as_ref());
        fits.then_some(after)
    }
}

impl Call<'_> {
    // It was told a version other than the one it asked for.
    fn saw_another(&self, asked_for: Version) -> bool {
        let told = self.told.filter(|told| !told.applied);
        told.and_then(|told| told.version)
            .is_some_and(|version| version != asked_for)
    }
}

enum Failure {
    No { taken: usize, stuck: Vec<String> },
    TooLong,
}

// Which operations were taken.
type Taken = Vec<u64>;

/// Where a search stands.
struct Search<'a> {
    calls: &'a [Call<'a>],
    /// Calls in the order in which they began.
    order: Vec<usize>,
    taken: Taken,
    present: Option<Bytes>,
    /// States that were searched, or are being.
    searched: HashSet<(Taken, Option<Bytes>)>,
    /// What was taken, by its place in the order, and what was there before.
    path: Vec<(usize, Option<Bytes>)>,
    /// How many answered ones are left.
    left: usize,
}

impl Search<'_> {
    fn is_taken(&self, call: usize) -> bool {
        self.taken[call / 64] & (1 << (call % 64)) != 0
    }

    fn toggle(&mut self, call: usize) {
        self.taken[call / 64] ^= 1 << (call % 64);
    }

    // Places in the order whose operations may come next: called before any other that is left returned.
    fn candidates(&self) -> impl Iterator<Item = usize> {
        let mut first_end: Option<Time> = None;
        let rest = (0..self.order.len()).filter(|at| !self.is_taken(self.order[*at]));
        rest.take_while(move |at| {
            let call = &self.calls[self.order[*at]];
            let may = first_end.is_none_or(|end| call.began <= end);
            first_end = match (first_end, call.ended) {
                (Some(first), Some(end)) => Some(first.min(end)),
                (first, end) => first.or(end),
            };
            may
        })
    }

    // Takes the first that fits, from a place on. False if there is none.
    fn go_on(&mut self, from: usize) -> bool {
        let candidates: Vec<usize> = self.candidates().filter(|at| *at >= from).collect();
        for at in candidates {
            let call = self.order[at];
            let Some(after) = self.calls[call].apply(&self.present) else {
                continue;
            };
            self.toggle(call);
            if self.searched.insert((self.taken.clone(), after.clone())) {
                self.left -= usize::from(self.calls[call].ended.is_some());
                let before = std::mem::replace(&mut self.present, after);
                self.path.push((at, before));
                return true;
            }
            self.toggle(call);
        }
        false
    }

    // Gives the last one back; where it was, or nothing if there is none.
    fn go_back(&mut self) -> Option<usize> {
        let (at, before) = self.path.pop()?;
        let call = self.order[at];
        self.toggle(call);
        self.left += usize::from(self.calls[call].ended.is_some());
        self.present = before;
        Some(at)
    }

    // What is there, and what could come next, for people.
    fn stuck(&self) -> Vec<String> {
        let mut lines = vec![format!("  there is {:?}", self.present)];
        for at in self.candidates().take(8) {
            let call = &self.calls[self.order[at]];
            lines.push(format!(
                "  {:?} to {:?}: {:?}, told {:?}",
                call.began, call.ended, call.asked, call.told
            ));
        }
        lines
    }
}

fn linearize(calls: &[Call]) -> Result<(), Failure> {
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|call| calls[*call].began);
    let mut search = Search {
        calls,
        order,
        taken: vec![0; calls.len().div_ceil(64)],
        present: None,
        searched: HashSet::new(),
        path: Vec::new(),
        left: calls.iter().filter(|call| call.ended.is_some()).count(),
    };
    let mut furthest = (0, Vec::new());
    let mut from = 0;
    for _ in 0..MOST_STEPS {
        if search.left == 0 {
            return Ok(());
        }
        if search.go_on(from) {
            from = 0;
            continue;
        }
        if search.path.len() > furthest.0 || furthest.1.is_empty() {
            furthest = (search.path.len(), search.stuck());
        }
        match search.go_back() {
            Some(at) => from = at + 1,
            None => {
                let (taken, stuck) = furthest;
                return Err(Failure::No { taken, stuck });
            }
        }
    }
    Err(Failure::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(
        (began, ended): (u64, u64),
        asked: Asked,
        result: impl Fn(Told) -> Ended,
        told: Told,
    ) -> Operation {
        Operation {
            key: Bytes::from("k"),
            asked,
            node: 0,
            began: Time::from_millis(began),
            ended: (ended > 0).then(|| Time::from_millis(ended)),
            result: result(told),
        }
    }

    fn write(at: (u64, u64), value: &'static str) -> Operation {
        let told = Told {
            applied: true,
            ..Told::default()
        };
        operation(
            at,
            Asked::Write(Bytes::from(value), Only::Always),
            Ended::Done,
            told,
        )
    }

    fn lost(at: u64, value: &'static str) -> Operation {
        let unknown = |_| Ended::Unknown(String::new());
        let asked = Asked::Write(Bytes::from(value), Only::Always);
        operation((at, 0), asked, unknown, Told::default())
    }

    fn read(at: (u64, u64), value: Option<&'static str>) -> Operation {
        let told = Told {
            before: Some(value.map(Bytes::from)),
            ..Told::default()
        };
        operation(at, Asked::Read, Ended::Done, told)
    }

    fn fits(history: &[Operation]) -> bool {
        at_rest(history).is_empty()
    }

    #[test]
    fn what_overlaps_may_come_in_any_order_and_what_does_not_may_not() {
        let overlapping = [
            write((1, 9), "a"),
            write((2, 8), "b"),
            read((10, 11), Some("a")),
        ];
        assert!(fits(&overlapping));
        let one_after_the_other = [
            write((1, 2), "a"),
            write((3, 4), "b"),
            read((5, 6), Some("a")),
        ];
        assert!(!fits(&one_after_the_other));
        let back_and_forth = [
            write((1, 9), "a"),
            write((1, 9), "b"),
            read((2, 3), Some("a")),
            read((4, 5), Some("b")),
            read((6, 7), Some("a")),
        ];
        assert!(!fits(&back_and_forth));
    }

    #[test]
    fn what_nobody_knows_of_may_have_happened_at_any_time_or_never() {
        let before = [write((1, 2), "a"), lost(3, "b")];
        let with = |reads: &[Operation]| fits(&[&before[..], reads].concat());
        assert!(with(&[read((5, 6), Some("a"))]));
        assert!(with(&[read((5, 6), Some("a")), read((7, 8), Some("b"))]));
        assert!(!with(&[read((5, 6), Some("b")), read((7, 8), Some("a"))]));
        assert!(!with(&[read((5, 6), None)]));
    }

    #[test]
    fn conditions_and_additions_are_told_apart() {
        let absent = |at, value: &'static str, applied| {
            let told = Told {
                applied,
                ..Told::default()
            };
            operation(
                at,
                Asked::Write(Bytes::from(value), Only::Absent),
                Ended::Done,
                told,
            )
        };
        assert!(fits(&[
            absent((1, 2), "a", true),
            absent((3, 4), "b", false)
        ]));
        assert!(!fits(&[
            absent((1, 2), "a", true),
            absent((3, 4), "b", true)
        ]));
        let add = |at, after: &'static str| {
            let told = Told {
                applied: true,
                after: Some(Bytes::from(after)),
                ..Told::default()
            };
            operation(at, Asked::Add, Ended::Done, told)
        };
        assert!(fits(&[
            add((1, 5), "2"),
            add((2, 4), "1"),
            add((6, 7), "3")
        ]));
        assert!(!fits(&[add((1, 2), "1"), add((3, 4), "1")]), "one was lost");
    }
}
