//! Balancing at the least cost: as few changes to a natural choice as bounds on load need.
//!
//! Each partition would like the nodes that are cheapest for it. Where that gives a node too
//! much or too little, a chain of swaps puts it right:
//!
//! ```text
//! a has one too many:   a --[p]--> b --[q]--> c      p leaves a for b, q leaves b for c,
//!                                                    c has room for one more
//! ```
//!
//! It is always the cheapest chain there is, found by Dijkstra's algorithm over the nodes
//! with prices that keep every length from being negative: the successive shortest paths of
//! Edmonds and Karp ("Theoretical Improvements in Algorithmic Efficiency for Network Flow
//! Problems", 1972). So the result is the cheapest of all choices within the bounds, and not
//! a trace of the order of work. That makes it stable: when a node comes or goes, only
//! those choices change that became cheaper. (Where zones forbid the second of two swaps of
//! one partition in the same chain, the rest of the chain is searched again.)
//!
//! Time is one search for each partition above or below a bound; memory is quadratic in the
//! number of nodes, 16 MB for 1,000.

use std::{cmp::Reverse, collections::BinaryHeap};

/// What can be swapped at which cost.
pub(super) trait Market {
    /// Calls `offer(to, cost)` for each node that could take `partition` over from `from`,
    /// which holds it, with what that adds to the cost (negative: it is cheaper there).
    fn offers(&mut self, from: usize, partition: u16, offer: impl FnMut(usize, i64));

    /// Lets `to` take `partition` over from `from`, and calls `touched` with every other node
    /// whose offers may have changed by that. Returns false, and does nothing, where an
    /// earlier swap of the chain has made it impossible.
    fn swap(&mut self, from: usize, to: usize, partition: u16, touched: impl FnMut(usize)) -> bool;
}

/// The fewest and the most partitions that a node may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) low: usize,
    pub(super) high: usize,
}

/// Changes the market's choice until every node is within its bounds, or no swaps get it
/// there. `held` lists what each node holds at first.
pub(super) fn balance<M: Market>(market: &mut M, held: Vec<Vec<u16>>, bounds: &[Bounds]) {
    /// More than one for the sake of chains that were cut short.
    const ROUNDS: usize = 3;
    let nodes = held.len();
    let arcs = vec![Vec::new(); nodes];
    let mut balance = Balance {
        market,
        bounds,
        held,
        arcs,
        price: vec![0; nodes + 1],
    };
    for _ in 0..ROUNDS {
        let mut within = true;
        for node in 0..nodes {
            within &= balance.settle(node, Excess::Above);
        }
        for node in 0..nodes {
            within &= balance.settle(node, Excess::Below);
        }
        if within {
            break;
        }
    }
}

/// On which side of its bounds a node is, hence which way the chain is searched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Excess {
    Above,
    Below,
}

/// The cheapest swap from one node to another.
#[derive(Clone, Copy)]
struct Arc {
    cost: i64,
    partition: u16,
}

/// No partition can be swapped between the two.
const NO_ARC: Arc = Arc {
    cost: i64::MAX,
    partition: u16::MAX,
};

struct Balance<'a, M> {
    market: &'a mut M,
    bounds: &'a [Bounds],
    /// The partitions of each node.
    held: Vec<Vec<u16>>,
    /// From each node the cheapest swap to each other; empty where not known (any more).
    arcs: Vec<Vec<Arc>>,
    /// What a place on a node is worth beside the costs; at last the price of the *ground*,
    /// which stands for all nodes strictly within their bounds. No arc is cheaper than the
    /// prices at its ends differ.
    price: Vec<i64>,
}

