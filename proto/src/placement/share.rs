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

use super::{Peer, hash::LOG_BITS, hash::ln};

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
    pub(super) part: Vec<u64>,
    pub(super) log_odds: Vec<i64>,
    /// Logarithm of the rate at which a node asks for copies.
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
            .map(|n| {
                let zone = zone_of[n];
                let (within, of) = if zones[zone].most == 1 {
                    (by_zone[zone], all)
                } else {
                    (held[n], all)
                };
                if copies <= 1 {
                    return ln(u64::from(peers[n].weight));
                }
                let left = (of - within).max(of >> 12);
                let rate = (ln(of) - ln(left)).max(1) as u64;
                let log = ln(rate) - ln(1 << LOG_BITS);
                if zones[zone].most == 1 {
                    log + ln(held[n].max(1)) - ln(within.max(1))
                } else {
                    log
                }
            })
            .collect();
        let odds = |s: u64| {
            let s = s.clamp(all >> 16, all - (all >> 16));
            ln(s) - ln(all - s)
        };
        let mut part = Vec::new();
        let mut log_odds = Vec::new();
        for n in 0..peers.len() {
            let z = zone_of[n];
            if zones[z].most == 1 {
                part.push(((u128::from(by_zone[z]) << 24) / u128::from(held[n].max(1))) as u64);
                log_odds.push(odds(by_zone[z]));
            } else {
                part.push(1 << 24);
                log_odds.push(odds(held[n]));
            }
        }
        Self {
            part,
            log_odds,
            copies,
            zone_of,
            zones,
            held,
            owned,
            log_rate,
        }
    }
}

/// The zone of each node, and the nodes of each zone. A node without a zone is one of its own.
fn zones_of(peers: &[Peer]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut by_name = std::collections::BTreeMap::new();
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
    let (mut low, mut high) = (0u128, 1u128 << 80);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if poured(middle) <= total {
            low = middle
        } else {
            high = middle
        }
    }
    // All full: every height is right, and the largest would overflow nothing but sense.
    vessels.iter().map(|v| level(low, v)).collect()
}
