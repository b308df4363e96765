//! Transfers leave room for clients: so many bytes a second, and no more.
//!
//! Copies that are made or repaired can wait; what a take-over needs goes at once. The side that leads
//! a comparison counts what it sends and what it fetches, and pauses before the next message.

use std::{collections::BTreeSet, time::Duration};

use super::{
    message::Attempt,
    shard::{Shard, Timer},
};
use crate::{
    id::{NodeId, PartitionId},
    time::Time,
};

/// Sent ahead of what the rate allows: without it a small transfer would wait for a clock tick.
const AHEAD: Duration = Duration::from_millis(20);

/// What was transferred, and who waits to go on.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When everything until now would have been sent at the rate allowed.
    free_at: Time,
    waiting: BTreeSet<(PartitionId, NodeId)>,
}

impl Pace {
    /// So many bytes were sent or fetched, at a rate (bytes per second) of at most `rate`.
    fn spend(&mut self, now: Time, bytes: u64, rate: u64) {
        let took = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1));
        self.free_at = self.free_at.max(now) + took;
    }

    /// Until when to wait, if at all.
    fn pause(&self, now: Time) -> Option<Time> {
        (self.free_at > now + AHEAD).then_some(self.free_at)
    }
}

impl Shard {
    /// Entries of so many bytes went either way.
    pub(super) fn transferred(&mut self, attempt: Attempt, bytes: u64) {
        if is_paced(attempt) {
            let shards = u64::from(self.config.shard.1.max(1));
            let rate = self.config.timing.transfer_rate / shards;
            self.pace.spend(self.now.time, bytes, rate);
        }
    }

    /// Until when a comparison has to wait before more entries go either way.
    pub(super) fn wait_for_room(
        &mut self,
        p: PartitionId,
        peer: NodeId,
        attempt: Attempt,
    ) -> Option<Time> {
        let at = self
            .pace
            .pause(self.now.time)
            .filter(|_| is_paced(attempt))?;
        self.pace.waiting.insert((p, peer));
        self.timers.set_by(Timer::Transfers, at);
        Some(at)
    }

    /// Those that waited go on.
    pub(super) fn transfers_go_on(&mut self) {
        for (p, peer) in std::mem::take(&mut self.pace.waiting) {
            self.session_resumes(p, peer);
        }
    }
}

// Requests wait for a take-over, and for branches to be joined.
fn is_paced(attempt: Attempt) -> bool {
    matches!(attempt, Attempt::Repair(_) | Attempt::Fill(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_a_quiet_while_saves_nothing_up() {
        let at = Time::from_millis;
        let mut pace = Pace::default();
        pace.spend(at(1000), 10, 1000);
        assert_eq!(pace.pause(at(1000)), None, "a little ahead");
        pace.spend(at(1000), 90, 1000);
        assert_eq!(pace.pause(at(1000)), Some(at(1100)));
        assert_eq!(pace.pause(at(1090)), None);
        pace.spend(at(9000), 500, 1000);
        assert_eq!(pace.pause(at(9000)), Some(at(9500)));
    }
}
