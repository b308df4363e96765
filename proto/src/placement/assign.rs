//! The assignment.

use super::{
    Assignment, Peer,
    balance::{Balance, Bounds, Market},
    hash,
    share::{SHARE_BITS, Shares},
};
use crate::id::{NodeId, PartitionId};

pub fn assign(peers: &[Peer], partitions: u16, copies: u8) -> Assignment {
    let mut peers = peers.to_vec();
    peers.sort_by(|a, b| a.id.cmp(&b.id));
    peers.dedup_by(|a, b| a.id == b.id);
    if peers.is_empty() || copies == 0 {
        return Assignment::empty(partitions);
    }
    let shares = Shares::of(&peers, partitions, copies);
    let nodes = peers.len();
    let pareto = std::env::var("PAR").is_ok() && shares.copies > 1;
    let mut costs = vec![0i32; nodes * usize::from(partitions)];
    for (n, peer) in peers.iter().enumerate() {
        for (p, draw) in hash::draws(peer.id, partitions).into_iter().enumerate() {
            costs[p * nodes + n] = if pareto {
                let t = (u128::from(hash::time(draw)) * u128::from(shares.part[n]) >> 24)
                    .min(1 << 40) as u64;
                (hash::log_odds(t) - shares.log_odds[n]) as i32
            } else {
                (hash::log_time(draw) - shares.log_rate[n]) as i32
            };
        }
    }
    let mut copies_market = Copies::natural(&shares, &costs, partitions);
    let bounds = shares.held.iter().map(|&s| bounds(s)).collect();
    let held = copies_market.held(nodes);
    copies_market = Balance::new(copies_market, held, bounds).run();
    let Copies { mut members, .. } = copies_market;

    // Owners.
    if std::env::var("OWNW").is_ok() {
        for (n, peer) in peers.iter().enumerate() {
            let shift = shares.log_rate[n] - hash::ln(u64::from(peer.weight));
            for p in 0..usize::from(partitions) {
                costs[p * nodes + n] += shift as i32;
            }
        }
    }
    let r = shares.copies;
    for (p, list) in members.chunks_exact_mut(r).enumerate() {
        list.sort_by_key(|&n| (costs[p * nodes + usize::from(n)], n));
    }
    let mut held = vec![Vec::new(); nodes];
    for (p, list) in members.chunks_exact(r).enumerate() {
        held[usize::from(list[0])].push(p as u16);
    }
    let owner_bounds = shares.owned.iter().map(|&s| bounds_of(s)).collect();
    let owners = Owners {
        nodes,
        copies: r,
        costs: &costs,
        members,
    };
    let mut owners = Balance::new(owners, held, owner_bounds).run();
    for (p, list) in owners.members.chunks_exact_mut(r).enumerate() {
        list[1..].sort_by_key(|&n| (costs[p * nodes + usize::from(n)], n));
    }
    Assignment::new(
        partitions,
        r,
        owners
            .members
            .iter()
            .map(|&n| peers[usize::from(n)].id)
            .collect(),
    )
}

fn bounds_of(share: u64) -> Bounds {
    bounds(share)
}

/// Within 5 % of the share, or one partition.
fn bounds(share: u64) -> Bounds {
    let one = 1u64 << SHARE_BITS;
    let mode: u32 = std::env::var("BAND")
        .ok()
        .and_then(|b| b.parse().ok())
        .unwrap_or(0);
    let share = share + 64; // rounding
    let slack = share / 20;
    match mode {
        0 => {
            let slack = slack.max(one);
            Bounds {
                low: (share.saturating_sub(slack)).div_ceil(one) as usize,
                high: ((share + slack) / one) as usize,
            }
        }
        _ => {
            // one partition from either rounding
            let low = ((share / one).saturating_sub(1)).min((share - slack).div_ceil(one));
            let high = (share.div_ceil(one) + 1).max((share + slack) / one);
            Bounds {
                low: low as usize,
                high: high as usize,
            }
        }
    }
}

struct Copies<'a> {
    shares: &'a Shares,
    costs: &'a [i32],
    nodes: usize,
    /// The nodes of each partition, `copies` of them each.
    members: Vec<u16>,
    /// Copies of the partition at hand in each zone.
    in_zone: Vec<u8>,
}

