//! The longest pause between two writes while nodes stop one after the other.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kith_proto::time::Time;

use crate::lab::{
    Lab, NodeIndex,
    client::{self, Asked, Only},
};

/// Between two requests of a client.
const PACE: Duration = Duration::from_millis(5);
/// Writes go on for so long after the last node was told to stop.
const AFTER: Duration = Duration::from_secs(2);
/// A node stops within this.
const LIMIT: Duration = Duration::from_secs(8);

/// Writers of each key, one at each node that is asked.
struct Writers<'a> {
    keys: &'a [Bytes],
    asked_of: &'a [NodeIndex],
    /// What is open, by the numbers of the key and the writer.
    open: BTreeMap<(usize, usize), usize>,
    /// Of each key the last write, and the longest pause.
    last: Vec<(Time, Duration)>,
}

/// Tells the victims to stop, each as soon as the one before has ended; of each key the longest pause between two
/// writes until some time after that. `None`: it was not written any more in the end. If `late` is not zero they are
/// killed instead, which is noticed so late.
pub(super) fn while_they_stop(
    lab: &mut Lab,
    keys: &[Bytes],
    victims: &[NodeIndex],
    asked_of: &[NodeIndex],
    late: Duration,
) -> Vec<Option<Duration>> {
    let mut writers = Writers {
        keys,
        asked_of,
        open: BTreeMap::new(),
        last: vec![(lab.now(), Duration::ZERO); keys.len()],
    };
    for victim in victims {
        if late.is_zero() {
            lab.stop(*victim);
        } else {
            let late = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
            lab.noticed.end = late..late + 1;
            lab.kill(*victim, false);
        }
        let until = lab.now() + LIMIT;
        while lab.is_alive(*victim) && lab.now() < until {
            writers.write(lab);
        }
    }
    let until = lab.now() + AFTER;
    while lab.now() < until {
        writers.write(lab);
    }
    let now = lab.now();
    let ended = writers.last.iter().map(|(last, pause)| {
        let since = now.saturating_since(*last);
        (since < AFTER).then_some(since.max(*pause))
    });
    ended.collect()
}

impl Writers<'_> {
    // Each asks again if it was answered, and time passes.
    fn write(&mut self, lab: &mut Lab) {
        for (number, key) in self.keys.iter().enumerate() {
            for (writer, node) in self.asked_of.iter().enumerate() {
                self.open.entry((number, writer)).or_insert_with(|| {
                    let value = client::value(lab);
                    let asked = Asked::Write(value, Only::Always);
                    client::ask(lab, None, *node, key.clone(), asked)
                });
            }
        }
        lab.run(PACE);
        let mut done: Vec<(usize, Time)> = Vec::new();
        self.open.retain(|(number, _), index| {
            let operation = &lab.clients.history[*index];
            if operation.written().is_some() {
                done.extend(operation.ended.map(|at| (*number, at)));
            }
            operation.ended.is_none()
        });
        done.sort_by_key(|(_, at)| *at);
        for (number, at) in done {
            let (last, pause) = &mut self.last[number];
            *pause = at.saturating_since(*last).max(*pause);
            *last = at;
        }
    }
}
