//! How the shards of a node divide its partitions among each other.
//!
//! Partitions are in a fixed number of groups, and each shard has some of the groups. How many
//! shards a node has is its own affair: what nodes say to each other is about partitions, about
//! groups, or carries a number that its sender gave out, so that two nodes with different
//! numbers of shards understand each other.
//!
//! ```text
//!   partition 37 -> group 37 % 16 = 5 -> of 3 shards: 5 % 3 = the last one
//! ```

use super::{
    chain::ConfigId,
    message::{Message, Root, Route},
};
use crate::id::PartitionId;

/// Groups of partitions: the most shards that a node can have. Part of the protocol.
pub const GROUPS: u16 = 16;

/// The group of a partition.
pub fn group_of(partition: PartitionId) -> u16 {
    partition % GROUPS
}

/// Which of a node's shards has a partition, if there are so many.
pub fn shard_of(partition: PartitionId, shards: u16) -> u16 {
    shard_of_group(group_of(partition), shards)
}

/// Which shard has a group.
pub(super) fn shard_of_group(group: u16, shards: u16) -> u16 {
    (group % GROUPS) % shards.max(1)
}

/// Which shard has given out a number.
fn shard_of_number(number: u64, shards: u16) -> u16 {
    u16::try_from(number % u64::from(shards.max(1))).unwrap_or(0)
}

/// Divides what a peer says among the shards that it is about, if there are so many; a shard
/// gets nothing that is about others only.
pub fn spread(message: Message, shards: u16) -> Vec<(u16, Message)> {
    match message {
        Message::Partition { partition, .. } | Message::Ask { partition, .. } => {
            vec![(shard_of(partition, shards), message)]
        }
        Message::Answer { number, .. } | Message::NotOwner { number, .. } => {
            vec![(shard_of_number(number, shards), message)]
        }
        Message::Routes(routes) => {
            let of = |route: &Route| shard_of(route.partition, shards);
            each(routes, of, shards, Message::Routes)
        }
        Message::Roots(roots) => {
            let of = |root: &Root| shard_of(root.partition, shards);
            each(roots, of, shards, Message::Roots)
        }
        Message::Unequal(unequal) => {
            let of = |one: &(PartitionId, ConfigId)| shard_of(one.0, shards);
            each(unequal, of, shards, Message::Unequal)
        }
        Message::RoutesDigest(digests) => {
            let of = |digest: &(u16, u64)| shard_of_group(digest.0, shards);
            each(digests, of, shards, Message::RoutesDigest)
        }
        // What concerns the whole node is for all.
        Message::Clock(wall) => {
            let all = 0..shards.max(1);
            all.map(|shard| (shard, Message::Clock(wall))).collect()
        }
    }
}

fn each<T>(
    all: Vec<T>,
    of: impl Fn(&T) -> u16,
    shards: u16,
    message: impl Fn(Vec<T>) -> Message,
) -> Vec<(u16, Message)> {
    let mut parts: Vec<Vec<T>> = (0..shards.max(1)).map(|_| Vec::new()).collect();
    for one in all {
        parts[usize::from(of(&one))].push(one);
    }
    let parts = (0..).zip(parts).filter(|(_, part)| !part.is_empty());
    parts.map(|(shard, part)| (shard, message(part))).collect()
}

/// The numbers that one of a node's shards gives out: which shard an answer is for can be
/// told by the number that it comes back with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    last: u64,
    step: u64,
}

impl Numbers {
    /// For one of so many shards, larger than `after`.
    pub(super) fn new(after: u64, (shard, shards): (u16, u16)) -> Self {
        let step = u64::from(shards.max(1));
        Self {
            last: after - after % step + u64::from(shard),
            step,
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.last += self.step;
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_goes_to_the_shard_that_has_it() {
        for shards in 1..=GROUPS {
            let routes: Vec<Route> = (0..256)
                .map(|partition| Route {
                    partition,
                    id: ConfigId::default(),
                    members: Vec::new(),
                })
                .collect();
            let mut seen = 0;
            for (shard, part) in spread(Message::Routes(routes), shards) {
                let Message::Routes(routes) = part else {
                    panic!("{part:?}");
                };
                seen += routes.len();
                assert!(
                    routes
                        .iter()
                        .all(|route| shard_of(route.partition, shards) == shard)
                );
                // None has much more than its share.
                assert!(routes.len() <= 256 / usize::from(shards) + 16);
            }
            assert_eq!(seen, 256);
            let digests = (0..GROUPS).map(|group| (group, 0)).collect();
            let parts = spread(Message::RoutesDigest(digests), shards);
            assert_eq!(parts.len(), usize::from(shards));
            for shard in 0..shards {
                let mut numbers = Numbers::new(u64::MAX >> 16, (shard, shards));
                let answer = Message::NotOwner {
                    number: numbers.next(),
                    route: None,
                };
                assert_eq!(spread(answer, shards)[0].0, shard);
            }
        }
    }

    #[test]
    fn a_group_that_does_not_exist_is_nobodys() {
        // Whatever a peer makes up, some shard takes it, and finds that it has no such group.
        let parts = spread(Message::RoutesDigest(vec![(u16::MAX, 1)]), 3);
        assert_eq!(parts.len(), 1);
    }
}
