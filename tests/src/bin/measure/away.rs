//! Nodes that are away: for good, until what they kept is made again elsewhere; or for a moment,
//! until they have what they missed.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use kith::client::{
    Client,
    kv::{Ack, Precondition},
};
use kith_tests::{process::Signal, wait};

use crate::{
    Options, Rows,
    figures::{Row, Unit},
    holdings::{self, Holdings, settled},
    lab::PATIENCE,
    machines::Machines,
    quiet::memory,
    subject::Subject,
};

/// What is held when a node goes for good: 100 MiB.
const LARGE: usize = 10 << 10;
const LARGE_VALUES: usize = (100 << 20) / LARGE;
/// As the nodes have it.
const REPAIR_DELAY: Duration = Duration::from_secs(10);
/// What is held when a node is away for a moment.
const SMALL: usize = 32;
const SMALL_VALUES: usize = 1_000_000;
/// What changes while it is away.
const CHANGED: usize = 1_000;
/// Nothing has moved for so long: it is over.
const STILL: Duration = Duration::from_secs(2);

/// SIGKILL of a node that stays away: until all its copies are made again.
pub(crate) fn for_good(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let row = |what: &str, unit| Row::new(what, subject, nodes, unit);
    let mut after = row(
        "gone for good with 100 MiB held: all copies again, after repair_delay",
        Unit::Seconds,
    );
    let mut copies = row("… copies made anew", Unit::Count);
    let mut least = row("… what they take", Unit::MiB);
    let mut moved = row("… moved between nodes (IP level)", Unit::MiB);
    let mut lost = row("… values lost", Unit::Count);
    let mut machines = Machines::start(subject, nodes, 0, &[])?;
    holdings::fill(machines.cluster.nodes(), LARGE_VALUES, LARGE)?;
    let all: Vec<usize> = (0..nodes).collect();
    for trial in 0..options.slow_trials {
        let victim = 1 + trial % (nodes - 1);
        let survivors: Vec<usize> = all.iter().copied().filter(|&i| i != victim).collect();
        let (before, _) = settled(&machines.cluster, &all, STILL, |_| true)?;
        let bytes = machines.between_nodes()?;
        let killed = Instant::now();
        machines.cluster.node(victim).process().kill()?;
        // First it is to be seen that copies are missing.
        let asked = machines.cluster.node(survivors[0]);
        let missing = |wanted: bool| {
            wait::poll("the number of missing copies", PATIENCE, || {
                let status = asked.status().map_err(|error| format!("{error:#}"))?;
                let missing = status.under_replicated;
                match (missing > 0) == wanted {
                    true => Ok(Instant::now()),
                    false => Err(format!("{missing} partitions miss copies")),
                }
            })
        };
        missing(true)?;
        let restored = missing(false)?;
        let (now, _) = settled(&machines.cluster, &survivors, STILL, |_| true)?;
        let movement = now.since(&before);
        after.add(Ok(
            (restored - killed).as_secs_f64() - REPAIR_DELAY.as_secs_f64()
        ));
        copies.add(Ok(movement.copies as f64));
        least.add(Ok(mib(movement.bytes)));
        moved.add(Ok(mib(machines.between_nodes()? - bytes)));
        let gone = holdings::not_held(asked, LARGE_VALUES, LARGE)?;
        lost.add(Ok(gone as f64));

        machines.cluster.node(victim).process().wait_end(PATIENCE)?;
        machines.cluster.restart(victim).wait_ready(PATIENCE)?;
        wait_for_share(&machines, &all, victim)?;
    }
    Ok(vec![after, copies, least, moved, lost])
}

