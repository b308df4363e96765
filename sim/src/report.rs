//! What a run has shown, in numbers that depend on nothing but the seed.
//!
//! A [`Report`] is one run's; merged with those of other seeds it is theirs together. Nothing
//! of the wall clock is in it: equal seeds give equal bytes.
//!
//! - `questions`: what tests ask a world.
//! - [`table`]: for people.

mod questions;
pub mod table;

use std::time::Duration;

use serde::{Serialize, Serializer};

pub use self::questions::{all_see_all, failed_at, false_alarms, show, status};
use crate::check::Violation;

/// Times of one kind, of which each run adds some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Of each occasion the shortest.
    first: Vec<Duration>,
    /// Of each occasion the longest.
    last: Vec<Duration>,
    all: Vec<Duration>,
}

impl Latencies {
    /// Times that are one occasion each.
    pub fn of(times: &[Duration]) -> Self {
        let mut latencies = Self::default();
        for time in times {
            latencies.add(vec![*time]);
        }
        latencies
    }

    /// Times of one occasion, such as when each member knew of a failure.
    pub fn add(&mut self, times: Vec<Duration>) {
        self.first.extend(times.iter().min());
        self.last.extend(times.iter().max());
        self.all.extend(times);
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Self) {
        self.first.extend(&other.first);
        self.last.extend(&other.last);
        self.all.extend(&other.all);
    }

    /// What is said of them; `None` if there are none.
    pub fn summary(&self) -> Option<Summary> {
        if self.all.is_empty() {
            return None;
        }
        Some(Summary {
            occasions: self.first.len(),
            times: self.all.len(),
            first_ms: quantile(&self.first, 50),
            median_ms: quantile(&self.all, 50),
            p99_ms: quantile(&self.all, 99),
            last_ms: quantile(&self.last, 50),
            worst_ms: quantile(&self.last, 100),
        })
    }
}

impl Serialize for Latencies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.summary().serialize(serializer)
    }
}

// The smallest time that so many per cent of them do not exceed, in tenths of milliseconds.
fn quantile(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    let tenths = sorted
        .get(index)
        .map_or(0, |time| time.as_micros().div_ceil(100));
    tenths as f64 / 10.0
}

/// Times of one kind in a few numbers (milliseconds).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many occasions there were, such as crashes.
    pub occasions: usize,
    /// How many times there are in all, such as crashes times survivors.
    pub times: usize,
    /// Median over occasions of the shortest time.
    pub first_ms: f64,
    /// Median over all times.
    pub median_ms: f64,
    /// 99th percentile of all times.
    pub p99_ms: f64,
    /// Median over occasions of the longest time.
    pub last_ms: f64,
    /// The longest of all.
    pub worst_ms: f64,
}

/// Something sent over some time by some nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    bytes: u64,
    packets: u64,
    node_millis: u64,
}

impl Rate {
    /// What one node sent within some time.
    pub fn add(&mut self, sent: &crate::host::Traffic, during: Duration) {
        self.bytes += sent.bytes();
        self.packets += sent.packets();
        self.node_millis += crate::check::millis(during);
    }

    /// Adds that of another run.
    pub fn merge(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.node_millis += other.node_millis;
    }

    /// Bytes per node and second.
    pub fn bytes_per_second(&self) -> u64 {
        (self.bytes * 1000)
            .checked_div(self.node_millis)
            .unwrap_or(0)
    }

    /// Packets per node and second, in hundredths.
    fn packet_hundredths(&self) -> u64 {
        (self.packets * 100_000)
            .checked_div(self.node_millis)
            .unwrap_or(0)
    }

    /// Packets per node and second.
    pub fn packets_per_second(&self) -> f64 {
        self.packet_hundredths() as f64 / 100.0
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct PerNodeAndSecond {
            bytes: u64,
            packets: f64,
        }
        (self.node_millis > 0)
            .then(|| PerNodeAndSecond {
                bytes: self.bytes_per_second(),
                packets: self.packets_per_second(),
            })
            .serialize(serializer)
    }
}

/// Failures told of nodes that run undisturbed and can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FalseAlarms {
    /// By anybody (Lifeguard's FP).
    pub all: u64,
    /// By members that were well themselves (Lifeguard's FP⁻).
    pub by_the_well: u64,
    /// How many lives were accused.
    pub accused: u64,
    /// Suspicions of them that were told; most are refuted at once.
    pub suspicions: u64,
}