impl<'a> Copies<'a> {
    fn natural(shares: &'a Shares, costs: &'a [i32], partitions: u16) -> Self {
        let nodes = shares.zone_of.len();
        let mut members = Vec::with_capacity(usize::from(partitions) * shares.copies);
        let least: usize = shares.zones.iter().map(|z| z.least).sum();
        let extra = shares.copies - least;
        let mut best: Vec<Vec<(i32, u16)>> = vec![Vec::new(); shares.zones.len()];
        let mut last = Vec::new();
        for p in 0..usize::from(partitions) {
            let costs = &costs[p * nodes..(p + 1) * nodes];
            for list in &mut best {
                list.clear();
            }
            for (n, (&cost, &zone)) in costs.iter().zip(&shares.zone_of).enumerate() {
                let list = &mut best[zone];
                let most = shares.zones[zone].most;
                let at = list.partition_point(|&other| other < (cost, n as u16));
                if at < most {
                    list.truncate(most - 1);
                    list.insert(at, (cost, n as u16));
                }
            }
            last.clear();
            for (list, zone) in best.iter().zip(&shares.zones) {
                members.extend(list[..zone.least].iter().map(|&(_, n)| n));
                last.extend(&list[zone.least..]);
            }
            if extra > 0 {
                if extra < last.len() {
                    last.select_nth_unstable(extra - 1);
                }
                members.extend(last[..extra].iter().map(|&(_, n)| n));
            }
        }
        Self {
            shares,
            costs,
            nodes,
            members,
            in_zone: vec![0; shares.zones.len()],
        }
    }

    fn held(&self, nodes: usize) -> Vec<Vec<u16>> {
        let mut held = vec![Vec::new(); nodes];
        for (p, list) in self.members.chunks_exact(self.shares.copies).enumerate() {
            for &n in list {
                held[usize::from(n)].push(p as u16);
            }
        }
        held
    }

    fn list(&self, partition: u16) -> std::ops::Range<usize> {
        let start = usize::from(partition) * self.shares.copies;
        start..start + self.shares.copies
    }
}

impl Market for Copies<'_> {
    fn offers(&mut self, from: usize, partition: u16, mut offer: impl FnMut(usize, i64)) {
        let Shares { zone_of, zones, .. } = self.shares;
        let list = self.list(partition);
        let row = usize::from(partition) * self.nodes;
        let costs = &self.costs[row..row + self.nodes];
        for &n in &self.members[list.clone()] {
            self.in_zone[zone_of[usize::from(n)]] += 1;
        }
        let here = zone_of[from];
        let leave = usize::from(self.in_zone[here]) > zones[here].least;
        let base = i64::from(costs[from]);
        for (to, &cost) in costs.iter().enumerate() {
            let there = zone_of[to];
            let room =
                there == here || (leave && usize::from(self.in_zone[there]) < zones[there].most);
            if room
                && (self.in_zone[there] == 0 || !self.members[list.clone()].contains(&(to as u16)))
            {
                offer(to, i64::from(cost) - base);
            }
        }
        for &n in &self.members[list] {
            self.in_zone[zone_of[usize::from(n)]] = 0;
        }
    }

    fn swap(
        &mut self,
        from: usize,
        to: usize,
        partition: u16,
        mut touched: impl FnMut(usize),
    ) -> bool {
        let Shares { zone_of, zones, .. } = self.shares;
        let list = self.list(partition);
        let list = &mut self.members[list];
        let count = |zone: usize| {
            list.iter()
                .filter(|&&n| zone_of[usize::from(n)] == zone)
                .count()
        };
        let (here, there) = (zone_of[from], zone_of[to]);
        if list.contains(&(to as u16))
            || (here != there
                && (count(here) <= zones[here].least || count(there) >= zones[there].most))
        {
            return false;
        }
        let Some(place) = list.iter_mut().find(|n| usize::from(**n) == from) else {
            return false;
        };
        *place = to as u16;
        list.iter().for_each(|&n| touched(usize::from(n)));
        true
    }
}

struct Owners<'a> {
    nodes: usize,
    copies: usize,
    costs: &'a [i32],
    members: Vec<u16>,
}

impl Market for Owners<'_> {
    fn offers(&mut self, from: usize, partition: u16, mut offer: impl FnMut(usize, i64)) {
        let start = usize::from(partition) * self.copies;
        let cost = |n: usize| i64::from(self.costs[usize::from(partition) * self.nodes + n]);
        for &to in &self.members[start + 1..start + self.copies] {
            offer(usize::from(to), cost(usize::from(to)) - cost(from));
        }
    }

    fn swap(&mut self, from: usize, to: usize, partition: u16, _: impl FnMut(usize)) -> bool {
        let start = usize::from(partition) * self.copies;
        let list = &mut self.members[start..start + self.copies];
        if usize::from(list[0]) != from {
            return false;
        }
        match list.iter().position(|&n| usize::from(n) == to) {
            Some(at) => {
                list.swap(0, at);
                true
            }
            None => false,
        }
    }
}
