//! Measures what a cluster promises: how soon the dead are known, how rarely the living are
//! accused, what becomes of their work, and what it costs.
//!
//! ```text
//! cargo run --release -p kith-tests --bin measure -- --nodes 5,32 --trials 10 --serf
//! ```
//!
//! Every node is a real process in a network namespace of its own (or, with `--loopback`, at a
//! loopback address of its own). Times run from the moment right before the action to the moment
//! that the last survivor's log line tells. With `--serf` the same is done to HashiCorp's Serf.
//!
//! Reading order: [`subject`] (what is measured, and how its log is read), [`lab`] (a cluster
//! of it), [`figures`] (rows of the table); then the scenarios: [`coming`] and going,
//! [`failing`], [`quiet`] times. Of partitions: [`owners`] and [`pairs`] of nodes that are killed, work that
//! changes hands ([`handover`]), nodes that are [`away`], and a cluster [`divided`]; built on [`machines`]
//! that can be cut off and counted, [`load`] at a fixed rate, and what the cluster holds ([`holdings`]).

mod away;
mod coming;
mod divided;
mod failing;
mod figures;
mod handover;
mod holdings;
mod lab;
mod load;
mod machines;
mod owners;
mod pairs;
mod quiet;
mod redis;
mod subject;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use kith_tests::{binary, netns};

use crate::{
    figures::{Report, Row},
    subject::{Mechanism, Subject},
};

/// Measures membership and partitions on real processes and prints a table.
///
/// Example: measure --nodes 5,32 --trials 10 --only kill,restart --serf
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Cluster sizes. Scenarios that need only one take the largest up to 32.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "5,32,64",
        value_name = "N,…"
    )]
    nodes: Vec<usize>,
    /// How often each quick scenario is tried.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    trials: usize,
    /// How often each slow one (pauses, splits, minutes of trouble) is tried.
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    slow_trials: usize,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',', value_name = "WHAT,…")]
    only: Vec<Scenario>,
    /// Measure Serf too (`serf` must be installed).
    #[arg(long)]
    serf: bool,
    /// Leave Kith out, to measure Serf alone.
    #[arg(long, requires = "serf")]
    no_kith: bool,
    /// Switch off mechanisms of Kith's detection, to see what they are worth.
    #[arg(long, value_delimiter = ',', value_name = "MECHANISM,…")]
    without: Vec<Mechanism>,
    /// Loopback addresses instead of namespaces: no root needed, but no loss, cuts or traffic.
    #[arg(long)]
    loopback: bool,
    /// How long a split lasts before it is healed.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    split_seconds: u64,
    /// How long idle costs, and troubles such as loss, are observed.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    observe_seconds: u64,
    /// How long a cluster is left in peace between two trials.
    #[arg(long, default_value_t = 3, value_name = "SECONDS")]
    settle_seconds: u64,
    /// Write all values here too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// All start at once with one seed: until all see all.
    Join,
    /// SIGKILL: until the last survivor knows.
    Kill,
    /// The killed one is started again: until all see it. Measured together with `kill`.
    Restart,
    /// All packets of one machine are dropped: until the last survivor knows.
    Vanish,
    /// Stopped for 5 s: does anybody mark it failed?
    Pause5,
    /// Stopped for 20 s: marked failed after; back after waking; accused by the sleeper.
    Pause20,
    /// A graceful leave: until all others know.
    Leave,
    /// Two halves that do not hear each other: alive for all, after the heal.
    Split,
    /// A quarter, then half of the nodes stopped for 8 s of every 8.06 s: false alarms.
    Starved,
    /// 30 % of the packets lost: false alarms.
    Loss,
    /// What a quiet cluster costs.
    Idle,
    /// SIGKILL of an owner while clients write: until its keys are written again; what is lost.
    Owner,
    /// SIGKILL of two nodes at once while clients write: what is lost, and whether it may be.
    Pair,
    /// A node joins, another leaves, while clients write: pauses, and bytes moved.
    Handover,
    /// A node is gone for good with 100 MiB held: until all copies are made again.
    Restore,
    /// A node with a million keys is stopped, or killed, and started again: until it is back.
    Million,
    /// Writes on both sides of a split, in both modes: what is seen, merged, lost.
    Divide,
    /// Speed beside Redis Cluster 7 (must be installed), 5 nodes at loopback addresses.
    Redis,
}

impl Options {
    fn wants(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }

