//! Rotation of the cluster key where most members have no stream to each other.

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::cluster;
use kith_proto::{
    input::Command,
    output::Answer,
    wire::keyring::{Key, KeyId},
};
use kith_sim::{
    report::{all_see_all, false_alarms},
    world::{HostId, World},
};

const SECOND: Duration = Duration::from_secs(1);

/// Beyond 128 members each holds streams to a few others only.
const MANY: usize = 150;

fn new_key() -> Key {
    Key::derived_from_name("another")
}

/// Gives a command, and waits for its answer.
fn answer(world: &mut World, host: HostId, command: Command, limit: Duration) -> Answer {
    let before = world.answers.len();
    world.command(host, command);
    let answered = world.run_while(limit, |world| world.answers.len() > before);
    assert!(answered, "no answer within {limit:?}");
    world.answers[before].1.clone()
}

fn expect_done_by(answer: &Answer, nodes: usize) {
    let Answer::Keys {
        confirmed, missing, ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert!(missing.is_empty(), "{missing:?}");
    let names: BTreeSet<_> = confirmed.iter().collect();
    assert_eq!(names.len(), nodes);
}

/// Which keys a node holds, the one that it seals with first.
fn keys_of(world: &World, host: HostId) -> Vec<KeyId> {
    let core = world.core(host).expect("it runs");
    core.keys().iter().map(Key::id).collect()
}

fn streams(world: &World, host: HostId) -> u64 {
    let core = world.core(host).expect("it runs");
    core.counters()["peer_streams"]
}

#[test]
fn a_rotation_reaches_everybody_and_keeps_no_streams() {
    let (mut world, hosts) = cluster(1, MANY, Duration::ZERO);
    world.run(SECOND * 10);
    let old = keys_of(&world, hosts[0]);
    let before = streams(&world, hosts[3]);
    assert!(before < 100, "most members have no stream: {before}");

    let add = Command::KeyAdd { key: new_key() };
    let added = answer(&mut world, hosts[3], add, SECOND * 10);
    expect_done_by(&added, MANY);
    for host in &hosts {
        assert_eq!(keys_of(&world, *host), [old[0], new_key().id()]);
    }

    let key = new_key().id();
    let used = answer(&mut world, hosts[70], Command::KeyUse { key }, SECOND * 10);
    expect_done_by(&used, MANY);
    for host in &hosts {
        assert_eq!(keys_of(&world, *host), [new_key().id(), old[0]]);
    }

    let remove = Command::KeyRemove { key: old[0] };
    let removed = answer(&mut world, hosts[149], remove, SECOND * 10);
    expect_done_by(&removed, MANY);
    for host in &hosts {
        assert_eq!(keys_of(&world, *host), [new_key().id()]);
    }

    world.run(SECOND * 5);
    for host in [3, 70, 149] {
        let after = streams(&world, hosts[host]);
        assert!(after < 100, "{after} streams are left over");
    }
    assert_eq!(false_alarms(&world, &[]), 0);
    assert!(all_see_all(&world, &hosts));
}

#[test]
fn a_member_that_is_cut_off_is_named_with_the_reason() {
    let (mut world, hosts) = cluster(2, MANY, Duration::ZERO);
    world.run(SECOND * 10);
    // TCP alone is blocked: it lives, and has to be named.
    for other in &hosts {
        if *other != hosts[9] {
            world.block_streams(hosts[9], *other, true);
        }
    }
    let add = Command::KeyAdd { key: new_key() };
    let added = answer(&mut world, hosts[0], add, SECOND * 30);
    let Answer::Keys {
        confirmed, missing, ..
    } = &added
    else {
        panic!("{added:?}");
    };
    assert_eq!(confirmed.len(), MANY - 1);
    let reason = "no stream to it could be opened: no answer".to_owned();
    assert_eq!(*missing, [("n9".to_owned(), reason)]);

    let key = new_key().id();
    let used = answer(&mut world, hosts[0], Command::KeyUse { key }, SECOND * 30);
    let Answer::Refused(text) = &used else {
        panic!("{used:?}");
    };
    assert!(text.contains("n9 (no stream to it"), "{text}");
    assert_ne!(keys_of(&world, hosts[0])[0], key, "nothing has changed");

    // It is reached again, is given what it lacks, and all use the new key.
    for other in &hosts {
        if *other != hosts[9] {
            world.block_streams(hosts[9], *other, false);
        }
    }
    let add = Command::KeyAdd { key: new_key() };
    let added = answer(&mut world, hosts[0], add, SECOND * 30);
    expect_done_by(&added, MANY);
    let used = answer(&mut world, hosts[0], Command::KeyUse { key }, SECOND * 30);
    expect_done_by(&used, MANY);
}

#[test]
fn a_member_that_dies_meanwhile_is_named_and_does_not_hold_it_up() {
    let (mut world, hosts) = cluster(3, 20, Duration::ZERO);
    world.run(SECOND * 5);
    world.pause(hosts[4]);
    let add = Command::KeyAdd { key: new_key() };
    let added = answer(&mut world, hosts[0], add, SECOND * 10);
    let Answer::Keys { missing, .. } = &added else {
        panic!("{added:?}");
    };
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0].0, "n4");
}

#[test]
fn a_key_that_nobody_holds_cannot_be_removed() {
    let (mut world, hosts) = cluster(4, 3, Duration::ZERO);
    let key = new_key().id();
    let remove = Command::KeyRemove { key };
    let Answer::Refused(text) = answer(&mut world, hosts[0], remove, SECOND * 10) else {
        panic!("it was removed");
    };
    assert!(text.contains("no member holds"), "{text}");
    // Nor does it count as one that was removed, and is not to be brought back.
    let add = Command::KeyAdd { key: new_key() };
    expect_done_by(&answer(&mut world, hosts[1], add, SECOND * 10), 3);
}

#[test]
fn a_rotation_right_after_the_start_reaches_everybody() {
    for seed in 0..5 {
        let (mut world, hosts) = cluster(seed, 30, Duration::ZERO);
        let add = Command::KeyAdd { key: new_key() };
        let added = answer(&mut world, hosts[7], add, SECOND * 10);
        expect_done_by(&added, 30);
        let key = new_key().id();
        let used = answer(&mut world, hosts[8], Command::KeyUse { key }, SECOND * 10);
        expect_done_by(&used, 30);
        world.run(SECOND * 5);
        assert_eq!(false_alarms(&world, &[]), 0);
        assert!(all_see_all(&world, &hosts));
    }
}

#[test]
fn who_joins_during_a_rotation_holds_the_key_too() {
    for seed in 0..5 {
        let (mut world, mut hosts) = cluster(seed, 10, Duration::ZERO);
        world.run(SECOND * 5);
        // The round waits for a member that does not answer, while somebody joins.
        world.pause(hosts[4]);
        let before = world.answers.len();
        world.command(hosts[0], Command::KeyAdd { key: new_key() });
        world.run(Duration::from_millis(100));
        hosts.push(world.add(&[hosts[1]], |_| {}));
        let answered = world.run_while(SECOND * 10, |world| world.answers.len() > before);
        assert!(answered);
        let joiner = hosts[10];
        assert_eq!(keys_of(&world, joiner).len(), 2);
    }
}
