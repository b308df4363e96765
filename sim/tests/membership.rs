//! Membership on a virtual clock: the promises that real processes must keep too.

mod common;

use std::time::Duration;

use common::cluster;
use kith_proto::{event::Event, input::Command, members::table::Status};
use kith_sim::{
    report::{all_see_all, failed_at, false_alarms, show, status},
    world::{HostId, World},
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn started_at_once_all_see_all() {
    for (seed, nodes) in [(1, 2), (2, 5), (3, 32), (4, 64)] {
        let (world, _) = cluster(seed, nodes, Duration::ZERO);
        assert_eq!(false_alarms(&world, &[]), 0, "{}", show(&world));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let digest = |seed| {
        let (mut world, hosts) = cluster(seed, 7, Duration::ZERO);
        world.network.loss = 100;
        world.kill(hosts[3]);
        world.run(SECOND * 20);
        world.digest()
    };
    assert_eq!(digest(5), digest(5));
    assert_ne!(digest(5), digest(6));
}

#[test]
fn a_killed_process_is_known_dead_to_everybody_at_once() {
    for (seed, nodes) in [(1, 2), (2, 3), (3, 5), (4, 32), (5, 64)] {
        let (mut world, hosts) = cluster(seed, nodes, Duration::ZERO);
        world.run(SECOND * 10);
        let at = world.now();
        world.kill(hosts[1]);
        world.run(SECOND * 2);
        let failed = failed_at(&world, hosts[1], at);
        assert_eq!(failed.len(), nodes - 1, "{nodes} nodes: {}", show(&world));
        let last = failed.iter().map(|(_, after)| *after).max().unwrap();
        assert!(last < Duration::from_millis(250), "{nodes} nodes: {last:?}");
        assert_eq!(false_alarms(&world, &[hosts[1]]), 0);
    }
}

/// The first round trips that a node measures after its start may be those of a process that catches
/// up; they must not decide how long it waits for others minutes later.
#[test]
fn who_was_busy_when_it_started_knows_of_a_death_as_soon_as_the_others() {
    for seed in 0..5 {
        let (mut world, hosts) = cluster(seed, 5, Duration::ZERO);
        world.run(SECOND * 10);
        world.kill(hosts[3]);
        world.run(SECOND * 3);
        let slower = |world: &mut World, by: Duration| {
            for other in hosts.iter().filter(|host| **host != hosts[3]) {
                world.change_link(hosts[3], *other, |link| link.slower = by);
                world.change_link(*other, hosts[3], |link| link.slower = by);
            }
        };
        slower(&mut world, Duration::from_millis(150));
        world.start(hosts[3]);
        world.run(SECOND * 2);
        slower(&mut world, Duration::ZERO);
        world.run(SECOND * 3);
        assert!(all_see_all(&world, &hosts), "{}", show(&world));
        let at = world.now();
        world.kill(hosts[1]);
        world.run(SECOND * 2);
        let failed = failed_at(&world, hosts[1], at);
        assert_eq!(failed.len(), 4, "{}", show(&world));
        let last = failed.iter().map(|(_, after)| *after).max().unwrap();
        assert!(last < Duration::from_millis(150), "seed {seed}: {last:?}");
    }
}

/// A way that is long is measured a few times more when a stream opens, and then left alone.
#[test]
fn members_far_apart_do_not_greet_each_other_for_ever() {
    let (mut world, hosts) = cluster(3, 5, Duration::ZERO);
    for from in &hosts {
        for to in hosts.iter().filter(|to| *to != from) {
            world.change_link(*from, *to, |link| link.slower = Duration::from_millis(100));
        }
    }
    world.kill(hosts[2]);
    world.run(SECOND);
    world.start(hosts[2]);
    world.run(SECOND * 30);
    let greetings = |world: &World| -> u64 {
        let of = |host: &HostId| {
            let core = world.core(*host).expect("it runs");
            core.counters().get("greetings").copied().unwrap_or(0)
        };
        hosts.iter().map(of).sum()
    };
    let before = greetings(&world);
    let most = 5 * 4 * 12;
    assert!((20..=most).contains(&before), "{before}");
    world.run(SECOND * 60);
    assert_eq!(greetings(&world), before);
    assert_eq!(false_alarms(&world, &[hosts[2]]), 0, "{}", show(&world));
}

#[test]
fn a_machine_that_vanishes_is_found_and_returns() {
    for seed in 0..5 {
        let (mut world, hosts) = cluster(seed, 32, Duration::ZERO);
        world.run(SECOND * 10);
        let at = world.now();
        world.cut(&[hosts[7]], Some(1));
        world.run(SECOND * 8);
        let failed: Vec<_> = failed_at(&world, hosts[7], at)
            .into_iter()
            .filter(|(host, _)| *host != hosts[7])
            .collect();
        assert_eq!(failed.len(), 31, "{}", show(&world));
        world.cut(&[hosts[7]], None);
        let healed = world.run_while(SECOND * 30, |world| all_see_all(world, &hosts));
        assert!(healed, "{}", show(&world));
    }
}

#[test]
fn a_short_pause_is_forgiven_and_a_long_one_found() {
    let (mut world, hosts) = cluster(9, 10, Duration::ZERO);
    world.run(SECOND * 10);
    world.pause(hosts[4]);
    world.run(SECOND * 5);
    world.resume(hosts[4]);
    world.run(SECOND * 10);
    assert_eq!(false_alarms(&world, &[]), 0, "{}", show(&world));
    assert!(all_see_all(&world, &hosts), "{}", show(&world));

    world.pause(hosts[4]);
    world.run(SECOND * 20);
    assert_eq!(status(&world, hosts[0], hosts[4]), Some(Status::Failed));
    world.resume(hosts[4]);
    let back = world.run_while(SECOND, |world| all_see_all(world, &hosts));
    assert!(back, "{}", show(&world));
    assert_eq!(
        false_alarms(&world, &[hosts[4]]),
        0,
        "the sleeper accused somebody: {}",
        show(&world)
    );
    let told_as_new = world
        .told
        .iter()
        .any(|told| matches!(&told.event, Event::MemberRejoined { who, .. } if who.member == "n4"));
    assert!(!told_as_new, "a renewal is not a rejoin");
}

#[test]
fn who_leaves_is_never_called_failed() {
    for seed in 0..10 {
        let (mut world, hosts) = cluster(seed, 16, Duration::ZERO);
        world.run(SECOND * 5);
        world.command(hosts[2], Command::Leave { returning: true });
        world.run(SECOND * 3);
        assert!(world.stopped(hosts[2]).is_some(), "it did not stop");
        for host in &hosts {
            if *host != hosts[2] {
                assert_eq!(status(&world, *host, hosts[2]), Some(Status::Left));
            }
        }
        assert_eq!(false_alarms(&world, &[]), 0, "{}", show(&world));
    }
}

#[test]
fn a_restart_is_a_new_life_of_the_same_node() {
    let (mut world, hosts) = cluster(11, 8, Duration::ZERO);
    world.run(SECOND * 5);
    for wait in [0, 20, 1000] {
        world.kill(hosts[3]);
        world.run(Duration::from_millis(wait));
        world.start(hosts[3]);
        let back = world.run_while(SECOND * 5, |world| all_see_all(world, &hosts));
        assert!(back, "after {wait} ms: {}", show(&world));
        world.run(SECOND * 3);
        assert!(all_see_all(&world, &hosts), "{}", show(&world));
    }
    assert_eq!(false_alarms(&world, &[hosts[3]]), 0, "{}", show(&world));
}

#[test]
fn any_split_heals() {
    for (seed, nodes, left, for_seconds) in [
        (1, 2, 1, 60),
        (2, 10, 5, 60),
        (3, 5, 2, 3600),
        (4, 3, 1, 30),
    ] {
        let (mut world, hosts) = cluster(seed, nodes, Duration::ZERO);
        world.run(SECOND * 5);
        world.cut(&hosts[..left], Some(1));
        world.run(SECOND * for_seconds);
        assert_eq!(
            status(&world, hosts[0], hosts[nodes - 1]),
            Some(Status::Failed)
        );
        assert_eq!(
            status(&world, hosts[nodes - 1], hosts[0]),
            Some(Status::Failed)
        );
        world.cut(&hosts[..left], None);
        let healed = world.run_while(SECOND * 30, |world| all_see_all(world, &hosts));
        assert!(healed, "{nodes} nodes: {}", show(&world));
        world.run(SECOND * 5);
        assert!(all_see_all(&world, &hosts), "{}", show(&world));
        let summaries = world
            .told
            .iter()
            .filter(|told| matches!(told.event, Event::ClusterHealed { .. }))
            .count();
        assert!(summaries > 0, "{}", show(&world));
    }
}

#[test]
fn loss_alone_fails_nobody() {
    for seed in 0..4 {
        let (mut world, hosts) = cluster(seed, 20, Duration::ZERO);
        world.network.loss = 300;
        world.run(SECOND * 120);
        assert_eq!(false_alarms(&world, &[]), 0, "{}", show(&world));
        world.network.loss = 0;
        let calm = world.run_while(SECOND * 10, |world| all_see_all(world, &hosts));
        assert!(calm, "{}", show(&world));
    }
}

#[test]
fn all_back_at_once_after_a_power_cut() {
    let (mut world, hosts) = cluster(21, 9, Duration::ZERO);
    world.run(SECOND * 10);
    for host in &hosts {
        world.kill(*host);
    }
    world.run(SECOND * 5);
    for host in &hosts {
        world.start(*host);
    }
    let together = world.run_while(SECOND * 20, |world| all_see_all(world, &hosts));
    assert!(together, "{}", show(&world));
}

#[test]
fn those_who_expect_each_other_bootstrap_one_cluster() {
    let mut world = World::new(31);
    let hosts: Vec<HostId> = (0..3)
        .map(|host| {
            // Each knows the first one only; the first one knows nobody.
            let seeds: &[HostId] = if host == 0 { &[] } else { &[0] };
            world.add(seeds, |config| config.expect = Some(3))
        })
        .collect();
    let together = world.run_while(SECOND * 20, |world| all_see_all(world, &hosts));
    assert!(together, "{}", show(&world));
    let clusters: std::collections::BTreeSet<_> = hosts
        .iter()
        .filter_map(|host| world.core(*host)?.cluster().map(|cluster| cluster.id))
        .collect();
    assert_eq!(clusters.len(), 1);
}

#[test]
fn an_evicted_node_stops() {
    let (mut world, hosts) = cluster(41, 5, Duration::ZERO);
    world.run(SECOND * 5);
    let member = "n3".to_owned();
    world.command(hosts[1], Command::Evict { member });
    world.run(SECOND * 2);
    assert!(world.stopped(hosts[3]).is_some(), "{}", show(&world));
    assert_eq!(status(&world, hosts[0], hosts[3]), Some(Status::Evicted));
    assert_eq!(false_alarms(&world, &[]), 0, "{}", show(&world));
}
