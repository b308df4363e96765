//! How long a partition is without service: from a fault to the first write that is answered again.
//!
//! Five nodes, three copies, sixteen partitions. Of every partition whose owner is concerned, a key is
//! written through each node that is not; whoever is answered asks again after two milliseconds, until one
//! write is done. How long detection takes is told here, as `kith-sim run crash` and `black-hole` show it
//! with five nodes; what comes on top of it is what is measured. Who stops of its own will hands over before, and
//! nobody has to notice anything: there the longest pause between two writes is measured (`pauses`).

mod pauses;

use std::{collections::BTreeMap, ops::Range, process::ExitCode, time::Duration};

use bytes::Bytes;
use kith_proto::{placement::partition_of, time::Time};
use serde::Serialize;

use super::{
    Lab, NodeIndex, Noticed, Setup, check,
    client::{self, Asked, Only},
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
    /// A process ends: its streams break, and after 50 ms others declare it failed.
    Crash,
    /// A machine vanishes, and streams to it stay open: others declare it failed after 1.5 s.
    BlackHole,
    /// Two of five nodes are cut off, and streams stay open; each side declares the other failed after 1.5
    /// s. Asked are the three.
    Partition,
    /// The same, and asked are the two, of what they have (strict: most of the copies of).
    CutOff,
    /// A node is told to stop, and will be back.
    Stop,
    /// Two are, the second as soon as the first has ended; in available clusters there are two copies only, and
    /// three nodes stop so.
    StopInTurn,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Crash,
        Self::BlackHole,
        Self::Partition,
        Self::CutOff,
        Self::Stop,
        Self::StopInTurn,
    ];

    // Who ends, or is on the other side of those that are asked.
    fn victims(self, seed: u64, mode: Mode) -> Vec<NodeIndex> {
        let many = match (self, mode) {
            (Self::Crash | Self::BlackHole | Self::Stop, _) => 1,
            (Self::Partition, _) | (Self::StopInTurn, Mode::Strict) => 2,
            (Self::CutOff, _) | (Self::StopInTurn, Mode::Available) => 3,
        };
        // The founder too: nothing is special about it any more.
        let nodes = (0..many).map(|more| ((seed + more) % NODES as u64) as NodeIndex);
        nodes.collect()
    }
}

const NODES: usize = 5;
/// Until others notice that a process has ended (ms).
const ENDED: Range<u64> = 50..52;
/// Until a machine that vanished is missed, or those on the other side of a cut, and until all have heard of
/// it (ms).
const MISSED: Duration = Duration::from_millis(1500);
const HEARD: Range<u64> = 0..20;
/// Once everybody has noticed, nobody is without service for longer.
const BOUND: Duration = Duration::from_millis(300);
/// Between two requests of a client.
const PACE: Duration = Duration::from_millis(2);
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

