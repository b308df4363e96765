//! Transfers leave room for clients: so many bytes a second, and no more.
//!
//! Copies that are made or repaired can wait; what a take-over needs goes at once. The side that leads
//! a comparison counts what it sends and what it fetches, and pauses before the next message.
//!
//! ```text
//!   repair, and copies in place of failed ones     large pieces, at the rate
//!   work that only moves, while clients are here   small pieces; after each a rest, many times as long
//!                                                  as the piece took to be sent, stored and answered
//! ```
//!
//! A rest is measured by what the piece took: on a machine with little to do, that goes fast; where
//! processors or disks are what clients wait for, transfers hold themselves back.

use std::{collections::BTreeSet, time::Duration};

use super::{
    host::Standing,
    message::Attempt,
    shard::{Shard, Timer},
};
use crate::{
    id::{NodeId, PartitionId},
    time::Time,
};

/// Sent ahead of what the rate allows: without it a small transfer would wait for a clock tick.
const AHEAD: Duration = Duration::from_millis(20);
/// Partitions of which a node makes new copies at a time.
const FILLS_OUT: usize = 4;
/// The same for each shard that serves clients.
const FILLS_WHILE_SERVING: usize = 1;
/// So long no copy is begun after somebody had no room for one.
const BUSY: Duration = Duration::from_millis(100);
/// So many requests within [`WINDOW`], and clients are being served...
const SERVED: u32 = 5;
/// ... for the next [`SERVING`].
const WINDOW: Duration = Duration::from_millis(100);
/// See [`WINDOW`].
const SERVING: Duration = Duration::from_millis(500);
/// After a piece, a move rests so many times as long as that took.
const REST: u32 = 20;
/// The same if somebody waits for it to be over, so that it can leave.
const REST_OF_LEAVERS: u32 = 5;
/// No rest is longer: what takes so long does not wait for processors, but for a long way.
const LONGEST_REST: Duration = Duration::from_millis(20);

/// What was transferred, and who waits to go on.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When everything until now would have been sent at the rate allowed.
    free_at: Time,
    /// Until when moves rest.
    rests_until: Time,
    waiting: BTreeSet<(PartitionId, NodeId)>,
    /// No copy is begun before: somebody has enough to do with others.
    begins_at: Time,
    /// When requests began to be counted, and how many came since.
    counted: (Time, u32),
    /// Clients count as being served until then.
    serving: Time,
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

    /// A piece of a move took so long.
    fn rest(&mut self, now: Time, took: Duration, times: u32) {
        let rest = took.saturating_mul(times).min(LONGEST_REST);
        self.rests_until = self.rests_until.max(now + rest);
    }

    /// A request of a client is carried out.
    fn serve(&mut self, now: Time) {
        if now >= self.counted.0 + WINDOW {
            self.counted = (now, 0);
        }
        self.counted.1 = self.counted.1.saturating_add(1);
        if self.counted.1 >= SERVED {
            self.serving = now + SERVING;
        }
    }
}

impl Shard {
    /// A request of a client is carried out here.
    pub(super) fn client_is_served(&mut self) {
        self.pace.serve(self.now.time);
    }

    /// Whether so many requests of clients come that moves stand back.
    fn serves_clients(&self) -> bool {
        self.now.time < self.pace.serving
    }

    /// A newcomer has as many copies made as it takes at a time. Whichever partition was tried next, it would
    /// mostly say the same: nothing is tried for a while.
    pub(super) fn newcomer_is_busy(&mut self) {
        self.pace.begins_at = self.now.time + BUSY;
        // The end of it is noticed: see `begin_queued_changes`.
        self.timers.set_by(Timer::Transfers, self.pace.begins_at);
    }

    /// Partitions of which this shard may make new copies at a time.
    pub(super) fn fills_out(&self) -> usize {
        if self.now.time < self.pace.begins_at {
            0
        } else if self.serves_clients() {
            FILLS_WHILE_SERVING
        } else {
            self.share(FILLS_OUT)
        }
    }

    /// How many times as long as a piece takes a transfer rests after it, so that clients do not notice
    /// it; `None` for what does not wait for clients.
    pub(super) fn rest_of(&self, p: PartitionId, attempt: Attempt) -> Option<u32> {
        if !matches!(attempt, Attempt::Fill(_)) || !self.serves_clients() {
            return None;
        }
        let members = &self.chain(p)?.config.members;
        if members.iter().any(|member| self.is_gone(*member)) {
            // There are fewer copies than there should be.
            return None;
        }
        let view = self.view()?;
        let leaves = |member: &NodeId| view.standing(*member) == Some(Standing::Leaving);
        match view.leaving || members.iter().any(leaves) {
            true => Some(REST_OF_LEAVERS),
            false => Some(REST),
        }
    }

    /// A piece that was sent at `sent` has been stored at the other side.
    pub(super) fn piece_is_stored(&mut self, p: PartitionId, attempt: Attempt, sent: Time) {
        if let Some(times) = self.rest_of(p, attempt) {
            let now = self.now.time;
            self.pace.rest(now, now.saturating_since(sent), times);
        }
    }

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
        let now = self.now.time;
        let rests = Some(self.pace.rests_until).filter(|at| *at > now);
        let rests = rests.filter(|_| self.rest_of(p, attempt).is_some());
        let pause = self.pace.pause(now).filter(|_| is_paced(attempt));
        let at = rests.max(pause)?;
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

    #[test]
    fn a_move_rests_longer_than_it_worked_but_not_without_end() {
        let at = Time::from_millis;
        let mut pace = Pace::default();
        pace.rest(at(1000), Duration::from_micros(500), REST);
        assert_eq!(pace.rests_until, at(1010));
        pace.rest(at(1001), Duration::from_micros(100), REST);
        assert_eq!(pace.rests_until, at(1010), "another one rests already");
        pace.rest(at(2000), Duration::from_millis(300), REST_OF_LEAVERS);
        assert_eq!(pace.rests_until, at(2000) + LONGEST_REST);
    }

    #[test]
    fn clients_count_as_served_while_many_requests_come() {
        let at = Time::from_millis;
        let mut pace = Pace::default();
        // A few now and then are not many.
        for moment in (1000..3000).step_by(40) {
            pace.serve(at(moment));
        }
        assert!(pace.serving <= at(3000));
        for moment in 4000..4000 + u64::from(SERVED) {
            pace.serve(at(moment));
        }
        assert!(pace.serving > at(4400) && pace.serving <= at(4600));
    }
}
