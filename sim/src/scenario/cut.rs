//! Ways that are not there: in one direction, between some, for a moment, for a day.

use std::time::Duration;

use super::Draw;
use crate::{fault::Action, host::HostId};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn one_way(draw: &mut Draw) {
    let end = draw.minutes(2);
    let pairs = (draw.nodes / 4).max(1);
    for _ in 0..pairs {
        let (a, b) = draw.two();
        let from = draw.below(SECOND * 10);
        draw.at(from, Action::OneWay(a, b, true));
    }
    draw.until(end);
}

pub(super) fn partial(draw: &mut Draw) {
    let end = draw.minutes(2);
    let pairs = (draw.nodes / 4).max(1);
    // Nobody loses more than one other, so that there is a way around for everybody.
    let hosts = draw.some(pairs * 2);
    for pair in hosts.chunks_exact(2) {
        let from = draw.below(SECOND * 10);
        draw.at(from, Action::OneWay(pair[0], pair[1], true));
        draw.at(from, Action::OneWay(pair[1], pair[0], true));
    }
    draw.until(end);
}

pub(super) fn flapping(draw: &mut Draw) {
    let end = draw.minutes(2);
    let host = draw.one();
    let mut at = Duration::ZERO;
    let mut cut = false;
    while at < end {
        at += draw.between(Duration::from_millis(300), SECOND * 4);
        cut = !cut;
        draw.at(at, Action::Cut(vec![host], cut.then_some(1)));
    }
}

pub(super) fn split(draw: &mut Draw) {
    const DAY: Duration = Duration::from_secs(86_400);
    let end = match draw.minutes {
        Some(_) => draw.minutes(1),
        None => draw.magnitude(SECOND * 30, DAY),
    };
    let smaller = 1 + draw.below(SECOND * 1000).as_secs() as usize % (draw.nodes / 2).max(1);
    let side: Vec<HostId> = draw.some(smaller);
    draw.at(Duration::ZERO, Action::Cut(side.clone(), Some(1)));
    draw.at(end, Action::Cut(side, None));
}
