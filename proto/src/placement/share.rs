//! What each node should hold: the fair shares, exact but for rounding.
//!
//! Fair is *by weight*, as far as the rules about copies allow: a node holds a partition at
//! most once, so that a very heavy node is full at all of them and the rest flows on to the
//! others, like water poured over vessels of different width and height.
//!
//! Zones come first. For R copies over zones of `n` nodes each, the *level* is the least k
//! with `sum(min(n, k)) >= R`. Every zone holds at least `min(n, k - 1)` and at most
//! `min(n, k)` copies of each partition. So with R zones or more k is 1, no zone has two
//! copies of anything; with fewer, copies are spread as evenly as R copies can be.

use std::collections::BTreeMap;

use super::{
    Peer,
    hash::{LOG_BITS, ln},
};

/// Shares are counted in partitions with this many fraction bits.
pub(super) const SHARE_BITS: u32 = 20;

/// How many copies of each partition a zone holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Zone {
    /// At least so many.
    pub(super) least: usize,
    /// At most so many: the same, or one more.
    pub(super) most: usize,
}

/// The fair shares of a cluster, its peers sorted by id. Node and zone are indices.
#[derive(Debug)]
pub(super) struct Shares {
    /// Copies wanted of each partition, never more than nodes.
    pub(super) copies: usize,
    /// Which zone each node is in.
    pub(super) zone_of: Vec<usize>,
    /// What each zone holds.
    pub(super) zones: Vec<Zone>,
    /// Partitions that each node should hold, owned ones included; in 2^-[`SHARE_BITS`].
    pub(super) held: Vec<u64>,
    /// Partitions that each node should own; in 2^-[`SHARE_BITS`].
    pub(super) owned: Vec<u64>,
    /// Logarithm of the rate at which a node asks for copies, with [`LOG_BITS`] fraction bits.
    pub(super) log_rate: Vec<i64>,
}

/// One vessel of a water filling.
struct Vessel {
    width: u64,
    floor: u64,
    ceiling: u64,
}

impl Shares {
    /// The shares of `peers`, none of them twice, over so many partitions.
    pub(super) fn of(peers: &[Peer], partitions: u16, copies: u8) -> Self {
        let copies = usize::from(copies).min(peers.len());
        let (zone_of, members) = zones_of(peers);
        let zones = levels(&members, copies);
        let all = u64::from(partitions) << SHARE_BITS;

        let mut vessels: Vec<Vessel> = zones
            .iter()
            .map(|z| Vessel {
                width: 0,
                floor: all * z.least as u64,
                ceiling: all * z.most as u64,
            })
            .collect();
        for (peer, &zone) in peers.iter().zip(&zone_of) {
            vessels[zone].width += u64::from(peer.weight);
        }
        let by_zone = fill(&vessels, all * copies as u64);

        let mut held = vec![0; peers.len()];
        for (nodes, &share) in members.iter().zip(&by_zone) {
            let vessels: Vec<Vessel> = nodes
                .iter()
                .map(|&n| Vessel {
                    width: u64::from(peers[n].weight),
                    floor: 0,
                    ceiling: all,
                })
                .collect();
            for (&node, share) in nodes.iter().zip(fill(&vessels, share)) {
                held[node] = share;
            }
        }
        let vessels: Vec<Vessel> = peers
            .iter()
            .zip(&held)
            .map(|(peer, &held)| Vessel {
                width: u64::from(peer.weight),
                floor: 0,
                ceiling: held,
            })
            .collect();
        let owned = fill(&vessels, if copies == 0 { 0 } else { all });

        let log_rate = (0..peers.len())
            .map(|node| {
                let zone = zone_of[node];
                if copies == 1 {
                    ln(u64::from(peers[node].weight))
                } else if zones[zone].most == 1 {
                    // The zone asks as one, its nodes by their parts of what it gets.
                    log_rate(by_zone[zone], all) + ln(held[node].max(1)) - ln(by_zone[zone].max(1))
                } else {
                    log_rate(held[node], all)
                }
            })
            .collect();
        Self {
            copies,
            zone_of,
            zones,
            held,
            owned,
            log_rate,
        }
    }
}

/// Logarithm of the rate at which somebody must ask to be among the first R for `share` of
/// all partitions: `ln(-ln(1 - share / all))`.
///
/// With one copy the first alone counts, and rates are as weights. With more, who is nearly
/// always among the first needs far more than its weight says (Rosén, "Asymptotic theory for
/// order sampling", 1997). The little that this is wrong by is left to the balancing.
fn log_rate(share: u64, all: u64) -> i64 {
    // A share of everything would need an infinite rate.
    let left = (all - share.min(all)).max(all >> 12);
    let rate = (ln(all) - ln(left)).max(1);
    ln(rate as u64) - ln(1 << LOG_BITS)
}

