//! Whose is what: partitions to nodes, a pure function of who is there.
//!
//! Nobody hands out partitions: every node computes the same [`Assignment`] from the same
//! members. It only *proposes*; what is, the chain of configurations says.
//!
//! ```text
//! key --CRC16--> slot --run of slots--> partition --assign--> owner, successors
//! peers (id, weight, zone) --> fair shares --> natural choice --> balanced copies --> owners
//! ```
//!
//! Reading order: `hash` (keys to slots, draws), `share` (what is fair), `assign` (natural
//! choice, then owners), `balance` (the least changes that keep bounds), `diff`, `placer` (the
//! same question is not answered twice).
//!
//! # What is promised
//!
//! Always, for any peers in any order, as the tests assert:
//!
//! - R different nodes for each partition, or all nodes where there are fewer.
//! - Zones: with R or more of them no two copies in one; with fewer, copies as evenly over
//!   zones as R copies can be.
//! - Copies of each node within 5 % of its fair share, or one partition: its share by weight,
//!   water-filled under the two rules above (`share`).
//! - Partitions owned by each node likewise, as long as the heaviest weighs at most ten
//!   times the lightest. Beyond that (seen at 1 : 7,700, two copies and four zones) light
//!   nodes may have to keep partitions together, and then one of them must own.
//! - The same answer on every machine, and in every release: integers only, and a golden test.
//!
//! # What a change moves
//!
//! A join or leave should move little more than it must, and a dead owner should be followed
//! by one that has a copy. Without memory these hold as far as bounds on load leave room: on
//! a node with few partitions *one partition* of slack is less than the luck of the draw, and
//! every departure shifts somebody over a bound. Measured on 6,000 random clusters (2 to 65
//! nodes, 64 to 4,096 partitions, 1 to 5 copies, in more than half of them 3): copies moved
//! as a multiple of the least possible, the worse of join and leave, average / worst. The
//! least is what the node itself has, or what all that gain anything gain in number.
//!
//! | copies per node | equal weights | 1 : 4 | 1 : 10 | as many zones as copies | one to three zones more |
//! |---|---|---|---|---|---|
//! | 13–24 | 1.63 / 2.8 | 1.52 / 2.7 | 1.62 / 4.3 | 1.35 / 2.3 | 1.86 / 3.2 |
//! | 25–49 | 1.29 / 2.0 | 1.32 / 2.3 | 1.34 / 2.6 | 1.18 / 2.0 | 1.44 / 2.2 |
//! | 50–99 | 1.13 / 1.59 | 1.15 / 1.61 | 1.15 / 1.50 | 1.06 / 1.33 | 1.34 / 1.87 |
//! | 100–149 | 1.06 / 1.33 | 1.08 / 1.36 | 1.09 / 1.48 | 1.03 / 1.16 | 1.25 / 1.60 |
//! | 150–199 | 1.04 / 1.14 | 1.05 / 1.15 | 1.08 / 1.27 | 1.03 / 1.12 | 1.18 / 1.52 |
//! | 200–399 | 1.02 / 1.09 | 1.04 / 1.15 | 1.05 / 1.19 | 1.02 / 1.11 | 1.20 / 1.57 |
//! | from 400 | 1.00 / 1.03 | 1.03 / 1.13 | 1.04 / 1.24 | 1.00 / 1.02 | 1.22 / 1.61 |
//!
//! In larger clusters, up to 100 nodes of equal weights without zones (5,000 of them), the worst
//! of the first three rows were 4.2, 3.3 and 2.0, and of the others 1.37, 1.22, 1.12 and 1.03. With
//! fewer than 13 copies a node nothing is promised: there it was up to 24 times the least.
//!
//! So with equal weights, and no zones or as many as copies, 1.15 holds for each change from
//! about 150 copies a node (R × partitions / nodes), and on average from 50. Choose the number
//! of partitions by that. Three things cost more at any size: very different weights, where
//! the fair shares of *others* shift too; a few zones more than copies, since a zone that
//! loses a node keeps its attraction for the partitions that the node had, and must give
//! others away; and fewer zones than copies (1.07 to 1.27 on average from 50 copies a node).
//!
//! Of the partitions of a node that goes, these get an owner that held no copy: none where
//! every node has a copy of everything; without zones 1 to 2 % at 100 copies a node, below
//! 1 % from 150 with equal weights, 2 to 5 % at 25 to 99, 8 % and more below. **With as many
//! zones as copies it is 25 to 40 %, with more zones 10 to 20 %.** No function without memory
//! can avoid that: the node that moves up within the dead owner's zone looks just like one
//! that was there before. So whoever takes over at once must be chosen among those that hold
//! copies, as the configuration chain does; the placement says to whom the partition is
//! handed later.
//!
//! # Cost
//!
//! In a release build on one core, equal weights, R = 3: 256 partitions on 5 nodes 0.1 ms, on
//! 64 nodes 2 ms, on 300 nodes 11 ms, on 1,000 nodes 33 ms; 4,096 partitions on 300 nodes
//! 240 ms, on 1,000 nodes 1.2 s.
//!
//! Sources: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998);
//! Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016), whose
//! caps are kept here by cheapest chains instead of by passing on what does not fit.

