//! The promises of [`super`], over random clusters that are the same at every run.

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::{assign::bounds, balance::Bounds, share::Shares, *};

/// SplitMix64: clusters that are the same at each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn peers(&mut self, nodes: u64, weights: Weights, zones: u64) -> Vec<Peer> {
        (0..nodes)
            .map(|_| Peer {
                id: NodeId(self.next()),
                weight: match weights {
                    Weights::Equal => 100,
                    Weights::Skewed => 10 + self.below(91) as u32,
                    Weights::Any => 1 + self.below([1, 10, 10_000][self.0 as usize % 3]) as u32,
                },
                zone: match zones {
                    0 => String::new(),
                    _ => format!("zone-{}", self.below(zones)),
                },
            })
            .collect()
    }
}

#[derive(Clone, Copy)]
enum Weights {
    Equal,
    Skewed,
    Any,
}

/// Checks all that is promised of one assignment; of owners' counts only if told so.
fn check(peers: &[Peer], partitions: u16, copies: u8, owners: bool) -> Result<(), String> {
    let mut peers = peers.to_vec();
    peers.sort_by_key(|peer| peer.id);
    let got = assign(&peers, partitions, copies);
    let shares = Shares::of(&peers, partitions, copies);
    let what = format!("{partitions} partitions, {copies} copies, {peers:?}");
    for (partition, list) in got.iter() {
        if list.len() != usize::from(copies).min(peers.len()) {
            return Err(format!(
                "partition {partition} has {} copies; {what}",
                list.len()
            ));
        }
        let mut in_zone = vec![0; shares.zones.len()];
        for (place, id) in list.iter().enumerate() {
            if list[..place].contains(id) {
                return Err(format!("partition {partition} has {id} twice; {what}"));
            }
            let Ok(node) = peers.binary_search_by_key(id, |peer| peer.id) else {
                return Err(format!("partition {partition} has {id}, no peer; {what}"));
            };
            in_zone[shares.zone_of[node]] += 1;
        }
        for (count, zone) in in_zone.iter().zip(&shares.zones) {
            if !(zone.least..=zone.most).contains(count) {
                return Err(format!(
                    "partition {partition}: {count} copies, {zone:?}; {what}"
                ));
            }
        }
    }
    for (node, peer) in peers.iter().enumerate() {
        let (owned, backups) = got.counts(peer.id);
        let within = |count, Bounds { low, high }| (low..=high).contains(&count);
        if !within(owned + backups, bounds(shares.held[node]))
            || (owners && !within(owned, bounds(shares.owned[node])))
        {
            return Err(format!(
                "{} owns {owned} and holds {}, its share is {} and {} (in 2^-20); {what}",
                peer.id,
                owned + backups,
                shares.owned[node],
                shares.held[node],
            ));
        }
    }
    Ok(())
}

#[test]
fn thousands_of_clusters_are_balanced_and_spread_over_zones() {
    let mut numbers = Numbers(1);
    for round in 0..3_000u64 {
        let nodes = 1 + numbers.below(if round % 50 == 0 { 64 } else { 16 });
        let weights = [Weights::Equal, Weights::Skewed, Weights::Any][round as usize % 3];
        let zones = numbers.below(2) * (1 + numbers.below(7));
        let peers = numbers.peers(nodes, weights, zones);
        let partitions = [16, 16, 32, 64, 100, 256][numbers.below(6) as usize];
        let copies = 1 + numbers.below(5) as u8;
        if let Err(wrong) = check(&peers, partitions, copies, round % 3 != 2) {
            panic!("round {round}: {wrong}");
        }
    }
}

#[test]
fn large_clusters_are_balanced_too() {
    let mut numbers = Numbers(2);
    for (nodes, partitions, zones) in [(300, 256, 0), (300, 64, 5), (100, 1024, 3), (8, 4096, 0)] {
        let peers = numbers.peers(nodes, Weights::Skewed, zones);
        assert_eq!(check(&peers, partitions, 3, true), Ok(()));
    }
}

/// What joins and leaves moved, in some clusters of a kind.
#[derive(Default)]
struct Moves {
    changes: f64,
    /// Copies moved as a multiple of the least possible.
    sum: f64,
    worst: f64,
    /// Partitions that a leaving node owned, and those whose next owner had held a copy.
    orphaned: usize,
    promoted: usize,
}

impl Moves {
    fn average(&self) -> f64 {
        self.sum / self.changes
    }

    fn promoted(&self) -> f64 {
        self.promoted as f64 / self.orphaned as f64
    }