/// The zone of each node, and the nodes of each zone. A node without a zone is one of its own.
fn zones_of(peers: &[Peer]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut by_name = BTreeMap::new();
    let mut members: Vec<Vec<usize>> = Vec::new();
    let mut zone_of = Vec::with_capacity(peers.len());
    for (node, peer) in peers.iter().enumerate() {
        let zone = if peer.zone.is_empty() {
            members.len()
        } else {
            *by_name.entry(peer.zone.as_str()).or_insert(members.len())
        };
        if zone == members.len() {
            members.push(Vec::new());
        }
        members[zone].push(node);
        zone_of.push(zone);
    }
    (zone_of, members)
}

fn levels(members: &[Vec<usize>], copies: usize) -> Vec<Zone> {
    let room = |level: usize| members.iter().map(|m| m.len().min(level)).sum::<usize>();
    let level = (0..=copies).find(|&k| room(k) >= copies).unwrap_or(copies);
    // Where R copies fill the level exactly, nothing is left to choose between zones.
    let exact = room(level) == copies;
    members
        .iter()
        .map(|nodes| {
            let most = nodes.len().min(level);
            Zone {
                least: if exact {
                    most
                } else {
                    nodes.len().min(level.saturating_sub(1))
                },
                most,
            }
        })
        .collect()
}

/// Pours `total` over the vessels: each gets its width times one common height, within its
/// floor and ceiling. `total` lies between the sums of floors and ceilings.
fn fill(vessels: &[Vessel], total: u64) -> Vec<u64> {
    /// Fraction bits of the height, so that rounding is far below one share unit.
    const HEIGHT_BITS: u32 = 24;
    let level = |height: u128, v: &Vessel| {
        let wanted = (height * u128::from(v.width)) >> HEIGHT_BITS;
        (wanted.min(u128::from(v.ceiling)) as u64).max(v.floor)
    };
    let poured = |height: u128| vessels.iter().map(|v| level(height, v)).sum::<u64>();
    // Above any height: 2^64 for one unit of width. All widths together stay below 2^40.
    let (mut low, mut high) = (0u128, 1u128 << 80);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if poured(middle) <= total {
            low = middle;
        } else {
            high = middle;
        }
    }
    vessels.iter().map(|v| level(low, v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn peers(of: &[(u32, &str)]) -> Vec<Peer> {
        (0u64..)
            .zip(of)
            .map(|(id, &(weight, zone))| Peer {
                id: NodeId(id),
                weight,
                zone: zone.to_owned(),
            })
            .collect()
    }

    /// Shares in whole partitions.
    fn whole(shares: &[u64]) -> Vec<u64> {
        shares
            .iter()
            .map(|s| (s + (1 << (SHARE_BITS - 1))) >> SHARE_BITS)
            .collect()
    }

    #[test]
    fn weights_share_until_a_node_is_full() {
        let shares = Shares::of(&peers(&[(1, ""), (1, ""), (2, ""), (4, "")]), 80, 1);
        assert_eq!(whole(&shares.held), [10, 10, 20, 40]);
        let shares = Shares::of(&peers(&[(1, ""), (1, ""), (1, ""), (10_000, "")]), 90, 2);
        assert_eq!(whole(&shares.held), [30, 30, 30, 90]);
        assert_eq!(whole(&shares.owned), [0, 0, 0, 90]);
        let shares = Shares::of(&peers(&[(3, ""), (5, "")]), 16, 3);
        assert_eq!((shares.copies, whole(&shares.held)), (2, vec![16, 16]));
        assert_eq!(whole(&shares.owned), [6, 10]);
    }

    #[test]
    fn zones_hold_what_they_must_and_no_more() {
        // Three zones for three copies: one copy each, however many nodes a zone has.
        let shares = Shares::of(&peers(&[(1, "a"), (1, "a"), (1, "b"), (1, "c")]), 60, 3);
        assert_eq!(whole(&shares.held), [30, 30, 60, 60]);
        // Two zones for three copies: one or two each.
        let shares = Shares::of(&peers(&[(1, "a"), (1, "a"), (1, "b"), (1, "b")]), 60, 3);
        assert_eq!(whole(&shares.held), [45, 45, 45, 45]);
        assert!(shares.zones.iter().all(|z| (z.least, z.most) == (1, 2)));
        // The only node of a zone has a copy of everything.
        let shares = Shares::of(&peers(&[(1, "a"), (1, "a"), (1, "a"), (1, "b")]), 60, 3);
        assert_eq!(whole(&shares.held), [40, 40, 40, 60]);
        // Four copies in two zones: two each.
        let shares = Shares::of(
            &peers(&[(1, "a"), (1, "a"), (1, "a"), (9, "b"), (9, "b")]),
            60,
            4,
        );
        assert_eq!(whole(&shares.held), [40, 40, 40, 60, 60]);
    }
}
