//! Nodes that get hardly any CPU, as in the experiments of Lifeguard (Dadgar et al. 2017,
//! section V.D): blocked for eight seconds, running for a moment, and so on. In that moment they
//! share the CPU with up to seven other processes, as in its experiments with an exhausted CPU.

use std::time::Duration;

use super::Draw;
use crate::{fault::Action, host::Turns};

const BLOCKED: Duration = Duration::from_secs(8);
const RUNNING: Duration = Duration::from_millis(60);
const CROWD: u32 = 8;

pub(super) fn starved(draw: &mut Draw) {
    let end = draw.minutes(2);
    let quarter = draw.nodes.div_ceil(4);
    for host in draw.some(quarter) {
        // Each in its own rhythm, as machines are that have nothing to do with each other.
        let after = draw.below(BLOCKED + RUNNING);
        let turns = Turns {
            blocked: BLOCKED,
            running: RUNNING,
            crowd: draw.number(1, CROWD),
        };
        draw.at(Duration::ZERO, Action::Starve { host, turns, after });
        draw.at(end, Action::Nourish(host));
    }
}
