//! Newcomers that keep something from before.

use std::time::Duration;

use bytes::Bytes;
use kith_proto::{
    config::Consistency,
    event::Event,
    id::NodeId,
    kv::{
        entry::Entry,
        version::{Hlc, Version},
    },
    placement::partition_of,
    replica::{
        chain::{ConfigId, Configuration},
        host::{Input, Standing},
        message::{Attempt, Body, Carried, Message},
    },
};

use crate::cluster::{Cluster, PARTITIONS, id};

const NODES: usize = 4;

fn newcomer_of(cluster: &Cluster, key: &str) -> usize {
    let members = cluster.members(key);
    (0..NODES)
        .find(|node| !members.contains(node))
        .expect("one has no copy")
}

fn value_of(cluster: &Cluster, node: usize, key: &str) -> Option<Bytes> {
    cluster.entry(node, key)?.value
}

// Another key of the same partition.
fn beside(key: &str) -> String {
    let partition = partition_of(key.as_bytes(), PARTITIONS);
    let mut others = (0..).map(|n| format!("other {n}"));
    let same = |other: &String| partition_of(other.as_bytes(), PARTITIONS) == partition;
    others.find(same).expect("there are many keys")
}

// A node that nobody here ever heard of.
const STRANGER: NodeId = NodeId(77);

fn stranger_says(cluster: &mut Cluster, at: usize, partition: u16, id: ConfigId, body: Body) {
    let message = Message::Partition {
        partition,
        id,
        body,
    };
    let from = STRANGER;
    cluster.feed(at, Input::Message { from, message });
}

// It makes a copy, and finds it equal.
fn stranger_fills(
    cluster: &mut Cluster,
    at: usize,
    partition: u16,
    config: &Configuration,
    entries: Vec<Carried>,
) {
    let (id, attempt) = (config.id, Attempt::Fill(1));
    let mut say = |body| stranger_says(cluster, at, partition, id, body);
    let config = Box::new(config.clone());
    say(Body::Fill { attempt, config });
    say(Body::Entries {
        attempt,
        entries,
        drop: Vec::new(),
    });
    let digests = cluster.shards[at].digests_of(partition);
    let digests = digests.expect("it is being filled");
    let (root, groups) = (digests.root(), digests.groups());
    let compare = Body::Compare {
        attempt,
        root,
        groups,
    };
    stranger_says(cluster, at, partition, id, compare);
    assert_eq!(
        cluster.shards[at].held_of(partition).map(|held| held.id),
        Some(id)
    );
}

// It makes a copy of its branch, and is gone.
fn a_copy_of_a_branch_that_is_gone(cluster: &mut Cluster, at: usize, entries: Vec<Carried>) {
    let partition = partition_of(&entries[0].key, PARTITIONS);
    let last = Configuration {
        id: ConfigId {
            epoch: 9,
            branch: 77,
        },
        ..Configuration::genesis(STRANGER, 77)
    };
    stranger_fills(cluster, at, partition, &last, entries);
    cluster.run(Duration::from_secs(6));
}

// The configuration that chooses may reach it after it was found equal: what is chosen counts on it all the same.
// A node that leaves waits until it is known.
#[test]
fn what_is_counted_on_is_kept_whatever_is_heard_late() {
    let mut cluster = Cluster::new(NODES, Consistency::Strict);
    cluster.set(0, "key", "value").unwrap();
    let partition = partition_of(b"key", PARTITIONS);
    let newcomer = newcomer_of(&cluster, "key");
    let own = id(newcomer);
    let before = cluster.shards[newcomer].holds().1;
    let install = |cluster: &mut Cluster, config: &Configuration| {
        let body = Body::Install(Box::new(config.clone()));
        stranger_says(cluster, newcomer, partition, config.id, body);
    };
    // It was a member once: with a chain record it does not wait for one that names it.
    let chain = cluster.shards[newcomer].chain_of(partition);
    let last = chain.expect("the founder was one").config.clone();
    let chooses = last.next(vec![STRANGER]);
    stranger_fills(&mut cluster, newcomer, partition, &chooses, Vec::new());
    assert_eq!(cluster.shards[newcomer].holds().1, before + 1);
    install(&mut cluster, &chooses);
    let held = cluster.shards[newcomer].held_of(partition);
    assert_eq!(held.map(|held| held.id), Some(chooses.id));
    install(&mut cluster, &chooses.next(vec![STRANGER, own]));
    let chain = cluster.shards[newcomer].chain_of(partition);
    let chain = chain.expect("it is a member");
    assert!(chain.config.has(own) && !chain.learner, "{chain:?}");
}

