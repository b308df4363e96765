//! Nothing acknowledged is lost, whatever happens to nodes while clients write.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::fs;

use kith::client::kv::Ack;
use kith::client::kv::Precondition;
use kith_tests::{
    checker::{self, Checker},
    cluster::{self, Cluster},
    process::{self, Signal},
    wait,
};

/// Few enough that a debug build moves them in no time.
const PARTITIONS: [&str; 2] = ["--partitions", "64"];
const KEYS: usize = 40;
const WRITERS: usize = 4;

#[test]
fn owners_are_killed_again_and_again() {
    killed_again_and_again(&[]);
}

#[test]
fn owners_are_killed_again_and_again_in_strict_mode() {
    killed_again_and_again(&["--consistency", "strict"]);
}

fn killed_again_and_again(flags: &[&str]) {
    let (mut cluster, checker) = written(5, flags);
    for round in 0..4 {
        let victim = cluster.owner_of(&key(round), 0);
        checker.through(cluster.others(victim));
        cluster.node(victim).kill();
        checker.expect_progress();
        checker.expect_nothing_lost(cluster.others(victim));

        cluster.restart(victim);
        checker.expect_health(&cluster);
    }
}

#[test]
fn two_are_killed_one_right_after_the_other_has_been_replaced() {
    let (cluster, checker) = written(5, &[]);
    for (victim, survivors) in [(1, &[0, 2, 3, 4][..]), (2, &[0, 3, 4][..])] {
        checker.through(survivors.iter().map(|&i| cluster.node(i)));
        cluster.node(victim).kill();
        checker.expect_progress();
        // What it kept is made again elsewhere, without anybody's help.
        cluster.expect_copies_on(survivors);
        checker.expect_nothing_lost(survivors.iter().map(|&i| cluster.node(i)));
    }
}

#[test]
fn each_is_stopped_and_started_again_while_clients_write() {
    let (mut cluster, checker) = written(4, &[]);
    for index in 0..4 {
        checker.through(cluster.others(index));
        cluster.node(index).signal(Signal::TERM);
        assert_eq!(cluster.node(index).process().expect_code(), 0);
        checker.expect_progress();
        checker.expect_nothing_lost(cluster.others(index));

        cluster.restart(index);
        checker.expect_health(&cluster);
    }
}

#[test]
fn one_joins_and_gets_its_share_and_one_leaves_and_hands_its_share_over() {
    let (mut cluster, checker) = written(4, &[]);
    let joiner = cluster.grow().unwrap();
    wait::until("the joiner to own partitions", || {
        let views = cluster.node(joiner).partitions();
        let views = views.map_err(|error| error.to_string())?;
        let owned = views.iter().filter(|v| v.owner.as_deref() == Some("n5"));
        if owned.count() > 0 {
            Ok(())
        } else {
            Err("none".to_owned())
        }
    });
    checker.expect_health(&cluster);

    checker.through(cluster.others(1));
    leave(&cluster, 1);
    checker.expect_progress();
    cluster.expect_copies_on(&[0, 2, 3, 4]);
    checker.expect_nothing_lost(cluster.others(1));
}

#[test]
fn who_leaves_hands_over_even_what_nobody_else_has() {
    let (cluster, mut checker) = written(3, &["--copies", "1"]);
    checker.through(cluster.others(2));
    leave(&cluster, 2);
    checker.expect_progress();
    leave(&cluster, 1);
    checker.through([cluster.node(0)]);
    checker.expect_progress();
    checker.pause();
    checker.expect_nothing_lost([cluster.node(0)]);
}

#[test]
fn all_are_killed_at_once_and_what_they_have_on_disk_is_all() {
    let (mut cluster, mut checker) = written(5, &[]);
    for node in cluster.nodes() {
        node.process().kill().unwrap();
    }
    checker.pause();
    for node in cluster.nodes() {
        node.process().wait_end(wait::PATIENCE).unwrap();
    }
    for index in 0..5 {
        cluster.restart(index);
    }
    cluster.expect_all_alive();
    checker.expect_nothing_lost(cluster.nodes());
    cluster.expect_healthy();
    checker.expect_nothing_lost(cluster.nodes());
}

