//! The assignment: first which nodes keep a partition, then who of them owns it.
//!
//! **Natural choice.** For each partition every node draws a time, exponentially distributed
//! at a rate that its fair share asks for; the R first, as far as zones allow, keep it, and
//! the first owns it. That is weighted rendezvous hashing (Thaler and Ravishankar 1998): a
//! node that comes or goes changes nothing between the others. The draws are stratified
//! ([`hash::draws`]), which halves the spread of loads; what is left is balanced.
//!
//! **Balancing** ([`super::balance`]) then brings every node within [`bounds`], at the least
//! cost in logarithms of times, so that near misses go first. First it moves copies; then,
//! among the nodes that keep a partition, ownership, which moves no data.

use super::{
    Assignment, Peer,
    balance::{Bounds, Market, balance},
    hash,
    share::{SHARE_BITS, Shares},
};

/// Which nodes are to keep each partition: `copies` of them, owner included, or as many as
/// there are. A pure function of its arguments, whatever the order of `peers`; of peers with
/// the same id one counts. Weights are taken as at least 1 and at most 10,000.
///
/// What it promises, and where it cannot, is said in the [module's documentation](super).
///
/// # Panics
///
/// With more than 65,535 peers.
#[must_use]
pub fn assign(peers: &[Peer], partitions: u16, copies: u8) -> Assignment {
    let mut peers = peers.to_vec();
    peers.sort_by(|a, b| (a.id, a.weight, &a.zone).cmp(&(b.id, b.weight, &b.zone)));
    peers.dedup_by_key(|peer| peer.id);
    for peer in &mut peers {
        peer.weight = peer.weight.clamp(1, Peer::MAX_WEIGHT);
    }
    if peers.is_empty() || partitions == 0 || copies == 0 {
        return Assignment::empty(partitions);
    }
    assert!(
        u16::try_from(peers.len()).is_ok(),
        "{} peers are too many",
        peers.len()
    );
    let shares = Shares::of(&peers, partitions, copies);
    let costs = Costs::of(&peers, &shares, partitions);

    let mut keepers = Keepers::natural(&shares, &costs, partitions);
    let held = lists(peers.len(), keepers.members.chunks_exact(shares.copies));
    balance(
        &mut keepers,
        held,
        &shares.held.iter().map(|&s| bounds(s)).collect::<Vec<_>>(),
    );

    let mut owners = Owners {
        costs: &costs,
        copies: shares.copies,
        members: keepers.members,
    };
    owners.sort_from(0);
    let owned = lists(
        peers.len(),
        owners
            .members
            .chunks_exact(shares.copies)
            .map(|list| &list[..1]),
    );
    balance(
        &mut owners,
        owned,
        &shares.owned.iter().map(|&s| bounds(s)).collect::<Vec<_>>(),
    );
    owners.sort_from(1);

    let ids = owners
        .members
        .iter()
        .map(|&node| peers[usize::from(node)].id)
        .collect();
    Assignment::new(partitions, shares.copies, ids)
}

/// Within 5 % of a share, or one partition where that is more.
pub(super) fn bounds(share: u64) -> Bounds {
    const ONE: u64 = 1 << SHARE_BITS;
    /// Shares are rounded down, so that whole ones may come out a little less.
    const ROUNDING: u64 = 1 << 6;
    let slack = (share / 20).max(ONE) + ROUNDING;
    Bounds {
        low: share.saturating_sub(slack).div_ceil(ONE) as usize,
        high: ((share + slack) / ONE) as usize,
    }
}

/// What each node holds, from the lists of all partitions in their order.
fn lists<'a>(nodes: usize, members: impl Iterator<Item = &'a [u16]>) -> Vec<Vec<u16>> {
    let mut held = vec![Vec::new(); nodes];
    for (partition, list) in (0..).zip(members) {
        for &node in list {
            held[usize::from(node)].push(partition);
        }
    }
    held
}

/// What it costs to choose a node for a partition: the logarithm of its time.
struct Costs {
    nodes: usize,
    table: Vec<i32>,
}

impl Costs {
    fn of(peers: &[Peer], shares: &Shares, partitions: u16) -> Self {
        let nodes = peers.len();
        let mut table = vec![0; nodes * usize::from(partitions)];
        for (node, (peer, rate)) in peers.iter().zip(&shares.log_rate).enumerate() {
            for (partition, draw) in hash::draws(peer.id, partitions).into_iter().enumerate() {
                // Both logarithms are below 2^30.
                table[partition * nodes + node] = (hash::log_time(draw) - rate) as i32;
            }
        }
        Self { nodes, table }
    }

    /// The costs of all nodes for a partition.
    fn row(&self, partition: u16) -> &[i32] {
        let start = usize::from(partition) * self.nodes;
        &self.table[start..start + self.nodes]
    }
}

/// Which nodes keep the partitions.
struct Keepers<'a> {
    shares: &'a Shares,
    costs: &'a Costs,
    /// `shares.copies` nodes for each partition.
    members: Vec<u16>,
    /// Room to count a partition's copies in each zone; zero between uses.
    in_zone: Vec<usize>,
}