// It may be the last copy of what was acknowledged there. Epochs of two branches say nothing about each other.
#[test]
fn what_is_kept_of_a_branch_that_is_gone_is_taken_over_by_the_clock() {
    for later_there in [true, false] {
        let mut cluster = Cluster::new(NODES, Consistency::Available);
        let other = beside("key");
        cluster.set(0, "key", "here").unwrap();
        let newcomer = newcomer_of(&cluster, "key");
        let own = cluster
            .entry(cluster.members("key")[0], "key")
            .expect("written");
        let clock = own.version.hlc.0;
        let version = Version {
            epoch: 9,
            hlc: Hlc(if later_there { clock + 1 } else { clock - 1 }),
            branch: 77,
        };
        let carried = |key: &str| Carried {
            key: Bytes::from(key.to_owned()),
            entry: Entry {
                version,
                value: Some(Bytes::from("there")),
                expires: None,
            },
        };
        let entries = vec![carried("key"), carried(&other)];
        a_copy_of_a_branch_that_is_gone(&mut cluster, newcomer, entries);
        let failed = cluster.members("key")[1];
        cluster.standing[failed] = Standing::Failed;
        cluster.show();
        cluster.run(Duration::from_secs(5));
        let members = cluster.members("key");
        assert!(members.contains(&newcomer), "{members:?}");
        let expected = if later_there { "there" } else { "here" };
        for member in members {
            assert_eq!(value_of(&cluster, member, "key").unwrap(), expected);
            assert_eq!(value_of(&cluster, member, &other).unwrap(), "there");
            let branch = |key| cluster.entry(member, key).unwrap().version.branch;
            assert!(branch("key") != 77 && branch(&other) != 77, "written anew");
        }
        let mut conflicts = cluster.events.iter().filter_map(|(_, event)| match event {
            Event::PartitionConflict { key, .. } => Some(key),
            _ => None,
        });
        assert_eq!(
            (conflicts.next().map(String::as_str), conflicts.next()),
            (Some("key"), None)
        );
    }
}

// What it has is overwritten; until that has come to its end it is one copy more.
#[test]
fn a_former_member_of_a_strict_cluster_is_sent_only_what_it_lacks() {
    let mut cluster = Cluster::new(NODES, Consistency::Strict);
    let other = beside("key");
    cluster.set(0, "key", "value").unwrap();
    cluster.set(0, &other, "value").unwrap();
    let away = cluster.members("key")[1];
    cluster.standing[away] = Standing::Failed;
    cluster.show();
    cluster.run(Duration::from_secs(5));
    assert!(!cluster.members("key").contains(&away));
    cluster.set(cluster.living(), "key", "another").unwrap();
    cluster.sent.clear();
    cluster.standing[away] = Standing::Living;
    cluster.show();
    cluster.run(Duration::from_secs(5));
    assert!(cluster.members("key").contains(&away));
    assert_eq!(value_of(&cluster, away, "key").unwrap(), "another");
    assert_eq!(value_of(&cluster, away, &other).unwrap(), "value");
    let partition_of_key = partition_of(b"key", PARTITIONS);
    let sent = cluster
        .sent
        .iter()
        .filter_map(|(_, to, message)| match message {
            Message::Partition {
                partition,
                body: Body::Entries { entries, .. },
                ..
            } if *to == id(away) && *partition == partition_of_key => Some(entries),
            _ => None,
        });
    let keys: Vec<&Bytes> = sent.flatten().map(|carried| &carried.key).collect();
    assert_eq!(keys, [&"key"]);
}