/// How long it took those who started later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Arrivals {
    /// Until they knew all others.
    pub complete: Latencies,
    /// Until all others knew them.
    pub known: Latencies,
}

/// What was sent, and what waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficReport {
    /// Sent per node and second from the moment when all were together to the end.
    pub whole: Rate,
    /// The same while nothing happened.
    pub idle: Rate,
    /// The most that one node sent in one second (bytes).
    pub peak_bytes: u64,
    /// The most pieces of news that waited at one node, looked at once a second.
    pub backlog: u64,
    /// The most inputs that waited for one paused process.
    pub waiting: u64,
}

/// A run's results, or those of several together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Runs in it.
    pub runs: u64,
    /// Virtual time that passed (milliseconds).
    pub simulated_ms: u64,
    /// How long it took until all were together at first (milliseconds, the longest).
    pub formed_ms: u64,
    /// How long it took to know of those who were killed or lost power.
    pub detection: Latencies,
    /// Accusations of the innocent.
    pub false_alarms: FalseAlarms,
    /// How long after the last fault all saw the same again (milliseconds, the longest).
    pub converged_ms: Option<u64>,
    /// How long it took those who started later to be members like all others.
    pub arrival: Arrivals,
    /// What was sent, and what waited.
    pub traffic: TrafficReport,
    /// Copies that moved where one node came or went, and the least that had to.
    pub copies_moved: Option<[u64; 2]>,
    /// Lines that nodes told their users.
    pub events: u64,
    /// Events of the world that happened.
    pub happened: u64,
    /// One number for all that happened; of several runs, all together.
    #[serde(serialize_with = "hexadecimal")]
    pub digest: u64,
    /// What went wrong, with the seed.
    pub violations: Vec<Failed>,
}

/// A run that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Which seed.
    pub seed: u64,
    /// What it broke.
    #[serde(flatten)]
    pub violation: Violation,
    /// The command that runs it again.
    pub replay: String,
}

fn hexadecimal<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:016x}"))
}

impl Report {
    /// Adds another run's. The order of merging is part of the result.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.simulated_ms += other.simulated_ms;
        self.formed_ms = self.formed_ms.max(other.formed_ms);
        self.detection.merge(&other.detection);
        self.false_alarms.all += other.false_alarms.all;
        self.false_alarms.by_the_well += other.false_alarms.by_the_well;
        self.false_alarms.accused += other.false_alarms.accused;
        self.false_alarms.suspicions += other.false_alarms.suspicions;
        self.converged_ms = self.converged_ms.max(other.converged_ms);
        self.arrival.complete.merge(&other.arrival.complete);
        self.arrival.known.merge(&other.arrival.known);
        self.traffic.whole.merge(&other.traffic.whole);
        self.traffic.idle.merge(&other.traffic.idle);
        let (ours, theirs) = (&mut self.traffic, &other.traffic);
        ours.peak_bytes = ours.peak_bytes.max(theirs.peak_bytes);
        ours.backlog = ours.backlog.max(theirs.backlog);
        ours.waiting = ours.waiting.max(theirs.waiting);
        self.copies_moved = match (self.copies_moved, other.copies_moved) {
            (Some([a, b]), Some([c, d])) => Some([a + c, b + d]),
            (some, None) | (None, some) => some,
        };
        self.events += other.events;
        self.happened += other.happened;
        self.digest = self.digest.rotate_left(7) ^ other.digest;
        self.violations.extend(other.violations.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occasions_are_told_apart_from_times() {
        let ms = Duration::from_millis;
        let mut latencies = Latencies::default();
        latencies.add(vec![ms(10), ms(30), ms(20)]);
        latencies.add(vec![ms(40), ms(60)]);
        let summary = latencies.summary().unwrap();
        assert_eq!((summary.occasions, summary.times), (2, 5));
        assert_eq!((summary.first_ms, summary.last_ms), (10.0, 30.0));
        assert_eq!((summary.median_ms, summary.worst_ms), (30.0, 60.0));
        assert_eq!(Latencies::default().summary(), None);
    }
}