impl<'a> Keepers<'a> {
    /// The cheapest nodes for each partition that zones allow.
    fn natural(shares: &'a Shares, costs: &'a Costs, partitions: u16) -> Self {
        let zones = &shares.zones;
        let free = shares.copies - zones.iter().map(|zone| zone.least).sum::<usize>();
        let mut members = Vec::with_capacity(usize::from(partitions) * shares.copies);
        // The cheapest nodes of each zone, and what is free to be taken from any.
        let mut cheapest: Vec<Vec<(i32, u16)>> = vec![Vec::new(); zones.len()];
        let mut rest = Vec::new();
        for partition in 0..partitions {
            cheapest.iter_mut().for_each(Vec::clear);
            for (node, (&cost, &zone)) in
                (0..).zip(costs.row(partition).iter().zip(&shares.zone_of))
            {
                let list = &mut cheapest[zone];
                let place = list.partition_point(|&other| other < (cost, node));
                if place < zones[zone].most {
                    list.truncate(zones[zone].most - 1);
                    list.insert(place, (cost, node));
                }
            }
            rest.clear();
            for (list, zone) in cheapest.iter().zip(zones) {
                members.extend(list[..zone.least].iter().map(|&(_, node)| node));
                rest.extend_from_slice(&list[zone.least..]);
            }
            if free < rest.len() {
                rest.select_nth_unstable(free);
            }
            members.extend(rest[..free].iter().map(|&(_, node)| node));
        }
        Self {
            shares,
            costs,
            members,
            in_zone: vec![0; zones.len()],
        }
    }
}

impl Market for Keepers<'_> {
    fn offers(&mut self, from: usize, partition: u16, mut offer: impl FnMut(usize, i64)) {
        let Shares {
            zone_of,
            zones,
            copies,
            ..
        } = self.shares;
        let list = &self.members[usize::from(partition) * copies..][..*copies];
        for &node in list {
            self.in_zone[zone_of[usize::from(node)]] += 1;
        }
        let here = zone_of[from];
        let may_leave = self.in_zone[here] > zones[here].least;
        let costs = self.costs.row(partition);
        for (to, (&cost, &there)) in costs.iter().zip(zone_of).enumerate() {
            let count = self.in_zone[there];
            let room = there == here || (may_leave && count < zones[there].most);
            // A list is short, but most nodes are in zones that are not in it at all.
            if room && (count == 0 || !list.contains(&(to as u16))) {
                offer(to, i64::from(cost) - i64::from(costs[from]));
            }
        }
        for &node in list {
            self.in_zone[zone_of[usize::from(node)]] = 0;
        }
    }

    fn swap(&mut self, from: usize, to: usize, partition: u16, touched: impl FnMut(usize)) -> bool {
        let Shares {
            zone_of,
            zones,
            copies,
            ..
        } = self.shares;
        let list = &mut self.members[usize::from(partition) * copies..][..*copies];
        let (here, there) = (zone_of[from], zone_of[to]);
        let count = |zone| {
            list.iter()
                .filter(|&&node| zone_of[usize::from(node)] == zone)
                .count()
        };
        if here != there && (count(here) <= zones[here].least || count(there) >= zones[there].most)
        {
            return false;
        }
        if list.contains(&(to as u16)) {
            return false;
        }
        let Some(place) = list.iter_mut().find(|node| usize::from(**node) == from) else {
            return false;
        };
        *place = to as u16;
        list.iter().map(|&node| usize::from(node)).for_each(touched);
        true
    }
}

/// Who of a partition's nodes owns it: the first of its list.
struct Owners<'a> {
    costs: &'a Costs,
    copies: usize,
    members: Vec<u16>,
}

impl Owners<'_> {
    /// Sorts each list from `place` on, the cheapest first.
    fn sort_from(&mut self, place: usize) {
        for (partition, list) in (0..).zip(self.members.chunks_exact_mut(self.copies)) {
            let costs = self.costs.row(partition);
            list[place..].sort_unstable_by_key(|&node| (costs[usize::from(node)], node));
        }
    }
}

impl Market for Owners<'_> {
    fn offers(&mut self, from: usize, partition: u16, mut offer: impl FnMut(usize, i64)) {
        let costs = self.costs.row(partition);
        let list = &self.members[usize::from(partition) * self.copies..][..self.copies];
        for to in list[1..].iter().map(|&node| usize::from(node)) {
            offer(to, i64::from(costs[to]) - i64::from(costs[from]));
        }
    }

    fn swap(&mut self, from: usize, to: usize, partition: u16, _: impl FnMut(usize)) -> bool {
        let list = &mut self.members[usize::from(partition) * self.copies..][..self.copies];
        match list.iter().position(|&node| usize::from(node) == to) {
            Some(place) if usize::from(list[0]) == from => {
                list.swap(0, place);
                true
            }
            _ => false,
        }
    }
}
