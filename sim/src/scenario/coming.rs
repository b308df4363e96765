//! Nodes that come, come back, and change: joins, restarts, upgrades, keys.

use std::time::Duration;

use kith_proto::config::{PROTOCOL, PROTOCOL_NEXT};

use super::Draw;
use crate::{check::Limits, fault::Action};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn join(draw: &mut Draw) {
    draw.limits.arrival = Some((SECOND * 2, SECOND * 5));
    for number in 0..3 {
        let at = SECOND * 10 * number + draw.below(SECOND);
        let seed = draw.one();
        draw.join(at, vec![seed], None);
    }
    draw.until(SECOND * 30);
}

pub(super) fn mass_join(draw: &mut Draw) {
    let at = draw.below(SECOND);
    for _ in 0..draw.nodes {
        let seeds = draw.some(2);
        draw.join(at, seeds, None);
    }
    draw.limits = Limits::for_nodes(draw.nodes * 2);
    draw.until(SECOND * 10);
}

pub(super) fn mass_restart(draw: &mut Draw) {
    let at = draw.below(SECOND);
    let back = at + draw.between(SECOND, SECOND * 60);
    for host in 0..draw.nodes {
        draw.at(at, Action::PowerOff(host));
        // Machines take about as long as each other to start.
        let boots = draw.below(SECOND * 3);
        draw.at(back + boots, Action::Start(host));
    }
}

pub(super) fn rolling_restart(draw: &mut Draw) {
    one_by_one(draw, None);
}

pub(super) fn rolling_upgrade(draw: &mut Draw) {
    one_by_one(draw, Some((PROTOCOL.0, PROTOCOL_NEXT)));
}

// In rolling restarts operators stop most nodes properly, and some are killed.
fn one_by_one(draw: &mut Draw, upgrade: Option<(u16, u16)>) {
    let mut at = Duration::ZERO;
    for host in draw.some(draw.nodes) {
        at += draw.between(SECOND, SECOND * 8);
        if let Some(versions) = upgrade {
            draw.at(at, Action::Upgrade(host, versions));
        }
        if draw.percent(75) {
            let returning = true;
            draw.at(at, Action::Leave { host, returning });
        } else {
            draw.at(at, Action::Kill(host));
        }
        // The node is gone after a second at the latest, or this does nothing: twice, then.
        for _ in 0..2 {
            at += draw.between(SECOND, SECOND * 3);
            draw.at(at, Action::Start(host));
        }
    }
    draw.until(at + SECOND * 5);
}

pub(super) fn key_rotation(draw: &mut Draw) {
    let mut at = Duration::ZERO;
    let rounds = draw.number(1, 3) as u8;
    for key in 1..=rounds {
        let by = draw.one();
        // Somebody is away while the key is added, and back before the old one is removed.
        let away = (by + 1 + draw.number(0, draw.nodes as u32 - 2) as usize) % draw.nodes;
        at += draw.between(SECOND, SECOND * 5);
        draw.at(at, Action::Kill(away));
        at += SECOND * 15;
        draw.at(at, Action::KeyAdd(by, key));
        at += draw.between(SECOND, SECOND * 4);
        let seeds = vec![by];
        draw.join(at, seeds, None);
        at += SECOND * 6;
        draw.at(at, Action::Start(away));
        at += SECOND * 6;
        draw.at(at, Action::KeyUse(by, key));
        at += SECOND * 8;
        draw.at(at, Action::KeyRemove(by, key - 1));
        at += SECOND * 8;
    }
    draw.until(at);
}
