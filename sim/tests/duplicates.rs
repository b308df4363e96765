//! Two living processes with one id, or with one name: the one that started earlier keeps it,
//! the other stops and says why. Never a loop, and a restart takes over at once.

mod common;

use std::time::Duration;

use common::cluster;
use kith_proto::{
    event::Event,
    id::NodeId,
    members::table::Status,
    output::{Refusal, Stop},
};
use kith_sim::{
    report::{all_see_all, show},
    world::{HostId, World},
};

const SECOND: Duration = Duration::from_secs(1);

/// What two processes have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Same {
    Id,
    Name,
}

/// Starts a process that has the id, or the name, of another.
fn add_double(world: &mut World, of: HostId, seed: HostId, same: Same) -> HostId {
    let id = world.id(of);
    let name = format!("n{of}");
    world.add(&[seed], |config| match same {
        Same::Id => config.node = id,
        Same::Name => config.name = name,
    })
}

fn is_active(world: &World, host: HostId) -> bool {
    let core = world.core(host);
    core.is_some_and(|core| core.phase_name() == "active")
}

fn stopped_as_double(world: &World, host: HostId, same: Same) -> bool {
    match world.stopped(host) {
        Some(Stop::Refused(Refusal::IdTaken { .. })) => same == Same::Id,
        Some(Stop::Refused(Refusal::NameTaken { .. })) => same == Same::Name,
        _ => false,
    }
}

/// How often a member was told to have come, in whatever way.
fn arrivals(world: &World, id: NodeId) -> usize {
    let arrives = |event: &Event| match event {
        Event::MemberJoined { who, .. } | Event::MemberRejoined { who, .. } => who.member_id == id,
        _ => false,
    };
    world.told.iter().filter(|t| arrives(&t.event)).count()
}

/// Whether all know a member by the life and the address with which it runs.
fn is_where_it_runs(world: &World, member: HostId, by: &[HostId]) -> bool {
    let Some(core) = world.core(member) else {
        return false;
    };
    by.iter().all(|host| {
        world
            .core(*host)
            .and_then(|by| by.table().get(world.id(member)))
            .is_some_and(|entry| {
                let config = core.config();
                (entry.identity.addr, entry.identity.generation)
                    == (config.advertise, config.generation)
            })
    })
}

/// A split in which the first `left` hosts are on one side; the holder is the host `holder`.
/// Its double starts on the other side, in a cluster that has noticed the split, or has not
/// yet. Then the split heals.
fn meet(seed: u64, nodes: usize, left: usize, holder: usize, noticed: bool, same: Same) {
    let what =
        format!("seed {seed}, {nodes} nodes, {left} left, holder {holder}, {noticed}, {same:?}");
    let (mut world, hosts) = cluster(seed, nodes, SECOND * 5);
    let holder = hosts[holder];
    world.cut(&hosts[..left], Some(1));
    if noticed {
        world.run(SECOND * 20);
    }
    let double = if hosts[..left].contains(&holder) {
        add_double(&mut world, holder, hosts[left], same)
    } else {
        // The side of the split is known only once the host is there.
        let double = add_double(&mut world, holder, hosts[0], same);
        world.cut(&[double], Some(1));
        double
    };
    let joined = world.run_while(SECOND * 60, |world| is_active(world, double));
    assert!(joined, "{what}: {}", show(&world));
    world.run(SECOND * 30);

    world.cut(&hosts[..left], None);
    world.cut(&[double], None);
    world.network.loss = [0, 50, 200][seed as usize % 3];
    let resolved = world.run_while(SECOND * 60, |world| {
        stopped_as_double(world, double, same)
            && all_see_all(world, &hosts)
            && is_where_it_runs(world, holder, &hosts)
    });
    assert!(
        resolved,
        "{what}: {:?}\n{}",
        world.stopped(double),
        show(&world)
    );
    assert!(world.stopped(holder).is_none(), "{what}: {}", show(&world));
    // It stays so.
    let before = arrivals(&world, world.id(holder));
    world.run(SECOND * 120);
    assert_eq!(
        arrivals(&world, world.id(holder)),
        before,
        "{what}: {}",
        show(&world)
    );
    assert!(all_see_all(&world, &hosts), "{what}: {}", show(&world));
    assert!(hosts.iter().all(|host| world.stopped(*host).is_none()));
}

