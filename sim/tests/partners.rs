//! In a cluster that is too large for streams between all, those who keep a partition together hold
//! a stream to each other all the same.

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::cluster;
use kith_sim::{
    report::show,
    world::{HostId, World},
};

const SECOND: Duration = Duration::from_secs(1);
const NODES: usize = 132;

/// Pairs of running hosts that keep a partition together, and have no stream open at the first one.
fn lacking(world: &World, hosts: &[HostId]) -> Vec<(HostId, HostId)> {
    let mut pairs = Vec::new();
    for host in hosts {
        let core = world.core(*host).expect("it runs");
        let partners = core.assignment().partners(world.id(*host));
        assert!(!partners.is_empty(), "n{host} keeps nothing");
        let missing = hosts.iter().filter(|other| {
            let id = world.id(**other);
            partners.contains(&id) && core.stream_to(id).is_none()
        });
        pairs.extend(missing.map(|other| (*host, *other)));
    }
    pairs
}

#[test]
fn who_keeps_a_partition_together_holds_a_stream() {
    let (mut world, mut hosts) = cluster(3, NODES, SECOND);
    let complete = |world: &World, hosts: &[HostId]| lacking(world, hosts).is_empty();
    let limit = SECOND * 30;
    assert!(
        world.run_while(limit, |world| complete(world, &hosts)),
        "without a stream: {:?}",
        lacking(&world, &hosts)
    );
    // Not because all have streams to all.
    let first = world.core(hosts[7]).expect("it runs");
    let with = hosts
        .iter()
        .filter(|host| first.stream_to(world.id(**host)).is_some());
    assert!(with.count() < NODES / 2);

    // Some fail: others take their places, and have other partners then.
    for host in hosts.split_off(NODES - 3) {
        world.kill(host);
    }
    world.run(SECOND * 5);
    assert!(
        world.run_while(limit, |world| complete(world, &hosts)),
        "without a stream: {:?}\n{}",
        lacking(&world, &hosts),
        show(&world)
    );
}

#[test]
fn whom_the_host_names_is_dialled() {
    let (mut world, hosts) = cluster(4, NODES, SECOND);
    let host = hosts[9];
    let strangers: BTreeSet<_> = hosts
        .iter()
        .map(|other| world.id(*other))
        .filter(|id| *id != world.id(host))
        .filter(|id| world.core(host).expect("it runs").stream_to(*id).is_none())
        .take(5)
        .collect();
    assert_eq!(strangers.len(), 5);
    world.name_partition_peers(host, strangers.clone());
    let held = |world: &World| {
        let core = world.core(host).expect("it runs");
        strangers.iter().all(|id| core.stream_to(*id).is_some())
    };
    assert!(world.run_while(SECOND * 10, held), "{}", show(&world));
}
