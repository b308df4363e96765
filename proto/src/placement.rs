//! Whose is what: partitions to nodes, a pure function of who is there.

pub mod assign;
mod balance;
pub mod diff;
pub mod hash;
mod share;

use std::collections::BTreeMap;

pub use assign::assign;
pub use diff::{Diff, diff};
pub use hash::{SLOTS, partition_of, partition_of_slot, slot, slots};

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

    /// Every partition with its list.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &[NodeId])> {
        (0..self.partitions).map(|partition| (partition, self.members(partition)))
    }
}