mod assign;
mod balance;
mod diff;
mod hash;
mod placer;
mod share;

use std::collections::{BTreeMap, BTreeSet};

pub use assign::assign;
pub use diff::{Diff, diff};
pub use hash::{SLOTS, partition_of, partition_of_slot, slot, slots};
pub use placer::Placer;

use crate::id::{NodeId, PartitionId};

/// A node that partitions can be placed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which node.
    pub id: NodeId,
    /// How much it takes, compared with the others: 1 to 10,000.
    pub weight: u32,
    /// Where it stands; nodes of a zone are expected to fail together. Empty: a zone of its own.
    pub zone: String,
}

impl Peer {
    /// The largest weight.
    pub const MAX_WEIGHT: u32 = 10_000;
}

/// Which nodes keep each partition, the owner first, then its successors in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    partitions: u16,
    /// How many nodes keep each partition.
    copies: usize,
    /// The lists of all partitions, one after the other.
    members: Vec<NodeId>,
    /// Owned partitions and backups of each node that has any.
    counts: BTreeMap<NodeId, (usize, usize)>,
}

impl Assignment {
    /// Nobody keeps anything.
    #[must_use]
    pub fn empty(partitions: u16) -> Self {
        Self::new(partitions, 0, Vec::new())
    }

    fn new(partitions: u16, copies: usize, members: Vec<NodeId>) -> Self {
        debug_assert_eq!(members.len(), usize::from(partitions) * copies);
        let mut counts: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
        for (place, &id) in members.iter().enumerate() {
            let (owned, backups) = counts.entry(id).or_default();
            *if place % copies == 0 { owned } else { backups } += 1;
        }
        Self {
            partitions,
            copies,
            members,
            counts,
        }
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> usize {
        usize::from(self.partitions)
    }

    /// Who keeps a partition, the owner first; empty where nobody does.
    #[must_use]
    pub fn members(&self, partition: PartitionId) -> &[NodeId] {
        let start = usize::from(partition) * self.copies;
        self.members
            .get(start..start + self.copies)
            .unwrap_or_default()
    }

    /// Who owns a partition.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> Option<NodeId> {
        self.members(partition).first().copied()
    }

    /// Who keeps the backups of a partition, the first successor first.
    #[must_use]
    pub fn backups(&self, partition: PartitionId) -> &[NodeId] {
        self.members(partition).get(1..).unwrap_or_default()
    }

    /// How many partitions a node owns, and how many backups it keeps.
    #[must_use]
    pub fn counts(&self, id: NodeId) -> (usize, usize) {
        self.counts.get(&id).copied().unwrap_or_default()
    }

    /// Who keeps a partition together with a node.
    #[must_use]
    pub fn partners(&self, id: NodeId) -> BTreeSet<NodeId> {
        let shared = self.iter().filter(|(_, members)| members.contains(&id));
        let all = shared.flat_map(|(_, members)| members.iter().copied());
        all.filter(|other| *other != id).collect()
    }

    /// The same copies, but none of these nodes owns a partition of which another keeps a copy: the
    /// first of the others comes first there, and the owner last. Where none of these owns anything the
    /// order stays, since each other order would be a change of its own.
    #[must_use]
    pub fn owned_by_others(&self, stopping: &BTreeSet<NodeId>) -> Self {
        let mut members = self.members.clone();
        for list in members.chunks_exact_mut(self.copies.max(1)) {
            if let Some(heir @ 1..) = list.iter().position(|id| !stopping.contains(id)) {
                list[..=heir].rotate_right(1);
                list[1..].rotate_left(1);
            }
        }
        Self::new(self.partitions, self.copies, members)
    }

    /// Every partition with its list.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &[NodeId])> {
        (0..self.partitions).map(|partition| (partition, self.members(partition)))
    }
}

#[cfg(test)]
mod tests;
