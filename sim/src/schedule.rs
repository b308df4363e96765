//! What is to happen, and when: one heap, in which things of the same moment happen in the order in
//! which they were put there. Nothing else decides an order, so that equal seeds give equal runs.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use kith_proto::time::Time;

/// Things that are to happen, the next one first.
pub(crate) struct Schedule<T> {
    heap: BinaryHeap<Reverse<Scheduled<T>>>,
    sequence: u64,
}

struct Scheduled<T> {
    at: Time,
    sequence: u64,
    what: T,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            sequence: 0,
        }
    }
}

impl<T> Schedule<T> {
    /// How much there is.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Something is to happen at that moment, after all else that was put there before.
    pub(crate) fn at(&mut self, at: Time, what: T) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.heap.push(Reverse(Scheduled { at, sequence, what }));
    }

    /// Takes out what happens next, with its moment, unless that comes after `until`.
    pub(crate) fn next(&mut self, until: Time) -> Option<(Time, T)> {
        self.heap.peek().filter(|Reverse(next)| next.at <= until)?;
        let Reverse(next) = self.heap.pop()?;
        Some((next.at, next.what))
    }
}

impl<T> Scheduled<T> {
    fn order(&self) -> (Time, u64) {
        (self.at, self.sequence)
    }
}

impl<T> PartialEq for Scheduled<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}
impl<T> Eq for Scheduled<T> {}
impl<T> PartialOrd for Scheduled<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Scheduled<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_of_one_moment_the_one_that_was_put_there_first() {
        let at = Time::from_millis;
        let mut schedule = Schedule::default();
        for (ms, what) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b'), (9, 'e')] {
            schedule.at(at(ms), what);
        }
        let mut taken = Vec::new();
        while let Some((_, what)) = schedule.next(at(5)) {
            taken.push(what);
        }
        assert_eq!(taken, ['a', 'b', 'c', 'd']);
        assert_eq!(schedule.len(), 1);
        assert_eq!(schedule.next(at(9)), Some((at(9), 'e')));
    }
}
