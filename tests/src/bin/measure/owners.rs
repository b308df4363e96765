//! Owners that die while clients write: how soon their keys are written again, and what is lost.
//!
//! Without namespaces, whatever else is measured: clients are in this process.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use kith::client::Client;
use kith_tests::{
    checker::Checker,
    cluster::{self, Cluster},
    wait,
};

use crate::{
    Options, Rows,
    figures::{Row, Unit},
    lab::PATIENCE,
    seconds,
    subject::Subject,
};

/// Keys of the victim's that are written, each by a writer of its own.
const KEYS: usize = 8;

/// SIGKILL of an owner whose keys are being written through the other nodes, until each of them
/// has been written again; then, with all copies made again, the next.
pub(crate) fn kill(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let row = |what, unit| Row::new(what, subject, nodes, unit);
    let mut known = row("kill -9 of an owner, last survivor knows", Unit::Seconds);
    let mut each = row("kill -9 of an owner, a key is written again", Unit::Seconds);
    let mut last = row("… the last of 8 keys", Unit::Seconds);
    let mut written = row("… writes acknowledged", Unit::Count);
    let mut unknown = row(
        "… of which the client was told that it is not known",
        Unit::Count,
    );
    let mut lost = row("… acknowledged writes lost", Unit::Count);
    let plan = cluster::of(nodes).durable().config(&subject.config());
    let mut cluster = plan.prepare()?;
    cluster.start_all()?;
    cluster.wait_copies_on(&(0..nodes).collect::<Vec<_>>())?;
    for trial in 0..options.trials {
        let victim = trial % nodes;
        let outcome = one(options, &mut cluster, victim);
        let failed = outcome.is_err();
        match outcome {
            Ok(outcome) => {
                known.add(Ok(outcome.known));
                last.add(
                    outcome
                        .again
                        .iter()
                        .copied()
                        .reduce(f64::max)
                        .context("no keys"),
                );
                each.extend(outcome.again);
                written.add(Ok(outcome.acknowledged as f64));
                unknown.add(Ok(outcome.indeterminate as f64));
                lost.add(Ok(outcome.lost as f64));
            }
            Err(error) => last.add(Err(error)),
        }
        if failed {
            break;
        }
    }
    Ok(vec![known, each, last, written, unknown, lost])
}

struct Outcome {
    /// That it has failed, by all others (seconds).
    known: f64,
    /// Of each key (seconds).
    again: Vec<f64>,
    acknowledged: u64,
    indeterminate: u64,
    lost: usize,
}

fn one(options: &Options, cluster: &mut Cluster, victim: usize) -> Result<Outcome> {
    let through: Vec<Client> = cluster.others(victim).map(|node| node.library()).collect();
    let keys = keys_of(cluster.node(victim).name(), &through[0])?;
    let mut checker = Checker::begin(&keys, keys.len(), through.clone());
    checker.since(Instant::now());
    wait::poll("every key to be written", PATIENCE, || checker.again())?;
    thread::sleep(Duration::from_secs(1));

    let marks = cluster.marks();
    let (killed, killed_at) = (Instant::now(), SystemTime::now());
    checker.since(killed);
    cluster.node(victim).process().kill()?;
    let again = wait::poll("every key to be written again", PATIENCE, || {
        checker.again()
    })?;
    thread::sleep(Duration::from_millis(500));
    checker.pause();
    let name = cluster.node(victim).name();
    let mut known = 0_f64;
    for (index, node) in cluster
        .nodes()
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != victim)
    {
        let told = node.wait_event("its failure", marks[index], PATIENCE, |e| {
            e.is("member_failed", name)
        })?;
        known = known.max(seconds(killed_at, told.at));
    }
    let mut lost = 0;
    for client in &through {
        let missing = checker.lost_at(client).map_err(|text| anyhow!(text))?;
        for text in &missing {
            eprintln!("  lost: {text}");
        }
        lost = lost.max(missing.len());
    }
    let counts = checker.counts();

    cluster.node(victim).process().wait_end(PATIENCE)?;
    cluster.restart(victim).wait_ready(PATIENCE)?;
    let all: Vec<usize> = (0..cluster.nodes().len()).collect();
    cluster.wait_copies_on(&all)?;
    wait::poll("the victim to own its share again", PATIENCE, || {
        let name = cluster.node(victim).name();
        let views = cluster.node(victim).partitions();
        let views = views.map_err(|error| format!("{error:#}"))?;
        let owned = views
            .iter()
            .filter(|v| v.owner.as_deref() == Some(name))
            .count();
        let fair = views.len() / cluster.nodes().len();
        if owned >= fair * 9 / 10 {
            Ok(())
        } else {
            Err(format!("{owned} of {fair}"))
        }
    })?;
    thread::sleep(options.settle());
    Ok(Outcome {
        known,
        again: again
            .iter()
            .map(|at| (*at - killed).as_secs_f64())
            .collect(),
        acknowledged: counts.acknowledged,
        indeterminate: counts.indeterminate,
        lost,
    })
}

/// Keys that a node owns, each in a partition of its own as far as chance has it.
fn keys_of(owner: &str, asked: &Client) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for number in 0..10_000 {
        let key = format!("key-{number}");
        let found = asked.partitions(Some(&key))?;
        if found.first().and_then(|v| v.owner.as_deref()) == Some(owner) {
            keys.push(key);
        }
        if keys.len() == KEYS {
            return Ok(keys);
        }
    }
    bail!("{owner} owns none of ten thousand keys")
}
