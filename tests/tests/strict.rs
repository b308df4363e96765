//! A strict cluster: only a majority of a partition's members serves it, the others say why not.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::{collections::BTreeSet, thread};

use kith::client::kv::Ack;
use kith::client::{Client, ClientError, kv::Precondition};
use kith_tests::{
    checker::{self, Checker},
    cluster::{self, Cluster},
    wait,
};

const FLAGS: [&str; 4] = ["--partitions", "64", "--consistency", "strict"];
const MINORITY: &str = "by a minority";
const DEAD: [&str; 3] = ["n3", "n4", "n5"];

#[test]
fn partitions_without_a_majority_refuse_and_say_why_until_their_members_are_back() {
    let mut cluster = cluster::of(5).durable().flags(&FLAGS).start();
    cluster.expect_healthy();
    let keys = checker::keys("key-", 24);
    let through = cluster.nodes().iter().map(|node| node.library()).collect();
    let mut checker = Checker::begin(&keys, 4, through);
    checker.expect_progress();
    checker.pause();
    let bereft = without_majority(&cluster, &keys);
    assert!(
        !bereft.is_empty() && bereft.len() < keys.len(),
        "{bereft:?}"
    );

    for index in 2..5 {
        cluster.node(index).kill();
    }
    let survivor = cluster.node(0).library();
    // All at once: each answer comes only when its time is over.
    let unknown: BTreeSet<&String> = thread::scope(|scope| {
        let refused = bereft.iter().map(|key| {
            let survivor = &survivor;
            let asked = scope.spawn(move || expect_refused(survivor, key));
            (key, asked)
        });
        let refused: Vec<_> = refused.collect();
        let answers = refused
            .into_iter()
            .map(|(key, asked)| (key, asked.join().unwrap()));
        answers
            .filter(|(_, unknown)| *unknown)
            .map(|(key, _)| key)
            .collect()
    });
    for key in keys.iter().filter(|key| !bereft.contains(*key)) {
        wait::until(&format!("{key}, which has a majority"), || {
            write(&survivor, key, "by two of three").map_err(|e| e.to_string())
        });
    }
    // What was refused is not there when they are back; what was indeterminate may be.
    for index in 2..5 {
        cluster.restart(index);
    }
    cluster.expect_all_alive();
    for key in &keys {
        let what = format!("{key} after the others are back");
        let found = wait::until(&what, || {
            let found = survivor.read(key.as_bytes()).map_err(|e| e.to_string())?;
            found.ok_or_else(|| "nothing".to_owned())
        });
        if bereft.contains(key) {
            let number = String::from_utf8(found.bytes).unwrap();
            let indeterminate = unknown.contains(key) && number == MINORITY;
            assert!(
                number.parse::<u64>().is_ok() || indeterminate,
                "{key} is {number:?}"
            );
        } else {
            assert_eq!(found.bytes, b"by two of three", "{key}");
        }
    }
    for key in &bereft {
        wait::until(&format!("{key} to be written again"), || {
            write(&survivor, key, "again").map_err(|e| e.to_string())
        });
    }
    cluster.expect_healthy();
}

#[test]
fn a_strict_cluster_takes_no_word_of_one_copy_alone() {
    let cluster = cluster::of(3).flags(&FLAGS).start();
    cluster.expect_healthy();
    let client = cluster.node(1).library();
    let refused = client.write(b"key", b"value", None, &Precondition::None, Ack::One);
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("ack=one"), "{text}");
    assert_eq!(client.read(b"key").unwrap(), None);
}

#[test]
fn an_operator_lets_those_go_on_that_are_here_and_the_others_are_joined_later() {
    let mut cluster = cluster::of(3).durable().flags(&FLAGS).start();
    cluster.expect_healthy();
    let survivor = cluster.node(0).library();
    let keys = checker::keys("key-", 8);
    for key in &keys {
        write(&survivor, key, "by all").unwrap();
    }
    assert_eq!(
        survivor.recover(None).unwrap().partitions,
        [0u16; 0],
        "nothing is blocked"
    );
    for index in 1..3 {
        cluster.node(index).kill();
    }
    for key in &keys {
        expect_refused(&survivor, key);
    }
    // It has to have lasted for a while.
    let recovered = wait::until("partitions to be blocked for long", || {
        let recovered = survivor
            .recover(None)
            .map_err(|e| e.to_string())?
            .partitions;
        if recovered.is_empty() {
            return Err("none is".to_owned());
        }
        Ok(recovered)
    });
    assert!(!recovered.is_empty());
    for key in &keys {
        wait::until(&format!("{key} to be written by one"), || {
            // What was blocked for less long than others goes on with a later word.
            survivor.recover(None).map_err(|e| e.to_string())?;
            write(&survivor, key, "by one").map_err(|e| e.to_string())
        });
    }
    for index in 1..3 {
        cluster.restart(index);
    }
    cluster.expect_all_alive();
    for key in &keys {
        wait::until(&format!("{key} to be joined"), || {
            let found = survivor.read(key.as_bytes()).map_err(|e| e.to_string())?;
            match found {
                Some(found) if found.bytes == b"by one" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    cluster.expect_healthy();
}

/// Those keys of which two of three copies, or all, are on nodes that will be killed.
fn without_majority(cluster: &Cluster, keys: &[String]) -> BTreeSet<String> {
    let client = cluster.node(0).library();
    let bereft = keys.iter().filter(|key| {
        let view = client.partitions(Some(key)).unwrap().remove(0);
        let members = view.owner.iter().chain(&view.backups);
        members.filter(|m| DEAD.contains(&m.as_str())).count() >= 2
    });
    bereft.cloned().collect()
}

/// Sooner or later the answer to a write is that it is refused, and why. Tells whether one before
/// that was indeterminate.
fn expect_refused(client: &Client, key: &str) -> bool {
    let mut unknown = false;
    let text = wait::until(&format!("{key} to be refused"), || {
        match write(client, key, MINORITY) {
            Ok(()) => panic!("{key} was written without a majority"),
            Err(ClientError::Problem(problem)) if problem.status == 503 => Ok(problem.detail),
            Err(error) => {
                unknown = true;
                Err(error.to_string())
            }
        }
    });
    assert!(text.contains("partition"), "{text}");
    let read = client.read(key.as_bytes());
    assert!(read.is_err(), "{key} was read without a majority: {read:?}");
    unknown
}

fn write(client: &Client, key: &str, value: &str) -> Result<(), ClientError> {
    let only = Precondition::None;
    let written = client.write(key.as_bytes(), value.as_bytes(), None, &only, Ack::Quorum);
    written.map(drop)
}
