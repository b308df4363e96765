//! Balancing at the least cost: as few changes to a natural choice as bounds on load need.
//!
//! Each partition would choose the nodes that are cheapest for it. Where a node is chosen
//! too often or too seldom, chains of swaps (partition p from a to b, q from b to c) put
//! that right: always the cheapest chain there is, found by Dijkstra's algorithm over the
//! nodes, with prices that keep all lengths from being negative. That is the classical
//! successive shortest path method for flows of minimal cost (Edmonds and Karp 1972), and
//! its result is *the* cheapest choice within the bounds, which no order of work
//! changes. That is why it is stable: when a node comes or goes, few of the cheapest choices are
//! others. Greedy placement with load caps makes long chains of evictions instead.

use std::{cmp::Reverse, collections::BinaryHeap};

/// What can be swapped at which cost.
pub(super) trait Market {
    /// Calls `offer(to, cost)` for each node that could take over from `from` a partition that
    /// it holds, with the cost of choosing it instead (negative where it is cheaper).
    fn offers(&mut self, from: usize, partition: u16, offer: impl FnMut(usize, i64));
    /// Swaps, and returns false where that has become impossible. Calls `touched` with every
    /// other node whose offers may have changed.
    fn swap(&mut self, from: usize, to: usize, partition: u16, touched: impl FnMut(usize)) -> bool;
}

/// The most and the fewest partitions that a node may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) low: usize,
    pub(super) high: usize,
}

const NONE: u16 = u16::MAX;

/// The cheapest swap from one node to another, once known.
#[derive(Clone, Copy)]
struct Arc {
    cost: i64,
    partition: u16,
}

pub(super) struct Balance<M> {
    market: M,
    bounds: Vec<Bounds>,
    /// Which partitions each node holds.
    held: Vec<Vec<u16>>,
    /// The cheapest swap for each pair (from, to); a row is filled when it is needed.
    arcs: Vec<Arc>,
    fresh: Vec<bool>,
    price: Vec<i64>,
    /// Chains found, and swaps made.
    pub(super) chains: usize,
    pub(super) swaps: usize,
}

impl<M: Market> Balance<M> {
    pub(super) fn new(market: M, held: Vec<Vec<u16>>, bounds: Vec<Bounds>) -> Self {
        let nodes = held.len();
        Self {
            market,
            bounds,
            held,
            arcs: vec![
                Arc {
                    cost: 0,
                    partition: NONE
                };
                nodes * nodes
            ],
            fresh: vec![false; nodes],
            price: vec![0; nodes + 1],
            chains: 0,
            swaps: 0,
        }
    }

    /// Brings every node within its bounds, as far as swaps can.
    pub(super) fn run(mut self) -> M {
        let nodes = self.held.len();
        for node in 0..nodes {
            let mut tries = self.held[node].len() + 1;
            while self.held[node].len() > self.bounds[node].high && tries > 0 {
                tries -= 1;
                if !self.shed(node) {
                    break;
                }
            }
        }
        for node in 0..nodes {
            let mut tries = self.bounds[node].low + 1;
            while self.held[node].len() < self.bounds[node].low && tries > 0 {
                tries -= 1;
                if !self.fill(node) {
                    break;
                }
            }
        }
        self.market
    }

    fn refresh(&mut self, from: usize) {
        if self.fresh[from] {
            return;
        }
        let nodes = self.held.len();
        let row = &mut self.arcs[from * nodes..(from + 1) * nodes];
        row.fill(Arc {
            cost: i64::MAX,
            partition: NONE,
        });
        for &partition in &self.held[from] {
            self.market.offers(from, partition, |to, cost| {
                let arc = &mut row[to];
                if cost < arc.cost || (cost == arc.cost && partition < arc.partition) {
                    *arc = Arc { cost, partition };
                }
            });
        }
        self.fresh[from] = true;
    }

