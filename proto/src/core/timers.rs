//! The core's own timers: at most one of each kind, moved by setting it again.

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::NodeId, time::Time};

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKind {
    /// Try to join again, or look how it stands.
    Join,
    /// Say that joining has not worked yet.
    JoinReport,
    /// Send what waits.
    Gossip,
    /// Give up streams over which no handshake was done.
    Handshake,
    /// Open a stream that is missing.
    Mesh,
    /// Dial somebody who was lost.
    Redial,
    /// Compare what is known with somebody.
    PushPull,
    /// Tell newcomers of each other.
    Newcomers,
    /// Tell whom a healing brought back.
    HealReport,
    /// Look at an inquiry.
    Inquiry(NodeId),
    /// A suspicion's window ends.
    Suspicion(NodeId),
    /// A helper's answer is overdue.
    Nack,
    /// Place partitions anew.
    Placement,
    /// Leaving takes too long, or can end.
    Leave,
    /// A change of keys takes too long.
    Keys,
    /// Forget who is gone for long.
    Forget,
    /// Write down who is known.
    Persist,
    /// A holder of a name or id had its time to answer.
    Holder(NodeId),
}

/// Timers by kind and by moment.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_kind: BTreeMap<TimerKind, Time>,
    by_time: BTreeSet<(Time, TimerKind)>,
}

impl Timers {
    /// Sets a timer, wherever it stood before.
    pub(super) fn set(&mut self, kind: TimerKind, at: Time) {
        self.clear(kind);
        self.by_kind.insert(kind, at);
        self.by_time.insert((at, kind));
    }

    /// Sets a timer unless it comes sooner already.
    pub(super) fn set_by(&mut self, kind: TimerKind, at: Time) {
        if self.by_kind.get(&kind).is_none_or(|present| at < *present) {
            self.set(kind, at);
        }
    }

    /// Takes a timer away.
    pub(super) fn clear(&mut self, kind: TimerKind) {
        if let Some(at) = self.by_kind.remove(&kind) {
            self.by_time.remove(&(at, kind));
        }
    }

    /// Whether a timer is set.
    pub(super) fn is_set(&self, kind: TimerKind) -> bool {
        self.by_kind.contains_key(&kind)
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out one that is due.
    pub(super) fn pop(&mut self, now: Time) -> Option<TimerKind> {
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
        timers.set(TimerKind::Gossip, Time::from_millis(20));
        timers.set(TimerKind::Gossip, Time::from_millis(10));
        timers.set_by(TimerKind::Gossip, Time::from_millis(15));
        timers.set(TimerKind::Mesh, Time::from_millis(10));
        assert_eq!(timers.next(), Some(Time::from_millis(10)));
        assert_eq!(timers.pop(Time::from_millis(9)), None);
        let now = Time::from_millis(30);
        let fired: Vec<_> = std::iter::from_fn(|| timers.pop(now)).collect();
        assert_eq!(fired, [TimerKind::Gossip, TimerKind::Mesh]);
    }
}
