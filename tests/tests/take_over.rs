//! Take-overs and hand-overs in which more goes wrong than one node.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::time::SystemTime;

use kith::client::kv::{Ack, Precondition, Value};
use kith_tests::{
    agent::Agent,
    checker::{self, Checker, Habits},
    cluster::{self, Cluster},
    wait,
};

const PARTITIONS: [&str; 2] = ["--partitions", "64"];
const KEYS: usize = 40;
const WRITERS: usize = 4;

#[test]
fn an_owner_and_its_backup_die_at_once_and_what_all_three_had_is_there() {
    let habits = Habits {
        ack: Ack::All,
        ..Habits::default()
    };
    let (mut cluster, mut checker) = written(5, &[], habits);
    let (survivors, victims) = owner_and_backup(&cluster, "key-0");
    checker.through(survivors.iter().map(|&i| cluster.node(i)));
    kill_at_once(&cluster, &victims);
    checker.expect_progress();
    checker.expect_nothing_lost(survivors.iter().map(|&i| cluster.node(i)));
    for victim in victims {
        cluster.restart(victim);
    }
    checker.expect_health(&cluster);
    checker.pause();
    checker.expect_nothing_lost(cluster.nodes());
}

#[test]
fn a_strict_owner_and_its_backup_die_at_once_and_nothing_is_lost_once_they_are_back() {
    let strict = ["--consistency", "strict"];
    let (mut cluster, checker) = written(5, &strict, Habits::default());
    let (survivors, victims) = owner_and_backup(&cluster, "key-0");
    checker.through(survivors.iter().map(|&i| cluster.node(i)));
    kill_at_once(&cluster, &victims);
    let others = survivors.iter().map(|&i| cluster.node(i));
    for (agent, victim) in others.flat_map(|a| victims.map(|v| (a, v))) {
        agent.expect_event(0, "member_failed", cluster.node(victim).name());
    }
    // One of three members is no majority: nothing may be told from it.
    let survivor = cluster.node(survivors[0]).library();
    wait::until("key-0 to be refused", || match survivor.read(b"key-0") {
        Err(error) => Ok(error),
        Ok(found) => Err(format!("{found:?}")),
    });
    for victim in victims {
        cluster.restart(victim);
    }
    checker.expect_health(&cluster);
}

#[test]
fn a_joiner_dies_while_it_gets_its_share() {
    let (mut cluster, checker) = written(4, &[], Habits::default());
    let joiner = joining(&mut cluster);
    cluster.node(joiner).kill();
    checker.expect_progress();
    checker.expect_nothing_lost(cluster.others(joiner));
    // What was to be at the joiner is made elsewhere.
    cluster.expect_copies_on(&[0, 1, 2, 3]);
    checker.expect_nothing_lost(cluster.others(joiner));
    cluster.restart(joiner);
    checker.expect_health(&cluster);
}

#[test]
fn an_owner_dies_while_it_hands_over_to_a_joiner() {
    let (mut cluster, checker) = written(4, &[], Habits::default());
    let victim = cluster.owner_of("key-0", 0);
    let joiner = joining(&mut cluster);
    checker.through(cluster.others(victim).filter(|a| a.name() != "n5"));
    cluster.node(victim).kill();
    checker.expect_progress();
    checker.expect_nothing_lost(cluster.others(victim));
    cluster.restart(victim);
    checker.expect_health(&cluster);
    let views = cluster.node(joiner).partitions().unwrap();
    assert!(views.iter().any(|v| v.owner.as_deref() == Some("n5")));
}

#[test]
fn a_key_expires_at_its_new_owner_when_it_would_have_at_the_old_one() {
    let (cluster, _checker) = written(4, &[], Habits::default());
    let victim = cluster.owner_of("key-0", 0);
    let client = cluster.node((victim + 1) % 4).library();
    // All in the partition of a key of the victim's.
    let ttls = [("{key-0}soon", "8s"), ("{key-0}late", "1h")];
    let before = ttls.map(|(key, ttl)| {
        let only = Precondition::None;
        let written = client.write(key.as_bytes(), b"there", Some(ttl), &only, Ack::All);
        written.unwrap();
        client.read(key.as_bytes()).unwrap().unwrap()
    });
    cluster.node(victim).kill();
    for agent in cluster.others(victim) {
        let late = read(agent, ttls[1].0).unwrap();
        assert_eq!(late, before[1], "at {}", agent.name());
    }
    assert_ne!(cluster.owner_of("key-0", (victim + 1) % 4), victim);
    let expires = humantime::parse_rfc3339(before[0].expires.as_deref().unwrap()).unwrap();
    let agent = cluster.node((victim + 1) % 4);
    loop {
        let asked = SystemTime::now();
        match read(agent, ttls[0].0) {
            Some(found) => {
                assert_eq!(found, before[0]);
                assert!(asked < expires, "it is there after it has expired");
            }
            None => {
                assert!(SystemTime::now() >= expires, "it is gone before it expires");
                break;
            }
        }
    }
}

fn written(nodes: usize, flags: &[&str], habits: Habits) -> (Cluster, Checker) {
    let flags = [&PARTITIONS, flags].concat();
    let cluster = cluster::of(nodes).durable().flags(&flags).start();
    cluster.expect_healthy();
    let through = cluster.nodes().iter().map(|node| node.library()).collect();
    let keys = checker::keys("key-", KEYS);
    let checker = Checker::begin_with(habits, &keys, WRITERS, through);
    checker.expect_progress();
    (cluster, checker)
}

/// Those that will live, and the owner of a key with its first backup.
fn owner_and_backup(cluster: &Cluster, key: &str) -> (Vec<usize>, [usize; 2]) {
    let client = cluster.node(0).library();
    let view = client.partitions(Some(key)).unwrap().remove(0);
    let index = |name: &str| cluster.names().iter().position(|n| *n == name).unwrap();
    let victims = [index(&view.owner.unwrap()), index(&view.backups[0])];
    let all = 0..cluster.nodes().len();
    (all.filter(|i| !victims.contains(i)).collect(), victims)
}

fn kill_at_once(cluster: &Cluster, victims: &[usize]) {
    for &victim in victims {
        cluster.node(victim).process().kill().unwrap();
    }
    for &victim in victims {
        let process = cluster.node(victim).process();
        process.wait_end(wait::PATIENCE).unwrap();
    }
}

/// A fifth node that has got something, and not yet its share.
fn joining(cluster: &mut Cluster) -> usize {
    let joiner = cluster.grow().unwrap();
    wait::until("the joiner to be a member of partitions", || {
        let views = cluster.node(0).partitions().map_err(|e| e.to_string())?;
        let members = views.iter().flat_map(|v| v.owner.iter().chain(&v.backups));
        match members.filter(|m| *m == "n5").count() {
            0 => Err("of none".to_owned()),
            count => Ok(count),
        }
    });
    joiner
}

/// What a node says of a key, once it says anything.
fn read(agent: &Agent, key: &str) -> Option<Value> {
    wait::until(&format!("{key} to be readable at {}", agent.name()), || {
        let found = agent.library().read(key.as_bytes());
        found.map_err(|error| error.to_string())
    })
}
