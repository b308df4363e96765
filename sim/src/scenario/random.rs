//! Everything, drawn from the seed: the cluster, its network, and a dozen faults that overlap.
//!
//! What a fault breaks it also mends, before the plan ends or at its end. Hosts that were
//! stopped, killed or switched off are started again, or stay away: half of them each. Node 0
//! always comes back, with its disk, so that there is somebody to find.

use std::time::Duration;

use kith_proto::config::{PROTOCOL, PROTOCOL_NEXT};

use super::Draw;
use crate::{
    check::Limits,
    fault::Action,
    host::{HostId, Turns},
    network::Network,
};

const SECOND: Duration = Duration::from_secs(1);
/// The most faults of one run.
const FAULTS: u32 = 12;
/// What it costs at most if a probe is not answered in time (bytes): three members asked to
/// probe, four packets with each of them, and three pings over the stream and beside it.
const FAILED_PROBE: u64 = 1600;

pub(super) fn random(draw: &mut Draw) {
    surroundings(draw);
    let end = draw.minutes(3);
    for _ in 0..draw.number(1, FAULTS) {
        let at = draw.below(end * 9 / 10);
        let over = at + draw.magnitude(SECOND, SECOND * 64).min(end - at);
        fault(draw, at, over);
    }
    // Those that join count as well.
    draw.limits.peak_bytes = Limits::for_nodes(draw.hosts).peak_bytes;
    draw.at(end, Action::Start(0));
    // Who has just come back needs a moment before it can be judged.
    draw.until(end + SECOND);
}

// The cluster as it is while nothing is wrong.
fn surroundings(draw: &mut Draw) {
    let (network, places) = match draw.number(0, 3) {
        0 => (Network::lan(), 1),
        1 => (Network::zones(), draw.number(2, 5) as u16),
        2 => (Network::wan(), draw.number(2, 5) as u16),
        _ => (Network::wan(), u16::MAX),
    };
    draw.network = network;
    draw.places = places;
    draw.zones = places > 1 && places < u16::MAX && draw.percent(70);
    draw.settings.partitions = 1 << draw.number(4, 9);
    draw.settings.copies = draw.number(1, 4) as u8;
    if draw.percent(20) {
        draw.network.loss = draw.number(1, 20);
    }
    if draw.percent(20) {
        draw.network.duplicated = draw.number(1, 50);
    }
    if draw.percent(20) {
        draw.network.reordered = draw.number(1, 100);
        draw.network.held_back = draw.between(SECOND / 1000, SECOND / 5);
    }
    // Where packets are late or lost all the time, so are probes, there and back.
    let late = u64::from(draw.network.loss + draw.network.reordered) * 2;
    draw.limits.idle_bytes += FAILED_PROBE * late / 1000;
}

fn fault(draw: &mut Draw, at: Duration, over: Duration) {
    match draw.number(0, 15) {
        0 => crashes(draw, at, over),
        1 => restarts(draw, at),
        2 => pauses(draw, at, over),
        3 => starvation(draw, at, over),
        4 => split(draw, at, over),
        5 => blocked_ways(draw, at, over),
        6 => slow_ways(draw, at, over),
        7 => bad_network(draw, at, over),
        8 => streams(draw, at, over),
        9 => clocks(draw, at, over),
        10 => joins(draw, at),
        11 => leaves(draw, at, over),
        12 => operators(draw, at),
        13 => upgrade(draw, at),
        14 => keys(draw, at),
        _ => flapping(draw, at, over),
    }
}

// At most so many, and never all.
fn a_few(draw: &mut Draw, most: usize) -> Vec<HostId> {
    let most = most.min(draw.nodes - 1).max(1);
    let count = draw.number(1, most as u32) as usize;
    draw.some(count)
}

fn back(draw: &mut Draw, after: Duration, host: HostId) {
    if draw.percent(50) {
        let wiped = host != 0 && draw.percent(20);
        let start = if wiped {
            Action::StartWiped(host)
        } else {
            Action::Start(host)
        };
        draw.at(after, start);
    }
}

fn crashes(draw: &mut Draw, at: Duration, over: Duration) {
    let power = draw.percent(50);
    let third = draw.nodes.div_ceil(3);
    for host in a_few(draw, third) {
        let action = if power {
            Action::PowerOff
        } else {
            Action::Kill
        };
        draw.at(at, action(host));
        back(draw, over, host);
    }
}

fn restarts(draw: &mut Draw, at: Duration) {
    let all = draw.nodes;
    for host in a_few(draw, all) {
        let at = at + draw.below(SECOND * 5);
        draw.at(at, Action::Kill(host));
        let pause = draw.magnitude(SECOND / 4, SECOND * 8);
        draw.at(at + pause, Action::Start(host));
    }
}

fn pauses(draw: &mut Draw, at: Duration, over: Duration) {
    let half = draw.nodes / 2;
    for host in a_few(draw, half) {
        draw.at(at, Action::Pause(host));
        let until = draw.between(at, over);
        draw.at(until, Action::Resume(host));
    }
}

fn starvation(draw: &mut Draw, at: Duration, over: Duration) {
    let blocked = draw.magnitude(SECOND, SECOND * 16);
    let running = draw.between(SECOND / 100, SECOND / 5);
    let quarter = draw.nodes.div_ceil(4);
    for host in a_few(draw, quarter) {
        let after = draw.below(blocked);
        let turns = Turns {
            blocked,
            running,
            crowd: draw.number(1, 8),
        };
        draw.at(at, Action::Starve { host, turns, after });
        draw.at(over, Action::Nourish(host));
    }
}

