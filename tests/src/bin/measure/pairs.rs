//! Two of the nodes die at once while clients write: what of the acknowledged is lost, and whether
//! it may be.
//!
//! A write that a quorum of three has may be lost with the two that have it. Who had it is not told;
//! but the third member keeps a write that it has, so what is lost was at the other two, and they
//! must be the two that died. Keys of which only one member dies must lose nothing. Every write has a
//! key of its own, so that none hides another.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kith::client::{
    Client,
    kv::{Ack, Precondition},
};
use kith_tests::{
    agent::Agent,
    checker::{self, Came, Checker},
    cluster::{self, Cluster},
    resp::{Reply, Resp},
    wait,
};

use crate::{
    Options, Rows,
    figures::{Row, Unit},
    holdings::settled,
    lab::PATIENCE,
    subject::Subject,
};

/// Keys of which both victims are members, and keys of which only one is; each has a writer of its own.
const KEYS: usize = 24;
/// How long they are written before, and the pause between two writes of a writer.
const LASTING: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(2);
/// Nothing has moved for so long: it is over.
const STILL: Duration = Duration::from_secs(1);

/// SIGKILL of two at once, again and again, with both kinds of acknowledgement.
pub(crate) fn kill(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let all: Vec<usize> = (0..nodes).collect();
    let plan = cluster::of(nodes).durable().config(&subject.config());
    let mut cluster = plan.prepare()?;
    cluster.start_all()?;
    cluster.wait_copies_on(&all)?;
    let mut rows = Vec::new();
    for (ack, word) in [(Ack::Quorum, "quorum"), (Ack::All, "all")] {
        let mut figures = Figures::new(word, |what, unit| Row::new(what, subject, nodes, unit));
        for trial in 0..options.trials {
            // Each pair in turn, neighbours and others.
            let one = trial % nodes;
            let other = (one + 1 + trial / nodes % (nodes - 1)) % nodes;
            settled(&cluster, &all, STILL, |held| {
                let fair = held.len() / nodes * 8 / 10;
                cluster
                    .nodes()
                    .iter()
                    .all(|n| held.owned_by(n.name()) >= fair)
            })?;
            let outcome = kill_two(&mut cluster, [one, other], ack)?;
            figures.add(outcome);
        }
        rows.extend(figures.rows());
    }
    Ok(rows)
}

struct Figures {
    last: Row,
    acknowledged: Row,
    unknown: Row,
    lost: Row,
    wrongly: Row,
    still: Row,
}

impl Figures {
    fn new(ack: &str, row: impl Fn(String, Unit) -> Row) -> Self {
        let label = |what: &str| format!("two killed at once, ack={ack}: {what}");
        Self {
            last: row(label("the last of 48 keys is written again"), Unit::Seconds),
            acknowledged: row(label("writes acknowledged"), Unit::Count),
            unknown: row(label("not known"), Unit::Count),
            lost: row(
                label("acknowledged writes lost while they are away"),
                Unit::Count,
            ),
            wrongly: row(
                label("… of which a member lives that must have had them"),
                Unit::Count,
            ),
            still: row(label("… still lost when they are back"), Unit::Count),
        }
    }

    fn add(&mut self, outcome: Outcome) {
        self.last.add(Ok(outcome.last));
        self.acknowledged.add(Ok(outcome.acknowledged as f64));
        self.unknown.add(Ok(outcome.unknown as f64));
        self.lost.add(Ok(outcome.lost as f64));
        self.wrongly.add(Ok(outcome.wrongly as f64));
        self.still.add(Ok(outcome.still as f64));
    }

    fn rows(self) -> Vec<Row> {
        vec![
            self.last,
            self.acknowledged,
            self.unknown,
            self.lost,
            self.wrongly,
            self.still,
        ]
    }
}

struct Outcome {
    /// Until the last key was written again (seconds).
    last: f64,
    acknowledged: usize,
    unknown: usize,
    lost: usize,
    wrongly: usize,
    still: usize,
}

