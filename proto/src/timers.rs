//! Timers of a core: at most one of each kind, moved by setting it again.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Time;

/// Timers by kind and by moment.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_kind: BTreeMap<K, Time>,
    by_time: BTreeSet<(Time, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self {
            by_kind: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }
}

impl<K: Copy + Ord> Timers<K> {
    /// Sets a timer, wherever it stood before.
    pub(crate) fn set(&mut self, kind: K, at: Time) {
        self.clear(kind);
        self.by_kind.insert(kind, at);
        self.by_time.insert((at, kind));
    }

    /// Sets a timer unless it comes sooner already.
    pub(crate) fn set_by(&mut self, kind: K, at: Time) {
        if self.by_kind.get(&kind).is_none_or(|present| at < *present) {
            self.set(kind, at);
        }
    }

    /// Takes a timer away.
    pub(crate) fn clear(&mut self, kind: K) {
        if let Some(at) = self.by_kind.remove(&kind) {
            self.by_time.remove(&(at, kind));
        }
    }

    /// Whether a timer is set.
    pub(crate) fn is_set(&self, kind: K) -> bool {
        self.by_kind.contains_key(&kind)
    }

    /// When the first one is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out one that is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<K> {
        let (at, kind) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.clear(kind);
        Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_moved_not_doubled() {
        let mut timers = Timers::default();
        timers.set('g', Time::from_millis(20));
        timers.set('g', Time::from_millis(10));
        timers.set_by('g', Time::from_millis(15));
        timers.set('m', Time::from_millis(10));
        assert_eq!(timers.next(), Some(Time::from_millis(10)));
        assert_eq!(timers.pop(Time::from_millis(9)), None);
        let now = Time::from_millis(30);
        let fired: Vec<_> = std::iter::from_fn(|| timers.pop(now)).collect();
        assert_eq!(fired, ['g', 'm']);
    }
}
