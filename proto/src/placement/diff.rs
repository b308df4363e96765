//! What differs between two assignments.

use super::Assignment;
use crate::id::PartitionId;

/// What moves when one assignment follows another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Partitions with another owner, or that gained or lost theirs.
    pub owners_moved: usize,
    /// Copies on nodes that did not hold the partition before: what has to be transferred.
    pub copies_moved: usize,
    /// Partitions whose list is not the same, in rising order.
    pub changed: Vec<PartitionId>,
}

/// Compares two assignments of the same number of partitions.
#[must_use]
pub fn diff(before: &Assignment, after: &Assignment) -> Diff {
    debug_assert_eq!(before.partitions(), after.partitions());
    let mut diff = Diff::default();
    for ((partition, old), (_, new)) in before.iter().zip(after.iter()) {
        if old == new {
            continue;
        }
        diff.changed.push(partition);
        diff.owners_moved += usize::from(old.first() != new.first());
        diff.copies_moved += new.iter().filter(|id| !old.contains(id)).count();
    }
    diff
}
