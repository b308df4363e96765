//! What is to happen, in the order of time; what is for the same moment, in the order in which it
//! was put down.

use std::{cmp::Reverse, collections::BinaryHeap};

use kith_proto::time::Time;

/// Everything that is still to happen.
#[derive(Debug)]
pub struct Agenda<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    sequence: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: Time,
    sequence: u64,
    what: T,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            sequence: 0,
        }
    }
}

impl<T> Agenda<T> {
    /// Puts something down for a moment.
    pub fn push(&mut self, at: Time, what: T) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.heap.push(Reverse(Entry { at, sequence, what }));
    }

    /// Takes what is next, if it is due by then.
    pub fn pop(&mut self, until: Time) -> Option<(Time, T)> {
        match self.heap.peek() {
            Some(Reverse(next)) if next.at <= until => {}
            _ => return None,
        }
        let Reverse(next) = self.heap.pop()?;
        Some((next.at, next.what))
    }

    /// How much there is.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing will happen any more.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_of_one_moment_what_was_put_down_first() {
        let at = Time::from_millis;
        let mut agenda = Agenda::default();
        for (ms, what) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b'), (9, 'e')] {
            agenda.push(at(ms), what);
        }
        let due = std::iter::from_fn(|| agenda.pop(at(5)));
        assert_eq!(due.map(|(_, what)| what).collect::<String>(), "abcd");
        assert_eq!(agenda.len(), 1);
        assert_eq!(agenda.pop(at(9)), Some((at(9), 'e')));
    }
}
