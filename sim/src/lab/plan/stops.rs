//! Nodes that are told to stop and will be back: one, two at once, all one after the other, or all together.
//!
//! They are drawn apart from all others, and only if they are asked for: seeds without them stay what they were.
//! Half of the seeds have two copies only, so that whoever stops may leave somebody alone.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};

use super::{Action, BEGINS, Setup, millis};
use crate::lab::NodeIndex;

/// Adds them to what a seed leads to, before `end`.
pub(super) fn add(steps: &mut Vec<(Duration, Action)>, setup: &mut Setup, end: Duration) {
    let mut rng = ChaCha8Rng::seed_from_u64(setup.seed ^ 0x7374_6f70);
    if rng.random_bool(0.5) {
        setup.settings.copies = 2;
    }
    let mut at = BEGINS;
    loop {
        at += millis(&mut rng, 100..3000);
        if at >= end {
            break;
        }
        let mut nodes: Vec<NodeIndex> = (0..setup.nodes).collect();
        nodes.shuffle(&mut rng);
        let (count, apart) = match rng.random_range(0..6) {
            0..3 => (1, 0..1),
            3 => (2, 0..500),
            // As an operator restarts a cluster, or shuts it down.
            4 => (nodes.len(), 100..1500),
            _ => (nodes.len(), 0..50),
        };
        let mut stopped = at;
        for node in &nodes[..count] {
            stopped += millis(&mut rng, apart.clone());
            if stopped >= end {
                break;
            }
            // Often before it has stopped: then as soon as it has.
            let back = (stopped + millis(&mut rng, 1..2500)).min(end);
            steps.push((stopped, Action::Stop(*node)));
            steps.push((back, Action::Start(*node)));
        }
    }
    steps.sort_by_key(|(at, _)| *at);
}
