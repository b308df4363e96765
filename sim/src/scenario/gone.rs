//! Nodes that are gone from one moment to the next.

use std::time::Duration;

use super::Draw;
use crate::{fault::Action, host::HostId};

/// Between two crashes: long enough that the slowest detector has dealt with the first.
const APART: Duration = Duration::from_secs(20);
/// The most that are lost one after the other.
const MOST: usize = 5;

pub(super) fn crash(draw: &mut Draw) {
    one_after_the_other(draw, Action::Kill);
}

pub(super) fn black_hole(draw: &mut Draw) {
    one_after_the_other(draw, Action::PowerOff);
}

pub(super) fn mass_crash(draw: &mut Draw) {
    let at = draw.below(Duration::from_secs(2));
    let third = draw.nodes.div_ceil(3);
    for host in draw.some(third) {
        draw.at(at, Action::Kill(host));
    }
}

fn one_after_the_other(draw: &mut Draw, action: fn(HostId) -> Action) {
    let count = (draw.nodes / 4).clamp(1, MOST);
    for (number, host) in (0..).zip(draw.some(count)) {
        // At any moment of everybody's probe period.
        let at = APART * number + draw.below(Duration::from_secs(2));
        draw.at(at, action(host));
    }
    draw.until(APART * count as u32);
}