fn kill_two(cluster: &mut Cluster, victims: [usize; 2], ack: Ack) -> Result<Outcome> {
    let names = victims.map(|index| cluster.node(index).name().to_owned());
    let asked = (0..cluster.nodes().len()).find(|index| !victims.contains(index));
    let asked = asked.context("nobody survives")?;
    let keys = keys_by_deaths(&names, &cluster.node(asked).library())?;
    let everybody: Vec<Client> = cluster.nodes().iter().map(|n| n.library()).collect();
    let stop = AtomicBool::new(false);
    // How soon they can be written: with other values, under other keys of the same partitions. From the blow
    // on: writers may wait for their last answers for long.
    let tags: Vec<String> = keys.keys().cloned().collect();
    let nodes = cluster.nodes().iter().enumerate();
    let survivors = nodes.filter(|(index, _)| !victims.contains(index));
    let through = survivors.map(|(_, node)| node.library()).collect();
    let mut killed = Instant::now();
    let (written, probe) = thread::scope(|scope| {
        let writers = keys.iter().enumerate().map(|(index, (key, dying))| {
            // Some through those that will die: what they answer at the last moment counts too.
            let client = everybody[index % everybody.len()].clone();
            let stop = &stop;
            scope.spawn(move || write(key, *dying, &client, ack, stop))
        });
        let writers: Vec<_> = writers.collect();
        thread::sleep(LASTING);
        killed = Instant::now();
        let [one, other] = victims.map(|index| cluster.node(index).process().kill());
        stop.store(true, Ordering::Relaxed);
        let probe = Checker::begin(&tags, tags.len(), through);
        probe.since(killed);
        let written = writers.into_iter().map(|writer| match writer.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let written: Vec<Written> = written.collect();
        one.and(other).map(|()| (written, probe))
    })?;
    let again = wait::poll("every key to be written again", PATIENCE, || probe.again())?;
    let last = again
        .iter()
        .map(|at| (*at - killed).as_secs_f64())
        .fold(0.0, f64::max);
    drop(probe);

    let lost = missing(cluster.node(asked), &written)?;
    for (key, dying) in &lost {
        eprintln!("  lost with {names:?}: {key}, of which {dying} members were killed");
    }
    for victim in victims {
        cluster.node(victim).process().wait_end(PATIENCE)?;
        cluster.restart(victim).wait_ready(PATIENCE)?;
    }
    let all: Vec<usize> = (0..cluster.nodes().len()).collect();
    cluster.wait_copies_on(&all)?;
    settled(cluster, &all, STILL, |_| true)?;
    Ok(Outcome {
        last,
        acknowledged: written.iter().map(|w| w.acknowledged.len()).sum(),
        unknown: written.iter().map(|w| w.unknown).sum(),
        lost: lost.len(),
        wrongly: lost.iter().filter(|(_, dying)| *dying < 2).count(),
        still: missing(cluster.node(victims[0]), &written)?.len(),
    })
}

/// What a writer has done.
struct Written {
    /// Members of its partition that are killed.
    dying: usize,
    /// The keys of the writes that were acknowledged.
    acknowledged: Vec<String>,
    unknown: usize,
}

/// Writes one key after the other, all in the partition of `tag`.
fn write(tag: &str, dying: usize, client: &Client, ack: Ack, stop: &AtomicBool) -> Written {
    let mut written = Written {
        dying,
        acknowledged: Vec::new(),
        unknown: 0,
    };
    let begun = Instant::now();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{{{tag}}}{}-{number}", begun.elapsed().as_nanos());
        let only = Precondition::None;
        match client.write(key.as_bytes(), key.as_bytes(), None, &only, ack) {
            Ok(_) => written.acknowledged.push(key),
            Err(error) => {
                written.unknown += usize::from(checker::came(&error) == Came::Indeterminate);
            }
        }
        thread::sleep(PAUSE);
    }
    written
}

/// The keys that are not there, each with how many members of its partition were killed.
fn missing(asked: &Agent, written: &[Written]) -> Result<Vec<(String, usize)>> {
    let mut connection = Resp::connect(asked.wait_ready(PATIENCE)?.resp)?;
    let mut missing = Vec::new();
    for writer in written {
        for key in &writer.acknowledged {
            connection.put(&[b"GET", key.as_bytes()]);
        }
        connection.flush()?;
        for key in &writer.acknowledged {
            match connection.read()? {
                Reply::Value(Some(found)) if found == key.as_bytes() => {}
                Reply::Value(None) => missing.push((key.clone(), writer.dying)),
                other => bail!("GET {key} was answered with {other:?}"),
            }
        }
    }
    Ok(missing)
}

/// Keys with how many of those two are members of their partitions: as many with both as with one.
fn keys_by_deaths(names: &[String; 2], asked: &Client) -> Result<BTreeMap<String, usize>> {
    let mut keys = BTreeMap::new();
    let mut found = [0; 3];
    for number in 0..10_000 {
        let key = format!("pair-{number}");
        let views = asked.partitions(Some(&key))?;
        let members = views.iter().flat_map(|v| v.owner.iter().chain(&v.backups));
        let dying = members.filter(|member| names.contains(member)).count();
        if (1..=2).contains(&dying) && found[dying] < KEYS {
            found[dying] += 1;
            keys.insert(key, dying);
        }
        if found[1] == KEYS && found[2] == KEYS {
            break;
        }
    }
    ensure!(found[2] == KEYS, "{names:?} have few partitions in common");
    Ok(keys)
}
