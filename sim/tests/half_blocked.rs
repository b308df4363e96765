//! Half-blocked networks: only one of UDP and TCP gets through between two nodes. It is told,
//! once when it begins and once when it ends, and nobody dies of it.

mod common;

use std::time::Duration;

use common::cluster;
use kith_proto::event::{Event, Transport};
use kith_sim::{
    report::{all_see_all, failed_at, false_alarms, show},
    world::{HostId, World},
};

const SECOND: Duration = Duration::from_secs(1);

/// How often a host told that a way to another is blocked, and that it is not any more.
fn told(world: &World, by: HostId, of: HostId, way: Transport) -> (usize, usize) {
    let id = world.id(of);
    let by_host = world.told.iter().filter(|told| told.host == by);
    by_host.fold((0, 0), |(begun, ended), told| match &told.event {
        Event::MemberHalfBlocked { who, blocked } if who.member_id == id && *blocked == way => {
            (begun + 1, ended)
        }
        Event::MemberUnblocked { who, blocked, .. } if who.member_id == id && *blocked == way => {
            (begun, ended + 1)
        }
        _ => (begun, ended),
    })
}

fn told_in_all(world: &World) -> usize {
    let is_telling = |event: &Event| {
        matches!(
            event,
            Event::MemberHalfBlocked { .. } | Event::MemberUnblocked { .. }
        )
    };
    world
        .told
        .iter()
        .filter(|told| is_telling(&told.event))
        .count()
}

#[test]
fn tcp_that_is_blocked_is_told_by_both_and_kills_nobody() {
    for (seed, nodes) in [(1, 2), (2, 5), (3, 16)] {
        let (mut world, hosts) = cluster(seed, nodes, SECOND * 5);
        let (a, b) = (hosts[0], hosts[1]);
        world.block_streams(a, b, true);
        let begun = world.run_while(SECOND * 30, |world| {
            [(a, b), (b, a)]
                .iter()
                .all(|(by, of)| told(world, *by, *of, Transport::Tcp) == (1, 0))
        });
        assert!(begun, "{nodes} nodes: {}", show(&world));
        world.run(SECOND * 300);
        assert_eq!(told_in_all(&world), 2, "told again: {}", show(&world));
        assert!(all_see_all(&world, &hosts), "{}", show(&world));

        world.block_streams(a, b, false);
        let ended = world.run_while(SECOND * 60, |world| {
            [(a, b), (b, a)]
                .iter()
                .all(|(by, of)| told(world, *by, *of, Transport::Tcp) == (1, 1))
        });
        assert!(ended, "{nodes} nodes: {}", show(&world));
        world.run(SECOND * 60);
        assert_eq!(told_in_all(&world), 4, "{}", show(&world));
        assert_eq!(false_alarms(&world, &[]), 0, "{}", show(&world));
    }
}

#[test]
fn udp_that_is_blocked_is_told_by_both_and_kills_nobody() {
    for (seed, nodes) in [(1, 2), (2, 5), (3, 16)] {
        let (mut world, hosts) = cluster(seed, nodes, SECOND * 5);
        let (a, b) = (hosts[0], hosts[1]);
        world.block_datagrams(a, b, true);
        // Each member is probed once in at most twice as many seconds as there are members.
        let begun = world.run_while(SECOND * 60, |world| {
            [(a, b), (b, a)]
                .iter()
                .all(|(by, of)| told(world, *by, *of, Transport::Udp) == (1, 0))
        });
        assert!(begun, "{nodes} nodes: {}", show(&world));
        world.run(SECOND * 300);
        assert_eq!(told_in_all(&world), 2, "told again: {}", show(&world));

        world.block_datagrams(a, b, false);
        let ended = world.run_while(SECOND * 60, |world| {
            [(a, b), (b, a)]
                .iter()
                .all(|(by, of)| told(world, *by, *of, Transport::Udp) == (1, 1))
        });
        assert!(ended, "{nodes} nodes: {}", show(&world));
        world.run(SECOND * 60);
        assert_eq!(told_in_all(&world), 4, "{}", show(&world));
        assert!(all_see_all(&world, &hosts), "{}", show(&world));
        assert_eq!(false_alarms(&world, &[]), 0, "{}", show(&world));
    }
}

#[test]
fn a_node_that_nothing_reaches_is_not_called_half_blocked() {
    for seed in 0..3 {
        let (mut world, hosts) = cluster(seed, 5, SECOND * 5);
        // One that vanishes, one that is paused, one that is killed.
        world.cut(&[hosts[1]], Some(1));
        world.pause(hosts[2]);
        world.kill(hosts[3]);
        world.run(SECOND * 60);
        world.cut(&[hosts[1]], None);
        world.resume(hosts[2]);
        world.start(hosts[3]);
        let together = world.run_while(SECOND * 60, |world| all_see_all(world, &hosts));
        assert!(together, "{}", show(&world));
        world.run(SECOND * 60);
        assert_eq!(told_in_all(&world), 0, "{}", show(&world));
    }
}

#[test]
fn loss_is_not_called_half_blocked() {
    for seed in 0..4 {
        let (mut world, _) = cluster(seed, 20, SECOND * 5);
        world.network.loss = 300;
        world.run(SECOND * 120);
        assert_eq!(told_in_all(&world), 0, "{}", show(&world));
        assert_eq!(false_alarms(&world, &[]), 0, "{}", show(&world));
    }
}

#[test]
fn a_process_that_dies_behind_blocked_udp_is_found_dead_at_once() {
    let (mut world, hosts) = cluster(7, 5, SECOND * 5);
    let (a, b) = (hosts[0], hosts[1]);
    world.block_datagrams(a, b, true);
    world.run(SECOND * 60);
    assert_eq!(told(&world, a, b, Transport::Udp), (1, 0));
    let at = world.now();
    world.kill(b);
    world.run(SECOND * 2);
    let failed = failed_at(&world, b, at);
    assert_eq!(failed.len(), 4, "{}", show(&world));
    let last = failed.iter().map(|(_, after)| *after).max().unwrap();
    assert!(last < Duration::from_millis(250), "{last:?}");
    world.start(b);
    world.run(SECOND * 30);
    assert_eq!(told(&world, a, b, Transport::Udp).1, 0, "that life is over");
}

#[test]
fn a_firewall_between_one_and_all_others_does_not_flood_the_log() {
    let (mut world, hosts) = cluster(8, 40, SECOND * 5);
    for other in &hosts[1..] {
        world.block_streams(hosts[0], *other, true);
    }
    world.run(SECOND * 60);
    let tellings: Vec<_> = world
        .told
        .iter()
        .filter(|told| told.host == hosts[0])
        .filter(|told| matches!(told.event, Event::MemberHalfBlocked { .. }))
        .collect();
    let many = tellings.len();
    assert!((16..=24).contains(&many), "{many}: {}", show(&world));
    let core = world.core(hosts[0]).unwrap();
    let known = hosts[1..].iter().filter(|host| {
        let entry = core.table().get(world.id(**host));
        entry.is_some_and(|entry| entry.blocked.since(Transport::Tcp).is_some())
    });
    assert_eq!(known.count(), 39, "all are known, for `kith status`");
    assert_eq!(false_alarms(&world, &[]), 0, "{}", show(&world));
}