    /// Takes one node out of the cluster, and in again.
    fn add(&mut self, mut peers: Vec<Peer>, partitions: u16, copies: u8) {
        let with = assign(&peers, partitions, copies);
        let node = peers.pop().expect("a cluster").id;
        let without = assign(&peers, partitions, copies);
        let count = |of: &Assignment, id| of.counts(id).0 + of.counts(id).1;
        for (before, after) in [(&with, &without), (&without, &with)] {
            // What the node had must go somewhere, and what others gained must come from
            // somewhere.
            let gained = peers
                .iter()
                .map(|peer| count(after, peer.id).saturating_sub(count(before, peer.id)));
            let least = (gained.sum::<usize>() + count(after, node)).max(count(&with, node));
            let ratio = diff(before, after).copies_moved as f64 / least as f64;
            self.changes += 1.0;
            self.sum += ratio;
            self.worst = self.worst.max(ratio);
        }
        for (partition, list) in with.iter().filter(|(_, list)| list[0] == node) {
            self.orphaned += 1;
            let next = without.owner(partition).expect("an owner");
            self.promoted += usize::from(list.contains(&next));
        }
    }

    /// Changes in clusters with about so many copies a node, zones in turn.
    fn of(
        seed: u64,
        clusters: usize,
        weights: Weights,
        zones: u64,
        per_node: std::ops::Range<u64>,
    ) -> Self {
        let mut numbers = Numbers(seed);
        let mut moves = Self::default();
        for _ in 0..clusters {
            let copies = if zones > 0 { 3 } else { 2 + numbers.below(3) };
            let partitions = [128, 256, 512][numbers.below(3) as usize];
            let per_node = per_node.start + numbers.below(per_node.end - per_node.start);
            let nodes = (partitions * copies / per_node).max(copies + 1);
            let mut peers = numbers.peers(nodes + 1, weights, 0);
            for (place, peer) in (0..).zip(peers.iter_mut()).filter(|_| zones > 0) {
                peer.zone = format!("zone-{}", place % zones);
            }
            moves.add(peers, partitions as u16, copies as u8);
        }
        moves
    }
}

#[test]
fn changes_move_little_where_nodes_hold_many_partitions() {
    for zones in [0, 3] {
        let moves = Moves::of(3, 40, Weights::Equal, zones, 150..400);
        assert!(
            moves.worst <= 1.15,
            "{zones} zones: {} times the least",
            moves.worst
        );
        assert!(
            moves.average() <= 1.05,
            "{zones} zones: {} times the least",
            moves.average()
        );
    }
    let moves = Moves::of(4, 40, Weights::Skewed, 0, 150..400);
    assert!(
        moves.average() <= 1.1,
        "{} times the least",
        moves.average()
    );
}

#[test]
fn changes_move_little_on_average_from_fifty_copies_a_node() {
    for (weights, zones) in [
        (Weights::Equal, 0),
        (Weights::Equal, 3),
        (Weights::Skewed, 0),
    ] {
        let moves = Moves::of(5, 40, weights, zones, 50..150);
        assert!(
            moves.average() <= 1.15,
            "{zones} zones: {} times the least",
            moves.average()
        );
    }
}

#[test]
fn changes_stay_bounded_where_they_cost_most() {
    let few = Moves::of(6, 60, Weights::Skewed, 0, 12..50);
    assert!(
        few.average() <= 1.7,
        "few partitions a node: {} times the least",
        few.average()
    );
    let zones = Moves::of(7, 40, Weights::Equal, 5, 100..400);
    assert!(
        zones.average() <= 1.3,
        "more zones than copies: {} times the least",
        zones.average()
    );
}

#[test]
fn backups_are_promoted() {
    let many = Moves::of(8, 60, Weights::Equal, 0, 100..400);
    assert!(
        many.promoted() >= 0.98,
        "only {} of the partitions",
        many.promoted()
    );
    let few = Moves::of(9, 60, Weights::Equal, 0, 25..100);
    assert!(
        few.promoted() >= 0.95,
        "only {} of the partitions",
        few.promoted()
    );
    let zones = Moves::of(10, 40, Weights::Equal, 3, 100..400);
    assert!(
        zones.promoted() >= 0.6,
        "only {} of the partitions",
        zones.promoted()
    );
}