fn split(draw: &mut Draw, at: Duration, over: Duration) {
    let all = draw.nodes;
    let sides = draw.number(1, 3) as u8;
    for side in 1..=sides {
        let hosts = a_few(draw, all);
        draw.at(at, Action::Cut(hosts, Some(side)));
    }
    draw.at(over, Action::Cut((0..all).collect(), None));
}

fn blocked_ways(draw: &mut Draw, at: Duration, over: Duration) {
    let kind = draw.number(0, 2);
    let pairs = draw.number(1, draw.nodes as u32);
    for _ in 0..pairs {
        let (a, b) = draw.two();
        let block = |blocked| match kind {
            0 => Action::OneWay(a, b, blocked),
            1 => Action::NoDatagrams(a, b, blocked),
            _ => Action::NoStreams(a, b, blocked),
        };
        draw.at(at, block(true));
        draw.at(over, block(false));
    }
}

fn slow_ways(draw: &mut Draw, at: Duration, over: Duration) {
    let host = draw.one();
    let by = draw.between(SECOND / 100, SECOND);
    let rate = draw.percent(50).then(|| draw.number(2_000, 200_000));
    draw.at(at, Action::Slow { host, by, rate });
    let (by, rate) = (Duration::ZERO, None);
    draw.at(over, Action::Slow { host, by, rate });
}

fn bad_network(draw: &mut Draw, at: Duration, over: Duration) {
    let usual = draw.network;
    let mut bad = usual;
    match draw.number(0, 3) {
        0 => bad.loss = draw.number(10, 300),
        1 => bad.duplicated = draw.number(10, 300),
        2 => {
            bad.reordered = draw.number(10, 500);
            bad.held_back = draw.between(SECOND / 100, SECOND);
        }
        _ => bad.mtu = draw.number(600, 1400) as usize,
    }
    draw.at(at, Action::Network(bad));
    draw.at(over, Action::Network(usual));
}

fn streams(draw: &mut Draw, at: Duration, over: Duration) {
    let pairs = draw.number(1, draw.nodes as u32 * 2);
    for _ in 0..pairs {
        let (a, b) = draw.two();
        let action = if draw.percent(50) {
            Action::BreakStreams(a, b)
        } else {
            Action::StallStreams(a, b, over - at)
        };
        draw.at(at, action);
    }
}

fn clocks(draw: &mut Draw, at: Duration, over: Duration) {
    let half = draw.nodes.div_ceil(2);
    for host in a_few(draw, half) {
        match draw.number(0, 2) {
            0 => {
                let by = draw.magnitude(SECOND / 10, SECOND * 120);
                draw.at(at, Action::JumpClock(host, by));
            }
            1 => {
                let drift = draw.number(0, 2_000) as i32 - 1_000;
                draw.at(at, Action::DriftClock(host, drift));
                draw.at(over, Action::DriftClock(host, 0));
            }
            _ => {
                let hour = 3_600_000;
                let error = i64::from(draw.number(0, 2 * hour)) - i64::from(hour);
                draw.at(at, Action::WallClock(host, error));
                draw.at(at, Action::Kill(host));
                draw.at(over, Action::Start(host));
            }
        }
    }
}

fn joins(draw: &mut Draw, at: Duration) {
    let count = draw.number(1, draw.nodes as u32);
    for _ in 0..count {
        let mut seeds = draw.some(2);
        seeds.push(0);
        let impostor = draw.percent(10);
        let name_of = impostor.then(|| draw.one());
        let at = at + draw.below(SECOND * 3);
        draw.join(at, seeds, name_of);
    }
}

fn leaves(draw: &mut Draw, at: Duration, over: Duration) {
    let all = draw.nodes;
    for host in a_few(draw, all) {
        let returning = draw.percent(50);
        let at = at + draw.below(SECOND * 2);
        draw.at(at, Action::Leave { host, returning });
        back(draw, over, host);
    }
}

fn operators(draw: &mut Draw, at: Duration) {
    let (by, host) = draw.two();
    if draw.percent(50) {
        draw.at(at, Action::Evict { by, host });
        back(draw, at + SECOND * 5, host);
    } else {
        let weight = draw.number(25, 400);
        draw.at(at, Action::Weight(host, weight));
    }
}

fn upgrade(draw: &mut Draw, at: Duration) {
    let all = draw.nodes;
    let mut at = at;
    for host in a_few(draw, all) {
        draw.at(at, Action::Upgrade(host, (PROTOCOL.0, PROTOCOL_NEXT)));
        let returning = true;
        draw.at(at, Action::Leave { host, returning });
        at += draw.between(SECOND, SECOND * 3);
        draw.at(at, Action::Start(host));
    }
}

fn keys(draw: &mut Draw, at: Duration) {
    let by = draw.one();
    draw.at(at, Action::KeyAdd(by, 1));
    draw.at(at + SECOND * 7, Action::KeyUse(by, 1));
    // The old one stays: who was away has to find its way back in.
}

fn flapping(draw: &mut Draw, at: Duration, over: Duration) {
    let host = draw.one();
    let mut at = at;
    let mut cut = false;
    while at < over {
        cut = !cut;
        draw.at(at, Action::Cut(vec![host], cut.then_some(7)));
        at += draw.between(SECOND / 5, SECOND * 5);
    }
    draw.at(over, Action::Cut(vec![host], None));
}