fn meet_in_many_ways(same: Same) {
    for seed in 0..3 {
        for noticed in [true, false] {
            // The holder is alone, in the minority, in the majority, and the other side is alone.
            meet(seed, 2, 1, 0, noticed, same);
            meet(seed, 2, 1, 1, noticed, same);
            meet(seed, 5, 2, 1, noticed, same);
            meet(seed, 5, 2, 3, noticed, same);
            meet(seed, 12, 1, 0, noticed, same);
            meet(seed, 12, 11, 11, noticed, same);
        }
    }
}

#[test]
fn of_two_with_one_id_the_elder_stays_when_a_split_heals() {
    meet_in_many_ways(Same::Id);
}

#[test]
fn of_two_with_one_name_the_elder_stays_when_a_split_heals() {
    meet_in_many_ways(Same::Name);
}

#[test]
fn a_double_is_refused_when_it_joins() {
    for seed in 0..5 {
        for same in [Same::Id, Same::Name] {
            for through in 0..4 {
                // Through the holder itself, and through others.
                let (mut world, hosts) = cluster(seed, 4, SECOND * 5);
                let double = add_double(&mut world, hosts[2], hosts[through], same);
                let refused = world.run_while(SECOND * 10, |world| world.stopped(double).is_some());
                assert!(refused, "{same:?}: {}", show(&world));
                let stop = world.stopped(double).expect("it stopped");
                assert!(matches!(stop, Stop::Refused(_)), "{stop:?}");
                let text = format!("{stop:?}");
                assert!(
                    text.contains("10.0.0.3:7400"),
                    "the holder is named: {text}"
                );
                assert!(all_see_all(&world, &hosts), "{}", show(&world));
            }
        }
    }
}

#[test]
fn who_starts_again_elsewhere_takes_over_at_once() {
    for seed in 0..5 {
        for same in [Same::Id, Same::Name] {
            let (mut world, hosts) = cluster(seed, 8, SECOND * 5);
            world.kill(hosts[3]);
            let again = add_double(&mut world, hosts[3], hosts[1], same);
            let at = world.now();
            let mut living = hosts.clone();
            living[3] = again;
            let back = world.run_while(SECOND, |world| is_active(world, again));
            assert!(back, "{same:?}: {}", show(&world));
            let took = world.now().saturating_since(at);
            assert!(took < Duration::from_millis(100), "{same:?}: {took:?}");
            let known = world.run_while(SECOND * 5, |world| all_see_all(world, &living));
            assert!(known, "{same:?}: {}", show(&world));
            world.run(SECOND * 30);
            assert!(all_see_all(&world, &living), "{same:?}: {}", show(&world));
        }
    }
}

#[test]
fn who_slept_while_a_double_took_over_gets_its_id_back() {
    for seed in 0..3 {
        let (mut world, hosts) = cluster(seed, 6, SECOND * 5);
        world.pause(hosts[3]);
        world.run(SECOND * 20);
        let double = add_double(&mut world, hosts[3], hosts[1], Same::Id);
        world.run(SECOND * 10);
        assert!(world.stopped(double).is_none(), "{}", show(&world));
        world.resume(hosts[3]);
        let resolved = world.run_while(SECOND * 30, |world| {
            stopped_as_double(world, double, Same::Id)
                && all_see_all(world, &hosts)
                && is_where_it_runs(world, hosts[3], &hosts)
        });
        assert!(resolved, "{}", show(&world));
    }
}

#[test]
fn the_generation_taken_against_a_double_survives_a_restart() {
    let (mut world, hosts) = cluster(3, 5, SECOND * 5);
    world.cut(&hosts[..2], Some(1));
    world.run(SECOND * 20);
    let double = add_double(&mut world, hosts[1], hosts[3], Same::Id);
    world.run(SECOND * 20);
    world.cut(&hosts[..2], None);
    let resolved = world.run_while(SECOND * 60, |world| {
        stopped_as_double(world, double, Same::Id) && all_see_all(world, &hosts)
    });
    assert!(resolved, "{}", show(&world));
    world.kill(hosts[1]);
    world.start(hosts[1]);
    let back = world.run_while(SECOND * 5, |world| all_see_all(world, &hosts));
    assert!(back, "{}", show(&world));
    assert_eq!(
        kith_sim::report::status(&world, hosts[0], hosts[1]),
        Some(Status::Alive)
    );
}
