//! Each mechanism of detection counts what it does, so that operators can see it work.

mod common;

use std::time::Duration;

use common::cluster;
use kith_sim::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);

fn sum(world: &World, hosts: &[HostId], name: &str) -> u64 {
    hosts
        .iter()
        .filter_map(|host| world.core(*host))
        .map(|core| core.counters().get(name).copied().unwrap_or(0))
        .sum()
}

#[test]
fn a_pause_makes_every_mechanism_count() {
    let (mut world, hosts) = cluster(1, 8, SECOND * 5);
    for quiet in [
        "stream_probes",
        "nacks_sent",
        "suspicions_told",
        "refutations",
    ] {
        assert_eq!(sum(&world, &hosts, quiet), 0, "{quiet} while all is well");
    }
    world.pause(hosts[5]);
    world.run(SECOND * 5);
    world.resume(hosts[5]);
    world.run(SECOND * 2);
    for busy in [
        "probes",
        "probes_failed",
        "stream_probes",
        "nacks_sent",
        "inquiries",
        "accusations",
        "suspicions",
        "suspicions_told",
        "refutations",
        "stalls",
        "gossip_bursts",
    ] {
        assert!(sum(&world, &hosts, busy) > 0, "{busy}");
    }
    assert_eq!(sum(&world, &hosts, "verdicts"), 0, "it woke in time");
}
