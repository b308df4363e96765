//! Rule 9: a clock that runs ahead stamps nothing.
//!
//! Between branches the later clock wins, and expiry goes by it. So a node whose clock is more than
//! a minute ahead of most others' refuses writes, and takes no copies; what is stored already is
//! merged whatever its clock reading says. A clock that is behind does no harm: each reading is
//! larger than every one that was seen.
//!
//! Nodes tell each other what their clocks show when a stream opens, and now and then. It is noted
//! against the monotonic clock, so that a node sees at once when its own clock jumps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{host::Now, message::Message, omit::Omit, shard::Shard};
use crate::{event::Event, id::NodeId, kv::version::Wall};

/// So far ahead of most others a clock may be. What a message takes on its way is part of it.
pub const MOST_AHEAD: Duration = Duration::from_secs(60);

const MOST_AHEAD_MS: i64 = MOST_AHEAD.as_millis() as i64;

/// What is known of the clocks of others.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// What each showed when this node's monotonic clock stood at 0 (milliseconds).
    offsets: BTreeMap<NodeId, i64>,
    /// Where this node's own may be at the most.
    bound: Option<i64>,
    told: BTreeSet<NodeId>,
}

impl Clocks {
    fn settle(&mut self) {
        let mut sorted: Vec<i64> = self.offsets.values().copied().collect();
        sorted.sort_unstable();
        // Ahead of more than half of them.
        self.bound = sorted
            .get(sorted.len() / 2)
            .map(|middle| middle.saturating_add(MOST_AHEAD_MS));
    }
}

fn offset(wall: Wall, now: Now) -> i64 {
    let time = i64::try_from(now.time.since_origin().as_millis()).unwrap_or(i64::MAX);
    i64::try_from(wall.0)
        .unwrap_or(i64::MAX)
        .saturating_sub(time)
}

impl Shard {
    // One of a node's shards does, in what concerns them all.
    fn speaks_for_node(&self) -> bool {
        self.config.shard.0 == 0
    }

    /// By how much this node's clock is ahead of what it may be, if it is.
    pub(super) fn clock_ahead(&self) -> Option<Duration> {
        if self.omits(Omit::ClockBound) {
            return None;
        }
        let over = offset(self.now.wall, self.now) - self.clocks.bound?;
        let over = u64::try_from(over).ok().filter(|over| *over > 0)?;
        Some(MOST_AHEAD + Duration::from_millis(over))
    }

    /// The same, as a reason to refuse.
    pub(super) fn why_clock_refuses(&self) -> Option<String> {
        let ahead = self.clock_ahead()?.as_secs();
        Some(format!(
            "the clock of {} is {ahead} s ahead of most others': it writes nothing and takes no copies until that \
             is mended (NTP, chrony)",
            self.name(self.own)
        ))
    }

    pub(super) fn greet_with_clock(&mut self, peer: NodeId) {
        let wall = self.now.wall;
        if self.speaks_for_node() {
            self.send(peer, Message::Clock(wall));
        }
    }

    pub(super) fn hear_clock(&mut self, from: NodeId, wall: Wall) {
        let theirs = offset(wall, self.now);
        self.clocks.offsets.insert(from, theirs);
        self.clocks.settle();
        let ahead = theirs.saturating_sub(offset(self.now.wall, self.now));
        if ahead <= MOST_AHEAD_MS {
            self.clocks.told.remove(&from);
        } else if self.clocks.told.insert(from) && self.speaks_for_node() {
            self.event(Event::Warning {
                kind: "clock_ahead".to_owned(),
                text: format!(
                    "the clock of {} is {} s ahead of this node's: one of the two is wrong",
                    self.name(from),
                    ahead / 1000
                ),
            });
        }
        if self.clock_ahead().is_some() {
            self.care_soon();
        }
    }

    pub(super) fn forget_clock(&mut self, peer: NodeId) {
        self.clocks.offsets.remove(&peer);
        self.clocks.settle();
    }

    /// Tells people once that this node's own clock is ahead; whether it is.
    pub(super) fn look_at_own_clock(&mut self) -> bool {
        let own = self.own;
        match self.why_clock_refuses() {
            None => {
                self.clocks.told.remove(&own);
                false
            }
            Some(text) => {
                if self.clocks.told.insert(own) && self.speaks_for_node() {
                    let kind = "clock_ahead".to_owned();
                    self.event(Event::Warning { kind, text });
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ahead_is_who_is_ahead_of_more_than_half_of_the_others() {
        let bound = |offsets: &[i64]| {
            let mut clocks = Clocks::default();
            for (node, offset) in (1..).zip(offsets) {
                clocks.offsets.insert(NodeId(node), *offset);
            }
            clocks.settle();
            clocks.bound.map(|bound| bound - MOST_AHEAD_MS)
        };
        assert_eq!(bound(&[]), None, "alone it is right");
        assert_eq!(bound(&[5]), Some(5));
        assert_eq!(bound(&[-900_000, 0]), Some(0), "one of two is far behind");
        assert_eq!(bound(&[-900_000, -3, 0]), Some(-3));
        assert_eq!(bound(&[-900_000, -3, 0, 900_000]), Some(0));
    }
}
