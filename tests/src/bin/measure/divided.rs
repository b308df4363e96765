//! A split while clients write on both sides, in both modes: what they see, and what becomes of
//! what they wrote.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use kith::client::Client;
use kith_tests::{checker::Counts, cluster::Cluster, sides::Sides};

use crate::{
    Options, Rows,
    figures::{Row, Unit},
    holdings::settled,
    machines::Machines,
    subject::Subject,
};

/// Nothing has moved for so long: it is over.
const STILL: Duration = Duration::from_secs(2);

/// The first two of five are cut from the rest for a while.
pub(crate) fn writes(
    options: &Options,
    subject: &Subject,
    nodes: usize,
    consistency: &str,
) -> Rows {
    let seconds = options.split_seconds;
    let lasting = Duration::from_secs(seconds);
    let row = |what: &str, unit| {
        let what = format!(
            "{consistency}, split 2/{} for {seconds} s: {what}",
            nodes - 2
        );
        Row::new(what, subject, nodes, unit)
    };
    let mut rows = Figures::new(&row);
    let machines = Machines::start(subject, nodes, 0, &["--consistency", consistency])?;
    for trial in 0..options.slow_trials {
        one(&machines, nodes, lasting, trial, &mut rows)?;
    }
    Ok(rows.rows())
}

struct Figures {
    few: Seen,
    many: Seen,
    settled: Row,
    joined: Row,
    both: Row,
    conflicts: Row,
    lost: Row,
}

/// What clients of one side saw.
struct Seen {
    acknowledged: Row,
    refused: Row,
    unknown: Row,
}

impl Seen {
    fn new(side: &str, row: &impl Fn(&str, Unit) -> Row) -> Self {
        let label = |what: &str| format!("{side} {what}");
        Self {
            acknowledged: row(&label("acknowledged"), Unit::Count),
            refused: row(&label("refused"), Unit::Count),
            unknown: row(&label("not known"), Unit::Count),
        }
    }

    fn add(&mut self, counts: Counts) {
        self.acknowledged.add(Ok(counts.acknowledged as f64));
        self.refused.add(Ok(counts.refused as f64));
        self.unknown.add(Ok(counts.indeterminate as f64));
    }

    fn rows(self) -> [Row; 3] {
        [self.acknowledged, self.refused, self.unknown]
    }
}

impl Figures {
    fn new(row: &impl Fn(&str, Unit) -> Row) -> Self {
        Self {
            few: Seen::new("at the two,", row),
            many: Seen::new("at the others,", row),
            settled: row("all equal after the heal", Unit::Seconds),
            joined: row("partitions joined", Unit::Count),
            both: row("keys acknowledged on both sides", Unit::Count),
            conflicts: row("conflicts reported", Unit::Count),
            lost: row(
                "keys of which the last acknowledged write is lost",
                Unit::Count,
            ),
        }
    }

    fn rows(self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.few.rows().into();
        rows.extend(self.many.rows());
        rows.extend([
            self.settled,
            self.joined,
            self.both,
            self.conflicts,
            self.lost,
        ]);
        rows
    }
}

fn one(
    machines: &Machines,
    nodes: usize,
    lasting: Duration,
    trial: usize,
    rows: &mut Figures,
) -> Result<()> {
    let cluster = &machines.cluster;
    let all: Vec<usize> = (0..nodes).collect();
    let (few, many) = all.split_at(2);
    settled(cluster, &all, STILL, |_| true)?;
    let marks = cluster.marks();
    let joined_before = joined_so_far(cluster)?;
    let clients = |indices: &[usize]| -> Vec<Client> {
        let agents = indices.iter().map(|&i| cluster.node(i));
        agents.map(|agent| agent.library()).collect()
    };

    machines.lan().split(few, many)?;
    let begun = Instant::now();
    let mut sides = Sides::begin(trial, [clients(few), clients(many)]);
    thread::sleep(lasting.saturating_sub(begun.elapsed()));
    sides.pause();
    rows.few.add(sides.counts(0));
    rows.many.add(sides.counts(1));

    machines.lan().heal()?;
    let healed = Instant::now();
    let (_, equal) = settled(cluster, &all, STILL, |_| true)?;
    rows.settled.add(Ok((equal - healed).as_secs_f64()));
    let mut conflicts = 0;
    for (agent, mark) in cluster.nodes().iter().zip(marks) {
        let events = agent.events_since(mark);
        conflicts += events
            .iter()
            .filter(|event| event.name() == "partition_conflict")
            .count();
    }
    rows.joined.add(Ok(joined_so_far(cluster)? - joined_before));
    rows.conflicts.add(Ok(conflicts as f64));
    rows.both.add(Ok(sides.written_by_both().len() as f64));

    let mut lost = 0;
    for agent in cluster.nodes() {
        let missing = sides.lost_at(&agent.library());
        let missing = missing.map_err(|text| anyhow!("{}: {text}", agent.name()))?;
        for text in &missing {
            eprintln!("  lost, asked at {}: {text}", agent.name());
        }
        lost = lost.max(missing.len());
    }
    rows.lost.add(Ok(lost as f64));
    Ok(())
}

/// How often a branch was joined into another, at all nodes.
fn joined_so_far(cluster: &Cluster) -> Result<f64> {
    let nodes = cluster.nodes().iter();
    nodes.map(|node| node.metric("branches_joined")).sum()
}