    /// The cheapest chain from `start`, which has too many, to a node that can take one more.
    fn shed(&mut self, start: usize) -> bool {
        let nodes = self.held.len();
        let ground = nodes;
        let mut far = vec![i64::MAX; nodes + 1];
        let mut via = vec![usize::MAX; nodes + 1];
        let mut done = vec![false; nodes + 1];
        let mut heap = BinaryHeap::new();
        far[start] = 0;
        heap.push(Reverse((0, start)));
        while let Some(Reverse((length, node))) = heap.pop() {
            if done[node] {
                continue;
            }
            done[node] = true;
            if node == ground {
                break;
            }
            if self.held[node].len() < self.bounds[node].high {
                let next = length + (self.price[node] - self.price[ground]).max(0);
                if next < far[ground] {
                    far[ground] = next;
                    via[ground] = node;
                    heap.push(Reverse((next, ground)));
                }
            }
            self.refresh(node);
            for to in 0..nodes {
                let arc = self.arcs[node * nodes + to];
                if done[to] || arc.partition == NONE {
                    continue;
                }
                let reduced = (arc.cost + self.price[node] - self.price[to]).max(0);
                let next = length + reduced;
                if next < far[to] {
                    far[to] = next;
                    via[to] = node;
                    heap.push(Reverse((next, to)));
                }
            }
        }
        if !done[ground] {
            return false;
        }
        let reach = far[ground];
        for node in 0..=nodes {
            self.price[node] += far[node].min(reach);
        }
        let mut chain = Vec::new();
        let mut to = via[ground];
        while to != start {
            chain.push((via[to], to));
            to = via[to];
        }
        self.apply(&chain)
    }

    /// The cheapest chain to `end`, which has too few, from a node that can do with one less.
    fn fill(&mut self, end: usize) -> bool {
        let nodes = self.held.len();
        let ground = nodes;
        let mut far = vec![i64::MAX; nodes + 1];
        let mut via = vec![usize::MAX; nodes + 1];
        let mut done = vec![false; nodes + 1];
        let mut heap = BinaryHeap::new();
        for node in 0..nodes {
            self.refresh(node);
        }
        far[end] = 0;
        heap.push(Reverse((0, end)));
        while let Some(Reverse((length, node))) = heap.pop() {
            if done[node] {
                continue;
            }
            done[node] = true;
            if node == ground {
                break;
            }
            if self.held[node].len() > self.bounds[node].low {
                let next = length + (self.price[ground] - self.price[node]).max(0);
                if next < far[ground] {
                    far[ground] = next;
                    via[ground] = node;
                    heap.push(Reverse((next, ground)));
                }
            }
            for from in 0..nodes {
                let arc = self.arcs[from * nodes + node];
                if done[from] || arc.partition == NONE {
                    continue;
                }
                let reduced = (arc.cost + self.price[from] - self.price[node]).max(0);
                let next = length + reduced;
                if next < far[from] {
                    far[from] = next;
                    via[from] = node;
                    heap.push(Reverse((next, from)));
                }
            }
        }
        if !done[ground] {
            return false;
        }
        let reach = far[ground];
        for node in 0..=nodes {
            self.price[node] -= far[node].min(reach);
        }
        let mut chain = Vec::new();
        let mut from = via[ground];
        while from != end {
            chain.push((from, via[from]));
            from = via[from];
        }
        chain.reverse();
        self.apply(&chain)
    }

    /// Carries out a chain, its last swap first.
    fn apply(&mut self, chain: &[(usize, usize)]) -> bool {
        let nodes = self.held.len();
        self.chains += 1;
        let plan: Vec<(usize, usize, u16)> = chain
            .iter()
            .map(|&(from, to)| (from, to, self.arcs[from * nodes + to].partition))
            .collect();
        for (from, to, partition) in plan {
            let fresh = &mut self.fresh;
            if !self
                .market
                .swap(from, to, partition, |node| fresh[node] = false)
            {
                return false;
            }
            self.swaps += 1;
            self.fresh[from] = false;
            self.fresh[to] = false;
            self.held[from].retain(|&p| p != partition);
            self.held[to].push(partition);
        }
        true
    }
}
