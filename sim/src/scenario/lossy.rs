//! Packets get lost, all the time and everywhere; those of streams are sent again.

use std::time::Duration;

use super::Draw;
use crate::{fault::Action, network::Network};

pub(super) fn loss_5(draw: &mut Draw) {
    lossy(draw, 50);
}

pub(super) fn loss_10(draw: &mut Draw) {
    lossy(draw, 100);
}

pub(super) fn loss_20(draw: &mut Draw) {
    lossy(draw, 200);
}

pub(super) fn loss_30(draw: &mut Draw) {
    lossy(draw, 300);
}

fn lossy(draw: &mut Draw, loss: u32) {
    let network = Network {
        loss,
        ..draw.network
    };
    let end = draw.minutes(5);
    draw.at(Duration::ZERO, Action::Network(network));
    // Once everybody has learnt how much is lost.
    let crash = end.saturating_sub(draw.between(Duration::from_secs(25), Duration::from_secs(35)));
    let host = draw.one();
    draw.at(crash, Action::Kill(host));
    draw.until(end);
}