    /// The size for scenarios that are tried with one only.
    fn middle(&self) -> usize {
        let fitting = self.nodes.iter().copied().filter(|&n| n <= 32);
        let smallest = self.nodes.iter().copied().min();
        fitting.max().or(smallest).unwrap_or(5)
    }

    fn settle(&self) -> Duration {
        Duration::from_secs(self.settle_seconds)
    }

    fn observe(&self) -> Duration {
        Duration::from_secs(self.observe_seconds)
    }

    fn subjects(&self) -> Vec<Subject> {
        let kith = (!self.no_kith).then(|| Subject::Kith {
            without: self.without.clone(),
        });
        kith.into_iter()
            .chain(self.serf.then_some(Subject::Serf))
            .collect()
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.nodes.iter().any(|&n| n < 3) {
        bail!("--nodes: a cluster of less than 3 has no survivors to compare");
    }
    if !options.loopback
        && let Err(reason) = netns::available()
    {
        bail!("no network namespaces here ({reason}); --loopback does without, and without cuts");
    }
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build, and so is what it measures: use cargo run --release.");
    }
    let binary = binary::kith()?;
    eprintln!(
        "{} on {} CPUs, {}",
        binary.display(),
        std::thread::available_parallelism()?,
        if options.loopback {
            "loopback"
        } else {
            "a network namespace for each node"
        }
    );
    let mut report = Report::begin();
    // Subjects inside scenarios, so that both meet the machine in the same mood.
    run_all(&options, &mut report)?;
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(report.rows())?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn run_all(options: &Options, report: &mut Report) -> Result<()> {
    let middle = options.middle();
    for subject in &options.subjects() {
        for &nodes in &options.nodes {
            if options.wants(Scenario::Join) {
                report.add(coming::join(options, subject, nodes));
            }
            if options.wants(Scenario::Kill) || options.wants(Scenario::Restart) {
                report.add(failing::kill_and_restart(options, subject, nodes));
            }
            if options.wants(Scenario::Idle) {
                report.add(quiet::idle(options, subject, nodes));
            }
        }
        if options.wants(Scenario::Leave) {
            report.add(coming::leave(options, subject, middle));
        }
        if options.wants(Scenario::Pause5) {
            report.add(failing::short_pause(options, subject, middle));
        }
        if options.wants(Scenario::Pause20) {
            report.add(failing::long_pause(options, subject, middle));
        }
        if options.wants(Scenario::Starved) {
            for share in [4, 2] {
                report.add(quiet::starved(options, subject, middle, middle / share));
            }
        }
        if options.wants(Scenario::Owner) && matches!(subject, Subject::Kith { .. }) {
            report.add(owners::kill(options, subject, middle));
        }
        let of_partitions = matches!(subject, Subject::Kith { .. });
        if options.wants(Scenario::Redis) && of_partitions {
            redis::beside(options, subject, report);
        }
        if options.wants(Scenario::Pair) && of_partitions {
            report.add(pairs::kill(options, subject, middle));
        }
        if options.loopback {
            eprintln!(
                "left out with --loopback: vanish, split, loss, traffic of idle nodes, handover, \
                 restore, million, divide"
            );
            continue;
        }
        if of_partitions {
            run_partitions(options, subject, report);
        }
        if options.wants(Scenario::Vanish) {
            report.add(failing::vanish(options, subject, middle));
        }
        if options.wants(Scenario::Split) {
            report.add(coming::split(options, subject, 10));
        }
        if options.wants(Scenario::Loss) {
            for which in [netns::Lossy::Udp, netns::Lossy::Everything] {
                report.add(quiet::loss(options, subject, middle, which));
            }
        }
    }
    Ok(())
}

/// What is measured of partitions on machines of their own.
fn run_partitions(options: &Options, subject: &Subject, report: &mut Report) {
    let nodes = options.middle();
    if options.wants(Scenario::Handover) {
        report.add(handover::join_and_leave(options, subject, nodes));
    }
    if options.wants(Scenario::Restore) {
        report.add(away::for_good(options, subject, nodes));
    }
    if options.wants(Scenario::Million) {
        report.add(away::for_a_moment(options, subject, nodes));
    }
    if options.wants(Scenario::Divide) {
        for consistency in ["available", "strict"] {
            report.add(divided::writes(options, subject, nodes, consistency));
        }
    }
}

/// Seconds from one moment to another; 0 if the clock was set back in between.
fn seconds(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or_default().as_secs_f64()
}

/// What scenarios give back: rows, or why there are none.
type Rows = Result<Vec<Row>>;
