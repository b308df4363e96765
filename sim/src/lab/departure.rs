//! Nodes that go of their own will: for good, or to be back.
//!
//! ```text
//!   leave ──> says so ──> holds nothing any more ──> gone for good
//!   stop  ──> says so ──> others own what they can ──> farewell ──a moment──> its process ends
//!             (nothing to hand over: farewell at once)                        └─ started again: back
//! ```
//!
//! After its farewell a process goes on for a moment, as a real one does until others have heard it.

use std::{collections::BTreeSet, time::Duration};

use kith_proto::{
    id::NodeId,
    replica::{depart, host::Standing},
    time::Time,
};
use rand::RngExt;

use super::{Happening, Lab, NodeIndex, oracle::Sight, plan::Action};

/// How a node stands to those that it wants to go from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// It does not.
    Stays,
    /// It goes for good once it holds nothing any more.
    Leaves,
    /// It stops and will be back, and hands over first; it was told to at that moment.
    Stops(Time),
    /// It has said that it stops, and its process ends, or has ended.
    Farewell,
}

impl Departure {
    /// Whether a node that goes so names itself last wherever somebody else can own a partition.
    pub(super) fn is_going(self) -> bool {
        self != Self::Stays
    }

    /// How others see a living node that goes so.
    pub(super) fn seen(self) -> Sight {
        match self {
            Self::Stays => Sight::Is(Standing::Living),
            Self::Leaves => Sight::Is(Standing::Leaving),
            Self::Stops(_) => Sight::Stopping,
            Self::Farewell => Sight::Is(Standing::Returning),
        }
    }
}

/// How soon it is looked again whether whoever leaves, or stops, may go.
const LOOK_AT_LEAVING: Duration = Duration::from_millis(100);
const LOOK_AT_STOPPING: Duration = Duration::from_millis(10);

impl Lab {
    /// A node wants to go for good; its process ends once it holds nothing any more.
    pub fn leave(&mut self, index: NodeIndex) {
        if !self.is_alive(index) || self.nodes[index].departure.is_going() {
            return;
        }
        self.nodes[index].departure = Departure::Leaves;
        for other in 0..self.len() {
            if self.is_alive(other) {
                self.notice(other, index, Sight::Is(Standing::Leaving), 1..30);
            }
        }
        self.look_at_departure(index, LOOK_AT_LEAVING);
    }

    /// A node is told to stop, and will be back when it is started again.
    pub fn stop(&mut self, index: NodeIndex) {
        let node = &self.nodes[index];
        if !self.is_alive(index) || node.paused || node.departure.is_going() {
            return;
        }
        self.nodes[index].departure = Departure::Stops(self.now);
        if self.left_to_hand_over(index) == 0 {
            return self.say_farewell(index);
        }
        for other in 0..self.len() {
            if self.is_alive(other) {
                self.notice(other, index, Sight::Stopping, 1..30);
            }
        }
        self.look_at_departure(index, LOOK_AT_STOPPING);
    }

    /// Whether a node's process is about to end because it was told to stop.
    pub fn is_stopping(&self, index: NodeIndex) -> bool {
        let departure = self.nodes[index].departure;
        let stops = matches!(departure, Departure::Stops(_) | Departure::Farewell);
        stops && self.is_alive(index)
    }

    fn look_at_departure(&mut self, index: NodeIndex, after: Duration) {
        let life = self.nodes[index].life;
        self.agenda
            .push(self.now + after, Happening::Goes(index, life));
    }

    // Whoever leaves has gone once others have what it held; whoever stops, when others own it.
    pub(super) fn goes(&mut self, index: NodeIndex, life: u32) {
        let node = &self.nodes[index];
        let Some(shard) = node.shard.as_deref().filter(|_| node.life == life) else {
            return;
        };
        match node.departure {
            Departure::Stays => {}
            _ if node.paused => self.look_at_departure(index, LOOK_AT_LEAVING),
            Departure::Leaves if shard.holds().1 > 0 => {
                self.look_at_departure(index, LOOK_AT_LEAVING);
            }
            Departure::Leaves => {
                self.end(index);
                self.nodes[index].gone = true;
                for other in 0..self.len() {
                    if self.is_alive(other) {
                        self.notice(other, index, Sight::Is(Standing::Gone), 1..50);
                    }
                }
            }
            Departure::Stops(since) => {
                let is_late = self.now >= since + depart::PATIENCE;
                if is_late || self.left_to_hand_over(index) == 0 {
                    self.say_farewell(index);
                } else {
                    self.look_at_departure(index, LOOK_AT_STOPPING);
                }
            }
            Departure::Farewell => {
                let restarts = node.restarts;
                self.end(index);
                if restarts {
                    self.schedule(Duration::from_millis(5), Action::Start(index));
                }
            }
        }
    }

    // It knows at once. Others hear of it while it still runs, or see its streams end first; those that are cut
    // from it, later.
    fn say_farewell(&mut self, index: NodeIndex) {
        self.nodes[index].departure = Departure::Farewell;
        self.believe(index, index, Standing::Returning);
        for other in (0..self.len()).filter(|other| *other != index) {
            if self.is_alive(other) {
                let reached = self.network.reaches(other, index);
                let within = if reached { 1..70 } else { 300..3000 };
                self.notice(other, index, Sight::Is(Standing::Returning), within);
            }
        }
        let linger = Duration::from_millis(self.rng.random_range(50..150));
        self.look_at_departure(index, linger);
    }

    // How many partitions somebody else should own before this node stops; 0 if nobody is there to take them.
    fn left_to_hand_over(&self, index: NodeIndex) -> usize {
        let Some(shard) = self.shard(index) else {
            return 0;
        };
        let takers: BTreeSet<NodeId> = (0..self.len())
            .filter(|other| *other != index)
            .filter(|other| self.sight(index, *other) == Some(Sight::Is(Standing::Living)))
            .map(|other| self.id(other))
            .collect();
        if takers.is_empty() {
            return 0;
        }
        let (own, is_strict) = (self.id(index), self.setup.is_strict());
        let only_ours = (0..self.setup.settings.partitions).filter(|p| {
            shard.chain_of(*p).is_some_and(|chain| {
                depart::is_only_ours(&chain.config.members, own, &takers, is_strict)
            })
        });
        shard.holds().0.saturating_sub(only_ours.count())
    }
}
