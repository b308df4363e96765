//! A split while clients write on both sides, in both modes: what they see, and what becomes of
//! what they wrote.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use kith::client::{Client, kv::Ack};
use kith_tests::{
    agent::Agent,
    checker::{self, Checker, Counts, Habits},
    wait,
};

use crate::{
    Options, Rows,
    figures::{Row, Unit},
    holdings::settled,
    lab::PATIENCE,
    machines::Machines,
    subject::Subject,
};

/// Keys that one side alone writes, and keys that both do.
const KEYS: usize = 64;
const WRITERS: usize = 4;
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
    entries: Row,
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

    fn add(&mut self, counts: [Counts; 2]) {
        let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>() as f64;
        self.acknowledged.add(Ok(sum(|c| c.acknowledged)));
        self.refused.add(Ok(sum(|c| c.refused)));
        self.unknown.add(Ok(sum(|c| c.indeterminate)));
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
            entries: row("entries taken over", Unit::Count),
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
            self.entries,
            self.both,
            self.conflicts,
            self.lost,
        ]);
        rows
    }
}

/// Writers of one side.
struct Side {
    own: Checker,
    common: Checker,
}

impl Side {
    fn begin(mark: &'static str, agents: &[&Agent], trial: usize) -> Self {
        let through: Vec<Client> = agents.iter().map(|agent| agent.library()).collect();
        let habits = Habits {
            mark,
            ack: Ack::Quorum,
        };
        let own = checker::keys(&format!("{mark}{trial}-"), KEYS);
        let begin =
            |keys: &[String]| Checker::begin_with(habits.clone(), keys, WRITERS, through.clone());
        Self {
            own: begin(&own),
            common: begin(&common(trial)),
        }
    }

    fn counts(&self) -> [Counts; 2] {
        [self.own.counts(), self.common.counts()]
    }

    fn pause(&mut self) {
        self.own.pause();
        self.common.pause();
    }
}

fn common(trial: usize) -> Vec<String> {
    checker::keys(&format!("common{trial}-"), KEYS)
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
    let agents =
        |indices: &[usize]| -> Vec<&Agent> { indices.iter().map(|&i| cluster.node(i)).collect() };

    machines.lan().split(few, many)?;
    let begun = Instant::now();
    let mut sides = [("few", few), ("many", many)]
        .map(|(mark, indices)| Side::begin(mark, &agents(indices), trial));
    thread::sleep(lasting.saturating_sub(begun.elapsed()));
    thread::scope(|scope| {
        for side in &mut sides {
            scope.spawn(|| side.pause());
        }
    });
    let [one, other] = &sides;
    rows.few.add(one.counts());
    rows.many.add(other.counts());

    machines.lan().heal()?;
    let healed = Instant::now();
    let (_, equal) = settled(cluster, &all, STILL, |_| true)?;
    rows.settled.add(Ok((equal - healed).as_secs_f64()));
    let (mut joined, mut entries, mut conflicts) = (0, 0, 0);
    for (agent, mark) in cluster.nodes().iter().zip(marks) {
        for event in agent.events_since(mark) {
            match event.name() {
                "partition_joined" => {
                    joined += 1;
                    entries += event.number("entries").unwrap_or_default();
                }
                "partition_conflict" => conflicts += 1,
                _ => {}
            }
        }
    }
    rows.joined.add(Ok(f64::from(joined)));
    rows.entries.add(Ok(entries as f64));
    rows.conflicts.add(Ok(f64::from(conflicts)));
    let both = common(trial).into_iter().filter(|key| {
        [one, other]
            .iter()
            .all(|side| side.common.has_acknowledged(key))
    });
    rows.both.add(Ok(both.count() as f64));

    let mut lost = 0;
    for agent in cluster.nodes() {
        let mut here = 0;
        for side in &sides {
            let missing = side.own.lost_at(&agent.library());
            let missing = missing.map_err(|text| anyhow!("{}: {text}", agent.name()))?;
            for text in &missing {
                eprintln!("  lost, asked at {}: {text}", agent.name());
            }
            here += missing.len();
        }
        for key in common(trial) {
            here += usize::from(!keeps_a_last(&sides, &agent.library(), &key)?);
        }
        lost = lost.max(here);
    }
    rows.lost.add(Ok(lost as f64));
    Ok(())
}

/// Whether what is there under a common key is the last that was acknowledged to one of the sides, or
/// later; nothing, if nothing was acknowledged.
fn keeps_a_last(sides: &[Side; 2], client: &Client, key: &str) -> Result<bool> {
    let found = wait::poll(&format!("{key} to be readable"), PATIENCE, || {
        client
            .read(key.as_bytes())
            .map_err(|error| error.to_string())
    })?;
    let Some(found) = found else {
        let acknowledged = sides.iter().any(|side| side.common.has_acknowledged(key));
        if acknowledged {
            eprintln!("  lost, asked at {}: {key} is not there", client.url());
        }
        return Ok(!acknowledged);
    };
    for (index, side) in sides.iter().enumerate() {
        let judged = side
            .common
            .is_last(key, &found.bytes)
            .map_err(|e| anyhow!(e))?;
        let Some(is_last) = judged else {
            continue;
        };
        // A side that was acknowledged nothing must not win over one that was.
        let other = &sides[1 - index].common;
        let rightly = side.common.has_acknowledged(key) || !other.has_acknowledged(key);
        if !(is_last && rightly) {
            let text = String::from_utf8_lossy(&found.bytes);
            eprintln!("  lost, asked at {}: {key} is {text}", client.url());
        }
        return Ok(is_last && rightly);
    }
    bail!("{key} is {:?}, which nobody wrote", found.bytes)
}