impl<M: Market> Balance<'_, M> {
    /// Brings one node within its bounds, if that can be done.
    fn settle(&mut self, node: usize, excess: Excess) -> bool {
        // A chain that is cut short leaves the node as it is, so that the tries are counted;
        // the next round looks again.
        let Bounds { low, high } = self.bounds[node];
        let mut tries = match excess {
            Excess::Above => self.held[node].len().saturating_sub(high),
            Excess::Below => low.saturating_sub(self.held[node].len()),
        };
        while tries > 0 {
            let Some(chain) = self.cheapest_chain(node, excess) else {
                return false;
            };
            self.apply(&chain);
            tries -= 1;
        }
        match excess {
            Excess::Above => self.held[node].len() <= high,
            Excess::Below => self.held[node].len() >= low,
        }
    }

    /// The cheapest chain from a node above its bounds to one with room, or to a node below
    /// from one with some to spare: pairs (from, to), those nearest to the ground first.
    fn cheapest_chain(&mut self, start: usize, excess: Excess) -> Option<Vec<(usize, usize)>> {
        let nodes = self.held.len();
        let ground = nodes;
        let mut search = Search::new(nodes + 1, start);
        while let Some((length, node)) = search.nearest() {
            if node == ground {
                break;
            }
            let Bounds { low, high } = self.bounds[node];
            let rise = self.price[node] - self.price[ground];
            match excess {
                Excess::Above if self.held[node].len() < high => {
                    search.reach(ground, node, length + rise.max(0));
                }
                Excess::Below if self.held[node].len() > low => {
                    search.reach(ground, node, length + (-rise).max(0));
                }
                _ => {}
            }
            for other in 0..nodes {
                if search.done[other] {
                    continue;
                }
                let (from, to) = if excess == Excess::Above {
                    (node, other)
                } else {
                    (other, node)
                };
                let arc = self.arc(from, to);
                if arc.partition != NO_ARC.partition {
                    let reduced = arc.cost + self.price[from] - self.price[to];
                    search.reach(other, node, length + reduced.max(0));
                }
            }
        }
        if !search.done[ground] {
            return None;
        }
        for (price, &length) in self.price.iter_mut().zip(&search.length) {
            let by = length.min(search.length[ground]);
            *price += if excess == Excess::Above { by } else { -by };
        }
        let mut chain = Vec::new();
        let mut node = search.via[ground];
        while node != start {
            let before = search.via[node];
            chain.push(if excess == Excess::Above {
                (before, node)
            } else {
                (node, before)
            });
            node = before;
        }
        Some(chain)
    }

    fn arc(&mut self, from: usize, to: usize) -> Arc {
        if self.arcs[from].is_empty() {
            let mut row = vec![NO_ARC; self.held.len()];
            for &partition in &self.held[from] {
                self.market.offers(from, partition, |to, cost| {
                    let arc = &mut row[to];
                    if (cost, partition) < (arc.cost, arc.partition) {
                        *arc = Arc { cost, partition };
                    }
                });
            }
            self.arcs[from] = row;
        }
        self.arcs[from][to]
    }

    /// Carries out a chain from the ground on, so that wherever it has to stop, only the
    /// node that it stops at is still out of bounds.
    fn apply(&mut self, chain: &[(usize, usize)]) {
        // What each swap is about, before the first of them changes the arcs.
        let swaps: Vec<_> = chain
            .iter()
            .map(|&(from, to)| (from, to, self.arc(from, to).partition))
            .collect();
        for (from, to, partition) in swaps {
            let arcs = &mut self.arcs;
            if !self
                .market
                .swap(from, to, partition, |node| arcs[node].clear())
            {
                return;
            }
            self.arcs[from].clear();
            self.arcs[to].clear();
            self.held[from].retain(|&p| p != partition);
            self.held[to].push(partition);
        }
    }
}

/// The state of Dijkstra's algorithm.
struct Search {
    length: Vec<i64>,
    via: Vec<usize>,
    done: Vec<bool>,
    open: BinaryHeap<Reverse<(i64, usize)>>,
}

impl Search {
    fn new(nodes: usize, start: usize) -> Self {
        let mut search = Self {
            length: vec![i64::MAX; nodes],
            via: vec![start; nodes],
            done: vec![false; nodes],
            open: BinaryHeap::new(),
        };
        search.reach(start, start, 0);
        search
    }

    fn nearest(&mut self) -> Option<(i64, usize)> {
        while let Some(Reverse((length, node))) = self.open.pop() {
            if !self.done[node] {
                self.done[node] = true;
                return Some((length, node));
            }
        }
        None
    }

    fn reach(&mut self, node: usize, via: usize, length: i64) {
        if length < self.length[node] {
            self.length[node] = length;
            self.via[node] = via;
            self.open.push(Reverse((length, node)));
        }
    }
}
