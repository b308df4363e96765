//! Faults of streams alone: they stall, fall silent, break and open again, and two lose each other while others
//! see both.
//!
//! They are drawn apart from all others, and for a part of the seeds only: the rest stay what they were.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::{Action, BEGINS, Setup, millis};

/// Seeds that have them: one of so many.
const ONE_OF: u32 = 3;

/// Adds them to what a seed leads to, before `end`.
pub(super) fn add(steps: &mut Vec<(Duration, Action)>, setup: &Setup, end: Duration) {
    let mut rng = ChaCha8Rng::seed_from_u64(setup.seed ^ 0x7374_7265_616d);
    if !rng.random_ratio(1, ONE_OF) {
        return;
    }
    let nodes = setup.nodes;
    let mut at = BEGINS;
    loop {
        at += millis(&mut rng, 50..1500);
        if at >= end {
            break;
        }
        let node = rng.random_range(0..nodes);
        let other = (node + 1 + rng.random_range(0..nodes - 1)) % nodes;
        let until = (at + millis(&mut rng, 20..3000)).min(end);
        match rng.random_range(0..4) {
            0 => steps.push((at, Action::Stall(node, other, until - at))),
            1 => {
                let noticed = millis(&mut rng, 300..2500);
                steps.push((at, Action::Silence(vec![node], noticed)));
                steps.push((until, Action::Heal));
            }
            2 => steps.push((at, Action::Break(node, other))),
            _ => {
                steps.push((at, Action::Part(node, other)));
                steps.push((until, Action::Restore(node, other)));
            }
        }
    }
    steps.sort_by_key(|(at, _)| *at);
}
