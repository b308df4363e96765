//! What differs between two assignments: what a change of members would move.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn lists(of: &[[u64; 2]]) -> Assignment {
        Assignment::new(
            of.len() as u16,
            2,
            of.concat().into_iter().map(NodeId).collect(),
        )
    }

    #[test]
    fn only_copies_on_new_nodes_are_moved() {
        let before = lists(&[[1, 2], [1, 2], [1, 2], [1, 2]]);
        assert_eq!(diff(&before, &before), Diff::default());
        let after = lists(&[[1, 2], [2, 1], [1, 3], [3, 1]]);
        let expected = Diff {
            owners_moved: 2,
            copies_moved: 2,
            changed: vec![1, 2, 3],
        };
        assert_eq!(diff(&before, &after), expected);
    }

    #[test]
    fn nothing_comes_from_nowhere() {
        let (none, some) = (Assignment::empty(2), lists(&[[1, 2], [2, 1]]));
        let expected = Diff {
            owners_moved: 2,
            copies_moved: 4,
            changed: vec![0, 1],
        };
        assert_eq!(diff(&none, &some), expected);
        assert_eq!(
            diff(&some, &none),
            Diff {
                copies_moved: 0,
                ..expected
            }
        );
    }
}