#[test]
fn a_wiped_node_overwrites_nothing() {
    let (mut cluster, mut checker) = written(4, &[]);
    let former = cluster.node(1).expect_ready();
    checker.through(cluster.others(1));
    cluster.node(1).kill();
    fs::remove_dir_all(cluster.folder().join("n2")).unwrap();
    checker.expect_progress();
    cluster.restart(1);
    cluster.expect_all_alive();
    // Copies that its former self had are made again, some of them there.
    cluster.expect_copies_on(&[0, 1, 2, 3]);
    cluster.node(0).library().evict(&former.id).unwrap();
    cluster.expect_healthy();
    checker.expect_nothing_lost(cluster.nodes());

    // Now what it has counts: those that kept all along go.
    checker.through(cluster.others(0));
    cluster.node(0).kill();
    checker.expect_progress();
    checker.pause();
    checker.expect_nothing_lost(cluster.others(0));
}

#[test]
fn what_was_deleted_or_written_while_a_node_was_away_stays_so_when_it_comes_back() {
    let mut cluster = planned(5, &[]);
    cluster.expect_healthy();
    let keys = checker::keys("old-", KEYS);
    // The first time it is back before its copies are made again elsewhere, the second after.
    for (round, replaced) in [(0, false), (1, true)] {
        let before = format!("before {round}");
        let after = format!("after {round}");
        let client = cluster.node(0).library();
        for key in &keys {
            set(&client, key, &before);
        }
        cluster.node(2).kill();
        for (index, key) in keys.iter().enumerate() {
            settle(key, || {
                if index % 2 == 0 {
                    let deleted = client.delete(key.as_bytes(), &Precondition::None, Ack::Quorum);
                    deleted.map(drop)
                } else {
                    let only = Precondition::None;
                    let written =
                        client.write(key.as_bytes(), after.as_bytes(), None, &only, Ack::Quorum);
                    written.map(drop)
                }
            });
        }
        if replaced {
            cluster.expect_copies_on(&[0, 1, 3, 4]);
        }
        cluster.restart(2);
        cluster.expect_all_alive();
        cluster.expect_healthy();
        // It owns its share again, so what it says is what it has.
        wait::until("the node that was away to own partitions", || {
            let owned = cluster.node(2).metric("kith_partitions_owned");
            let views = cluster.node(2).partitions().map_err(|e| e.to_string())?;
            let owns = views.iter().any(|v| v.owner.as_deref() == Some("n3"));
            if owns {
                Ok(())
            } else {
                Err(format!("{owned:?}"))
            }
        });
        for node in cluster.nodes() {
            let client = node.library();
            for (index, key) in keys.iter().enumerate() {
                let found = client.read(key.as_bytes()).unwrap().map(|v| v.bytes);
                let wanted = (index % 2 == 1).then(|| after.clone().into_bytes());
                assert_eq!(found, wanted, "{key} at {} in round {round}", node.name());
            }
        }
    }
}

/// A cluster on disk, healthy, with clients that have written every key at least once.
fn written(nodes: usize, flags: &[&str]) -> (Cluster, Checker) {
    let cluster = planned(nodes, flags);
    cluster.expect_healthy();
    let through = cluster.nodes().iter().map(|node| node.library()).collect();
    let checker = Checker::begin(&checker::keys("key-", KEYS), WRITERS, through);
    checker.expect_progress();
    (cluster, checker)
}

fn planned(nodes: usize, flags: &[&str]) -> Cluster {
    let flags = [&PARTITIONS, flags].concat();
    cluster::of(nodes).durable().flags(&flags).start()
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn leave(cluster: &Cluster, index: usize) {
    let mut command = cluster.node(index).client(&["leave"]).unwrap();
    let (code, text) = process::run(&mut command).unwrap();
    assert_eq!(code, 0, "{text}");
    assert_eq!(cluster.node(index).process().expect_code(), 0);
}

fn set(client: &kith::client::Client, key: &str, value: &str) {
    settle(key, || {
        let only = Precondition::None;
        let written = client.write(key.as_bytes(), value.as_bytes(), None, &only, Ack::Quorum);
        written.map(drop)
    });
}

/// Does it until it is acknowledged: doing these twice does no harm.
fn settle(key: &str, change: impl Fn() -> Result<(), kith::client::ClientError>) {
    wait::until(&format!("a change of {key}"), || {
        change().map_err(|error| error.to_string())
    });
}
