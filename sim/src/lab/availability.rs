//! How long a partition is without service: from a fault to the first write that is answered again.
//!
//! Five nodes, three copies, and a client for each partition that writes every two milliseconds
//! through nodes that are not concerned by the fault. Of every partition whose owner is, the time is
//! measured; how much of it detection takes is told here, as it was measured with real processes.

use std::{process::ExitCode, time::Duration};

use bytes::Bytes;
use kith_proto::placement::partition_of;
use serde::Serialize;

use super::{
    Lab, NodeIndex, Setup, check,
    client::{self, Asked, Only, Operation},
    command::{Mode, code},
};
use crate::{
    command::print_json,
    many,
    progress::Progress,
    report::{Latencies, Summary},
};

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A process ends: its streams break, and 20 to 300 ms later others declare it failed.
    Crash,
    /// A machine vanishes, and streams to it stay open: the failure is noticed after 2.3 s.
    BlackHole,
    /// Two of five nodes are cut off; each side declares the other failed after 0.2 to 2.5 s.
    Partition,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Crash, Self::BlackHole, Self::Partition];
}

/// Until a machine that vanished is missed.
const MISSED: Duration = Duration::from_millis(2300);
/// Without an answer for so long there is none.
const LIMIT: Duration = Duration::from_secs(20);
const PARTITIONS: u16 = 16;

/// What was measured of one fault.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Which mode.
    pub mode: Mode,
    /// Which fault.
    pub fault: Fault,
    /// From the fault to the first answered write, of each partition whose owner was concerned;
    /// an occasion is a fault.
    pub without_service: Option<Summary>,
    /// Partitions that were not written again within 20 s.
    pub not_at_all: usize,
    /// What else was wrong.
    pub objections: Vec<String>,
}

/// What came of one fault.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Of each partition that was concerned.
    pub times: Vec<Duration>,
    /// Partitions that were not written again.
    pub not_at_all: usize,
    /// What was wrong.
    pub objections: Vec<String>,
}

/// Lets one fault happen.
pub fn measure(seed: u64, mode: Mode, fault: Fault) -> Times {
    let mut setup = Setup::new(seed, mode.into());
    setup.settings.partitions = PARTITIONS;
    let mut lab = Lab::new(setup);
    check::at_rest(&mut lab, Duration::from_secs(30));
    let keys: Vec<Bytes> = (0..PARTITIONS).map(key_in).collect();
    // The founder too: nothing is special about it any more.
    let victims: Vec<NodeIndex> = match fault {
        Fault::Crash | Fault::BlackHole => vec![(seed % 5) as NodeIndex],
        Fault::Partition => vec![(seed % 5) as NodeIndex, ((seed + 1) % 5) as NodeIndex],
    };
    let concerned: Vec<Bytes> = keys
        .into_iter()
        .filter(|key| {
            let p = partition_of(key, PARTITIONS);
            lab.servers(p).iter().any(|owner| victims.contains(owner))
        })
        .collect();
    let asked_of: Vec<NodeIndex> = (0..5).filter(|node| !victims.contains(node)).collect();
    let since = lab.now();
    match fault {
        Fault::Crash => lab.kill(victims[0], false),
        Fault::BlackHole => lab.vanish(victims[0], MISSED),
        Fault::Partition => lab.split(&victims),
    }
    let mut result = Times::default();
    let mut rest = concerned;
    let first = lab.clients.history.len();
    let mut turn = 0;
    while !rest.is_empty() && lab.now() < since + LIMIT {
        for key in &rest {
            turn += 1;
            let value = client::value(&mut lab);
            let asked = Asked::Write(value, Only::Always);
            let node = asked_of[turn % asked_of.len()];
            client::ask(&mut lab, None, node, key.clone(), asked);
        }
        lab.run(Duration::from_millis(2));
        rest.retain(|key| {
            // Not by the owner before, which may not know yet.
            let written = |o: &&Operation| o.key == *key && o.written().is_some();
            let history = &lab.clients.history[first..];
            let ended = history.iter().filter(written).filter_map(|o| o.ended).min();
            result
                .times
                .extend(ended.map(|at| at.saturating_since(since)));
            ended.is_none()
        });
    }
    result.not_at_all = rest.len();
    lab.heal();
    for node in victims {
        lab.resume(node);
        lab.start(node);
    }
    lab.run(Duration::from_secs(4));
    check::at_rest(&mut lab, Duration::from_secs(60));
    result.objections = lab.objections().iter().map(ToString::to_string).collect();
    result
}

// A key of that partition.
fn key_in(p: u16) -> Bytes {
    let mut keys = (0..).map(client::key);
    keys.find(|key| partition_of(key, PARTITIONS) == p)
        .unwrap_or_default()
}

/// Measures, and prints; exit code 1 if anything was wrong.
pub(super) fn execute(modes: &[Mode], first: u64, times: u64, json: bool) -> ExitCode {
    let progress = Progress::start(times * (modes.len() * Fault::ALL.len()) as u64);
    let mut all = Vec::new();
    for mode in modes {
        for fault in Fault::ALL {
            all.push(distribution(*mode, fault, first, times, &progress));
        }
    }
    let passed = all
        .iter()
        .all(|measured| measured.objections.is_empty() && measured.not_at_all == 0);
    if json {
        if let Err(error) = print_json(&all) {
            eprintln!("kith-sim: {error}");
        }
        return code(passed);
    }
    println!("mode       fault       partitions   median      p99    worst ms   not within 20 s");
    for measured in &all {
        let Some(summary) = measured.without_service else {
            continue;
        };
        println!(
            "{:<10} {:<11} {:>10} {:>8} {:>8} {:>8} {:>17}",
            measured.mode.name(),
            format!("{:?}", measured.fault),
            summary.times,
            summary.median_ms,
            summary.p99_ms,
            summary.worst_ms,
            measured.not_at_all
        );
        for objection in measured.objections.iter().take(5) {
            println!("FAILED  {objection}");
        }
    }
    code(passed)
}

fn distribution(mode: Mode, fault: Fault, first: u64, times: u64, progress: &Progress) -> Measured {
    let each = many::each_seed(first, times, |seed| {
        let times = measure(seed, mode, fault);
        progress.one_more(times.objections.iter().take(1).cloned());
        times
    });
    let mut latencies = Latencies::default();
    let mut measured = Measured {
        mode,
        fault,
        without_service: None,
        not_at_all: 0,
        objections: Vec::new(),
    };
    for times in each {
        if !times.times.is_empty() {
            latencies.add(times.times);
        }
        measured.not_at_all += times.not_at_all;
        measured.objections.extend(times.objections);
    }
    measured.without_service = latencies.summary();
    measured
}