/// A million keys are held; a node is stopped, or killed, and started again: until it is ready, and
/// until it owns its share again; and what passes between it and others until then.
pub(crate) fn for_a_moment(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let row = |what: &str, unit| Row::new(what, subject, nodes, unit);
    let mut filled = row("a million keys stored, in", Unit::Seconds);
    let mut kept = row("… a node keeps", Unit::MiB);
    let mut rss = row("… RSS of a node", Unit::MiB);
    let mut stopped = Return::new("stopped", &row);
    let mut killed = Return::new("kill -9", &row);
    let mut lost = row("… changes made meanwhile that are lost", Unit::Count);
    let mut stop_takes = row("stopped: the process has ended after", Unit::Seconds);

    let mut machines = Machines::start(subject, nodes, 0, &[])?;
    let begun = Instant::now();
    holdings::fill(machines.cluster.nodes(), SMALL_VALUES, SMALL)?;
    filled.add(Ok(begun.elapsed().as_secs_f64()));
    let all: Vec<usize> = (0..nodes).collect();
    let (held, _) = settled(&machines.cluster, &all, STILL, |_| true)?;
    for node in machines.cluster.nodes() {
        kept.extend([mib(held.bytes_at(node.name()))]);
        rss.extend([memory(node.process().pid())?.rss]);
    }
    for trial in 0..options.slow_trials {
        for (signal, outcome) in [(Signal::TERM, &mut stopped), (Signal::KILL, &mut killed)] {
            let victim = 1 + trial % (nodes - 1);
            let begun = Instant::now();
            machines.cluster.node(victim).process().signal(signal)?;
            machines.cluster.node(victim).process().wait_end(PATIENCE)?;
            if signal == Signal::TERM {
                stop_takes.add(Ok(begun.elapsed().as_secs_f64()));
            }
            change(&machines.cluster.node(0).library(), trial)?;
            let bytes = machines.through(victim)?;
            let begun = Instant::now();
            machines.cluster.restart(victim).wait_ready(PATIENCE)?;
            outcome.ready.add(Ok(begun.elapsed().as_secs_f64()));
            // Only others are asked: what passes it is of peers.
            let owns = wait_for_ownership(&machines, victim)?;
            outcome.owns.add(Ok((owns - begun).as_secs_f64()));
            thread::sleep(STILL);
            let exchanged = machines.through(victim)? - bytes;
            outcome.bytes.add(Ok(mib(exchanged)));
            settled(&machines.cluster, &all, STILL, |_| true)?;
            lost.add(unchanged(&machines.cluster.node(victim).library(), trial));
        }
    }
    let mut rows = vec![filled, kept, rss, stop_takes];
    rows.extend(stopped.rows());
    rows.extend(killed.rows());
    rows.push(lost);
    Ok(rows)
}

/// How a node came back.
struct Return {
    ready: Row,
    owns: Row,
    bytes: Row,
}

impl Return {
    fn new(how: &str, row: &impl Fn(&str, Unit) -> Row) -> Self {
        Self {
            ready: row(
                &format!("{how} and started with a million keys: ready after"),
                Unit::Seconds,
            ),
            owns: row("… owns its share again after", Unit::Seconds),
            bytes: row(
                "… exchanged with peers until 2 s after that (IP level, 1,000 keys changed meanwhile)",
                Unit::MiB,
            ),
        }
    }

    fn rows(self) -> Vec<Row> {
        vec![self.ready, self.owns, self.bytes]
    }
}

/// Overwrites some of what is held. Doing so twice does no harm.
fn change(client: &Client, trial: usize) -> Result<()> {
    for number in 0..CHANGED {
        let key = format!("held-{}", number * (SMALL_VALUES / CHANGED));
        let value = format!("changed in trial {trial}");
        let only = Precondition::None;
        wait::poll(&format!("a change of {key}"), PATIENCE, || {
            let written = client.write(key.as_bytes(), value.as_bytes(), None, &only, Ack::Quorum);
            written.map_err(|error| error.to_string())
        })?;
    }
    Ok(())
}

/// How many of the changed have another value.
fn unchanged(client: &Client, trial: usize) -> Result<f64> {
    let wanted = format!("changed in trial {trial}");
    let mut other = 0_usize;
    for number in 0..CHANGED {
        let key = format!("held-{}", number * (SMALL_VALUES / CHANGED));
        let found = client
            .read(key.as_bytes())
            .map_err(|e| anyhow!("{key}: {e}"))?;
        other += usize::from(found.is_none_or(|value| value.bytes != wanted.as_bytes()));
    }
    Ok(other as f64)
}

/// Waits until the first node tells that another owns its share.
fn wait_for_ownership(machines: &Machines, index: usize) -> Result<Instant> {
    let name = machines.cluster.node(index).name();
    let nodes = machines.cluster.nodes().len();
    let owned = wait::poll("the node that was away to own its share", PATIENCE, || {
        let views = machines.cluster.node(0).partitions();
        let views = views.map_err(|error| format!("{error:#}"))?;
        let owned = views.iter().filter(|v| v.owner.as_deref() == Some(name));
        let (owned, fair) = (owned.count(), views.len() / nodes);
        match owned >= fair * 9 / 10 {
            true => Ok(Instant::now()),
            false => Err(format!("{owned} of {fair}")),
        }
    });
    Ok(owned?)
}

/// Waits until all have settled with that node's share at it.
fn wait_for_share(machines: &Machines, all: &[usize], index: usize) -> Result<Holdings> {
    let name = machines.cluster.node(index).name();
    let (held, _) = settled(&machines.cluster, all, STILL, |held| {
        held.copies_at(name) >= held.copies() * 9 / 10 / all.len()
    })?;
    ensure!(held.copies() > 0, "nothing is held");
    Ok(held)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
