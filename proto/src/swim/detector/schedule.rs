//! When foca's timers fire.
//!
//! foca asks for delays; what it gets is decided here:
//!
//! ```text
//!   probe n starts            direct answer due         probe n fails     probe n+1 starts
//!        |-- timeout × health ----->|                        |                  |
//!        |                          |-- 3 × timeout × health |                  |
//!        |--------------------- period × health ---------------------------------|
//! ```
//!
//! - `timeout` comes from measured round trips; `health` is Lifeguard's factor, 1 to 9.
//! - A probe that is not answered directly is decided early instead of at the period's end.
//! - `ChangeSuspectToDown` is dropped: only the prober whose probe failed would arm it, and
//!   its suspicion would die with it. Every member runs its own (see
//!   [`suspicion`](crate::swim::suspicion)).
//! - Timers are queued by (when, sequence): foca's own order compares kinds only.

use std::time::Duration;

use foca::Timer;
use rand::RngExt;

use super::{super::identity::Identity, Detector, Note, effects::Effects};
use crate::{id::NodeId, time::Time};

impl Detector {
    /// Fires what is due.
    pub fn tick(&mut self, now: Time) {
        while let Some((at, sequence)) = self.timers.keys().next().copied() {
            if at > now {
                break;
            }
            if let Some(timer) = self.timers.remove(&(at, sequence)) {
                self.fire(now, timer);
            }
        }
    }

    /// This node itself was late: the probe in flight says nothing about its target, and this
    /// node trusts itself less.
    pub fn excuse(&mut self, now: Time) {
        if self.detection.lifeguard {
            self.health.worsen(1);
        }
        if self.probe.is_some_and(|probe| !probe.answered) {
            self.acknowledge_probe(now);
        }
        // What waited in the queue is not fired late all at once: it is due from now.
        let late: Vec<_> = self
            .timers
            .keys()
            .copied()
            .filter(|(at, _)| *at < now)
            .collect();
        for key in late {
            if let Some(timer) = self.timers.remove(&key) {
                self.timers.insert((now, key.1), timer);
            }
        }
    }

    pub(super) fn schedule(&mut self, now: Time, timer: Timer<Identity>, after: Duration) {
        if let Timer::ProbeRandomMember(token) = timer {
            self.token = token;
        }
        let delay = match timer {
            Timer::ChangeSuspectToDown { .. } => return,
            Timer::SendIndirectProbe { probed_id, .. } => self.timeout(probed_id.id),
            Timer::ProbeRandomMember(_) if self.probe.is_none() => {
                // The first probe comes at a random moment, so that nodes started together do
                // not probe in step.
                let period = u64::try_from(self.timing.probe_period.as_nanos()).unwrap_or(u64::MAX);
                Duration::from_nanos(self.rng.random_range(0..period))
            }
            Timer::ProbeRandomMember(_) => self.timing.probe_period * self.factor(),
            _ => after,
        };
        self.sequence += 1;
        self.timers.insert((now + delay, self.sequence), timer);
    }

    pub(super) fn fire(&mut self, now: Time, timer: Timer<Identity>) {
        if let Timer::SendIndirectProbe { token, .. } = timer
            && token == self.token
            && let Some(probe) = &mut self.probe
            && !probe.answered
        {
            probe.indirect = true;
            let target = probe.target;
            self.notes.push_back(Note::ProbeLate(target));
            self.decide_early(now, target.id);
        }
        if let Timer::ProbeRandomMember(token) = timer
            && token == self.token
        {
            self.close_probe();
        }
        let mut effects = Effects::default();
        let result = self.foca.handle_timer(timer, &mut effects);
        self.settle(now, result, effects);
    }

    // The probe is decided when the next one starts: pull that forward.
    pub(super) fn decide_early(&mut self, now: Time, target: NodeId) {
        let at = now + self.timeout(target) * 3;
        let queued = self
            .timers
            .iter()
            .find(|(_, timer)| matches!(timer, Timer::ProbeRandomMember(_)))
            .map(|(key, _)| *key);
        if let Some(key) = queued
            && key.0 > at
            && let Some(timer) = self.timers.remove(&key)
        {
            self.timers.insert((at, key.1), timer);
        }
    }
}