#[test]
fn nothing_is_copied_where_every_node_has_everything() {
    let mut numbers = Numbers(11);
    for copies in 2..=5 {
        let mut peers = numbers.peers(copies, Weights::Skewed, 0);
        let with = assign(&peers, 256, copies as u8);
        peers.pop();
        let without = assign(&peers, 256, copies as u8);
        assert_eq!(diff(&with, &without).copies_moved, 0);
    }
}

#[test]
fn who_stops_owns_nothing_and_keeps_its_copies() {
    let ids = [1, 2, 3, 4, 5, 6].map(NodeId);
    let assignment = Assignment::new(2, 3, ids.to_vec());
    let after = |stopping: &[NodeId]| {
        let after = assignment.owned_by_others(&stopping.iter().copied().collect());
        assert_eq!(after.members(1), &ids[3..], "nobody there stops");
        after.members(0).iter().map(|id| id.0).collect::<Vec<_>>()
    };
    assert_eq!(after(&ids[..1]), [2, 3, 1]);
    assert_eq!(
        after(&ids[1..3]),
        [1, 2, 3],
        "it is not the owner that stops"
    );
    assert_eq!(after(&ids[..2]), [3, 2, 1]);
    assert_eq!(after(&ids[..3]), [1, 2, 3], "nobody else has a copy");
}

#[test]
fn nobody_is_asked_for_nothing() {
    let peers = Numbers(12).peers(3, Weights::Equal, 0);
    let none = Assignment::empty(16);
    assert_eq!(assign(&[], 16, 3), none);
    assert_eq!(assign(&peers, 16, 0), none);
    assert_eq!(assign(&peers, 0, 3), Assignment::empty(0));
    assert_eq!(
        (
            none.partitions(),
            none.owner(3),
            none.members(3),
            none.backups(3)
        ),
        (16, None, &[][..], &[][..])
    );
    assert_eq!(none.counts(peers[0].id), (0, 0));
    let some = assign(&peers, 16, 2);
    assert_eq!(some.members(16), []);
    assert_eq!(some.backups(3), &some.members(3)[1..]);
    let total = peers
        .iter()
        .map(|peer| some.counts(peer.id))
        .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    assert_eq!(total, (16, 16));
}

/// Another digest means that every cluster moves its data at an upgrade: the figures stay as they
/// are, whatever becomes of the code.
#[test]
fn placement_is_the_same_in_every_release() {
    let digest = |peers: &[Peer], partitions, copies| {
        let ids: Vec<u8> = assign(peers, partitions, copies)
            .iter()
            .flat_map(|(_, list)| list.iter().flat_map(|id| id.0.to_be_bytes()))
            .collect();
        xxh3_64(&ids)
    };
    let mut numbers = Numbers(13);
    let digests = [
        digest(&numbers.peers(5, Weights::Equal, 0), 256, 3),
        digest(&numbers.peers(40, Weights::Skewed, 0), 256, 2),
        digest(&numbers.peers(24, Weights::Any, 4), 1024, 3),
        digest(&numbers.peers(9, Weights::Skewed, 2), 64, 5),
    ];
    assert_eq!(
        digests.map(|digest| format!("{digest:016x}")),
        [
            "1be6e3ecbf796383",
            "817bf0c23f57f90a",
            "46f304b0472db4e3",
            "6b4ba0b881051259"
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn order_and_repetition_do_not_matter(
        given in prop::collection::vec((any::<u64>(), 1u32..=Peer::MAX_WEIGHT, 0u8..4), 1..20),
        partitions in 1u16..200,
        copies in 1u8..=5,
        turn in any::<prop::sample::Index>(),
    ) {
        let mut peers: Vec<Peer> = given
            .into_iter()
            .map(|(id, weight, zone)| Peer {
                id: NodeId(id),
                weight,
                zone: if zone == 0 { String::new() } else { zone.to_string() },
            })
            .collect();
        peers.sort_by_key(|peer| peer.id);
        peers.dedup_by_key(|peer| peer.id);
        prop_assert_eq!(check(&peers, partitions, copies, false), Ok(()));
        let expected = assign(&peers, partitions, copies);
        let by = turn.index(peers.len());
        peers.rotate_left(by);
        peers.swap(0, by);
        peers.push(peers[0].clone());
        prop_assert_eq!(assign(&peers, partitions, copies), expected);
    }

    #[test]
    fn every_key_has_its_partition(key in prop::collection::vec(any::<u8>(), 0..40), partitions in 1..=SLOTS) {
        let (first, last) = slots(partition_of(&key, partitions), partitions);
        prop_assert!((first..=last).contains(&slot(&key)));
    }
}
