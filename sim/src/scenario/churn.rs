//! Nodes join, leave, crash and come back all the time, each at its own moment.

use std::time::Duration;

use super::Draw;
use crate::{fault::Action, host::HostId};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn churn(draw: &mut Draw) {
    let end = draw.minutes(3);
    // The first third stays, so that there is always somebody to join.
    let staying = draw.nodes.div_ceil(3);
    let mut here: Vec<HostId> = (staying..draw.nodes).collect();
    let mut away: Vec<HostId> = Vec::new();
    let mut at = SECOND;
    while at < end {
        at += draw.between(Duration::from_millis(50), SECOND * 4);
        match draw.number(0, 9) {
            0..=2 if !here.is_empty() => {
                let host = take(draw, &mut here);
                draw.at(at, Action::Kill(host));
                away.push(host);
            }
            3..=4 if !here.is_empty() => {
                let host = take(draw, &mut here);
                let returning = draw.percent(50);
                draw.at(at, Action::Leave { host, returning });
                away.push(host);
            }
            5..=7 if !away.is_empty() => {
                let host = take(draw, &mut away);
                let wiped = draw.percent(20);
                let start = if wiped {
                    Action::StartWiped(host)
                } else {
                    Action::Start(host)
                };
                draw.at(at, start);
                here.push(host);
            }
            _ => {
                let seed = draw.number(0, staying as u32 - 1) as usize;
                let host = draw.join(at, vec![seed], None);
                here.push(host);
            }
        }
    }
    draw.until(end);
}

fn take(draw: &mut Draw, from: &mut Vec<HostId>) -> HostId {
    let index = draw.number(0, from.len() as u32 - 1) as usize;
    from.swap_remove(index)
}