/// Lets one fault happen. Everybody notices it so much later than the protocol says, if `late` is not zero: then
/// the bound is broken, and that is told.
pub fn measure(seed: u64, mode: Mode, fault: Fault, late: Duration) -> Times {
    let mut setup = Setup::new(seed, mode.into());
    setup.nodes = NODES;
    setup.settings.partitions = PARTITIONS;
    if (mode, fault) == (Mode::Available, Fault::StopInTurn) {
        setup.settings.copies = 2;
    }
    let mut lab = Lab::new(setup);
    check::at_rest(&mut lab, Duration::from_secs(30));
    let victims = fault.victims(seed, mode);
    let asked_of: Vec<NodeIndex> = (0..NODES).filter(|node| !victims.contains(node)).collect();
    let concerned = (0..PARTITIONS).filter(|p| is_concerned(&lab, *p, fault, &victims, &asked_of));
    let concerned: Vec<Bytes> = concerned.map(key_in).collect();
    let since = lab.now();
    let later = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
    let within = |range: Range<u64>| range.start + later..range.end + later;
    let detection = match fault {
        Fault::Crash => {
            lab.noticed.end = within(ENDED);
            lab.kill(victims[0], false);
            Duration::from_millis(ENDED.end)
        }
        Fault::BlackHole => {
            lab.noticed.end = within(HEARD);
            lab.vanish(victims[0], MISSED);
            MISSED + Duration::from_millis(HEARD.end)
        }
        Fault::Partition | Fault::CutOff => {
            lab.noticed.cut = within(HEARD);
            lab.silence(&victims, MISSED);
            MISSED + Duration::from_millis(HEARD.end)
        }
        // Nothing has to be noticed.
        Fault::Stop | Fault::StopInTurn => Duration::ZERO,
    };
    let mut result = Times::default();
    let times = match fault {
        Fault::Stop | Fault::StopInTurn => {
            pauses::while_they_stop(&mut lab, &concerned, &victims, &asked_of, late)
        }
        _ => written_again(&mut lab, &concerned, &asked_of)
            .into_iter()
            .map(|ended| Some(ended?.saturating_since(since)))
            .collect(),
    };
    result.not_at_all = times.iter().filter(|time| time.is_none()).count();
    result.times = times.into_iter().flatten().collect();
    lab.noticed = Noticed::default();
    lab.heal();
    for node in victims {
        lab.resume(node);
        lab.start(node);
    }
    lab.run(Duration::from_secs(4));
    check::at_rest(&mut lab, Duration::from_secs(60));
    result.objections = lab.objections().iter().map(ToString::to_string).collect();
    let worst = result.times.iter().max().copied().unwrap_or_default();
    if worst > detection + BOUND {
        let text = format!(
            "availability: {} seed {seed}, {fault:?}: a partition was without service for {worst:?}",
            mode.name()
        );
        result.objections.push(text);
    }
    result
}

// Its owner is concerned (if several stop in turn: some member is), and among those that are asked there is a copy;
// strict: there are most of them. Other partitions wait until the network is whole, as they have to.
fn is_concerned(
    lab: &Lab,
    p: u16,
    fault: Fault,
    victims: &[NodeIndex],
    asked_of: &[NodeIndex],
) -> bool {
    let owner = lab.servers(p).first().copied();
    let shard = owner.and_then(|owner| lab.shard(owner));
    let Some(chain) = shard.and_then(|shard| shard.chain_of(p)) else {
        return false;
    };
    let config = &chain.config;
    let concerned = match fault {
        Fault::StopInTurn => victims.iter().any(|it| config.has(lab.id(*it))),
        _ => owner.is_some_and(|owner| victims.contains(&owner)),
    };
    let there = asked_of.iter().filter(|it| config.has(lab.id(**it)));
    let least = if lab.setup.is_strict() {
        config.majority()
    } else {
        1
    };
    concerned && there.count() >= least
}

// When a write of each key was done first.
fn written_again(lab: &mut Lab, keys: &[Bytes], asked_of: &[NodeIndex]) -> Vec<Option<Time>> {
    let until = lab.now() + LIMIT;
    let mut written: Vec<Option<Time>> = vec![None; keys.len()];
    // What is open of each key, at each node.
    let mut open: BTreeMap<(usize, NodeIndex), usize> = BTreeMap::new();
    while written.contains(&None) && lab.now() < until {
        for (number, key) in keys.iter().enumerate() {
            for node in asked_of {
                if written[number].is_none() && !open.contains_key(&(number, *node)) {
                    let value = client::value(lab);
                    let asked = Asked::Write(value, Only::Always);
                    let index = client::ask(lab, None, *node, key.clone(), asked);
                    open.insert((number, *node), index);
                }
            }
        }
        lab.run(PACE);
        open.retain(|(number, _), index| {
            let operation = &lab.clients.history[*index];
            if operation.written().is_some() {
                let first = written[*number].into_iter().chain(operation.ended);
                written[*number] = first.min();
            }
            operation.ended.is_none()
        });
    }
    written
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
        let times = measure(seed, mode, fault, Duration::ZERO);
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
