//! Speed beside Redis Cluster, on the same machine, in the same run.
//!
//! | who | nodes | copies | an answer means | on the disk |
//! |---|---|---|---|---|
//! | Kith | 5 | 3 | two of three processes have it | within 100 ms |
//! | Redis | 3 masters, 3 replicas | 2 | the master has it | never |
//! | Redis, `WAIT 1` after each batch | | | two of two processes have it | never |
//! | Redis, appendonly | | | as above | within a second |
//! | Redis, 3 copies | 3 masters, 6 replicas | 3 | as above; `WAIT 1`: two of three processes have it | never |
//!
//! `redis-benchmark` cannot send `WAIT`, so writes are sent by a client of this program too, to all
//! alike: 50 connections, each to a node, with keys that this node owns. All clients share the
//! machine's processors with the servers.

mod benchmark;
mod flood;
mod servers;

use anyhow::{Context, Result};
use kith_tests::cluster::{self, Cluster};

use self::{flood::Flood, servers::RedisCluster};
use crate::{
    Options,
    figures::{Report, Row, Unit},
    subject::Subject,
};

/// Nodes of Kith.
const NODES: usize = 5;

/// Servers that are measured: where they listen, and whose processor time counts.
struct Servers {
    name: &'static str,
    addresses: Vec<std::net::SocketAddr>,
    processes: Vec<u32>,
    /// What may follow a batch of writes.
    waits: &'static [bool],
    /// Any node answers for any key.
    any: bool,
}

/// All of it, told as it comes; nothing if there is no `redis-server`.
pub(crate) fn beside(options: &Options, subject: &Subject, report: &mut Report) {
    if let Err(reason) = servers::available() {
        eprintln!("left out: {reason:#}");
        return;
    }
    if let Err(error) = all(options, subject, report) {
        report.add(Err(error));
    }
}

fn all(options: &Options, subject: &Subject, report: &mut Report) -> Result<()> {
    let kith = kith(subject)?;
    let memory = RedisCluster::start(1, &["--save", "", "--appendonly", "no"])?;
    let append = RedisCluster::start(1, &["--save", "", "--appendonly", "yes"])?;
    let three = RedisCluster::start(2, &["--save", "", "--appendonly", "no"])?;
    let resp = kith.nodes().iter().map(|node| {
        let about = node.about()?;
        about.resp.context("a node without RESP")
    });
    let all = [
        Servers {
            name: "Kith",
            addresses: resp.collect::<Result<_>>()?,
            processes: kith.nodes().iter().map(|n| n.process().pid()).collect(),
            waits: &[false],
            any: true,
        },
        memory.servers("Redis in memory"),
        append.servers("Redis appendonly"),
        three.servers("Redis, 3 copies"),
    ];
    for (test, pipeline) in [("set", 1), ("set", 16), ("get", 1), ("get", 16)] {
        for whole in [false, true] {
            for servers in all.iter().filter(|servers| whole || servers.any) {
                let way = if whole { "--cluster" } else { "one node" };
                let what = format!("redis-benchmark {test} P={pipeline}, {way}");
                let run = || benchmark::run(servers.addresses[0], test, pipeline, whole);
                report.add(Ok(measured(options, servers, &what, run)));
            }
        }
    }
    for pipeline in [1, 16] {
        for servers in &all {
            let flood = Flood::new(&servers.addresses)?;
            for wait in servers.waits {
                let after = if *wait { ", then WAIT 1" } else { "" };
                let what = format!("{pipeline} SET{after}; 50 connections to owners");
                let run = || flood.run(pipeline, *wait);
                report.add(Ok(measured(options, servers, &what, run)));
            }
        }
    }
    Ok(())
}

fn kith(subject: &Subject) -> Result<Cluster> {
    let plan = cluster::of(NODES).durable().config(&subject.config());
    let mut cluster = plan.prepare()?;
    cluster.start_all()?;
    cluster.wait_copies_on(&(0..NODES).collect::<Vec<_>>())?;
    Ok(cluster)
}

/// Operations a second, and the processor time of all servers meanwhile.
fn measured(
    options: &Options,
    servers: &Servers,
    what: &str,
    run: impl Fn() -> Result<f64>,
) -> Vec<Row> {
    let nodes = servers.processes.len();
    let mut speed = Row::named(what, servers.name, nodes, Unit::PerSecond);
    let mut cost = Row::named("… processors used", servers.name, nodes, Unit::Times);
    for _ in 0..options.slow_trials {
        let before = servers::processor_time(&servers.processes);
        let begun = std::time::Instant::now();
        speed.add(run());
        let took = begun.elapsed().as_secs_f64();
        let after = servers::processor_time(&servers.processes);
        let used = before.and_then(|before| Ok((after? - before) / took));
        cost.add(used);
    }
    vec![speed, cost]
}
